//! Whole files: what is planned is written, what cannot be stored is told.

use std::path::{Path, PathBuf};
use xelm_quantize::{Error, Options, Override, Recipe, plan_file, quantize_file};
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::quant::DType;

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny/expert.gguf")
}

fn types(path: &Path) -> Vec<(String, DType)> {
    let file = MappedFile::open(path).unwrap();
    let gguf = file.gguf().unwrap();
    gguf.tensors().map(|t| (t.name.to_owned(), t.dtype)).collect()
}

fn parse(overrides: &[&str]) -> Vec<Override> {
    overrides.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn what_is_planned_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let overrides = parse(&["*=q4_1", "blk.*.ffn_up.weight=bf16"]);
    for recipe in Recipe::ALL.into_iter().filter(|recipe| !recipe.needs_products()) {
        for overrides in [&[][..], &overrides] {
            let to = folder.path().join(recipe.name());
            let options = Options { overrides, ..recipe.into() };
            let plan = plan_file(&tiny(), options).unwrap();
            assert_eq!(quantize_file(&tiny(), &to, options).unwrap(), plan.sizes);
            let planned: Vec<_> = plan.tensors.iter().map(|t| (t.name.clone(), t.to)).collect();
            assert_eq!(types(&to), planned, "{}", recipe.name());
            let find = |name: &str| planned.iter().find(|(n, _)| n == name).unwrap().1;
            assert_eq!(find("blk.0.attn_norm.weight"), DType::F32);
            if !overrides.is_empty() {
                assert_eq!(find("blk.1.ffn_up.weight"), DType::BF16);
                assert_eq!(find("token_embd.weight"), DType::Q4_1);
            }
        }
    }
}

#[test]
fn what_cannot_be_stored_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (floats, out) = (folder.path().join("f32"), folder.path().join("out"));
    quantize_file(&tiny(), &floats, Recipe::F32).unwrap();
    let whole = std::fs::read(&floats).unwrap();
    let name = "blk.1.ffn_down.weight";
    let at = {
        let file = MappedFile::open(&floats).unwrap();
        let gguf = file.gguf().unwrap();
        let rest = gguf.tensors().skip_while(|t| t.name != name).map(|t| t.bytes.len());
        whole.len() - rest.map(|n| n.next_multiple_of(64)).sum::<usize>()
    };
    let refused = |number: f32, recipe: Recipe, why: &str| {
        let mut bytes = whole.clone();
        bytes[at + 4..at + 8].copy_from_slice(&number.to_le_bytes());
        std::fs::write(&floats, bytes).unwrap();
        let error = quantize_file(&floats, &out, recipe).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(why), "{error}");
        assert!(!out.exists());
    };
    for recipe in Recipe::ALL.into_iter().filter(|r| *r != Recipe::F32 && !r.needs_products()) {
        refused(f32::NAN, recipe, "NaN");
        refused(f32::NEG_INFINITY, recipe, "infinity");
    }
    for recipe in [Recipe::F16, Recipe::Q8_0, Recipe::Q4_0, Recipe::Q4_1, Recipe::Q4KM] {
        refused(1e9, recipe, "too large");
    }
    std::fs::write(&floats, &whole).unwrap();
    quantize_file(&floats, &out, Recipe::Q6K).unwrap();

    let error = |overrides: &[&str]| {
        let overrides = parse(overrides);
        let options = Options { overrides: &overrides, ..Recipe::F32.into() };
        quantize_file(&tiny(), &out, options).unwrap_err()
    };
    // Vectors are never quantised.
    assert!(matches!(error(&["*norm*=q8_0"]), Error::NoSuchTensor { .. }));
    assert!(matches!(error(&["*=f16", "blk.9.*=q8_0"]), Error::NoSuchTensor { .. }));
}
