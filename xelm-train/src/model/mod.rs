//! The XGLM architecture as a trainable model: where its numbers lie, and the forward and backward
//! passes as straight lists of backend calls.

mod backward;
mod forward;
mod params;

pub use params::{LayerParams, Linear, Norm, ParamId, Params, init, position_table};

use crate::Result;
use crate::backend::{AttentionShape, Backend, Dropout, Region, Sizes, Span};
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
    /// The parameters.
    pub params: Params,
    positions: Span, // [T, C]
    acts: Activations,
    grads: Gradients,
}

/// Activations that the backward pass needs.
#[derive(Debug)]
struct Activations {
    layers: Vec<LayerActivations>,
    embedded: Span,     // [N, C] input of layer 0
    branch: Span,       // [N, C] output of a sublayer, before it joins the residual stream
    output_norm: Span,  // [N, C]
    output_stats: Span, // [N, 2]
}

#[derive(Debug)]
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
        Dropout { p: self.p, key: self.key ^ place.wrapping_mul(0xD6E8_FEB8_6659_FD93) }
    }
}

const PLACE_ATTENTION: u64 = 1;
const PLACE_ATTN_OUTPUT: u64 = 2;
const PLACE_FFN_OUTPUT: u64 = 3;

impl Model {
    /// Lays out a model; returns it with the memory that its backend must provide.
    pub fn plan(config: Config, n_batch: usize, n_ctx: usize) -> (Model, Sizes) {
        let mut sizes = Sizes::default();
        let params = Params::plan(&config, &mut sizes);
        for region in [Region::Grads, Region::Moment1, Region::Moment2] {
            sizes.take(region, params.all.len);
        }
        let (n, c, f) = (n_batch * n_ctx, config.n_embd, config.n_ff);
        let positions = sizes.take(Region::Constants, n_ctx * c);
        let mut act = |width: usize| sizes.take(Region::Activations, n * width);
        let embedded = act(c);
        let layers: Vec<_> = (0..config.n_layer)
            .map(|_| [act(c), act(3 * c), act(c), act(c), act(c), act(f), act(f), act(c)])
            .collect();
        let (branch, output_norm) = (act(c), act(c));
        let grads = Gradients {
            stream: act(c),
            branch: act(c),
            hidden: act(c),
            ff: act(f),
            qkv: act(3 * c),
        };
        let mut stat = |width: usize| sizes.take(Region::Statistics, n * width);
        let layers = layers
            .into_iter()
            .map(|[attn_norm, qkv, att, mid, ffn_norm, up, act, out]| LayerActivations {
                attn_norm,
                attn_stats: stat(2),
                qkv,
                att,
                lse: stat(config.n_head),
                mid,
                ffn_norm,
                ffn_stats: stat(2),
                up,
                act,
                out,
            })
            .collect();
        let acts = Activations { layers, embedded, branch, output_norm, output_stats: stat(2) };
        (Model { config, n_batch, n_ctx, params, positions, acts, grads }, sizes)
    }

    /// A model in freshly allocated memory of `backend`, its position table written, its parameters
    /// zero.
    ///
    /// # Errors
    /// The backend has too little memory.
    pub fn place(
        backend: &mut impl Backend,
        config: Config,
        n_batch: usize,
        n_ctx: usize,
    ) -> Result<Model> {
        let (model, sizes) = Model::plan(config, n_batch, n_ctx);
        backend.allocate(sizes)?;
        backend.write(model.positions, &position_table(n_ctx, config.n_embd));
        Ok(model)
    }

    /// Logits after every token of `inputs` (`[N]`), `[N, V]`: for tests and inspection.
    pub fn logits(&self, backend: &mut impl Backend, inputs: &[u32]) -> Vec<f32> {
        backend.load_batch(inputs, &[]);
        self.forward(backend, DropoutPlan::NONE);
        let mut logits = vec![0.0; inputs.len() * self.config.n_vocab];
        backend.head_logits(&mut logits, self.acts.output_norm, self.params.token_embd);
        logits
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
