//! The one seam to the device: a [`Backend`] owns the memory and updates the parameters, its [`Operations`], about
//! two dozen, compute a micro-batch.
//!
//! The model ([`crate::model`]) says *what* is computed, as a straight list of operations on
//! [`Span`]s; a backend says how. All shapes are row-major with the letters
//! N = B · T tokens, B sequences, T positions, C width, H heads, F feed-forward width, V vocabulary.
//! Gradients of parameters are accumulated (`+=`); every other output is overwritten, unless said
//! otherwise. No host slice appears inside a step.

mod cpu;
pub mod cuda;
mod operations;
mod plans;

use crate::Result;
pub use cpu::{Cpu, matmul};
pub use operations::{AttentionShape, Dropout, IGNORE, Operations, Residual};
pub use plans::Plans;
pub use xelm_runtime::config::Activation;

/// Kinds of numbers, each a region of memory of its own. A backend chooses the precision of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// Trained parameters.
    Params,
    /// Their gradients, summed over the micro-batches of a step.
    Grads,
    /// Adam's first moments.
    Moment1,
    /// Adam's second moments.
    Moment2,
    /// Constants: the position table.
    Constants,
    /// Activations and their gradients.
    Activations,
    /// Statistics kept in full precision: means, deviations, log-sum-exps.
    Statistics,
}

impl Region {
    /// All regions.
    pub const ALL: [Region; 7] = [
        Region::Params,
        Region::Grads,
        Region::Moment1,
        Region::Moment2,
        Region::Constants,
        Region::Activations,
        Region::Statistics,
    ];
}

/// A run of numbers in a region: a handle, not memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where.
    pub region: Region,
    /// Index of its first number.
    pub start: usize,
    /// How many.
    pub len: usize,
}

impl Span {
    /// The same run in another region of the same layout (a parameter's gradient, say).
    pub fn of(self, region: Region) -> Span {
        Span { region, ..self }
    }

    /// The part `start..start + len` of this run.
    ///
    /// # Panics
    /// The part does not lie inside.
    pub fn part(self, start: usize, len: usize) -> Span {
        assert!(start + len <= self.len, "a part outside its span");
        Span { start: self.start + start, len, ..self }
    }
}

/// Numbers needed per region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes(pub [usize; Region::ALL.len()]);

impl Sizes {
    /// Takes `len` numbers of a region, rounded up so that every span begins at a multiple of 16.
    pub fn take(&mut self, region: Region, len: usize) -> Span {
        let size = &mut self.0[region as usize];
        let span = Span { region, start: *size, len };
        *size += len.next_multiple_of(16);
        span
    }

    /// The sum over all regions.
    pub fn total(&self) -> usize {
        self.0.iter().sum()
    }
}

/// AdamW's settings for one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Updates so far, this one included: the bias correction's exponent.
    pub t: u64,
    /// Gradients are scaled down to this global norm where they exceed it; 0 for no clipping.
    pub max_norm: f32,
}

impl AdamW {
    /// 1 − β₁ᵗ and 1 − β₂ᵗ: what the moments are divided by, since they begin at zero.
    pub fn corrections(&self) -> (f32, f32) {
        let power = self.t.min(i32::MAX as u64) as i32;
        let correction = |beta: f32| (1.0 - f64::from(beta).powi(power)) as f32;
        (correction(self.beta1), correction(self.beta2))
    }
}

/// What a step computed, read once at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepStats {
    /// Mean loss per target, in nats.
    pub loss: f64,
    /// Global L2 norm of the gradients before clipping.
    pub grad_norm: f64,
}

impl StepStats {
    /// Whether the step may count: the update is skipped otherwise.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite()
    }
}

/// What computes training steps: a device, or several with the same parameters.
///
/// Work may be queued: a failure shows at [`Backend::finish_step`] or [`Backend::read`], and makes
/// whatever was queued after it do nothing.
pub trait Backend {
    /// Provides zeroed memory; whatever was there is gone.
    ///
    /// # Errors
    /// There is not as much.
    fn allocate(&mut self, sizes: Sizes) -> Result<()>;
    /// Bytes of the device's memory that are held now, work memory included; of several, those of the fullest.
    fn n_bytes(&self) -> usize;
    /// How many micro-batches are computed at once.
    fn n_parallel(&self) -> usize {
        1
    }
    /// How it computes what it can compute in several ways; none where there is no choice.
    fn plans(&self) -> Option<Plans> {
        None
    }
    /// Computes from now on as recorded; false where the record is that of another device.
    fn repeat(&mut self, plans: &Plans) -> bool {
        let _ = plans;
        false
    }
    /// Copies numbers from the host.
    fn write(&mut self, to: Span, values: &[f32]);
    /// Copies numbers to the host.
    ///
    /// # Errors
    /// The device failed; the numbers are worthless.
    fn read(&mut self, from: Span, values: &mut [f32]) -> Result<()>;

    /// A step begins: sets its gradients to zero.
    fn begin_step(&mut self, grads: Span);
    /// Hands over the inputs and targets of the next micro-batch, `[N]` each; targets may be [`IGNORE`].
    fn load_batch(&mut self, inputs: &[u32], targets: &[u32]);
    /// What computes this micro-batch.
    fn operations(&mut self) -> &mut dyn Operations;
    /// Computes the global L2 norm of `grads`, the sum of all micro-batches, kept for [`Backend::adamw`] and the
    /// statistics.
    fn grad_norm(&mut self, grads: Span);
    /// Updates `params` and the moments from their gradients, clipped by the last global norm. Does
    /// nothing where that norm is not finite.
    fn adamw(&mut self, params: Span, settings: AdamW);

    /// Ends a step: waits for the device and returns the statistics gathered since the last call.
    ///
    /// # Errors
    /// The device failed in this step or before; what it holds is worthless.
    fn finish_step(&mut self) -> Result<StepStats>;
    /// The first of `spans` that holds a number that is not finite.
    ///
    /// # Errors
    /// The device failed.
    fn first_non_finite(&mut self, spans: &[Span]) -> Result<Option<usize>>;
}
