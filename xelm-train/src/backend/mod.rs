//! The one seam to the device: about two dozen named operations over buffers that the backend owns.
//!
//! The model ([`crate::model`]) says *what* is computed, as a straight list of calls with
//! [`Span`]s; a backend says how. All shapes are row-major with the letters
//! N = B · T tokens, B sequences, T positions, C width, H heads, F feed-forward width, V vocabulary.
//! Gradients of parameters are accumulated (`+=`); every other output is overwritten, unless said
//! otherwise. No host slice appears inside a step.

mod cpu;
pub mod cuda;
mod plans;

use crate::Result;
pub use cpu::{Cpu, matmul};
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

/// The dimensions of an attention: `n_batch` sequences of `n_ctx` tokens.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the usual names of the field")]
pub struct AttentionShape {
    pub n_batch: usize,
    pub n_ctx: usize,
    pub n_head: usize,
    pub head_dim: usize,
}

/// Dropout by counter: whether number `i` is kept depends on (key, i) alone, so that the backward
/// pass draws the same mask again and every device draws the same one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of dropping a number; 0 for none.
    pub p: f32,
    /// Distinguishes layer and place, and once it is [`Dropout::keyed`] micro-batches too.
    pub key: u64,
}

impl Dropout {
    /// No dropout.
    pub const NONE: Dropout = Dropout { p: 0.0, key: 0 };

    /// The same place in the micro-batch of a key.
    pub fn keyed(self, key: u64) -> Dropout {
        Dropout { key: self.key ^ key, ..self }
    }

    /// What number `i` is multiplied with: 0, or 1 / (1 − p).
    #[inline(always)]
    pub fn factor(self, i: u64) -> f32 {
        if self.p == 0.0 {
            return 1.0;
        }
        // The finaliser of SplitMix64 over the counter.
        let mut z = self.key.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let uniform = ((z ^ (z >> 31)) >> 40) as f32 * (1.0 / 16_777_216.0);
        if uniform < self.p { 0.0 } else { 1.0 / (1.0 - self.p) }
    }
}

/// What a residual connection adds up: x + dropout(branch).
#[derive(Clone, Copy, Debug)]
pub struct Residual {
    /// The stream as it was.
    pub x: Span,
    /// The sublayer's output, as large.
    pub branch: Span,
    /// What is dropped of it.
    pub dropout: Dropout,
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

/// A target that is not scored.
pub const IGNORE: u32 = u32::MAX;

/// A device that computes training steps.
///
/// Operations may be queued: a failure shows at [`Backend::finish_step`] or [`Backend::read`], and makes
/// whatever was queued after it do nothing.
pub trait Backend {
    /// Provides zeroed memory; whatever was there is gone.
    ///
    /// # Errors
    /// There is not as much.
    fn allocate(&mut self, sizes: Sizes) -> Result<()>;
    /// Bytes of the device's memory that are held now, work memory included.
    fn n_bytes(&self) -> usize;
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
    /// Sets numbers to zero.
    fn zero(&mut self, x: Span);
    /// Hands over the inputs and targets of a micro-batch, `[N]` each; targets may be [`IGNORE`].
    fn load_batch(&mut self, inputs: &[u32], targets: &[u32]);
    /// The key of dropout in what follows, 0 at first: apart from the operations, so that those of all
    /// micro-batches are the same.
    fn dropout_key(&mut self, key: u64);

    /// `out[n] = scale · table[input[n]] + positions[n mod T]`; `out` `[N, C]`, `table` `[V, C]`,
    /// `positions` `[T, C]`.
    fn embed(&mut self, out: Span, table: Span, positions: Span, scale: f32, n_ctx: usize);
    /// `d_table[input[n]] += scale · d_out[n]`, in the order of n.
    fn embed_backward(&mut self, d_table: Span, d_out: Span, scale: f32, n_embd: usize);

    /// out = (x − mean) / √(variance + eps) · weight + bias for each row of `weight.len` numbers;
    /// `stats` `[N, 2]` keeps mean and reciprocal deviation.
    fn layer_norm(&mut self, out: Span, stats: Span, x: Span, weight: Span, bias: Span, eps: f32);
    /// stream = x + dropout(branch), and [`Backend::layer_norm`] of it, in one pass.
    fn residual_norm(
        &mut self,
        out: Span,
        stats: Span,
        stream: Span,
        residual: Residual,
        weight: Span,
        bias: Span,
        eps: f32,
    );
    /// d_x **+=** the gradient of [`Backend::layer_norm`]'s input.
    fn layer_norm_backward(
        &mut self,
        d_x: Span,
        d_weight: Span,
        d_bias: Span,
        d_out: Span,
        x: Span,
        stats: Span,
        weight: Span,
    );

    /// The gradients of [`Backend::residual_norm`] in one pass: d_stream **+=** that of its stream, which is
    /// that of its `x` too, and d_branch = dropout(d_stream).
    fn residual_norm_backward(
        &mut self,
        d_stream: Span,
        d_branch: Span,
        dropout: Dropout,
        d_weight: Span,
        d_bias: Span,
        d_out: Span,
        stream: Span,
        stats: Span,
        weight: Span,
    );

    /// out = x · weightᵀ + bias; `x` `[N, I]`, `weight` `[O, I]`, `bias` `[O]`.
    fn linear(&mut self, out: Span, x: Span, weight: Span, bias: Span);
    /// The three gradients of [`Backend::linear`].
    fn linear_backward(
        &mut self,
        d_x: Span,
        d_weight: Span,
        d_bias: Span,
        d_out: Span,
        x: Span,
        weight: Span,
    );

    /// out = activation(x).
    fn activation(&mut self, out: Span, x: Span, kind: Activation);
    /// d_x = d_x · activation′(x), in place.
    fn activation_backward(&mut self, d_x: Span, x: Span, kind: Activation);

    /// Causal attention. `qkv` `[N, 3C]` holds queries, keys and values of all heads; `lse` `[B, H, T]`
    /// keeps the log-sum-exp of the scores.
    fn attention(&mut self, out: Span, lse: Span, qkv: Span, s: AttentionShape, dropout: Dropout);
    /// The gradient of [`Backend::attention`], recomputing the probabilities from `lse`.
    fn attention_backward(
        &mut self,
        d_qkv: Span,
        d_out: Span,
        out: Span,
        lse: Span,
        qkv: Span,
        shape: AttentionShape,
        dropout: Dropout,
    );

    /// Output layer and cross-entropy in chunks: logits = x · tableᵀ, adds the summed loss and the
    /// number of targets to the step's statistics, writes d_x and adds to d_table the gradients of
    /// loss · `scale`.
    fn head_loss(&mut self, d_x: Span, d_table: Span, x: Span, table: Span, scale: f32);
    /// The loss of [`Backend::head_loss`] alone, without gradients.
    fn head_eval(&mut self, x: Span, table: Span);
    /// logits = x · tableᵀ for rows `[n, C]`, copied to the host: for tests and inspection only.
    ///
    /// # Errors
    /// The device failed.
    fn head_logits(&mut self, logits: &mut [f32], x: Span, table: Span) -> Result<()>;

    /// Computes the global L2 norm of `grads`, kept for [`Backend::adamw`] and the statistics.
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
