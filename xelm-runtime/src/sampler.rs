//! Choosing the next token: greedy, or at random; after repetition penalty, temperature, top-k, min-p
//! and top-p, in this order.

use crate::error::{Error, Result};
use crate::math;
use crate::rng::Rng;
use crate::shortlist::Outputs;
use bytemuck::{AnyBitPattern, NoUninit};

/// How to sample. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits; 0 means greedy (the most probable token, the lowest id among equals).
    pub temperature: f32,
    /// Only the `top_k` most probable tokens; 0 means all.
    pub top_k: usize,
    /// Only the fewest most probable tokens that together reach this probability; 1 means all.
    pub top_p: f32,
    /// Only tokens at least this many times as probable as the most probable one; 0 means all.
    pub min_p: f32,
    /// The log probability of tokens that occur among the last `repeat_last` is multiplied by this: 1
    /// changes nothing, more makes repetition rarer (Keskar et al. 2019, there of logits, whose
    /// zero means nothing in a mixture).
    pub repeat_penalty: f32,
    /// How far back repetition counts, in tokens.
    pub repeat_last: usize,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            repeat_last: 64,
            seed: 0,
        }
    }
}

/// A sampler and the state of its random numbers.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    rng: Rng,
}

/// Scratch for one logit.
#[derive(Clone, Copy, Debug, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Candidate {
    /// Logit, later probability.
    weight: f32,
    /// Index of the logit.
    id: u32,
}

impl Sampler {
    /// A sampler at the beginning of its random numbers.
    ///
    /// # Errors
    /// [`Error::BadParameter`]: the temperature is negative or not finite, `top_p` is not in (0, 1],
    /// `min_p` not in [0, 1], or the penalty is less than 1 or not finite.
    pub fn new(options: SamplerOptions) -> Result<Self> {
        let SamplerOptions { temperature, top_p, min_p, repeat_penalty, .. } = options;
        for (valid, what) in [
            (temperature >= 0.0 && temperature.is_finite(), "temperature"),
            (top_p > 0.0 && top_p <= 1.0, "top_p"),
            ((0.0..=1.0).contains(&min_p), "min_p"),
            (repeat_penalty >= 1.0 && repeat_penalty.is_finite(), "repeat_penalty"),
        ] {
            if !valid {
                return Err(Error::BadParameter { what });
            }
        }
        Ok(Sampler { options, rng: Rng::new(options.seed, 0x73616d706c65) })
    }

    /// How many random numbers were drawn: with the options all that there is to save.
    pub fn n_drawn(&self) -> u64 {
        self.rng.position()
    }

    /// Goes to where `n` random numbers have been drawn.
    pub fn set_drawn(&mut self, n: u64) {
        self.rng.set_position(n);
    }

    /// Chooses a token from logits `[n_vocab]`, `recent` being the tokens so far; `scratch` has as many
    /// entries as there are logits.
    pub fn sample(&mut self, logits: &[f32], recent: &[u32], scratch: &mut [Candidate]) -> u32 {
        self.sample_from(logits, Outputs::all(logits.len()), recent, scratch)
    }

    /// As [`Sampler::sample`], from logits of `outputs`.
    pub(crate) fn sample_from(
        &mut self,
        logits: &[f32],
        outputs: Outputs<'_>,
        recent: &[u32],
        scratch: &mut [Candidate],
    ) -> u32 {
        let recent = recent.iter().rev().take(self.options.repeat_last);
        let recent = recent.filter_map(|&token| outputs.index(token));
        outputs.id(self.index(logits, recent, scratch) as usize)
    }

    /// The index of the logit that is chosen; `recent` has those that a penalty applies to.
    fn index(
        &mut self,
        logits: &[f32],
        recent: impl Iterator<Item = usize>,
        scratch: &mut [Candidate],
    ) -> u32 {
        let SamplerOptions { temperature, top_k, top_p, min_p, repeat_penalty, .. } = self.options;
        if temperature == 0.0 && repeat_penalty == 1.0 {
            return argmax(logits);
        }
        let scratch = &mut scratch[..logits.len()];
        for ((id, &logit), slot) in (0u32..).zip(logits).zip(scratch.iter_mut()) {
            // NaN sorts last.
            let weight = if logit.is_nan() { f32::NEG_INFINITY } else { logit };
            *slot = Candidate { weight, id };
        }
        if repeat_penalty > 1.0 {
            let sum = math::log_sum_exp(logits);
            for at in recent {
                scratch[at].weight = sum + (logits[at] - sum) * repeat_penalty;
            }
        }
        // Decreasing probability, ids breaking ties: a total order, so the result is unique.
        let order =
            |a: &Candidate, b: &Candidate| b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id));
        if temperature == 0.0 {
            return scratch.iter().min_by(|a, b| order(a, b)).map_or(0, |best| best.id);
        }
        for candidate in scratch.iter_mut() {
            candidate.weight /= temperature;
        }
        let mut kept = scratch;
        if top_k > 0 && top_k < kept.len() {
            kept.select_nth_unstable_by(top_k - 1, order);
            kept = &mut kept[..top_k];
        }
        let is_sorted = top_p < 1.0 || min_p > 0.0;
        if is_sorted {
            kept.sort_unstable_by(order);
        } else if top_k > 0 {
            // The kept tokens stand in whatever order selection left; ids fix it.
            kept.sort_unstable_by_key(|c| c.id);
        }
        let max = kept.iter().fold(f32::NEG_INFINITY, |m, c| m.max(c.weight));
        if max == f32::NEG_INFINITY {
            return argmax(logits);
        }
        let mut total = 0.0;
        for candidate in kept.iter_mut() {
            candidate.weight = math::exp(candidate.weight - max);
            total += candidate.weight;
        }
        if min_p > 0.0 {
            // The most probable token has weight 1.
            let n = kept.iter().take_while(|c| c.weight >= min_p).count();
            kept = &mut kept[..n.max(1)];
            total = kept.iter().map(|c| c.weight).sum();
        }
        if top_p < 1.0 {
            let target = top_p * total;
            let mut sum = 0.0;
            let reach = kept.iter().position(|c| {
                sum += c.weight;
                sum >= target
            });
            let n = reach.map_or(kept.len(), |i| i + 1);
            kept = &mut kept[..n];
            total = sum;
        }
        let mut left = self.rng.next_f32() * total;
        for candidate in kept.iter() {
            left -= candidate.weight;
            if left < 0.0 {
                return candidate.id;
            }
        }
        // Rounding may leave a remainder; the last token with any probability takes it.
        kept.iter().rev().find(|c| c.weight > 0.0).map_or(0, |c| c.id)
    }
}

/// The index of the largest logit, the lowest among equals; NaN never wins.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0u32);
    for (id, &logit) in (0u32..).zip(logits) {
        if logit > best.0 {
            best = (logit, id);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn draw(options: SamplerOptions, logits: &[f32], n: usize) -> std::vec::Vec<usize> {
        let mut sampler = Sampler::new(options).unwrap();
        let mut scratch = vec![Candidate { weight: f32::NAN, id: 9 }; logits.len()];
        let mut counts = vec![0; logits.len()];
        for _ in 0..n {
            counts[sampler.sample(logits, &[], &mut scratch) as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(draw(SamplerOptions::default(), &[1.0, 3.0, 3.0, f32::NAN], 4), [0, 4, 0, 0]);
        assert_eq!(argmax(&[f32::NAN; 3]), 0);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0f32, 1.0, 2.0, -50.0];
        let options = SamplerOptions { temperature: 0.5, seed: 3, ..Default::default() };
        let counts = draw(options, &logits, 60_000);
        let weights: vec::Vec<f64> = logits.iter().map(|&l| f64::from(l / 0.5).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(weights) {
            assert!((*count as f64 / 60_000.0 - weight / total).abs() < 0.01);
        }
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits = [0.0, 3.0, 2.9, 2.8, -1.0];
        let base = SamplerOptions { temperature: 1.0, seed: 1, ..Default::default() };
        let counts = draw(SamplerOptions { top_k: 2, ..base }, &logits, 1000);
        assert!(counts[1] > 0 && counts[2] > 0 && counts[0] + counts[3] + counts[4] == 0);
        let counts = draw(SamplerOptions { top_p: 0.3, ..base }, &logits, 1000);
        assert_eq!(counts[1], 1000);
        let counts = draw(SamplerOptions { top_p: 0.99, top_k: 3, ..base }, &logits, 1000);
        assert!(counts[0] + counts[4] == 0 && counts[3] > 0);
        // More than there are is all of them.
        assert_eq!(
            draw(SamplerOptions { top_k: 99, ..base }, &logits, 100).iter().sum::<usize>(),
            100
        );
    }

    #[test]
    fn min_p_keeps_what_is_near_the_best() {
        // Probabilities relative to the best: 1, 0.5, 0.25, tiny.
        let logits = [0.0, -core::f32::consts::LN_2, -2.0 * core::f32::consts::LN_2, -20.0];
        let base = SamplerOptions { temperature: 1.0, seed: 2, ..Default::default() };
        let counts = draw(SamplerOptions { min_p: 0.4, ..base }, &logits, 3000);
        assert!(counts[2] + counts[3] == 0);
        let share = counts[0] as f64 / 3000.0;
        assert!((share - 2.0 / 3.0).abs() < 0.03, "{share}");
        assert_eq!(draw(SamplerOptions { min_p: 1.0, ..base }, &logits, 100)[0], 100);
        // Applied before top-p: of the two kept, the first has two thirds.
        let both = SamplerOptions { min_p: 0.4, top_p: 0.6, ..base };
        assert_eq!(draw(both, &logits, 100)[0], 100);
    }

    /// The penalty is of probabilities: an offset of all logits changes nothing.
    #[test]
    fn repetition_is_penalised() {
        let mut scratch = vec![Candidate { weight: 0.0, id: 0 }; 3];
        for offset in [-7.0, 0.0, 7.0] {
            let logits = [2.0 + offset, 1.9 + offset, -1.0 + offset];
            let mut greedy = |recent: &[u32], options: SamplerOptions| {
                Sampler::new(options).unwrap().sample(&logits, recent, &mut scratch)
            };
            let base = SamplerOptions { repeat_penalty: 1.5, ..Default::default() };
            assert_eq!(greedy(&[], base), 0);
            assert_eq!(greedy(&[0], base), 1);
            assert_eq!(greedy(&[0, 0, 0], base), 1);
            assert_eq!(greedy(&[0, 1], base), 0);
            assert_eq!(greedy(&[0, 1], SamplerOptions { repeat_last: 1, ..base }), 0);
            assert_eq!(greedy(&[0, 2], SamplerOptions { repeat_last: 1, ..base }), 0);
            assert_eq!(greedy(&[0], SamplerOptions { repeat_last: 0, ..base }), 0);
            assert_eq!(greedy(&[0], SamplerOptions { repeat_penalty: 1.0, ..base }), 0);
            assert_eq!(greedy(&[99], base), 0);
        }
    }

    #[test]
    fn bad_options_and_bad_logits() {
        let base = SamplerOptions { temperature: 1.0, ..Default::default() };
        for bad in [
            SamplerOptions { temperature: -1.0, ..base },
            SamplerOptions { temperature: f32::NAN, ..base },
            SamplerOptions { top_p: 0.0, ..base },
            SamplerOptions { top_p: 1.5, ..base },
            SamplerOptions { min_p: -0.1, ..base },
            SamplerOptions { min_p: f32::NAN, ..base },
            SamplerOptions { repeat_penalty: 0.9, ..base },
            SamplerOptions { repeat_penalty: f32::INFINITY, ..base },
        ] {
            assert!(Sampler::new(bad).is_err());
        }
        assert_eq!(draw(base, &[f32::NAN, f32::NEG_INFINITY], 3).iter().sum::<usize>(), 3);
        assert_eq!(draw(base, &[f32::NAN, 1.0], 3), [0, 3]);
    }

    #[test]
    fn same_seed_same_tokens() {
        let logits: vec::Vec<f32> = (0..50).map(|i| (i % 7) as f32).collect();
        let options = SamplerOptions {
            temperature: 0.9,
            top_k: 20,
            top_p: 0.9,
            seed: 42,
            ..Default::default()
        };
        assert_eq!(draw(options, &logits, 500), draw(options, &logits, 500));
        assert_ne!(
            draw(options, &logits, 500),
            draw(SamplerOptions { seed: 43, ..options }, &logits, 500)
        );
    }
}
