//! What a micro-batch is computed with: about two dozen named operations.

use super::{Activation, Span};
use crate::Result;

/// A target that is not scored.
pub const IGNORE: u32 = u32::MAX;

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

/// The operations on one micro-batch, in the order in which the model calls them; no host slice appears among
/// them. They may be queued: a failure shows at [`super::Backend::finish_step`] or [`super::Backend::read`].
pub trait Operations {
    /// The key of dropout in what follows, 0 at first: apart from the operations, so that those of all
    /// micro-batches are the same.
    fn dropout_key(&mut self, key: u64);

    /// Sets numbers to zero.
    fn zero(&mut self, x: Span);

    /// `out[n] = scale · table[input[n]] + positions[n mod T]`; `out` `[N, C]`, `table` `[V, C]`,
    /// `positions` `[T, C]`.
    fn embed(&mut self, out: Span, table: Span, positions: Span, scale: f32, n_ctx: usize);
    /// `d_table[input[n]] += scale · d_out[n]`, in the order of n.
    fn embed_backward(&mut self, d_table: Span, d_out: Span, scale: f32, n_embd: usize);

    /// out = (x − mean) / √(variance + eps) · weight + bias for each row of `weight.len` numbers;
    /// `stats` `[N, 2]` keeps mean and reciprocal deviation.
    fn layer_norm(&mut self, out: Span, stats: Span, x: Span, weight: Span, bias: Span, eps: f32);
    /// stream = x + dropout(branch), and [`Operations::layer_norm`] of it, in one pass.
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
    /// d_x **+=** the gradient of [`Operations::layer_norm`]'s input.
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

    /// The gradients of [`Operations::residual_norm`] in one pass: d_stream **+=** that of its stream, which is
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
    /// The three gradients of [`Operations::linear`].
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
    /// The gradient of [`Operations::attention`], recomputing the probabilities from `lse`.
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
    /// The loss of [`Operations::head_loss`] alone, without gradients.
    fn head_eval(&mut self, x: Span, table: Span);
    /// logits = x · tableᵀ for rows `[n, C]`, copied to the host: for tests and inspection only.
    ///
    /// # Errors
    /// The device failed.
    fn head_logits(&mut self, logits: &mut [f32], x: Span, table: Span) -> Result<()>;
}
