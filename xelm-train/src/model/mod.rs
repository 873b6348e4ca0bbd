//! The XGLM architecture as a trainable model: where its numbers lie, and the forward and backward
//! passes as straight lists of backend calls.

mod backward;
mod forward;
mod params;

pub use params::{LayerParams, Linear, Norm, ParamId, Params, init, parameters, position_table};

use crate::Result;
use crate::backend::{AttentionShape, Backend, Dropout, Region, Sizes, Span};
use serde::{Deserialize, Serialize};
use xelm_runtime::config::Config;

/// A model placed in a backend's memory, for micro-batches of `n_batch` sequences of `n_ctx` tokens.
#[derive(Debug)]
pub struct Model {
    /// Dimensions; `config.n_ctx` is the longest sequence, of which training uses `n_ctx`.
    pub config: Config,
    /// Sequences in a micro-batch, B.
    pub n_batch: usize,
    /// Tokens in a sequence, T.
    pub n_ctx: usize,
    /// What the backward pass computes again.
    pub recompute: Recompute,
    /// The parameters.
    pub params: Params,
    positions: Span, // [T, C]
    acts: Activations,
    grads: Gradients,
}

/// What the backward pass computes a second time instead of keeping it: memory for time, the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Nothing.
    #[default]
    None,
    /// The outputs of norms and activation function: 10 of 16 C numbers per layer and token are kept.
    Activations,
    /// Whole layers from their inputs: C numbers are kept.
    Layers,
}

/// Activations that the backward pass needs. What is recomputed is one span for all layers.
#[derive(Debug)]
struct Activations {
    layers: Vec<LayerActivations>,
    embedded: Span,     // [N, C] input of layer 0
    branch: Span,       // [N, C] output of a sublayer, before it joins the residual stream
    output_norm: Span,  // [N, C]
    output_stats: Span, // [N, 2]
}

#[derive(Clone, Copy, Debug)]
struct LayerActivations {
    attn_norm: Span,  // [N, C]
    attn_stats: Span, // [N, 2]
    qkv: Span,        // [N, 3C]
    att: Span,        // [N, C]
    lse: Span,        // [B, H, T]
    mid: Span,        // [N, C] residual stream after attention
    ffn_norm: Span,   // [N, C]
    ffn_stats: Span,  // [N, 2]
    up: Span,         // [N, F] before the activation
    act: Span,        // [N, F] after it
    out: Span,        // [N, C] residual stream after the layer
}

/// Gradients of activations, reused by every layer.
#[derive(Debug)]
struct Gradients {
    stream: Span, // [N, C] of the residual stream
    branch: Span, // [N, C]
    hidden: Span, // [N, C] of a norm's output
    ff: Span,     // [N, F]
    qkv: Span,    // [N, 3C]
}

/// What is dropped during a micro-batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropoutPlan {
    /// Probability at the three places of XGLM's dropout: attention probabilities and both sublayer
    /// outputs; 0 for none.
    pub p: f32,
    /// Differs for every micro-batch.
    pub key: u64,
}

impl DropoutPlan {
    /// No dropout.
    pub const NONE: DropoutPlan = DropoutPlan { p: 0.0, key: 0 };

    fn at(self, layer: usize, place: u64) -> Dropout {
        let place = (layer as u64) << 2 | place;
        Dropout { p: self.p, key: place.wrapping_mul(0xD6E8_FEB8_6659_FD93) }
    }
}

const PLACE_ATTENTION: u64 = 1;
const PLACE_ATTN_OUTPUT: u64 = 2;
const PLACE_FFN_OUTPUT: u64 = 3;

impl Model {
    /// Lays out a model; returns it with the memory that its backend must provide.
    pub fn plan(
        config: Config,
        n_batch: usize,
        n_ctx: usize,
        recompute: Recompute,
    ) -> (Model, Sizes) {
        let mut sizes = Sizes::default();
        let params = Params::plan(&config, &mut sizes);
        for region in [Region::Grads, Region::Moment1, Region::Moment2] {
            sizes.take(region, params.all.len);
        }
        let (n, c, f) = (n_batch * n_ctx, config.n_embd, config.n_ff);
        let positions = sizes.take(Region::Constants, n_ctx * c);
        let (act, stat) = (Region::Activations, Region::Statistics);
        let mut take = |region, width: usize| sizes.take(region, n * width);
        let mut layers: Vec<LayerActivations> = Vec::with_capacity(config.n_layer);
        for _ in 0..config.n_layer {
            layers.push(match (recompute, layers.first().copied()) {
                (Recompute::Layers, Some(first)) => LayerActivations { out: take(act, c), ..first },
                (Recompute::Activations, Some(first)) => LayerActivations {
                    attn_stats: take(stat, 2),
                    qkv: take(act, 3 * c),
                    att: take(act, c),
                    lse: take(stat, config.n_head),
                    mid: take(act, c),
                    ffn_stats: take(stat, 2),
                    up: take(act, f),
                    out: take(act, c),
                    ..first
                },
                _ => LayerActivations {
                    attn_norm: take(act, c),
                    attn_stats: take(stat, 2),
                    qkv: take(act, 3 * c),
                    att: take(act, c),
                    lse: take(stat, config.n_head),
                    mid: take(act, c),
                    ffn_norm: take(act, c),
                    ffn_stats: take(stat, 2),
                    up: take(act, f),
                    act: take(act, f),
                    out: take(act, c),
                },
            });
        }
        let (embedded, branch) = (take(act, c), take(act, c));
        let (output_norm, output_stats) = (take(act, c), take(stat, 2));
        let grads = Gradients {
            stream: take(act, c),
            branch: take(act, c),
            hidden: take(act, c),
            ff: take(act, f),
            qkv: take(act, 3 * c),
        };
        let acts = Activations { layers, embedded, branch, output_norm, output_stats };
        let model = Model { config, n_batch, n_ctx, recompute, params, positions, acts, grads };
        (model, sizes)
    }

    /// A model in freshly allocated memory of `backend`, its position table written, its parameters
    /// zero.
    ///
    /// # Errors
    /// The backend has too little memory.
    pub fn place(
        backend: &mut dyn Backend,
        config: Config,
        n_batch: usize,
        n_ctx: usize,
        recompute: Recompute,
    ) -> Result<Model> {
        let (model, sizes) = Model::plan(config, n_batch, n_ctx, recompute);
        backend.allocate(sizes)?;
        backend.write(model.positions, &position_table(n_ctx, config.n_embd));
        Ok(model)
    }

    /// Logits after every token of `inputs` (`[N]`), `[N, V]`: for tests and inspection.
    ///
    /// # Errors
    /// The backend's.
    pub fn logits(&self, backend: &mut dyn Backend, inputs: &[u32]) -> Result<Vec<f32>> {
        backend.load_batch(inputs, &[]);
        let ops = backend.operations();
        self.forward(ops, DropoutPlan::NONE);
        let mut logits = vec![0.0; inputs.len() * self.config.n_vocab];
        ops.head_logits(&mut logits, self.acts.output_norm, self.params.token_embd)?;
        Ok(logits)
    }

    fn attention_shape(&self) -> AttentionShape {
        AttentionShape {
            n_batch: self.n_batch,
            n_ctx: self.n_ctx,
            n_head: self.config.n_head,
            head_dim: self.config.head_dim(),
        }
    }

    /// XGLM scales its token embedding by √C on input.
    fn embed_scale(&self) -> f32 {
        xelm_runtime::math::sqrt(self.config.n_embd as f32)
    }
}
