//! Text as a model reads it, for whoever watches: the tokens of training documents in whole contexts.

use crate::corpus::{BadInput, CorpusFile, LanguageDocuments, Split};
use crate::tokens::encode;
use crate::{Error, Result};
use std::path::Path;
use xelm_runtime::tokenizer::Tokenizer;

/// The first `n_tokens` tokens of a language's training documents, in file order, as sequences of at most
/// `n_ctx`: every document begins one with `</s>`, and so does what of it does not fit.
///
/// # Errors
/// The files cannot be read, or hold no training document.
pub fn training_sequences(
    language: &str,
    files: &[CorpusFile],
    tokenizer: &Tokenizer<'_>,
    n_ctx: usize,
    n_tokens: usize,
) -> Result<Vec<Vec<u32>>> {
    let mut sequences = Vec::new();
    let mut left = n_tokens;
    for document in LanguageDocuments::new(language, files, BadInput::Skip) {
        let (split, document) = document?;
        if split == Split::Valid {
            continue;
        }
        let ids = encode(tokenizer, document.text.as_bytes());
        let ids = ids.map_err(Error::file(Path::new(language)))?;
        for part in ids.chunks(n_ctx.saturating_sub(1).max(1)) {
            let sequence: Vec<u32> =
                std::iter::once(tokenizer.bos()).chain(part.iter().copied()).take(left).collect();
            left -= sequence.len();
            sequences.push(sequence);
            if left == 0 {
                return Ok(sequences);
            }
        }
    }
    if sequences.is_empty() {
        return Err(Error::usage(format!("the language {language:?} has no training documents")));
    }
    Ok(sequences)
}

#[cfg(test)]
mod tests {
    use super::*;
    use xelm_runtime::mmap::ExpertFile;

    #[test]
    fn documents_in_whole_contexts() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let file = |name: &str, split| CorpusFile { path: path(name), split };
        std::fs::write(path("en.txt"), "A cat and a dog.\n\nThe sea.").unwrap();
        std::fs::write(path("en.valid.txt"), "Not this.").unwrap();
        let files = [file("en.txt", Split::Train), file("en.valid.txt", Split::Valid)];
        let expert =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny/expert.gguf");
        let expert = ExpertFile::open(&expert).unwrap();
        let tokenizer = expert.expert().tokenizer().unwrap();
        let read =
            |n_ctx, n_tokens| training_sequences("en", &files, tokenizer, n_ctx, n_tokens).unwrap();
        let ids = |text: &str| encode(tokenizer, text.as_bytes()).unwrap();
        let (first, second) = (ids("A cat and a dog."), ids("The sea."));
        let whole = read(100, 100);
        assert_eq!(whole, [[&[2], &first[..]].concat(), [&[2], &second[..]].concat()]);
        let parts = read(4, 100);
        assert_eq!(parts[0], [&[2], &first[..3]].concat());
        assert!(parts.iter().all(|part| part.len() <= 4 && part[0] == 2));
        let joined = |of: &[Vec<u32>]| of.iter().flat_map(|p| p[1..].to_vec()).collect::<Vec<_>>();
        assert_eq!(joined(&parts), joined(&whole));
        for n in 1..12 {
            let part = read(4, n);
            assert_eq!(part.iter().map(Vec::len).sum::<usize>(), n);
            assert!(joined(&whole).starts_with(&joined(&part)));
        }
        let valid = &files[1..];
        assert!(training_sequences("en", valid, tokenizer, 4, 9).is_err());
    }
}
