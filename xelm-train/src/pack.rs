//! Packing: checkpoints become expert files, and these a set (`docs/formats.md`).

use crate::card::write_card;
use crate::checkpoint::CheckpointInfo;
use crate::job::{CHECKPOINT, JobSpec};
use crate::report::Report;
use crate::run::{DENSE, LAPT, RANDOM, Run, SEED, SET};
use crate::tfidf::{DeviceSize, SetRouter, Settings, router_for};
use crate::typology::Distances;
use crate::weights::{Weights, expert_header, write_expert};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use xelm_runtime::format::{AtomicFile, FORMAT_VERSION, Gguf, Writer, keys};
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::pack::{MANIFEST, write_manifest};
use xelm_runtime::router::RouterTensors;
use xelm_runtime::set::{ARCH_SET, Row, SET_FILE, file_identity, keys as set_keys};
use xelm_runtime::tokenizer::{Tokenizer, hex};

/// What `pack` is to do besides the experts.
#[derive(Clone, Copy, Debug)]
pub struct PackOptions {
    /// The size of the set's router and how it is fitted; `None` for a set without one.
    pub router: Option<(DeviceSize, Settings)>,
}

impl Default for PackOptions {
    fn default() -> Self {
        PackOptions { router: Some(Default::default()) }
    }
}

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
pub fn pack(run: &Run, options: &PackOptions, report: &mut dyn Report) -> Result<Packed> {
    let vocabulary = run.tokenizer_path();
    let tokenizer = MappedFile::open(&vocabulary).map_err(Error::io("open", &vocabulary))?;
    let tokenizer = tokenizer.gguf().map_err(Error::file(&vocabulary))?;
    let folder = run.path(SET);
    let mut files = Vec::new();
    let mut rows = Vec::new();
    let mut n_embd = 0;
    let experts = run.experts()?;
    for (id, languages) in &experts {
        let file = format!("{id}.gguf");
        let path = folder.join(&file);
        let checkpoint = run.finished(id)?;
        export(&checkpoint.info, &checkpoint, &tokenizer, &path)?;
        let (size, sha256) = file_identity(&path).map_err(Error::io("read", &path))?;
        files.push((path, size));
        n_embd = checkpoint.info.config.n_embd;
        rows.push(Row {
            id: id.clone(),
            file,
            size,
            sha256,
            parent: checkpoint.info.parent,
            languages: languages.clone(),
        });
    }
    let speakers: Vec<Vec<String>> = experts.into_iter().map(|(_, languages)| languages).collect();
    let router = match options.router {
        Some((size, settings)) => router_for(run, &speakers, &size, &settings, report)?,
        None => None,
    };
    let tensors = router.as_ref().map(|router| &router.tensors);
    let distances = run.distances()?;
    write_set(&folder.join(SET_FILE), &rows, n_embd, &distances, &tokenizer, tensors)?;
    write_manifest(&folder).map_err(Error::file(&folder.join(MANIFEST)))?;
    for name in [SET_FILE, MANIFEST] {
        files.push((folder.join(name), size_of(&folder.join(name))?));
    }
    for name in [SEED, DENSE, RANDOM, LAPT] {
        if run.job_folder(name).join(CHECKPOINT).exists() {
            let path = run.model_path(name);
            let checkpoint = run.finished(name)?;
            export(&checkpoint.info, &checkpoint, &tokenizer, &path)?;
            let size = size_of(&path)?;
            files.push((path, size));
        }
    }
    let card = write_card(run, &folder)?;
    files.push((card.clone(), size_of(&card)?));
    Ok(Packed { folder, files, router })
}

/// Writes the weights of a checkpoint, which `info` describes, as an F32 expert file with the tokenizer of
/// `tokenizer`.
///
/// # Errors
/// The vocabularies differ, or the file cannot be written.
pub fn export(
    info: &CheckpointInfo,
    weights: &dyn Weights,
    tokenizer: &Gguf<'_>,
    path: &Path,
) -> Result<()> {
    let spec = JobSpec::of(info, path)?;
    let hash = Tokenizer::open(tokenizer).map_err(Error::file(path))?.hash();
    if hex(&hash) != info.vocabulary {
        return Err(Error::usage(format!("{}: trained with another vocabulary", spec.name)));
    }
    let mut writer = expert_header(&info.config, &spec.name, &spec.languages);
    writer.string(keys::EXPERT_PARENT, &info.parent);
    writer.u32(keys::EXPERT_ROUND, spec.round);
    writer.u64(keys::EXPERT_TRAINED_TOKENS, info.tokens);
    Tokenizer::copy_keys(tokenizer, &mut writer);
    write_expert(weights, writer, path)
}

fn write_set(
    path: &Path,
    rows: &[Row],
    n_embd: usize,
    distances: &Distances,
    tokenizer: &Gguf<'_>,
    router: Option<&RouterTensors>,
) -> Result<()> {
    let mut writer = Writer::new(ARCH_SET);
    writer.u32(keys::FORMAT_VERSION, FORMAT_VERSION);
    Row::write(rows, &mut writer);
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
