//! The parameters: their layout, their names in XGLM checkpoints, their first values.

use crate::backend::{Backend, Region, Sizes, Span};
use xelm_runtime::config::Config;
use xelm_runtime::math;
use xelm_runtime::rng::Rng;

/// Weight and bias of a layer norm, `[C]` each.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the type says it")]
pub struct Norm {
    pub weight: Span,
    pub bias: Span,
}

/// Weight `[O, I]` and bias `[O]` of a linear layer.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the type says it")]
pub struct Linear {
    pub weight: Span,
    pub bias: Span,
}

/// The parameters of one layer; `attn_qkv` is `[3C, C]`, the rows of Q, K and V.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the usual names of the field")]
pub struct LayerParams {
    pub attn_norm: Norm,
    pub attn_qkv: Linear,
    pub attn_output: Linear,
    pub ffn_norm: Norm,
    pub ffn_up: Linear,
    pub ffn_down: Linear,
}

/// All trainable parameters; `all` spans them as one run.
#[derive(Debug)]
#[allow(missing_docs, reason = "the usual names of the field")]
pub struct Params {
    pub token_embd: Span, // [V, C], unscaled; also the output layer
    pub layers: Vec<LayerParams>,
    pub output_norm: Norm,
    pub all: Span,
}

/// One tensor as checkpoints name it.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamId {
    /// XGLM's name in `transformers`, such as `model.layers.0.fc1.weight`.
    pub name: String,
    /// Where it lies.
    pub span: Span,
    /// Rows and columns; one row for vectors.
    pub shape: (usize, usize),
}

/// The parameters of a model of these dimensions, in checkpoint order.
pub fn parameters(config: &Config) -> Vec<ParamId> {
    Params::plan(config, &mut Sizes::default()).tensors(config)
}

impl Params {
    /// Lays the parameters out in [`Region::Params`].
    pub fn plan(config: &Config, sizes: &mut Sizes) -> Params {
        let Config { n_vocab: v, n_embd: c, n_ff: f, .. } = *config;
        let start = sizes.0[Region::Params as usize];
        let mut take = |len: usize| sizes.take(Region::Params, len);
        let token_embd = take(v * c);
        let mut layers = Vec::with_capacity(config.n_layer);
        for _ in 0..config.n_layer {
            let mut linear = |n_out: usize, n_in: usize| Linear {
                weight: take(n_out * n_in),
                bias: take(n_out),
            };
            let (attn_qkv, attn_output) = (linear(3 * c, c), linear(c, c));
            let (ffn_up, ffn_down) = (linear(f, c), linear(c, f));
            let mut norm = || Norm { weight: take(c), bias: take(c) };
            let (attn_norm, ffn_norm) = (norm(), norm());
            layers.push(LayerParams {
                attn_norm,
                attn_qkv,
                attn_output,
                ffn_norm,
                ffn_up,
                ffn_down,
            });
        }
        let output_norm = Norm { weight: take(c), bias: take(c) };
        let len = sizes.0[Region::Params as usize] - start;
        let all = Span { region: Region::Params, start, len };
        Params { token_embd, layers, output_norm, all }
    }

    /// Every tensor with its name and shape, in checkpoint order.
    pub fn tensors(&self, config: &Config) -> Vec<ParamId> {
        let Config { n_vocab: v, n_embd: c, n_ff: f, .. } = *config;
        let mut tensors = Vec::new();
        let mut push = |name: String, span: Span, shape: (usize, usize)| {
            assert_eq!(span.len, shape.0 * shape.1);
            tensors.push(ParamId { name, span, shape });
        };
        push("model.embed_tokens.weight".into(), self.token_embd, (v, c));
        for (l, p) in self.layers.iter().enumerate() {
            let name = |rest: &str| format!("model.layers.{l}.{rest}");
            for (i, part) in ["q_proj", "k_proj", "v_proj"].iter().enumerate() {
                let weight = p.attn_qkv.weight.part(i * c * c, c * c);
                push(name(&format!("self_attn.{part}.weight")), weight, (c, c));
                push(
                    name(&format!("self_attn.{part}.bias")),
                    p.attn_qkv.bias.part(i * c, c),
                    (1, c),
                );
            }
            for (rest, linear, shape) in [
                ("self_attn.out_proj", p.attn_output, (c, c)),
                ("fc1", p.ffn_up, (f, c)),
                ("fc2", p.ffn_down, (c, f)),
            ] {
                push(name(&format!("{rest}.weight")), linear.weight, shape);
                push(name(&format!("{rest}.bias")), linear.bias, (1, shape.0));
            }
            for (rest, norm) in
                [("self_attn_layer_norm", p.attn_norm), ("final_layer_norm", p.ffn_norm)]
            {
                push(name(&format!("{rest}.weight")), norm.weight, (1, c));
                push(name(&format!("{rest}.bias")), norm.bias, (1, c));
            }
        }
        push("model.layer_norm.weight".into(), self.output_norm.weight, (1, c));
        push("model.layer_norm.bias".into(), self.output_norm.bias, (1, c));
        tensors
    }
}

/// Standard deviation of the scaled embedding √C · E at the start, beside positions of size one. This and
/// [`HIDDEN_SCALE`] were found by trial at a million parameters; XGLM's own 0.02 everywhere is made for
/// widths of 1,024 and more, and learns slowly here.
const EMBED_SCALE: f32 = 1.5;
/// Standard deviation of a sum of weights times inputs of size one.
const HIDDEN_SCALE: f32 = 0.7;
/// The last norm's weight at width 128: keeps the first logits small, and with them the first loss at ln V
/// (within 0.05), though the embedding is the output layer too.
const OUTPUT_NORM: f32 = 0.1;

/// Writes first values: normal weights scaled by their fan-in, zero biases, unit norms.
pub fn init(backend: &mut dyn Backend, params: &Params, config: &Config, seed: u64) {
    for (i, tensor) in params.tensors(config).iter().enumerate() {
        let mut rng = Rng::new(seed, i as u64);
        let (n_rows, fan_in) = tensor.shape;
        let mut value: Box<dyn FnMut() -> f32> = match tensor.name.as_str() {
            "model.embed_tokens.weight" => {
                let std = EMBED_SCALE / math::sqrt(config.n_embd as f32);
                Box::new(move || std * rng.next_normal())
            }
            "model.layer_norm.weight" => {
                let shrink = math::sqrt((128.0 / config.n_embd as f32).min(1.0));
                Box::new(move || OUTPUT_NORM * shrink)
            }
            name if name.ends_with("norm.weight") => Box::new(|| 1.0),
            _ if n_rows > 1 => {
                let std = HIDDEN_SCALE / math::sqrt(fan_in as f32);
                Box::new(move || std * rng.next_normal())
            }
            _ => Box::new(|| 0.0),
        };
        let values: Vec<f32> = (0..tensor.span.len).map(|_| value()).collect();
        backend.write(tensor.span, &values);
    }
}

/// Rows 2… of XGLM's sinusoid table, `[n_ctx, C]`: sines in the first half, cosines in the second,
/// frequencies over `half − 1`, each operation rounded to f32 as torch does. An odd
/// width ends in a zero.
pub fn position_table(n_ctx: usize, n_embd: usize) -> Vec<f32> {
    let half = n_embd / 2;
    let rate = (-(10_000f64.ln() / (half.max(2) - 1) as f64)) as f32;
    let frequencies: Vec<f32> =
        (0..half).map(|i| (f64::from(i as f32 * rate)).exp() as f32).collect();
    let mut table = Vec::with_capacity(n_ctx * n_embd);
    for position in 0..n_ctx {
        let row = (position + 2) as f32;
        let (sin, cos): (Vec<f32>, Vec<f32>) =
            frequencies.iter().map(|f| math::sin_cos(row * f)).unzip();
        table.extend(sin);
        table.extend(cos);
        table.extend((2 * half < n_embd).then_some(0.0));
    }
    table
}
