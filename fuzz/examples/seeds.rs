//! Makes seeds for the fuzz targets of a finished run with a tiny model.
//!
//!     cargo run --example seeds -- RUN FUZZ
//!
//! Experts get a character map of three rules: the real one is 300 KB, of which a fuzzer would try
//! every byte before it came to the rest.

use std::error::Error;
use std::fs;
use std::path::Path;
use xelm_runtime::format::{Gguf, Writer, keys};
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::router::{Precision, RouterTensors, Rule, Tables};
use xelm_runtime::trie;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, run, fuzz] = arguments.as_slice() else { return Err("usage: seeds RUN FUZZ".into()) };
    let (run, fuzz) = (Path::new(run), Path::new(fuzz));
    let seed = |target: &str, name: &str, bytes: &[u8]| -> Result<(), Box<dyn Error>> {
        let folder = fuzz.join("corpus").join(target);
        fs::create_dir_all(&folder)?;
        Ok(fs::write(folder.join(name), bytes)?)
    };
    let texts = ["", "a", "Am Morgen", "今日は  \u{a0}ﬁ½", "  \u{2581}x \n", "\u{fffd}e\u{301}"];
    fs::create_dir_all(fuzz.join("seeds"))?;
    for kind in ["set", "set-q8_0", "set-q4_0"] {
        for file in ["de.gguf", "ja.gguf"] {
            let small =
                with_small_charsmap(&MappedFile::open(&run.join(kind).join(file))?.gguf()?)?;
            seed("gguf_open", &format!("{kind}-{file}"), &small)?;
            fs::write(fuzz.join("seeds").join(file), &small)?;
        }
        seed("set_open", kind, &fs::read(run.join(kind).join("set.gguf"))?)?;
    }
    // Tables alone, with texts.
    let file = MappedFile::open(&run.join("tokenizer.gguf"))?;
    let tables = with_small_charsmap(&file.gguf()?)?;
    for (i, text) in texts.iter().enumerate() {
        let input = [&[text.len() as u8], text.as_bytes(), tables.as_slice()].concat();
        seed("tokenizer", &format!("text-{i}"), &input)?;
        seed("decode", &format!("text-{i}"), &[&[0], text.as_bytes()].concat())?;
        seed(
            "decode",
            &format!("change-{i}"),
            &[&[1, 40, i as u8, 0, 1], text.as_bytes()].concat(),
        )?;
    }
    for tag in ["de", "zh-Hant-TW", "zh-Hant-CN-x-private1-private2", "iw\nhe", "sr_Latn\nsr-latn"]
    {
        seed("bcp47", &tag.replace(['\n', '-'], "_"), tag.as_bytes())?;
    }
    for rule in [Rule::Unicode, Rule::Sklearn] {
        for precision in [Precision::F32, Precision::I8] {
            let router = router(rule, precision)?;
            let text = "am Morgen ΟΔΟΣ 日本";
            let input = [&[text.len() as u8], text.as_bytes(), router.as_slice()].concat();
            seed("router", &format!("{}-{precision:?}", rule.name()), &input)?;
            fs::write(fuzz.join("seeds/router.gguf"), &router)?;
        }
    }
    for kind in 0..8 {
        seed("state_restore", &format!("whole-{kind}"), &[kind, 0, 0])?;
        seed("state_restore", &format!("change-{kind}"), &[kind, 1, 70 + kind, 0, 0, 1, 0])?;
        seed("state_restore", &format!("cut-{kind}"), &[kind, 0, 4, 1, 2, 3, 4])?;
    }
    Ok(())
}

/// A file with a router of two experts.
fn router(rule: Rule, precision: Precision) -> xelm_runtime::Result<Vec<u8>> {
    let tables = Tables {
        rule,
        terms: &["am", "morgen", "οδος", "日", "日本"],
        idf: &[1.5, 2.0, 2.5, 1.0, 3.0],
        projection: &[0.5, -0.25, 1.0, 0.0, 0.0, 0.75, 0.5, -0.5, 0.1, 0.2],
        centroids: &[0.5, 0.0, 0.0, -0.5],
        n_dims: 2,
    };
    let tensors = RouterTensors::new(&tables, precision)?;
    let mut writer = Writer::new("xelm-set");
    tensors.describe(&mut writer)?;
    let mut body = writer.begin(Vec::new())?;
    tensors.write(&mut body)?;
    body.finish()
}

/// The file with a character map of three rules.
fn with_small_charsmap(gguf: &Gguf<'_>) -> xelm_runtime::Result<Vec<u8>> {
    let mut writer = Writer::new("");
    for (key, value) in gguf.metadata() {
        match key {
            keys::CHARSMAP => writer.bytes(key, &small_charsmap()?),
            keys::ARCHITECTURE => writer = Writer::new(value.str(keys::ARCHITECTURE)?),
            keys::ALIGNMENT => {}
            _ => writer.copy(key, value),
        }
    }
    for tensor in gguf.tensors() {
        writer.tensor(tensor.name, tensor.dtype, &tensor.dims[..tensor.n_dims])?;
    }
    let mut body = writer.begin(Vec::new())?;
    for tensor in gguf.tensors() {
        body.tensor([tensor.bytes])?;
    }
    body.finish()
}

fn small_charsmap() -> xelm_runtime::Result<Vec<u8>> {
    let replacements = b" \0e\0fi\0";
    let units =
        trie::build(&[("e\u{301}".as_bytes(), 2), ("\u{a0}".as_bytes(), 0), ("ﬁ".as_bytes(), 4)])?;
    let mut blob = Vec::from(((4 * units.len()) as u32).to_le_bytes());
    blob.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
    blob.extend_from_slice(replacements);
    Ok(blob)
}
