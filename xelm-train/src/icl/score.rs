//! Scores of an example's candidates.

use super::prompt::{Demonstrations, Prompt};
use super::{Example, Mix, Normalise, Scoring};
use crate::evaluate::models::Model;
use crate::memory::Memory;
use crate::{Error, Result};
use std::path::Path;
use xelm_runtime::ensemble::{Active, Ensemble};
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::parallel::Serial;
use xelm_runtime::session::{KvType, Options, Session, Want};

/// An example as a model sees it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scored {
    /// Scores of the candidates; the lowest wins.
    pub(super) scores: Vec<f64>,
    /// Whether something had to be left out of the prompt.
    pub(super) is_cut: bool,
}

impl Scored {
    /// The candidate with the lowest score, the first among equals.
    pub(super) fn prediction(&self) -> usize {
        let best = |best: usize, (i, score): (usize, &f64)| {
            if *score < self.scores[best] { i } else { best }
        };
        self.scores.iter().enumerate().fold(0, best)
    }
}

/// Scores the candidates of examples, each after the same demonstrations.
pub(super) fn score_examples(
    model: &Model<'_>,
    demonstrations: &[String],
    examples: &[Example],
    scoring: &Scoring,
) -> Result<Vec<Scored>> {
    model.with(|ensemble, mixing| {
        let name = ensemble.first().id();
        let fail = Error::file(Path::new(name));
        let options = Options {
            n_logits: 16,
            kv: KvType::F32,
            max_text: 0,
            mixing,
            full_output: true,
            ..Options::default()
        };
        let run = || {
            let tokenizer = ensemble.tokenizer().ok_or(xelm_runtime::Error::NoTokenizer)?;
            let demonstrations = Demonstrations::new(tokenizer, demonstrations, scoring.newline)?;
            let mut memory = Memory::new(Session::plan(ensemble, &options)?.total);
            let kernels = Kernels::new(Isa::detect());
            let mut session = Session::init(ensemble, &options, memory.bytes(), kernels, &Serial)?;
            let mut found = Vec::with_capacity(examples.len());
            for example in examples {
                let prompt = Prompt::new(tokenizer, &demonstrations, example, session.n_ctx())?;
                session.choose_by(&prompt.routing)?;
                let sums = match scoring.mix {
                    Mix::Probabilities => candidates(&mut session, &prompt, tokenizer.bos())?,
                    Mix::Logits => with_logits(&ensemble, &session, &prompt, tokenizer.bos())?,
                };
                let score = |(sum, ids): (f64, &Vec<u32>)| match scoring.normalise {
                    Normalise::Mean => sum / ids.len().max(1) as f64,
                    Normalise::Sum => sum,
                };
                let scores = sums.into_iter().zip(&prompt.candidates).map(score).collect();
                found.push(Scored { scores, is_cut: prompt.is_cut });
            }
            Ok(found)
        };
        run().map_err(fail)
    })
}

/// The sum of negative log likelihoods of every candidate. What the session has read of the prefix, and of
/// the demonstrations of the example before, is not read again.
fn candidates(
    session: &mut Session<'_>,
    prompt: &Prompt,
    bos: u32,
) -> xelm_runtime::Result<Vec<f64>> {
    let same = session.reuse_prefix(&prompt.prefix);
    session.run(&prompt.prefix[same..], Want::Nothing)?;
    let mut sums = Vec::new();
    for ids in &prompt.candidates {
        session.rewind(prompt.prefix.len())?;
        sums.push(session.score_next(&inputs(ids, bos), ids)?);
    }
    Ok(sums)
}

/// What is read to predict a candidate: `</s>` and all of it but the last token.
fn inputs(ids: &[u32], bos: u32) -> Vec<u32> {
    let read = ids.len().saturating_sub(1);
    [&[bos], &ids[..read]].concat().into_iter().take(ids.len()).collect()
}

/// As [`candidates`], of the softmax of Σ α_e · logits_e. Every expert reads the example by itself.
fn with_logits(
    ensemble: &Ensemble<'_>,
    session: &Session<'_>,
    prompt: &Prompt,
    bos: u32,
) -> xelm_runtime::Result<Vec<f64>> {
    let active: Vec<Active> = session.active().to_vec();
    let n_vocab = ensemble.config().n_vocab;
    let rows = prompt.candidates.iter().map(|ids| vec![0.0f64; ids.len() * n_vocab]);
    let mut mixed: Vec<Vec<f64>> = rows.collect();
    for Active { expert, weight } in active {
        let Some(expert) = ensemble.get(expert as usize) else { continue };
        let options = Options { n_ctx: session.n_ctx(), ..*session.options() };
        let mut memory = Memory::new(Session::plan(expert, &options)?.total);
        let kernels = Kernels::new(Isa::detect());
        let mut reader = Session::init(expert, &options, memory.bytes(), kernels, &Serial)?;
        reader.run(&prompt.prefix, Want::Nothing)?;
        for (ids, mixed) in prompt.candidates.iter().zip(&mut mixed) {
            reader.rewind(prompt.prefix.len())?;
            let mut add = |i: usize, logits: &[f32]| {
                let row = &mut mixed[i * n_vocab..][..n_vocab];
                let terms = logits.iter().map(|&x| f64::from(weight) * f64::from(x));
                row.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
            };
            reader.run(&inputs(ids, bos), Want::All(&mut add))?;
        }
    }
    let sum = |(ids, rows): (&Vec<u32>, &Vec<f64>)| {
        let of = |(row, &id): (&[f64], &u32)| log_sum_exp(row) - row[id as usize];
        rows.chunks_exact(n_vocab).zip(ids).map(of).sum()
    };
    Ok(prompt.candidates.iter().zip(&mixed).map(sum).collect())
}

fn log_sum_exp(row: &[f64]) -> f64 {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_score_wins_and_the_first_among_equals() {
        let scored = |scores: &[f64]| Scored { scores: scores.to_vec(), is_cut: false };
        assert_eq!(scored(&[3.0, 1.0, 2.0]).prediction(), 1);
        assert_eq!(scored(&[2.0, 1.0, 1.0]).prediction(), 1);
        assert_eq!(scored(&[2.0, 2.0]).prediction(), 0);
    }

    #[test]
    fn a_candidate_is_read_without_its_last_token() {
        assert_eq!(inputs(&[7, 8, 9], 2), [2, 7, 8]);
        assert_eq!(inputs(&[7], 2), [2]);
        assert!(inputs(&[], 2).is_empty());
    }
}
