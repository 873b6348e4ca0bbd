//! Expert files of any size with random weights: for measuring, not for reading.

use std::path::Path;
use xelm_runtime::config::{ARCH_STANDARD, Config, Role, TensorId, inventory};
use xelm_runtime::format::{AtomicFile, Writer, keys};
use xelm_runtime::quant::{DType, quantize_row};
use xelm_runtime::rng::Rng;
use xelm_runtime::tokenizer::Vocabulary;

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
    let words = (0..config.n_vocab - 4).map(|i| (format!("▁word{i}"), -10.0));
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
