//! The documents of a language, file after file, divided into those to train on and those held out.

use super::{BadInput, CorpusFile, Document, Documents, Skipped, Split, is_held_out};
use crate::Result;
use std::path::Path;

/// All documents of one language in file order, each with what it is for. Where no file holds the
/// held-out ones, [`is_held_out`] decides.
#[derive(Debug)]
pub struct LanguageDocuments<'a> {
    language: &'a str,
    rest: std::slice::Iter<'a, CorpusFile>,
    bad_input: BadInput,
    has_valid: bool,
    now: Option<(&'a CorpusFile, Documents)>,
    skipped: Vec<Skipped>,
}

impl<'a> LanguageDocuments<'a> {
    /// The documents in `files`, which are those of `language`.
    pub fn new(language: &'a str, files: &'a [CorpusFile], bad_input: BadInput) -> Self {
        let has_valid = files.iter().any(|file| file.split == Split::Valid);
        let rest = files.iter();
        LanguageDocuments { language, rest, bad_input, has_valid, now: None, skipped: Vec::new() }
    }

    /// The file of the document that was read last.
    pub fn path(&self) -> &Path {
        self.now.as_ref().map_or(Path::new(self.language), |(file, _)| &file.path)
    }

    /// Lines that were left out.
    pub fn into_skipped(self) -> Vec<Skipped> {
        self.skipped
    }
}

impl Iterator for LanguageDocuments<'_> {
    type Item = Result<(Split, Document)>;

    fn next(&mut self) -> Option<Result<(Split, Document)>> {
        loop {
            if let Some((file, documents)) = &mut self.now {
                if let Some(document) = documents.next() {
                    let split = file.split;
                    return Some(document.map(|document| {
                        let held_out = !self.has_valid && is_held_out(&document.text);
                        (if held_out { Split::Valid } else { split }, document)
                    }));
                }
                self.skipped.append(&mut documents.skipped);
            }
            let file = self.rest.next()?;
            match Documents::open(file, self.language, self.bad_input) {
                Ok(documents) => self.now = Some((file, documents)),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
