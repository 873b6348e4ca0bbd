//! Models of `transformers`: folders with an XGLM's `config.json`, safetensors files and tokenizer, read and
//! written.

mod config;
mod export;
mod json;
mod safetensors;
mod tokenizer;

pub use export::export;

use self::safetensors::Shards;
use crate::weights::{Weights, expert_header, write_expert};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use xelm_runtime::config::Config;
use xelm_runtime::format::keys;
use xelm_runtime::tokenizer::Vocabulary;

/// An XGLM in a folder as `save_pretrained` leaves it. Its weights stay on the disk.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    config: Config,
    shards: Shards,
    vocabulary: Vocabulary,
}

impl Folder {
    /// Opens and checks a folder.
    ///
    /// # Errors
    /// A file is missing or not what it should be, the model is no XGLM, or its parts do not fit together.
    pub fn open(path: &Path) -> Result<Folder> {
        let config = config::read(path)?;
        let vocabulary = tokenizer::read(path, config.n_vocab)?;
        let shards = Shards::open(path, &config)?;
        Ok(Folder { path: path.to_owned(), config, shards, vocabulary })
    }

    /// The vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The folder's name, for a model that has no other.
    pub fn name(&self) -> String {
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        path.file_name().map_or_else(|| "xglm".into(), |name| name.to_string_lossy().into_owned())
    }

    /// Writes the model as an F32 expert file.
    ///
    /// # Errors
    /// The vocabulary cannot be used, or the file cannot be written.
    pub fn write_expert(&self, id: &str, languages: &[String], path: &Path) -> Result<()> {
        let mut header = expert_header(&self.config, id, languages);
        header.string(keys::EXPERT_PARENT, "");
        header.u32(keys::EXPERT_ROUND, 0);
        header.u64(keys::EXPERT_TRAINED_TOKENS, 0);
        self.vocabulary.write(&mut header).map_err(Error::file(&self.path))?;
        write_expert(self, header, path)
    }
}

impl Weights for Folder {
    fn config(&self) -> &Config {
        &self.config
    }

    fn read(&self, name: &str, start: usize, out: &mut [f32]) {
        self.shards.read(name, start, out);
    }
}

/// An error about one of a folder's files.
fn wrong(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::usage(format!("{}: {what}", path.display()))
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(Error::io("read", path))
}
