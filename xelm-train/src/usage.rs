//! Which tokens of a vocabulary the text of some languages uses: what a shortlist keeps, what trimming
//! drops, and how much of a text either covers.

use crate::corpus::{BadInput, Corpus, LanguageDocuments, Skipped, Split};
use crate::tokens::encode;
use crate::{Error, Result};
use rayon::prelude::*;
use std::collections::HashSet;
use xelm_runtime::tokenizer::{SPACE, Tokenizer, token_type};

/// Documents tokenised together.
const BATCH: usize = 256;

/// How often the documents of one language have each token.
#[derive(Clone, Debug)]
pub struct Usage {
    /// The language.
    pub language: String,
    /// In training text, by id.
    pub train: Vec<u64>,
    /// In held-out text, by id.
    pub valid: Vec<u64>,
    /// Lines of the corpus that were left out.
    pub skipped: Vec<Skipped>,
}

/// How much of a language's text a choice of tokens covers.
#[derive(Clone, Debug, PartialEq)]
pub struct Coverage {
    /// The language.
    pub language: String,
    /// Tokens of its held-out text.
    pub tokens: u64,
    /// How many of them are among the chosen.
    pub covered: u64,
}

impl Coverage {
    /// The share that is covered; `None` where there is no held-out text.
    pub fn share(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.covered as f64 / self.tokens as f64)
    }
}

/// How many tokens to choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// So many.
    Tokens(usize),
    /// As many as cover this share of every language's training text.
    Share(f64),
}

/// Counts the tokens of every language of a corpus.
///
/// # Errors
/// The corpus cannot be read, or has bad lines under [`BadInput::Stop`].
pub fn count(
    corpus: &Corpus,
    tokenizer: &Tokenizer<'_>,
    bad_input: BadInput,
) -> Result<Vec<Usage>> {
    let languages = corpus.languages.iter();
    languages
        .map(|(language, files)| {
            let mut documents = LanguageDocuments::new(language, files, bad_input);
            let mut counts = [Split::Train, Split::Valid].map(|_| vec![0; tokenizer.n_vocab()]);
            loop {
                let batch: Result<Vec<_>> = documents.by_ref().take(BATCH).collect();
                let batch = batch?;
                if batch.is_empty() {
                    break;
                }
                let ids: xelm_runtime::Result<Vec<_>> = batch
                    .par_iter()
                    .map(|(_, document)| encode(tokenizer, document.text.as_bytes()))
                    .collect();
                let ids = ids.map_err(Error::file(documents.path()))?;
                for ((split, _), ids) in batch.iter().zip(ids) {
                    let counts = &mut counts[usize::from(*split == Split::Valid)];
                    ids.into_iter().for_each(|id| counts[id as usize] += 1);
                }
            }
            let [train, valid] = counts;
            let (language, skipped) = (language.clone(), documents.into_skipped());
            Ok(Usage { language, train, valid, skipped })
        })
        .collect()
}

/// Chooses tokens, ascending: those without which something could not be said at all, then those with the
/// largest shares of the languages' training texts, in which all languages count the same. Indispensable are
/// the special tokens, and as tokens of their own the space, every printable character of ASCII, and every
/// character that the texts have.
///
/// # Errors
/// An amount that is no share or less than what is indispensable; a language without training text.
pub fn choose(tokenizer: &Tokenizer<'_>, usages: &[Usage], amount: Amount) -> Result<Vec<u32>> {
    let n_vocab = tokenizer.n_vocab();
    let totals: Vec<u64> = usages.iter().map(|usage| usage.train.iter().sum()).collect();
    if let Some(empty) = totals.iter().position(|&total| total == 0) {
        let language = &usages[empty].language;
        return Err(Error::usage(format!("the corpus has no training text in {language:?}")));
    }
    let mut chosen = indispensable(tokenizer, usages);
    let n_first = chosen.iter().filter(|&&is_chosen| is_chosen).count();
    let count_of = |usage: &Usage, id: usize| usage.train[id];
    let share_of = |id: usize| -> f64 {
        usages.iter().zip(&totals).map(|(u, &n)| count_of(u, id) as f64 / n as f64).sum()
    };
    let mut rest: Vec<(f64, usize)> =
        (0..n_vocab).filter(|&id| !chosen[id]).map(|id| (share_of(id), id)).collect();
    // Equal shares by id: in a vocabulary of ours the more probable piece comes first.
    rest.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    match amount {
        Amount::Tokens(n) if n < n_first => {
            return Err(Error::usage(format!(
                "{n} tokens are too few: special tokens and single characters are {n_first}"
            )));
        }
        Amount::Tokens(n) => {
            rest.iter().take(n - n_first).for_each(|&(_, id)| chosen[id] = true);
        }
        Amount::Share(share) if !(share > 0.0 && share <= 1.0) => {
            return Err(Error::usage(format!(
                "a coverage of {share}: it is above 0 and at most 1"
            )));
        }
        Amount::Share(share) => {
            let mut missing: Vec<u64> = usages
                .iter()
                .map(|u| (0..n_vocab).filter(|&id| !chosen[id]).map(|id| count_of(u, id)).sum())
                .collect();
            for (_, id) in rest {
                let enough = |(&missing, &total): (&u64, &u64)| {
                    (total - missing) as f64 >= share * total as f64
                };
                if missing.iter().zip(&totals).all(enough) {
                    break;
                }
                chosen[id] = true;
                let counts = usages.iter().map(|u| count_of(u, id));
                missing.iter_mut().zip(counts).for_each(|(missing, n)| *missing -= n);
            }
        }
    }
    Ok((0u32..).zip(chosen).filter(|&(_, is_chosen)| is_chosen).map(|(id, _)| id).collect())
}

/// For every token whether nothing could stand in for it.
fn indispensable(tokenizer: &Tokenizer<'_>, usages: &[Usage]) -> Vec<bool> {
    let n_vocab = tokenizer.n_vocab() as u32;
    let is_used = |id: u32| usages.iter().any(|usage| usage.train[id as usize] > 0);
    let mut characters: HashSet<char> = ('!'..='~').chain(SPACE.chars()).collect();
    characters
        .extend((0..n_vocab).filter(|&id| is_used(id)).flat_map(|id| tokenizer.piece(id).chars()));
    let is_character = |piece: &str| {
        let mut rest = piece.chars();
        rest.next().is_some_and(|c| characters.contains(&c)) && rest.next().is_none()
    };
    (0..n_vocab)
        .map(|id| {
            tokenizer.token_type(id) != token_type::NORMAL || is_character(tokenizer.piece(id))
        })
        .collect()
}

/// How much of the languages' held-out texts `chosen` covers, which is ascending.
pub fn coverage(usages: &[Usage], chosen: &[u32]) -> Vec<Coverage> {
    let of = |usage: &Usage| Coverage {
        language: usage.language.clone(),
        tokens: usage.valid.iter().sum(),
        covered: chosen.iter().map(|&id| usage.valid[id as usize]).sum(),
    };
    usages.iter().map(of).collect()
}
