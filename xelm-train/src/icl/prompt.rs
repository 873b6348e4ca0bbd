//! Examples as tokens. Demonstrations, shared text and candidate are tokenised apart, and each opens with
//! `</s>`; so the space that the tokenizer puts before every text separates them, whatever they end in.

use super::{Example, Newline};
use crate::tokens::encode;
use xelm_runtime::Result;
use xelm_runtime::tokenizer::Tokenizer;

/// The demonstrations before every example, with fewer and fewer of the oldest.
pub(super) struct Demonstrations(Vec<Vec<u32>>);

impl Demonstrations {
    /// `texts` from the oldest to the latest.
    pub(super) fn new(
        tokenizer: &Tokenizer<'_>,
        texts: &[String],
        newline: Newline,
    ) -> Result<Self> {
        let piece = |text: &str| -> Result<Vec<u32>> {
            Ok([vec![tokenizer.bos()], encode(tokenizer, text.as_bytes())?].concat())
        };
        let last = |n: usize| -> Result<Vec<u32>> {
            let texts = &texts[texts.len() - n..];
            match newline {
                _ if n == 0 => Ok(Vec::new()),
                Newline::Space => {
                    piece(&texts.iter().map(|text| format!("{text}\n")).collect::<String>())
                }
                Newline::Eos => {
                    Ok(texts.iter().map(|text| piece(text)).collect::<Result<Vec<_>>>()?.concat())
                }
            }
        };
        Ok(Demonstrations((0..=texts.len()).map(last).collect::<Result<_>>()?))
    }
}

/// An example's tokens.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Prompt {
    /// What is read before every candidate: demonstrations and shared text.
    pub(super) prefix: Vec<u32>,
    /// The candidates, without the `</s>` that opens them.
    pub(super) candidates: Vec<Vec<u32>>,
    /// What mixtures weigh their experts by.
    pub(super) routing: Vec<u32>,
    /// Whether something had to be left out.
    pub(super) is_cut: bool,
}

impl Prompt {
    /// The example in `n_ctx` positions. What does not fit is left out: the oldest demonstrations first, then
    /// the beginning of the shared text, then the ends of the candidates.
    pub(super) fn new(
        tokenizer: &Tokenizer<'_>,
        demonstrations: &Demonstrations,
        example: &Example,
        n_ctx: usize,
    ) -> Result<Prompt> {
        let ids = |text: &str| encode(tokenizer, text.as_bytes());
        let routing = ids(&example.routing)?;
        let shared = ids(&example.shared)?;
        let mut candidates = Vec::new();
        for candidate in &example.candidates {
            candidates.push(ids(candidate)?);
        }
        // A candidate of n tokens takes n positions: its `</s>`, and all but its last.
        let longest = candidates.iter().map(Vec::len).max().unwrap_or(0);
        let room = n_ctx.saturating_sub(1 + longest);
        let fits = |demonstrations: &&Vec<u32>| demonstrations.len() + shared.len() <= room;
        let demonstrations = &demonstrations.0;
        let chosen = demonstrations.iter().rev().find(fits).map_or(&[][..], Vec::as_slice);
        let kept = &shared[shared.len().saturating_sub(room)..];
        let most = n_ctx.saturating_sub(1).max(1);
        candidates.iter_mut().for_each(|candidate| candidate.truncate(most));
        let all = demonstrations.last().map_or(0, Vec::len);
        let is_cut = chosen.len() < all || kept.len() < shared.len() || longest > most;
        let prefix = [chosen, &[tokenizer.bos()], kept].concat();
        Ok(Prompt { prefix, candidates, routing, is_cut })
    }
}
