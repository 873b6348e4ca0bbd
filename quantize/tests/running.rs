//! A model in every recipe, run: the kernels compute with the numbers that the blocks mean.

use std::path::Path;
use xelm_quantize::{Recipe, quantize_file};
use xelm_runtime::config::{ARCH_STANDARD, Activation, Config, inventory};
use xelm_runtime::format::{AtomicFile, Writer, keys};
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::mmap::ExpertFile;
use xelm_runtime::parallel::Serial;
use xelm_runtime::quant::DType;
use xelm_runtime::rng::Rng;
use xelm_runtime::session::{Options, Session};

/// As wide as the super-blocks, and twice.
const CONFIG: Config = Config {
    n_vocab: 40,
    n_ctx: 16,
    n_embd: 256,
    n_layer: 2,
    n_head: 4,
    n_ff: 512,
    activation: Activation::GeluErf,
    norm_eps: 1e-5,
};

/// Random weights in F32, without a vocabulary.
fn write_model(path: &Path) {
    let mut writer = Writer::new(ARCH_STANDARD);
    CONFIG.write(&mut writer);
    writer.string(keys::EXPERT_ID, "random");
    for tensor in inventory(&CONFIG) {
        let (rows, cols) = tensor.shape(&CONFIG);
        let dims: &[usize] = if tensor.is_matrix() { &[cols, rows] } else { &[cols] };
        writer.tensor(&tensor.to_string(), DType::F32, dims).unwrap();
    }
    let mut body = writer.begin(AtomicFile::create(path).unwrap()).unwrap();
    let mut rng = Rng::new(1, 0);
    for tensor in inventory(&CONFIG) {
        let (rows, cols) = tensor.shape(&CONFIG);
        let one = if tensor.is_matrix() { 0.0 } else { 1.0 };
        let numbers: Vec<f32> = (0..rows * cols).map(|_| one + 0.08 * rng.next_normal()).collect();
        body.tensor([bytemuck::cast_slice::<f32, u8>(&numbers)]).unwrap();
    }
    body.finish().unwrap().commit().unwrap();
}

/// The logits after some tokens.
fn logits(path: &Path, isa: Isa) -> Vec<f32> {
    let file = ExpertFile::open(path).unwrap();
    let options = Options::default();
    let total = Session::plan(file.expert(), &options).unwrap().total;
    let mut memory = vec![0u8; total + 64];
    let at = memory.as_ptr().align_offset(64);
    let memory = &mut memory[at..at + total];
    let kernels = Kernels::new(isa);
    let mut session = Session::init(file.expert(), &options, memory, kernels, &Serial).unwrap();
    session.prefill(&[3, 1, 4, 1, 5, 9, 2, 6]).unwrap();
    session.logits().unwrap().to_vec()
}

/// The distance of two vectors, as a share of the length of the second.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let square = |of: &mut dyn Iterator<Item = f32>| of.map(|v| v * v).sum::<f32>();
    let apart = square(&mut a.iter().zip(b).map(|(a, b)| a - b));
    (apart / square(&mut b.iter().copied())).sqrt()
}

#[test]
fn every_recipe_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_model(&path("model"));
    let whole = logits(&path("model"), Isa::PORTABLE);
    for recipe in Recipe::ALL.into_iter().filter(|recipe| !recipe.needs_products()) {
        quantize_file(&path("model"), &path("small"), recipe).unwrap();
        quantize_file(&path("small"), &path("back"), Recipe::F32).unwrap();
        let small = logits(&path("small"), Isa::PORTABLE);
        for isa in Isa::supported().into_iter().flatten() {
            assert_eq!(logits(&path("small"), isa), small, "{} {}", recipe.name(), isa.name());
        }
        // What 8-bit activations lose, and what the weights have lost.
        let (computed, stored) = match recipe {
            Recipe::F32 => (0.0, 0.0),
            Recipe::F16 => (0.0, 1e-3),
            Recipe::Bf16 => (0.0, 1e-2),
            Recipe::Q8_0 => (0.02, 0.02),
            Recipe::Q6K => (0.02, 0.04),
            Recipe::Q5KM => (0.02, 0.06),
            Recipe::Q4KM | Recipe::Q4_1 | Recipe::Q4_0 | Recipe::Xq4 => (0.02, 0.15),
        };
        let back = logits(&path("back"), Isa::PORTABLE);
        let (c, s) = (distance(&small, &back), distance(&back, &whole));
        assert!(c <= computed && s <= stored, "{}: {c} {s}", recipe.name());
        assert!(recipe == Recipe::F32 || s > 0.0);
    }
}
