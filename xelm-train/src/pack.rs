//! Packing: checkpoints become expert files, and these a set (`docs/formats.md`).

use crate::checkpoint::{Checkpoint, CheckpointInfo};
use crate::job::{CHECKPOINT, JobSpec};
use crate::report::Report;
use crate::run::{DENSE, RANDOM, Run, SEED, SET, TOKENIZER};
use crate::tfidf::{DeviceSize, SetRouter, router_for};
use crate::typology::Distances;
use crate::{Error, Result, weights};
use std::path::{Path, PathBuf};
use xelm_runtime::format::{AtomicFile, FORMAT_VERSION, Gguf, Writer, keys};
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::pack::{MANIFEST, write_manifest};
use xelm_runtime::router::RouterTensors;
use xelm_runtime::set::{ARCH_SET, Row, SET_FILE, file_identity, keys as set_keys};
use xelm_runtime::tokenizer::{Tokenizer, hex};

/// What `pack` wrote.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The set's folder.
    pub folder: PathBuf,
    /// Every file with its size in bytes.
    pub files: Vec<(PathBuf, u64)>,
    /// The set's router, where it has one.
    pub router: Option<SetRouter>,
}

/// Packs a run's experts and their router into its `set` folder, and the seed and those baselines that are
/// trained into `models`.
///
/// # Errors
/// An expert is not trained to its end, or a file cannot be written.
pub fn pack(run: &Run, router: &DeviceSize, report: &mut dyn Report) -> Result<Packed> {
    let vocabulary = run.path(TOKENIZER);
    let tokenizer = MappedFile::open(&vocabulary).map_err(Error::io("open", &vocabulary))?;
    let tokenizer = tokenizer.gguf().map_err(Error::file(&vocabulary))?;
    let folder = run.path(SET);
    let mut files = Vec::new();
    let mut rows = Vec::new();
    let mut n_embd = 0;
    let clusters = run.clusters()?;
    for cluster in &clusters {
        let file = format!("{}.gguf", cluster.id);
        let path = folder.join(&file);
        let checkpoint = finished(run, &cluster.id)?;
        export(&checkpoint, &tokenizer, &path)?;
        let (size, sha256) = file_identity(&path).map_err(Error::io("read", &path))?;
        files.push((path, size));
        n_embd = checkpoint.info.config.n_embd;
        rows.push(Row {
            id: cluster.id.clone(),
            file,
            size,
            sha256,
            parent: checkpoint.info.parent,
            languages: cluster.languages.clone(),
        });
    }
    let router = router_for(run, &clusters, router, report)?;
    let tensors = router.as_ref().map(|router| &router.tensors);
    write_set(&folder.join(SET_FILE), &rows, n_embd, &tokenizer, tensors)?;
    write_manifest(&folder).map_err(Error::file(&folder.join(MANIFEST)))?;
    for name in [SET_FILE, MANIFEST] {
        files.push((folder.join(name), size_of(&folder.join(name))?));
    }
    for name in [SEED, DENSE, RANDOM] {
        if run.job_folder(name).join(CHECKPOINT).exists() {
            let path = run.path("models").join(format!("{name}.gguf"));
            export(&finished(run, name)?, &tokenizer, &path)?;
            let size = size_of(&path)?;
            files.push((path, size));
        }
    }
    Ok(Packed { folder, files, router })
}

/// The checkpoint of a job, if the job is done.
fn finished(run: &Run, name: &str) -> Result<Checkpoint> {
    let path = run.job_folder(name).join(CHECKPOINT);
    let unfinished = |how: String| {
        Error::usage(format!("{name} {how}: `xelm train` with the same settings finishes it"))
    };
    if !path.exists() {
        return Err(unfinished("is not trained yet".into()));
    }
    let checkpoint = Checkpoint::open(&path)?;
    let spec = job_spec(&checkpoint.info, &path)?;
    if checkpoint.info.step < spec.settings.steps {
        let (step, steps) = (checkpoint.info.step, spec.settings.steps);
        return Err(unfinished(format!("is trained for {step} of {steps} steps only")));
    }
    Ok(checkpoint)
}

fn job_spec(info: &CheckpointInfo, path: &Path) -> Result<JobSpec> {
    serde_json::from_str(&info.job).map_err(|e| Error::usage(format!("{}: {e}", path.display())))
}

/// Writes a checkpoint as an F32 expert file with the tokenizer of `tokenizer`.
///
/// # Errors
/// The vocabularies differ, or the file cannot be written.
pub fn export(checkpoint: &Checkpoint, tokenizer: &Gguf<'_>, path: &Path) -> Result<()> {
    let info = &checkpoint.info;
    let spec = job_spec(info, path)?;
    let hash = Tokenizer::open(tokenizer).map_err(Error::file(path))?.hash();
    if hex(&hash) != info.vocabulary {
        return Err(Error::usage(format!("{}: trained with another vocabulary", spec.name)));
    }
    let mut writer = weights::expert_header(&info.config, &spec.name, &spec.languages);
    writer.string(keys::EXPERT_PARENT, &info.parent);
    writer.u32(keys::EXPERT_ROUND, u32::from(!info.parent.is_empty()));
    writer.u64(keys::EXPERT_TRAINED_TOKENS, info.tokens);
    Tokenizer::copy_keys(tokenizer, &mut writer);
    weights::write_expert(checkpoint, writer, path)
}

fn write_set(
    path: &Path,
    rows: &[Row],
    n_embd: usize,
    tokenizer: &Gguf<'_>,
    router: Option<&RouterTensors>,
) -> Result<()> {
    let mut writer = Writer::new(ARCH_SET);
    writer.u32(keys::FORMAT_VERSION, FORMAT_VERSION);
    Row::write(rows, &mut writer);
    let distances = Distances::shipped();
    let order: Vec<u32> =
        (0..distances.tags.len()).flat_map(|i| distances.nearest(i)).map(|i| i as u32).collect();
    writer.strings(set_keys::FALLBACK_TAGS, &distances.tags);
    writer.u32s(set_keys::FALLBACK_ORDER, &order);
    let hash = Tokenizer::open(tokenizer).map_err(Error::file(path))?.hash();
    writer.string(set_keys::TOKENIZER_HASH, &hex(&hash));
    writer.u32(set_keys::EMBEDDING_LENGTH, n_embd as u32);
    let wrong = Error::file(path);
    router.map_or(Ok(()), |router| router.describe(&mut writer)).map_err(&wrong)?;
    let file = AtomicFile::create(path).map_err(Error::io("write", path))?;
    let mut body = writer.begin(file).map_err(&wrong)?;
    router.map_or(Ok(()), |router| router.write(&mut body)).map_err(&wrong)?;
    body.finish().map_err(&wrong)?.commit().map_err(Error::io("write", path))
}

fn size_of(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).map_err(Error::io("read", path))?.len())
}
