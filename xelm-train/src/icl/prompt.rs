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
        let (shared, routing) = (ids(&example.shared)?, ids(&example.routing)?);
        let candidates = example.candidates.iter().map(|text| ids(text)).collect::<Result<_>>()?;
        let prompt = fit(&demonstrations.0, &shared, candidates, tokenizer.bos(), n_ctx);
        Ok(Prompt { routing, ..prompt })
    }
}

/// A prompt of these parts in `n_ctx` positions; the more demonstrations, the later in their list.
fn fit(
    demonstrations: &[Vec<u32>],
    shared: &[u32],
    mut candidates: Vec<Vec<u32>>,
    bos: u32,
    n_ctx: usize,
) -> Prompt {
    // A candidate of n tokens takes n positions: its `</s>`, and all but its last. So does the shared text's
    // `</s>`.
    let longest = candidates.iter().map(Vec::len).max().unwrap_or(0);
    let room = n_ctx.saturating_sub(1 + longest);
    let fits = |demonstrations: &&Vec<u32>| demonstrations.len() + shared.len() <= room;
    let chosen = demonstrations.iter().rev().find(fits).map_or(&[][..], Vec::as_slice);
    let kept = &shared[shared.len().saturating_sub(room)..];
    let most = n_ctx.saturating_sub(1).max(1);
    candidates.iter_mut().for_each(|candidate| candidate.truncate(most));
    let all = demonstrations.last().map_or(0, Vec::len);
    let is_cut = chosen.len() < all || kept.len() < shared.len() || longest > most;
    let prefix = [chosen, &[bos], kept].concat();
    Prompt { prefix, candidates, routing: Vec::new(), is_cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_left_out() {
        let demonstrations = [vec![], vec![2, 20], vec![2, 10, 2, 20]];
        let shared = [5, 6, 7];
        let candidates = [vec![8], vec![9, 9]];
        let of = |n_ctx| fit(&demonstrations, &shared, candidates.to_vec(), 2, n_ctx);
        // 4 demonstrations, </s>, 3 shared, </s> and the first of two tokens.
        for (n_ctx, prefix, is_cut) in [
            (11, &[2, 10, 2, 20, 2, 5, 6, 7][..], false),
            (10, &[2, 10, 2, 20, 2, 5, 6, 7], false),
            (9, &[2, 20, 2, 5, 6, 7], true),
            (8, &[2, 20, 2, 5, 6, 7], true),
            (7, &[2, 5, 6, 7], true),
            (6, &[2, 5, 6, 7], true),
            (5, &[2, 6, 7], true),
            (3, &[2], true),
        ] {
            let prompt = of(n_ctx);
            assert_eq!((&prompt.prefix[..], prompt.is_cut), (prefix, is_cut), "{n_ctx}");
            assert_eq!(prompt.candidates, candidates);
            assert!(prompt.prefix.len() + 2 <= n_ctx, "{n_ctx}");
        }
        // No room for the longer candidate.
        let prompt = of(2);
        assert_eq!((prompt.prefix, prompt.is_cut), (vec![2], true));
        assert_eq!(prompt.candidates, [[8], [9]]);
        // Without demonstrations nothing is missing.
        assert!(!fit(&[vec![]], &shared, candidates.to_vec(), 2, 6).is_cut);
    }
}
