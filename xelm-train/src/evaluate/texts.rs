//! The texts that are scored: the held-out documents of each language.

use crate::corpus::{BadInput, Corpus, LanguageDocuments, Split};
use crate::run::Run;
use crate::{Error, Result};
use sha2::{Digest, Sha256};
use xelm_runtime::tokenizer::hex;

/// Documents of a language that are scored at most, as in the X-ELM paper.
pub const MAX_DOCUMENTS: usize = 5001;

/// The held-out documents of a language, in file order.
#[derive(Debug)]
pub(crate) struct Texts {
    pub(crate) language: String,
    pub(crate) documents: Vec<String>,
    /// SHA-256 over all of them.
    pub(crate) sha256: String,
}

impl Texts {
    pub(crate) fn new(language: &str, documents: Vec<String>) -> Self {
        let mut sha = Sha256::new();
        for document in &documents {
            sha.update((document.len() as u64).to_le_bytes());
            sha.update(document);
        }
        Texts { language: language.to_owned(), documents, sha256: hex(&sha.finalize()) }
    }
}

/// The held-out documents of languages, each once, sorted by tag: of those given, or else of the run's
/// and of those that its set speaks and the corpus has.
///
/// # Errors
/// The corpus does not have a language, or no held-out documents of it.
pub(crate) fn held_out(
    run: &Run,
    languages: &[String],
    set_speaks: impl Iterator<Item = String>,
    max_documents: usize,
) -> Result<Vec<Texts>> {
    let corpus = run.whole_corpus()?;
    let languages: Vec<String> = if languages.is_empty() {
        let more = set_speaks.filter(|language| corpus.languages.contains_key(language));
        run.languages().iter().cloned().chain(more).collect()
    } else {
        languages.to_vec()
    };
    held_out_of(&corpus.only(&languages)?, run.bad_input(), max_documents)
}

/// The held-out documents of every language of a corpus.
///
/// # Errors
/// A language has none.
pub(crate) fn held_out_of(
    corpus: &Corpus,
    bad_input: BadInput,
    max_documents: usize,
) -> Result<Vec<Texts>> {
    let of = |language: &String| {
        let files = &corpus.languages[language];
        // Where files hold the held-out documents, the others need not be read.
        let valid: Vec<_> = files.iter().filter(|f| f.split == Split::Valid).cloned().collect();
        let files = if valid.is_empty() { files } else { &valid };
        let documents: Result<Vec<String>> = LanguageDocuments::new(language, files, bad_input)
            .filter(|document| !matches!(document, Ok((Split::Train, _))))
            .take(max_documents)
            .map(|document| Ok(document?.1.text))
            .collect();
        let documents = documents?;
        if documents.is_empty() {
            return Err(Error::usage(format!(
                "the language {language:?} has no held-out documents: add a {language}.valid file"
            )));
        }
        Ok(Texts::new(language, documents))
    };
    corpus.languages.keys().map(of).collect()
}
