//! Expert files of any size with random weights, and sets of them: for measuring, not for reading.

use std::path::Path;
use xelm_runtime::config::{ARCH_STANDARD, Config, Role, TensorId, inventory};
use xelm_runtime::format::{AtomicFile, FORMAT_VERSION, Writer, keys};
use xelm_runtime::mmap::ExpertFile;
use xelm_runtime::quant::{DType, quantize_row};
use xelm_runtime::rng::Rng;
use xelm_runtime::router::{Precision, RouterTensors, Rule, Tables};
use xelm_runtime::set::{ARCH_SET, Row, SET_FILE, file_identity, keys as set_keys};
use xelm_runtime::tokenizer::{Vocabulary, hex};

/// Writes an expert whose matrices are of type `dtype`, with weights as at the beginning of a training
/// and a vocabulary of made-up words.
///
/// # Errors
/// Rows that are no whole number of blocks, or the file cannot be written.
pub fn write_expert(path: &Path, config: &Config, dtype: DType) -> xelm_runtime::Result<()> {
    let mut writer = Writer::new(ARCH_STANDARD);
    config.write(&mut writer);
    writer.string(keys::EXPERT_ID, "random");
    writer.strings(keys::EXPERT_LANGUAGES, &["und"]);
    let words = (0..config.n_vocab - 4).map(|i| (format!("▁{}", word(i)), -10.0));
    Vocabulary::new(words, Vec::new()).write(&mut writer)?;
    let stored = |t: TensorId| if t.role.is_quantizable() { dtype } else { DType::F32 };
    for tensor in inventory(config) {
        let (rows, cols) = tensor.shape(config);
        let dims: &[usize] = if tensor.is_matrix() { &[cols, rows] } else { &[cols] };
        writer.tensor(&tensor.to_string(), stored(tensor), dims)?;
    }
    let mut body = writer.begin(AtomicFile::create(path)?)?;
    let mut rng = Rng::new(1, 0);
    for tensor in inventory(config) {
        let (rows, cols) = tensor.shape(config);
        let norm = matches!(
            tensor.role,
            Role::AttnNormWeight | Role::FfnNormWeight | Role::OutputNormWeight
        );
        let one = if norm { 1.0 } else { 0.0 };
        let mut bytes = vec![0; stored(tensor).row_bytes(cols).unwrap_or(0) * rows];
        for row in bytes.chunks_exact_mut(stored(tensor).row_bytes(cols).unwrap_or(1)) {
            let floats: Vec<f32> = (0..cols).map(|_| one + 0.02 * rng.next_normal()).collect();
            quantize_row(stored(tensor), &floats, row)?;
        }
        body.tensor([bytes])?;
    }
    Ok(body.finish()?.commit()?)
}

/// The made-up word `i`.
fn word(i: usize) -> String {
    format!("word{i}")
}

/// Words of a set's router, and numbers of its vectors: those of a trained one for a device.
const ROUTER: (usize, usize) = (40_000, 100);

/// Makes a folder with such experts a set. Its router knows made-up words; all of them speak for the experts in the
/// order of their names, one a little less than the one before, so that none ever comes or goes.
///
/// # Errors
/// A file is no expert of ours, or `set.gguf` cannot be written.
pub fn write_set(folder: &Path, files: &[&str]) -> xelm_runtime::Result<()> {
    let mut rows = Vec::new();
    for file in files {
        let (size, sha256) = file_identity(&folder.join(file))?;
        let id = file.trim_end_matches(".gguf").to_owned();
        let file = (*file).to_owned();
        rows.push(Row { id, file, size, sha256, parent: String::new(), languages: Vec::new() });
    }
    let (n_terms, n_dims) = ROUTER;
    let terms: Vec<String> = (0..n_terms).map(word).collect();
    let mut rng = Rng::new(1, 0);
    let mut projection: Vec<f32> = (0..n_terms * n_dims).map(|_| 0.1 * rng.next_normal()).collect();
    let mut centroids = vec![0.0; files.len() * n_dims];
    projection.iter_mut().step_by(n_dims).for_each(|x| *x = 1.0);
    for (i, x) in centroids.iter_mut().step_by(n_dims).enumerate() {
        *x = 0.7 - 0.1 * i as f32;
    }
    let tables = Tables {
        rule: Rule::Unicode,
        terms: &terms,
        idf: &vec![1.0; n_terms],
        projection: &projection,
        centroids: &centroids,
        n_dims,
    };
    let router = RouterTensors::new(&tables, Precision::I8)?;
    let first = ExpertFile::open(&folder.join(files[0]))?;
    let tokenizer = first.expert().tokenizer().ok_or(xelm_runtime::Error::NoTokenizer)?;
    let mut writer = Writer::new(ARCH_SET);
    writer.u32(keys::FORMAT_VERSION, FORMAT_VERSION);
    Row::write(&rows, &mut writer);
    writer.strings::<&str>(set_keys::FALLBACK_TAGS, &[]);
    writer.u32s(set_keys::FALLBACK_ORDER, &[]);
    writer.string(set_keys::TOKENIZER_HASH, &hex(&tokenizer.hash()));
    writer.u32(set_keys::EMBEDDING_LENGTH, first.expert().config().n_embd as u32);
    router.describe(&mut writer)?;
    let mut body = writer.begin(AtomicFile::create(&folder.join(SET_FILE))?)?;
    router.write(&mut body)?;
    Ok(body.finish()?.commit()?)
}
