//! How a model is trained: presets, learning-rate schedules, and the settings that a run records.

use crate::backend::{AdamW, Region};
use crate::model::{Model, Recompute};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use xelm_runtime::config::{Activation, Config};

/// A named set of training settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The X-ELM paper's: for branching from a large pretrained seed model.
    Paper,
    /// For models of 1 to 50 million parameters trained from nothing: a higher rate with warm-up,
    /// Adam's state carried over at the branch, no dropout.
    Small,
}

/// The course of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Stays at the peak: a seed model goes on training after the branch.
    Constant,
    /// Falls linearly to 0 at the last step.
    Linear,
}

/// Everything that decides the course of one training job, besides its data and first values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSettings {
    /// Updates.
    pub steps: u64,
    /// Sequences per update.
    pub batch: usize,
    /// Tokens per sequence.
    pub n_ctx: usize,
    /// Sequences computed at once; a divisor of `batch`, or 0 to be chosen.
    /// Does not change the result beyond rounding.
    pub micro_batch: usize,
    /// What the backward pass computes again to save memory.
    #[serde(default)]
    pub recompute: Recompute,
    /// Peak learning rate.
    pub lr: f32,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// What follows.
    pub schedule: Schedule,
    /// Adam's first decay.
    pub beta1: f32,
    /// Adam's second decay.
    pub beta2: f32,
    /// Adam's epsilon.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Global gradient norm is clipped to this.
    pub max_norm: f32,
    /// Dropout on attention probabilities and sublayer outputs.
    pub dropout: f32,
    /// Whether Adam's moments are taken over from the parent at a branch.
    pub carry_adam: bool,
    /// Seed of everything random.
    pub seed: u64,
}

impl TrainSettings {
    /// The settings of a preset; `steps`, `batch` and `n_ctx` belong to the run.
    pub fn preset(preset: Preset, steps: u64, batch: usize, n_ctx: usize) -> Self {
        let common = TrainSettings {
            steps,
            batch,
            n_ctx,
            micro_batch: 0,
            recompute: Recompute::None,
            lr: 1.5e-4,
            warmup: 0,
            schedule: Schedule::Linear,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-6,
            weight_decay: 0.0,
            max_norm: 1.0,
            dropout: 0.1,
            carry_adam: false,
            seed: 1234,
        };
        match preset {
            Preset::Paper => common,
            Preset::Small => TrainSettings {
                lr: 2e-3,
                warmup: 10,
                eps: 1e-8,
                dropout: 0.0,
                carry_adam: true,
                ..common
            },
        }
    }

    /// Chooses the micro-batch where it is 0: the largest divisor of the batch whose activations take at
    /// most a gibibyte in f32, and of which there is one for each of `n_parallel` cards. It depends on no other
    /// property of the machine, and the result neither.
    pub fn choose_micro_batch(&mut self, config: &Config, n_parallel: usize) {
        const LIMIT: usize = 1 << 28; // numbers
        let fits = |n: &usize| {
            let (_, sizes) = Model::plan(*config, *n, self.n_ctx, self.recompute);
            sizes.0[Region::Activations as usize] <= LIMIT
        };
        if self.micro_batch == 0 {
            let most = self.batch / n_parallel;
            let divisors = (1..=most).rev().filter(|n| self.batch.is_multiple_of(*n));
            self.micro_batch = { divisors }.find(fits).unwrap_or(1);
        }
    }

    /// The learning rate of step `step` (from 0): linear from 0 over the warm-up, then as the schedule
    /// says; `Linear` is lr · (1 − u / U) of the X-ELM paper where there is no warm-up.
    pub fn lr_at(&self, step: u64) -> f32 {
        if step < self.warmup {
            return self.lr * (step + 1) as f32 / (self.warmup + 1) as f32;
        }
        match self.schedule {
            Schedule::Constant => self.lr,
            Schedule::Linear => {
                let left = self.steps.saturating_sub(step) as f32;
                self.lr * left / self.steps.saturating_sub(self.warmup).max(1) as f32
            }
        }
    }

    /// AdamW's settings for update `t` (from 1) at learning rate `lr`.
    pub fn adamw(&self, lr: f32, t: u64) -> AdamW {
        let TrainSettings { beta1, beta2, eps, weight_decay, max_norm, .. } = *self;
        AdamW { lr, beta1, beta2, eps, weight_decay, t, max_norm }
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// The setting that is out of range.
    pub fn validate(&self, config: &Config, n_parallel: usize) -> Result<()> {
        let fail = |what: &str| Err(Error::usage(format!("training settings: {what}")));
        if self.steps == 0 || self.batch == 0 || self.n_ctx == 0 {
            return fail("--steps, --batch and --n-ctx must be at least 1");
        }
        if self.micro_batch == 0 || !self.batch.is_multiple_of(self.micro_batch) {
            return fail("--micro-batch must divide the batch");
        }
        if self.batch / self.micro_batch < n_parallel {
            return fail(
                "fewer micro-batches than cards: choose a smaller --micro-batch or fewer cards",
            );
        }
        if self.n_ctx > config.n_ctx {
            return fail("sequences are longer than the model's context");
        }
        if !(self.lr.is_finite() && self.lr > 0.0) {
            return fail("--lr must be positive");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return fail("--dropout must be at least 0 and below 1");
        }
        Ok(())
    }
}

/// The dimensions of a model that is trained from nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the usual names of the field")]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    pub n_layer: usize,
    pub n_embd: usize,
    pub n_head: usize,
    pub n_ff: usize,
    pub n_ctx: usize,
}

impl ModelSettings {
    /// The full configuration with a vocabulary: XGLM's exact GELU, ε = 1e-5.
    ///
    /// # Errors
    /// Dimensions out of range.
    pub fn config(&self, n_vocab: usize) -> Result<Config> {
        Config {
            n_vocab,
            n_ctx: self.n_ctx,
            n_embd: self.n_embd,
            n_layer: self.n_layer,
            n_head: self.n_head,
            n_ff: self.n_ff,
            activation: Activation::GeluErf,
            norm_eps: 1e-5,
        }
        .validate()
        .map_err(|e| Error::usage(format!("the model's dimensions: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        let paper = TrainSettings::preset(Preset::Paper, 20_000, 32, 2048);
        assert_eq!(paper.lr_at(0), 1.5e-4);
        assert!((paper.lr_at(10_000) - 0.75e-4).abs() < 1e-10);
        assert!(paper.lr_at(19_999) > 0.0);
        let small = TrainSettings { warmup: 4, ..TrainSettings::preset(Preset::Small, 20, 4, 64) };
        let rates: Vec<f32> = (0..20).map(|u| small.lr_at(u)).collect();
        assert!(rates[0] > 0.0 && rates[..5].is_sorted() && rates[4] == small.lr);
        assert!(rates[4..].windows(2).all(|w| w[0] > w[1]));
        let constant = TrainSettings { schedule: Schedule::Constant, ..small };
        assert_eq!(constant.lr_at(19), constant.lr);
    }
}
