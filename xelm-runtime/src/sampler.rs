//! Choosing the next token: greedy, or at random after temperature, top-k and top-p.

use crate::error::{Error, Result};
use crate::math;
use crate::rng::Rng;
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
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

/// A sampler and the state of its random numbers.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    rng: Rng,
}

/// Scratch for one vocabulary entry.
#[derive(Clone, Copy, Debug, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Candidate {
    /// Logit, later probability.
    weight: f32,
    id: u32,
}

impl Sampler {
    /// A sampler at the beginning of its random numbers.
    ///
    /// # Errors
    /// [`Error::BadParameter`]: the temperature is negative or not finite, or `top_p` is not in (0, 1].
    pub fn new(options: SamplerOptions) -> Result<Self> {
        if !(options.temperature >= 0.0 && options.temperature.is_finite()) {
            return Err(Error::BadParameter { what: "temperature" });
        }
        if !(options.top_p > 0.0 && options.top_p <= 1.0) {
            return Err(Error::BadParameter { what: "top_p" });
        }
        Ok(Sampler { options, rng: Rng::new(options.seed, 0x73616d706c65) })
    }

    /// Chooses a token from logits `[n_vocab]`; `scratch` has as many entries.
    pub fn sample(&mut self, logits: &[f32], scratch: &mut [Candidate]) -> u32 {
        let SamplerOptions { temperature, top_k, top_p, .. } = self.options;
        if temperature == 0.0 {
            return argmax(logits);
        }
        let scratch = &mut scratch[..logits.len()];
        for ((id, &logit), slot) in (0u32..).zip(logits).zip(scratch.iter_mut()) {
            // NaN sorts last.
            let weight = if logit.is_nan() { f32::NEG_INFINITY } else { logit / temperature };
            *slot = Candidate { weight, id };
        }
        // Decreasing probability, ids breaking ties: a total order, so the result is unique.
        let order =
            |a: &Candidate, b: &Candidate| b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id));
        let mut kept = scratch;
        if top_k > 0 && top_k < kept.len() {
            kept.select_nth_unstable_by(top_k - 1, order);
            kept = &mut kept[..top_k];
        }
        if top_p < 1.0 {
            kept.sort_unstable_by(order);
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
        if top_p < 1.0 {
            let target = top_p * total;
            let mut sum = 0.0;
            let reach = kept.iter().position(|c| {
                sum += c.weight;
                sum >= target
            });
            kept = &mut kept[..reach.map_or(usize::MAX, |i| i + 1).min(logits.len())];
            total = sum;
        }
        // Without a sort the kept tokens may stand in any order that selection left; ids fix it.
        if top_p == 1.0 && top_k > 0 {
            kept.sort_unstable_by_key(|c| c.id);
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
            counts[sampler.sample(logits, &mut scratch) as usize] += 1;
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
    fn bad_options_and_bad_logits() {
        let base = SamplerOptions { temperature: 1.0, ..Default::default() };
        for bad in [
            SamplerOptions { temperature: -1.0, ..base },
            SamplerOptions { temperature: f32::NAN, ..base },
            SamplerOptions { top_p: 0.0, ..base },
            SamplerOptions { top_p: 1.5, ..base },
        ] {
            assert!(Sampler::new(bad).is_err());
        }
        assert_eq!(draw(base, &[f32::NAN, f32::NEG_INFINITY], 3).iter().sum::<usize>(), 3);
        assert_eq!(draw(base, &[f32::NAN, 1.0], 3), [0, 3]);
    }

    #[test]
    fn same_seed_same_tokens() {
        let logits: vec::Vec<f32> = (0..50).map(|i| (i % 7) as f32).collect();
        let options = SamplerOptions { temperature: 0.9, top_k: 20, top_p: 0.9, seed: 42 };
        assert_eq!(draw(options, &logits, 500), draw(options, &logits, 500));
        assert_ne!(
            draw(options, &logits, 500),
            draw(SamplerOptions { seed: 43, ..options }, &logits, 500)
        );
    }
}
