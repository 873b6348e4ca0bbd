//! Checkpoints: a GGUF file of architecture `xelm-checkpoint` with the unfolded f32 parameters under
//! XGLM's names, Adam's moments as `adam.m.<name>` and `adam.v.<name>`, and how far training is.
//! A checkpoint to branch from, such as an imported model, may be without the moments.
//! Since data order and dropout follow from (seed, step), this is the whole state of a job.

use crate::backend::{Backend, Region};
use crate::model::{Model, parameters};
use crate::weights::{Weights, parts};
use crate::{Error, Result};
use std::path::Path;
use xelm_runtime::config::Config;
use xelm_runtime::format::{AtomicFile, Gguf, Value, Writer};
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::quant::DType;

/// `general.architecture` of a checkpoint.
pub const ARCH_CHECKPOINT: &str = "xelm-checkpoint";

mod key {
    pub(super) const N_VOCAB: &str = "xelm.checkpoint.vocab_size";
    pub(super) const STEP: &str = "xelm.checkpoint.step";
    pub(super) const TOKENS: &str = "xelm.checkpoint.tokens";
    pub(super) const ADAM_STEPS: &str = "xelm.checkpoint.adam_steps";
    pub(super) const PARENT: &str = "xelm.checkpoint.parent";
    pub(super) const JOB: &str = "xelm.checkpoint.job";
    pub(super) const VOCABULARY: &str = "xelm.tokenizer.hash";
}

/// What a checkpoint says besides its numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointInfo {
    /// Dimensions.
    pub config: Config,
    /// Updates done.
    pub step: u64,
    /// Tokens trained on, those of its parents included.
    pub tokens: u64,
    /// Updates that Adam's moments count: those of the parents too, where a branch carried them.
    pub adam_steps: u64,
    /// What the job branched from; empty for a seed model.
    pub parent: String,
    /// The job's settings as JSON: a resumed job must have the same.
    pub job: String,
    /// Identity of the vocabulary, hexadecimal.
    pub vocabulary: String,
}

/// The parts of a parameter that a checkpoint keeps: prefix of the name, and region.
const PARTS: [(&str, Region); 3] =
    [("", Region::Params), ("adam.m.", Region::Moment1), ("adam.v.", Region::Moment2)];

/// Writes a checkpoint; it replaces an earlier one only when it is complete and on the disk.
///
/// # Errors
/// The file cannot be written.
pub fn save(
    path: &Path,
    info: &CheckpointInfo,
    model: &Model,
    backend: &mut dyn Backend,
) -> Result<()> {
    let wrong = Error::file(path);
    let tensors = model.params.tensors(&info.config);
    let writer = header(info, &PARTS.map(|(prefix, _)| prefix)).map_err(&wrong)?;
    let file = AtomicFile::create(path).map_err(Error::io("write", path))?;
    let mut body = writer.begin(file).map_err(&wrong)?;
    let mut values = Vec::new();
    for (_, region) in PARTS {
        for tensor in &tensors {
            values.resize(tensor.span.len, 0.0);
            backend.read(tensor.span.of(region), &mut values)?;
            body.tensor([bytemuck::cast_slice::<f32, u8>(&values)]).map_err(&wrong)?;
        }
    }
    body.finish().map_err(&wrong)?.commit().map_err(Error::io("write", path))
}

/// Writes weights as a checkpoint without moments.
///
/// # Errors
/// The file cannot be written.
pub fn save_weights(path: &Path, info: &CheckpointInfo, weights: &dyn Weights) -> Result<()> {
    let wrong = Error::file(path);
    let writer = header(info, &[""]).map_err(&wrong)?;
    let file = AtomicFile::create(path).map_err(Error::io("write", path))?;
    let mut body = writer.begin(file).map_err(&wrong)?;
    for tensor in parameters(&info.config) {
        body.tensor(parts(weights, &tensor)).map_err(&wrong)?;
    }
    body.finish().map_err(&wrong)?.commit().map_err(Error::io("write", path))
}

/// Metadata, and a description of every parameter under each of the prefixes.
fn header(info: &CheckpointInfo, prefixes: &[&str]) -> xelm_runtime::Result<Writer> {
    let mut writer = Writer::new(ARCH_CHECKPOINT);
    info.config.write(&mut writer);
    writer.u32(key::N_VOCAB, info.config.n_vocab as u32);
    writer.u64(key::STEP, info.step);
    writer.u64(key::TOKENS, info.tokens);
    writer.u64(key::ADAM_STEPS, info.adam_steps);
    writer.string(key::PARENT, &info.parent);
    writer.string(key::JOB, &info.job);
    writer.string(key::VOCABULARY, &info.vocabulary);
    for prefix in prefixes {
        for tensor in parameters(&info.config) {
            let (rows, cols) = tensor.shape;
            let dims: &[usize] = if rows == 1 { &[cols] } else { &[cols, rows] };
            writer.tensor(&format!("{prefix}{}", tensor.name), DType::F32, dims)?;
        }
    }
    Ok(writer)
}

/// An open checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    file: MappedFile,
    /// What it says of itself.
    pub info: CheckpointInfo,
}

impl Checkpoint {
    /// Opens and checks a checkpoint.
    ///
    /// # Errors
    /// It cannot be read, or is not a whole checkpoint.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        let file = MappedFile::open(path).map_err(Error::io("open the checkpoint", path))?;
        let info = {
            let gguf = file.gguf().map_err(Error::file(path))?;
            read_info(&gguf).map_err(Error::file(path))?
        };
        let checkpoint = Checkpoint { file, info };
        for tensor in parameters(&checkpoint.info.config) {
            for (prefix, _) in checkpoint.parts() {
                let found = checkpoint.floats(&format!("{prefix}{}", tensor.name));
                if found.map(<[f32]>::len) != Some(tensor.span.len) {
                    return Err(Error::usage(format!(
                        "{}: the tensor {prefix}{} is missing or has another shape",
                        path.display(),
                        tensor.name
                    )));
                }
            }
        }
        Ok(checkpoint)
    }

    /// Whether it has Adam's moments: one that was imported has none.
    pub fn has_moments(&self) -> bool {
        let is_moment = |name: &str| PARTS[1..].iter().any(|(prefix, _)| name.starts_with(prefix));
        self.file.gguf().is_ok_and(|gguf| gguf.tensors().any(|t| is_moment(t.name)))
    }

    fn parts(&self) -> &'static [(&'static str, Region)] {
        if self.has_moments() { &PARTS } else { &PARTS[..1] }
    }

    /// The numbers of a tensor.
    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        let gguf = self.file.gguf().ok()?;
        let tensor = gguf.tensor(name).filter(|t| t.dtype == DType::F32)?;
        bytemuck::try_cast_slice(tensor.bytes).ok()
    }

    /// Copies parameters, and Adam's moments where `with_adam` and where there are any, into a model of
    /// the same dimensions.
    pub fn load(&self, model: &Model, backend: &mut dyn Backend, with_adam: bool) {
        let parts = if with_adam { self.parts() } else { &PARTS[..1] };
        for tensor in model.params.tensors(&self.info.config) {
            for (prefix, region) in parts {
                // `open` has found every tensor.
                let values = self.floats(&format!("{prefix}{}", tensor.name)).unwrap_or_default();
                backend.write(tensor.span.of(*region), values);
            }
        }
    }
}

impl Weights for Checkpoint {
    fn config(&self) -> &Config {
        &self.info.config
    }

    fn read(&self, name: &str, start: usize, out: &mut [f32]) {
        // `open` has found every parameter.
        let values = self.floats(name).and_then(|all| all.get(start..start + out.len()));
        if let Some(values) = values {
            out.copy_from_slice(values);
        }
    }
}

fn read_info(gguf: &Gguf<'_>) -> xelm_runtime::Result<CheckpointInfo> {
    use xelm_runtime::Error::MissingKey;
    gguf.expect_architecture(ARCH_CHECKPOINT)?;
    let get = |key: &'static str| -> xelm_runtime::Result<Value<'_>> {
        gguf.get(key).ok_or(MissingKey { key })
    };
    let n_vocab = get(key::N_VOCAB)?.u32(key::N_VOCAB)? as usize;
    Ok(CheckpointInfo {
        config: Config::read_dimensions(gguf, n_vocab)?,
        step: get(key::STEP)?.u64(key::STEP)?,
        tokens: get(key::TOKENS)?.u64(key::TOKENS)?,
        adam_steps: get(key::ADAM_STEPS)?.u64(key::ADAM_STEPS)?,
        parent: get(key::PARENT)?.str(key::PARENT)?.to_owned(),
        job: get(key::JOB)?.str(key::JOB)?.to_owned(),
        vocabulary: get(key::VOCABULARY)?.str(key::VOCABULARY)?.to_owned(),
    })
}
