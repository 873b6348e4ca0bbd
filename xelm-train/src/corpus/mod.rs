//! Corpora as users have them: a folder of `<lang>[.train|.valid][.*].{txt,jsonl,jsonl.gz,jsonl.zst}`.

mod bundled;
mod read;
mod split;

pub use bundled::write_bundled;
pub use read::{BadInput, Document, Documents, Skipped};
pub use split::LanguageDocuments;

use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use xelm_runtime::lang::Tag;

/// What a file's documents are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Split {
    /// Training.
    Train,
    /// Held out.
    Valid,
}

impl Split {
    /// The word in file names.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Valid => "valid",
        }
    }
}

/// One file of a corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorpusFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it is for, where the name says so; a file that says nothing is for training.
    pub split: Split,
}

/// The files of a folder by language.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    /// Files by language tag, each list in name order.
    pub languages: BTreeMap<String, Vec<CorpusFile>>,
    /// Files whose names fit the pattern in nothing.
    pub ignored: Vec<PathBuf>,
}

impl Corpus {
    /// Looks through a folder (not its subfolders).
    ///
    /// # Errors
    /// The folder cannot be read or holds no corpus file.
    pub fn find(folder: &Path) -> Result<Corpus> {
        let mut corpus = Corpus::default();
        let entries = fs::read_dir(folder).map_err(Error::io("read the corpus folder", folder))?;
        let mut paths = Vec::new();
        for entry in entries {
            paths.push(entry.map_err(Error::io("read the corpus folder", folder))?.path());
        }
        paths.sort();
        for path in paths.into_iter().filter(|p| p.is_file()) {
            match parse_name(&path) {
                Some((language, split)) => {
                    let file = CorpusFile { path, split };
                    corpus.languages.entry(language).or_default().push(file);
                }
                None => corpus.ignored.push(path),
            }
        }
        if corpus.languages.is_empty() {
            return Err(Error::usage(format!(
                "{}: no corpus files; they are named <language>[.train|.valid].txt, .jsonl, \
                 .jsonl.gz or .jsonl.zst, such as de.train.jsonl.zst",
                folder.display()
            )));
        }
        Ok(corpus)
    }

    /// Keeps only the given languages.
    ///
    /// # Errors
    /// One of them has no file.
    pub fn only(mut self, languages: &[String]) -> Result<Corpus> {
        for language in languages {
            if !self.languages.contains_key(language) {
                let known: Vec<_> = self.languages.keys().map(String::as_str).collect();
                return Err(Error::usage(format!(
                    "the corpus has no files for the language {language:?}; it has {}",
                    known.join(", ")
                )));
            }
        }
        self.languages.retain(|language, _| languages.contains(language));
        Ok(self)
    }
}

/// Language and split of a corpus file's name.
fn parse_name(path: &Path) -> Option<(String, Split)> {
    let name = path.file_name()?.to_str()?;
    let stem = ["txt", "jsonl", "jsonl.gz", "jsonl.zst"]
        .iter()
        .find_map(|extension| name.strip_suffix(extension)?.strip_suffix('.'))?;
    let mut parts = stem.split('.');
    let language = parts.next()?;
    Tag::new(language).ok()?;
    let split = if parts.next() == Some("valid") { Split::Valid } else { Split::Train };
    Some((language.to_owned(), split))
}

/// Where no file holds the held-out documents, one in this many is held out, chosen by its hash.
const HELD_OUT: u64 = 50;

/// Whether a document is held out of a corpus that has no held-out files of its own.
pub fn is_held_out(text: &str) -> bool {
    let digest: [u8; 32] = Sha256::digest(text).into();
    digest.first_chunk().is_some_and(|b| u64::from_le_bytes(*b).is_multiple_of(HELD_OUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let parse = |name: &str| parse_name(Path::new(name));
        assert_eq!(parse("de.txt"), Some(("de".into(), Split::Train)));
        assert_eq!(parse("zh-Hant.train.c4.jsonl.gz"), Some(("zh-Hant".into(), Split::Train)));
        assert_eq!(parse("ru.valid.jsonl.zst"), Some(("ru".into(), Split::Valid)));
        assert_eq!(parse("sw.wiki.jsonl"), Some(("sw".into(), Split::Train)));
        for other in ["README.md", "de.csv", "sources.json", ".txt", "1.txt", "de", "txt"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
