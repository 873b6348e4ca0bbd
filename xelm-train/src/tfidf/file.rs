//! A fitted router as a file of the run, `router.gguf`, and as the smaller tables of a device.

use super::embed::Embedding;
use super::vectorizer::Terms;
use crate::memory::Memory;
use crate::{Error, Result};
use std::path::Path;
use xelm_runtime::format::{AtomicFile, Body, Gguf, Writer};
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::router::{Precision, Router, RouterTensors, Tables, tensors};

/// `general.architecture` of a file that holds a router alone.
pub const ARCH_ROUTER: &str = "xelm-router";

/// Longest word, in bytes, of a device's router: longer ones are not words.
const MAX_TERM: usize = 64;

/// An embedding with the centroids of a set's experts.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// What turns texts into vectors.
    pub embedding: Embedding,
    /// `[experts, n_dims]`, row-major.
    pub centroids: Vec<f32>,
}

/// How large a device's router may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceSize {
    /// Words at most.
    pub max_terms: usize,
    /// Bytes of all tables at most.
    pub max_bytes: usize,
}

impl Default for DeviceSize {
    fn default() -> Self {
        DeviceSize { max_terms: 50_000, max_bytes: 5_000_000 }
    }
}

impl Fitted {
    /// The tables as they are, in F32.
    ///
    /// # Errors
    /// They are empty.
    pub fn tensors(&self) -> xelm_runtime::Result<RouterTensors> {
        let Embedding { terms, projection, n_dims } = &self.embedding;
        let Terms { rule, terms, idf } = terms;
        let centroids = &self.centroids;
        let tables = Tables { rule: *rule, terms, idf, projection, centroids, n_dims: *n_dims };
        RouterTensors::new(&tables, Precision::F32)
    }

    /// Writes the tables as they are, as a file of their own.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let file = AtomicFile::create(path).map_err(Error::io("write", path))?;
        let file = write(&self.tensors().map_err(Error::file(path))?, file);
        file.map_err(Error::file(path))?.commit().map_err(Error::io("write", path))
    }

    /// Reads what [`Fitted::save`] wrote.
    ///
    /// # Errors
    /// The file cannot be read, or is of another kind.
    pub fn open(path: &Path) -> Result<Fitted> {
        let file = MappedFile::open(path).map_err(Error::io("open", path))?;
        let gguf = file.gguf().map_err(Error::file(path))?;
        read(&gguf).map_err(Error::file(path))
    }

    /// The tables for a device: the words that weigh most in the texts they were fitted to, one byte per
    /// number of the projection.
    ///
    /// # Errors
    /// Not even the heaviest word fits.
    pub fn for_device(&self, size: &DeviceSize) -> xelm_runtime::Result<RouterTensors> {
        let Embedding { terms, projection, n_dims } = &self.embedding;
        let order = self.by_weight();
        let mut n = order.len().min(size.max_terms);
        loop {
            let chosen = &order[..n];
            let words: Vec<&str> = chosen.iter().map(|&i| terms.terms[i].as_str()).collect();
            let idf: Vec<f32> = chosen.iter().map(|&i| terms.idf[i]).collect();
            let rows = chosen.iter().flat_map(|&i| &projection[i * n_dims..][..*n_dims]);
            let tables = Tables {
                rule: terms.rule,
                terms: &words,
                idf: &idf,
                projection: &rows.copied().collect::<Vec<f32>>(),
                centroids: &self.centroids,
                n_dims: *n_dims,
            };
            let tensors = RouterTensors::new(&tables, Precision::I8)?;
            if tensors.n_bytes() <= size.max_bytes {
                return Ok(tensors);
            }
            // Bytes grow with the words, but for the centroids and the first block of the trie.
            n = (n * size.max_bytes / tensors.n_bytes()).min(n - 1);
        }
    }

    /// The words by what they add to the vectors of all texts together: df · idf · ‖V‖, where df is known
    /// up to a factor from the idf.
    fn by_weight(&self) -> Vec<usize> {
        let Embedding { terms, projection, n_dims } = &self.embedding;
        let weights: Vec<f32> = projection
            .chunks((*n_dims).max(1))
            .zip(&terms.idf)
            .map(|(row, idf)| (-idf).exp() * idf * row.iter().map(|x| x * x).sum::<f32>().sqrt())
            .collect();
        let mut order: Vec<usize> =
            (0..terms.terms.len()).filter(|&i| terms.terms[i].len() <= MAX_TERM).collect();
        order.sort_by(|&i, &j| weights[j].total_cmp(&weights[i]).then(i.cmp(&j)));
        order
    }
}

/// A router's tables as the bytes of a file.
///
/// # Errors
/// The tables cannot be described.
pub(super) fn in_memory(tensors: &RouterTensors) -> xelm_runtime::Result<Memory> {
    let bytes = write(tensors, Vec::new())?;
    let mut memory = Memory::new(bytes.len());
    memory.bytes().copy_from_slice(&bytes);
    Ok(memory)
}

fn write<W: std::io::Write>(tensors: &RouterTensors, out: W) -> xelm_runtime::Result<W> {
    let mut writer = Writer::new(ARCH_ROUTER);
    tensors.describe(&mut writer)?;
    let mut body: Body<W> = writer.begin(out)?;
    tensors.write(&mut body)?;
    body.finish()
}

fn read(gguf: &Gguf<'_>) -> xelm_runtime::Result<Fitted> {
    gguf.expect_architecture(ARCH_ROUTER)?;
    let router = Router::open(gguf)?.ok_or(xelm_runtime::Error::NoRouter)?;
    let floats = |name: &'static str| -> xelm_runtime::Result<Vec<f32>> {
        let tensor = gguf.tensor(name).ok_or(xelm_runtime::Error::MissingTensor { name })?;
        Ok(tensor.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    };
    let terms = Terms { rule: router.rule(), terms: router.terms()?, idf: floats(tensors::IDF)? };
    let projection = floats(tensors::PROJECTION)?;
    let n_dims = router.n_dims();
    // The file may be one of a device, with one byte per number.
    if projection.len() != terms.terms.len() * n_dims {
        return Err(xelm_runtime::Error::WrongShape { name: tensors::PROJECTION });
    }
    let embedding = Embedding { terms, projection, n_dims };
    Ok(Fitted { embedding, centroids: floats(tensors::CENTROIDS)? })
}
