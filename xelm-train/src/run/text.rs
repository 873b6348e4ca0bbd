//! What a run's models read: corpus, vocabulary, tokens.

use super::{Run, TOKENS};
use crate::corpus::{Corpus, Skipped, Split};
use crate::report::Report;
use crate::tokens::{TokenShard, check_vocabulary, shard_path, tokenize};
use crate::vocab::{self, VocabSettings};
use crate::{Error, Result};
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::tokenizer::{Tokenizer, hex};

impl Run {
    /// The corpus files of the run's languages.
    ///
    /// # Errors
    /// The corpus is not where it was.
    pub fn corpus(&self) -> Result<Corpus> {
        self.corpus_of(&self.manifest.languages)
    }

    /// The files of these languages in the run's corpus, which may hold more than the run's.
    ///
    /// # Errors
    /// The corpus is not where it was, or has no files of a language.
    pub fn corpus_of(&self, languages: &[String]) -> Result<Corpus> {
        self.whole_corpus()?.only(languages)
    }

    /// The corpus with all its languages, the run's and others; and text of added languages that is
    /// elsewhere.
    ///
    /// # Errors
    /// The corpus is not where it was.
    pub fn whole_corpus(&self) -> Result<Corpus> {
        let mut corpus = Corpus::find(&self.base.join(&self.manifest.corpus))?;
        for added in self.adapted()? {
            if let Some(folder) = &added.corpus {
                let files = Corpus::find(folder)?.only(std::slice::from_ref(&added.target))?;
                corpus.languages.extend(files.languages);
            }
        }
        Ok(corpus)
    }

    /// Learns the run's vocabulary, unless it has one; from `later` besides the run's own languages: those
    /// that are to be added to its experts one day.
    ///
    /// # Errors
    /// As [`vocab::train`]; the corpus has no files of a language.
    pub fn train_vocabulary(
        &self,
        settings: &VocabSettings,
        later: &[String],
    ) -> Result<Vec<Skipped>> {
        let path = self.tokenizer_path();
        if path.exists() {
            return Ok(Vec::new());
        }
        let languages = [self.languages(), later].concat();
        let (vocabulary, skipped) = vocab::train(&self.corpus_of(&languages)?, settings)?;
        vocab::save(&vocabulary, &path)?;
        Ok(skipped)
    }

    /// Makes the token shards that are missing or out of date. Where the corpus is not at hand (a job
    /// on another machine), the shards that are there are used as they are.
    ///
    /// # Errors
    /// As [`tokenize`].
    pub fn tokenize(&self, report: &mut dyn Report) -> Result<()> {
        self.tokenize_languages(self.languages(), report)
    }

    pub(super) fn tokenize_languages(
        &self,
        languages: &[String],
        report: &mut dyn Report,
    ) -> Result<()> {
        let folder = self.shared_path(TOKENS);
        let is_there = |language: &String| shard_path(&folder, language, Split::Train).exists();
        let corpus = match self.corpus_of(languages) {
            Err(_) if languages.iter().all(is_there) => return Ok(()),
            corpus => corpus?,
        };
        let vocabulary = self.tokenizer_path();
        for done in tokenize(&corpus, &vocabulary, &folder, self.bad_input())? {
            report_skipped(&done.skipped, report);
        }
        Ok(())
    }

    /// Size and identity of the vocabulary, and the token that ends documents.
    pub(super) fn vocabulary(&self) -> Result<(usize, String, u32)> {
        let path = self.tokenizer_path();
        let file = MappedFile::open(&path).map_err(|_| {
            Error::usage(format!(
                "the run has no vocabulary yet: `xelm tokenizer train --run {}` learns one",
                self.root.display()
            ))
        })?;
        let gguf = file.gguf().map_err(Error::file(&path))?;
        let tokenizer = Tokenizer::open(&gguf).map_err(Error::file(&path))?;
        Ok((tokenizer.n_vocab(), hex(&tokenizer.hash()), tokenizer.eos()))
    }

    pub(super) fn shards(
        &self,
        languages: &[String],
        split: Split,
        vocabulary: &str,
        n_vocab: usize,
    ) -> Result<Vec<TokenShard>> {
        let folder = self.shared_path(TOKENS);
        languages
            .iter()
            .map(|language| {
                let path = shard_path(&folder, language, split);
                check_vocabulary(&path, vocabulary)?;
                let shard = TokenShard::open(&path)?;
                let ids_are_known = shard.tokens().iter().all(|&id| (id as usize) < n_vocab);
                let unknown = xelm_runtime::Error::OutOfRange { what: "a token id" };
                if ids_are_known { Ok(shard) } else { Err(Error::file(&path)(unknown)) }
            })
            .collect()
    }
}

/// Tells about lines that were left out: the first few, and how many.
pub fn report_skipped(skipped: &[Skipped], report: &mut dyn Report) {
    const SHOWN: usize = 5;
    for line in skipped.iter().take(SHOWN) {
        report.note(&format!("left out {}:{}: {}", line.path, line.line, line.what));
    }
    if skipped.len() > SHOWN {
        report.note(&format!("left out {} more lines", skipped.len() - SHOWN));
    }
}
