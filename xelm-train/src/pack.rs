//! Packing: checkpoints become expert files, and these a set (`docs/formats.md`).

use crate::checkpoint::Checkpoint;
use crate::job::{CHECKPOINT, JobSpec};
use crate::model::position_table;
use crate::report::Report;
use crate::run::{DENSE, LAPT, RANDOM, Run, SEED, SET};
use crate::tfidf::{DeviceSize, SetRouter, Settings, router_for};
use crate::typology::Distances;
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use xelm_runtime::config::{
    ARCH_OWN, ARCH_STANDARD, Activation, Config, Role, TensorId, inventory,
};
use xelm_runtime::format::{AtomicFile, FORMAT_VERSION, Gguf, Writer, keys};
use xelm_runtime::math;
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::pack::{MANIFEST, write_manifest};
use xelm_runtime::quant::DType;
use xelm_runtime::router::RouterTensors;
use xelm_runtime::set::{ARCH_SET, Row, SET_FILE, file_identity, keys as set_keys};
use xelm_runtime::tokenizer::{Tokenizer, hex};

/// llama.cpp's number for a file of F32 matrices.
const FILE_TYPE_F32: u32 = 0;

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
        export(&checkpoint, &tokenizer, &path)?;
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
            export(&run.finished(name)?, &tokenizer, &path)?;
            let size = size_of(&path)?;
            files.push((path, size));
        }
    }
    Ok(Packed { folder, files, router })
}

/// Writes a checkpoint as an F32 expert file with the tokenizer of `tokenizer`.
///
/// # Errors
/// The vocabularies differ, or the file cannot be written.
pub fn export(checkpoint: &Checkpoint, tokenizer: &Gguf<'_>, path: &Path) -> Result<()> {
    let info = &checkpoint.info;
    let spec = JobSpec::of(info, path)?;
    let config = &info.config;
    let wrong = Error::file(path);
    let hash = Tokenizer::open(tokenizer).map_err(&wrong)?.hash();
    if hex(&hash) != info.vocabulary {
        return Err(Error::usage(format!("{}: trained with another vocabulary", spec.name)));
    }
    // llama.cpp's gpt2 computes GELU only; what it cannot compute it must refuse.
    let standard = config.activation != Activation::Relu;
    let mut writer = Writer::new(if standard { ARCH_STANDARD } else { ARCH_OWN });
    writer.string(keys::NAME, &spec.name);
    writer.u32(keys::FILE_TYPE, FILE_TYPE_F32);
    writer.u32(keys::QUANTIZATION_VERSION, 2);
    config.write(&mut writer);
    writer.u32(keys::FORMAT_VERSION, FORMAT_VERSION);
    writer.string(keys::EXPERT_ID, &spec.name);
    writer.strings(keys::EXPERT_LANGUAGES, &spec.languages);
    writer.string(keys::EXPERT_PARENT, &info.parent);
    writer.u32(keys::EXPERT_ROUND, spec.round);
    writer.u64(keys::EXPERT_TRAINED_TOKENS, info.tokens);
    Tokenizer::copy_keys(tokenizer, &mut writer);
    for tensor in inventory(config) {
        let (rows, cols) = tensor.shape(config);
        let dims: &[usize] = if tensor.is_matrix() { &[cols, rows] } else { &[cols] };
        writer.tensor(&tensor.to_string(), DType::F32, dims).map_err(&wrong)?;
    }
    let file = AtomicFile::create(path).map_err(Error::io("write", path))?;
    let mut body = writer.begin(file).map_err(&wrong)?;
    for tensor in inventory(config) {
        let parts = folded(checkpoint, config, tensor);
        let bytes = parts.iter().map(|part| bytemuck::cast_slice::<f32, u8>(part));
        body.tensor(bytes).map_err(&wrong)?;
    }
    body.finish().map_err(&wrong)?.commit().map_err(Error::io("write", path))
}

/// The numbers of an expert file's tensor out of a checkpoint's: Q, K and V fused, and the input scale
/// s = √C folded into the embedding and out of the last norm.
fn folded(checkpoint: &Checkpoint, config: &Config, tensor: TensorId) -> Vec<Vec<f32>> {
    let get = |name: &str| checkpoint.floats(name).unwrap_or_default().to_vec();
    let of_layer = |rest: &str| get(&format!("model.layers.{}.{rest}", tensor.layer.unwrap_or(0)));
    let qkv = |kind: &str| {
        ["q_proj", "k_proj", "v_proj"].map(|p| of_layer(&format!("self_attn.{p}.{kind}"))).to_vec()
    };
    let s = math::sqrt(config.n_embd as f32);
    let scaled =
        |values: Vec<f32>, f: &dyn Fn(f32) -> f32| vec![values.into_iter().map(f).collect()];
    match tensor.role {
        Role::TokenEmbd => scaled(get("model.embed_tokens.weight"), &|x| x * s),
        Role::PositionEmbd => vec![position_table(config.n_ctx, config.n_embd)],
        Role::AttnNormWeight => vec![of_layer("self_attn_layer_norm.weight")],
        Role::AttnNormBias => vec![of_layer("self_attn_layer_norm.bias")],
        Role::AttnQkvWeight => qkv("weight"),
        Role::AttnQkvBias => qkv("bias"),
        Role::AttnOutputWeight => vec![of_layer("self_attn.out_proj.weight")],
        Role::AttnOutputBias => vec![of_layer("self_attn.out_proj.bias")],
        Role::FfnNormWeight => vec![of_layer("final_layer_norm.weight")],
        Role::FfnNormBias => vec![of_layer("final_layer_norm.bias")],
        Role::FfnUpWeight => vec![of_layer("fc1.weight")],
        Role::FfnUpBias => vec![of_layer("fc1.bias")],
        Role::FfnDownWeight => vec![of_layer("fc2.weight")],
        Role::FfnDownBias => vec![of_layer("fc2.bias")],
        Role::OutputNormWeight => scaled(get("model.layer_norm.weight"), &|x| x / s),
        Role::OutputNormBias => scaled(get("model.layer_norm.bias"), &|x| x / s),
    }
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
