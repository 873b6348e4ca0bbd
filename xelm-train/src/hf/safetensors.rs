//! Safetensors files: a model's parameters in one file or several, in single or half precision, under XGLM's
//! names; read a piece at a time out of the mapping, written front to back.

use super::{read_text, wrong};
use crate::model::{ParamId, parameters};
use crate::weights::{Weights, parts};
use crate::{Error, Result};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use xelm_runtime::config::Config;
use xelm_runtime::format::AtomicFile;
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::quant::f16_to_f32;

/// The file of a model that is not divided.
pub(super) const FILE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Names in files of the model without its head lack this prefix.
const PREFIX: &str = "model.";
const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
/// The table of positions is computed; some files have it.
const POSITIONS: &str = "model.embed_positions.weights";

/// `model.safetensors.index.json`
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The parameters of a folder.
#[derive(Debug)]
pub(super) struct Shards {
    files: Vec<MappedFile>,
    places: HashMap<String, Place>,
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
struct Place {
    file: usize,
    bytes: Range<usize>,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Shards {
    /// Opens a folder's safetensors files and checks that they hold the parameters of a model and no others.
    ///
    /// # Errors
    /// A file is missing or broken, a tensor is missing, unknown, of another shape or type, or the output
    /// layer is not the embedding.
    pub(super) fn open(folder: &Path, config: &Config) -> Result<Shards> {
        let mut shards = Shards { files: Vec::new(), places: HashMap::new() };
        let (single, index) = (folder.join(FILE), folder.join(INDEX));
        if single.exists() {
            shards.add(&single)?;
        } else if index.exists() {
            shards.add_all(folder, &index)?;
        } else {
            return Err(wrong(
                folder,
                format_args!(
                    "there is neither {FILE} nor {INDEX}; where the weights are in another format, \
                     `save_pretrained` of transformers with safe_serialization=True writes them"
                ),
            ));
        }
        shards.check(config).map_err(|what| wrong(folder, what))?;
        Ok(shards)
    }

    /// Adds the files that an index names.
    fn add_all(&mut self, folder: &Path, path: &Path) -> Result<()> {
        let index: Index = serde_json::from_str(&read_text(path)?).map_err(|e| wrong(path, e))?;
        let names: BTreeSet<&String> = index.weight_map.values().collect();
        let mut numbers = HashMap::new();
        for name in names {
            // The index comes from elsewhere: it may not point out of the folder.
            if Path::new(name).file_name() != Some(name.as_ref()) {
                return Err(wrong(path, format_args!("{name:?} is not the name of a file")));
            }
            numbers.insert(name, self.files.len());
            self.add(&folder.join(name))?;
        }
        for (tensor, file) in &index.weight_map {
            let place = self.places.get(&canonical(tensor));
            if place.map(|place| place.file) != numbers.get(file).copied() {
                return Err(wrong(path, format_args!("the tensor {tensor} is not in {file}")));
            }
        }
        Ok(())
    }

    /// Adds a file's tensors.
    fn add(&mut self, path: &Path) -> Result<()> {
        let file = MappedFile::open(path).map_err(Error::io("open", path))?;
        let (header, metadata) = SafeTensors::read_metadata(file.bytes()).map_err(|e| {
            wrong(
                path,
                format_args!("not a whole safetensors file ({e}): copy or download it again"),
            )
        })?;
        let data = header + size_of::<u64>();
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let place = Place {
                file: self.files.len(),
                bytes: data + start..data + end,
                dtype: info.dtype,
                shape: info.shape.clone(),
            };
            if self.places.insert(canonical(&name), place).is_some() {
                return Err(wrong(path, format_args!("the tensor {name} is there twice")));
            }
        }
        self.files.push(file);
        Ok(())
    }

    fn check(&mut self, config: &Config) -> std::result::Result<(), String> {
        let head = self.places.remove(HEAD);
        self.places.remove(POSITIONS);
        let parameters = parameters(config);
        for parameter in &parameters {
            let place = self.places.get(&parameter.name);
            self.check_tensor(parameter, place)?;
        }
        if self.places.len() > parameters.len() {
            let known: BTreeSet<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
            let unknown: BTreeSet<&str> =
                self.places.keys().map(String::as_str).filter(|n| !known.contains(n)).collect();
            return Err(format!(
                "{} tensors are not known, such as {}: config.json says {} layers",
                unknown.len(),
                unknown.first().unwrap_or(&""),
                config.n_layer
            ));
        }
        match head {
            Some(head) => self.check_head(parameters.first(), head),
            None => Ok(()),
        }
    }

    fn check_tensor(
        &self,
        parameter: &ParamId,
        place: Option<&Place>,
    ) -> std::result::Result<(), String> {
        let (name, shape) = (&parameter.name, shape(parameter));
        let place = place.ok_or_else(|| format!("the tensor {name} is missing"))?;
        if place.shape != shape {
            return Err(format!("{name} has the shape {:?} instead of {shape:?}", place.shape));
        }
        match place.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(()),
            other => Err(format!("{name} is of type {other:?}; F32, F16 and BF16 can be read")),
        }
    }

    /// An output layer of its own must be the embedding again.
    fn check_head(
        &self,
        embedding: Option<&ParamId>,
        head: Place,
    ) -> std::result::Result<(), String> {
        let Some(embedding) = embedding else { return Ok(()) };
        let head_id = ParamId { name: HEAD.to_owned(), ..embedding.clone() };
        self.check_tensor(&head_id, Some(&head))?;
        let step = embedding.shape.1;
        let (mut a, mut b) = (vec![0.0; step], vec![0.0; step]);
        for start in (0..embedding.span.len).step_by(step) {
            self.read(EMBEDDING, start, &mut a);
            self.read_place(&head, start, &mut b);
            if a != b {
                let row = start / step;
                return Err(format!(
                    "{HEAD} differs from {EMBEDDING} in row {row}: there is no untied output layer"
                ));
            }
        }
        Ok(())
    }

    /// As [`Weights::read`].
    pub(super) fn read(&self, name: &str, start: usize, out: &mut [f32]) {
        if let Some(place) = self.places.get(name) {
            self.read_place(place, start, out);
        }
    }

    fn read_place(&self, place: &Place, start: usize, out: &mut [f32]) {
        let size = if place.dtype == Dtype::F32 { 4 } else { 2 };
        let bytes = self.files[place.file].bytes().get(place.bytes.clone());
        let bytes = bytes.and_then(|all| all.get(start * size..(start + out.len()) * size));
        let bytes = bytes.unwrap_or_default();
        let half = |b: &[u8; 2]| u16::from_le_bytes(*b);
        match place.dtype {
            Dtype::F16 => {
                for (x, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *x = f16_to_f32(half(b));
                }
            }
            // The upper half of an f32.
            Dtype::BF16 => {
                for (x, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *x = f32::from_bits(u32::from(half(b)) << 16);
                }
            }
            _ => {
                for (x, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *x = f32::from_le_bytes(*b);
                }
            }
        }
    }
}

/// The dimensions of a parameter in a file.
fn shape(parameter: &ParamId) -> Vec<usize> {
    let (rows, cols) = parameter.shape;
    let is_vector = ["bias", "norm.weight"].iter().any(|end| parameter.name.ends_with(end));
    if is_vector { vec![cols] } else { vec![rows, cols] }
}

/// The name of a tensor in files of the whole model.
fn canonical(name: &str) -> String {
    let is_whole = name == HEAD || name.starts_with(PREFIX);
    if is_whole { name.to_owned() } else { format!("{PREFIX}{name}") }
}

/// Writes weights as one F32 file.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write(weights: &dyn Weights, path: &Path) -> Result<()> {
    let parameters = parameters(weights.config());
    let mut end = 0;
    let infos = parameters.iter().map(|parameter| {
        let start = end;
        end += parameter.span.len * size_of::<f32>();
        let (shape, data_offsets) = (shape(parameter), (start, end));
        let info = TensorInfo { dtype: Dtype::F32, shape, data_offsets };
        (parameter.name.clone(), info)
    });
    // `transformers` refuses files that do not say for whom they are.
    let note = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let header = Metadata::new(Some(note), infos.collect()).map_err(|e| wrong(path, e))?;
    let mut header = serde_json::to_vec(&header).map_err(|e| wrong(path, e))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let failed = |e| Error::io("write", path)(e);
    let mut file = AtomicFile::create(path).map_err(failed)?;
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
    file.write_all(&header).map_err(failed)?;
    for parameter in &parameters {
        for part in parts(weights, parameter) {
            file.write_all(part.as_ref()).map_err(failed)?;
        }
    }
    file.commit().map_err(failed)
}
