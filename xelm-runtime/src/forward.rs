//! The forward pass of XGLM (Lin et al., EMNLP 2022) over key-value caches, on one page.
//!
//! Experts that read the same tokens go side by side, one *lane* each: a phase of work covers all
//! lanes, and each lane's numbers are those that it would have alone.

use crate::arena::Arena;
use crate::cache::{layer_of, layer_of_mut};
use crate::config::{Config, Role, TensorId};
use crate::device::Lane;
use crate::ensemble::Ensemble;
use crate::error::{Error, Result};
use crate::kernels::{AttentionShape, Kernels, KvElement, Quants, n_quants};
use crate::observe::Observer;
use crate::parallel::Parallel;
use crate::shortlist::Outputs;
use core::ops::Range;

/// What a pass computes with, and who watches it.
#[derive(Clone, Copy)]
pub(crate) struct Machine<'a> {
    pub(crate) ensemble: &'a Ensemble<'a>,
    pub(crate) kernels: &'a Kernels,
    pub(crate) parallel: &'a dyn Parallel,
    pub(crate) observer: Option<&'a dyn Observer>,
}

impl Machine<'_> {
    /// Shows the observer what the lanes' matrices of a role are about to be multiplied by.
    fn observe(self, role: Role, layer: Option<usize>, lanes: &[Lane], x: &[f32]) {
        let Some(observer) = self.observer else { return };
        let tensor = TensorId { role, layer };
        let (_, n_cols) = tensor.shape(self.ensemble.config());
        for (x, lane) in x.chunks_exact(x.len() / lanes.len()).zip(lanes) {
            observer.product(lane.expert, tensor, n_cols, x);
        }
    }
}

/// The buffers of one pass over at most N tokens in at most M lanes; V, C, F as in [`Config`]. A pass
/// over n tokens in l lanes uses the first l · n rows. Where a device computes, only the logits are here.
#[derive(Debug)]
pub(crate) struct Buffers<'m> {
    n_batch: usize,                   // N
    x: &'m mut [f32],                 // [M, N, C] residual stream
    h: &'m mut [f32],                 // [M, N, C] normalised, or the output of a sublayer
    qkv: &'m mut [f32],               // [M, N, 3C]
    att: &'m mut [f32],               // [M, N, C]
    ff: &'m mut [f32],                // [M, N, F]
    quants: &'m mut [Quants],         // [M, N, max(C, F)] numbers: input of a quantised product
    pub(crate) logits: &'m mut [f32], // [n_logits, n_out]
}

impl<'m> Buffers<'m> {
    pub(crate) fn carve(
        arena: &mut Arena<'m>,
        config: &Config,
        n_lanes: usize,
        n_batch: usize,
        n_logits: usize,
        n_out: usize,
        on_device: bool,
    ) -> Result<Self> {
        let overflow = Error::OutOfRange { what: "a memory size" };
        let n_rows = if on_device { 0 } else { n_lanes.checked_mul(n_batch).ok_or(overflow)? };
        let of = |width: usize| n_rows.checked_mul(width).ok_or(overflow);
        let (c, f) = (config.n_embd, config.n_ff);
        let widest = of(c.max(f))?;
        Ok(Buffers {
            n_batch,
            x: arena.take(of(c)?)?,
            h: arena.take(of(c)?)?,
            qkv: arena.take(of(3 * c)?)?,
            att: arena.take(of(c)?)?,
            ff: arena.take(of(f)?)?,
            quants: arena.take(n_quants(widest))?,
            logits: arena.take(n_logits.checked_mul(n_out).ok_or(overflow)?)?,
        })
    }

    /// Tokens that one pass can take.
    pub(crate) fn n_batch(&self) -> usize {
        self.n_batch
    }
}

/// Runs `tokens` at positions `past..` through all layers of every lane's expert: fills the caches,
/// leaves the residual streams in the buffers.
pub(crate) fn forward<E: KvElement>(
    machine: Machine<'_>,
    lanes: &[Lane],
    kv: &mut [E],
    n_ctx: usize,
    b: &mut Buffers<'_>,
    tokens: &[u32],
    past: usize,
    cancelled: &dyn Fn() -> bool,
) -> Result<()> {
    let Machine { ensemble, kernels: k, parallel: par, .. } = machine;
    let Config { n_embd, n_head, n_layer, n_ff, activation, norm_eps: eps, .. } =
        *ensemble.config();
    let (n, n_lanes) = (tokens.len(), lanes.len());
    let shape = AttentionShape { n_head, head_dim: n_embd / n_head, n_ctx, past };
    let cache = (n_layer, n_ctx, n_embd);
    let x = &mut b.x[..n_lanes * n * n_embd];
    let h = &mut b.h[..n_lanes * n * n_embd];
    let qkv = &mut b.qkv[..n_lanes * n * 3 * n_embd];
    let att = &mut b.att[..n_lanes * n * n_embd];
    let ff = &mut b.ff[..n_lanes * n * n_ff];
    macro_rules! matmul {
        ($out:expr, $x:expr, $layer:expr, $w:ident, $role:ident, $after:expr) => {{
            machine.observe(Role::$role, Some($layer), lanes, $x);
            let linear = |i: usize| ensemble.layer(lanes[i].expert, $layer).$w;
            k.matmul(par, $out, $x, n_lanes, linear, $after, b.quants);
        }};
    }
    macro_rules! layer_norm {
        ($layer:expr, $norm:ident) => {
            for ((h, x), lane) in each(h, x, n * n_embd).zip(lanes) {
                k.layer_norm(par, h, x, ensemble.layer(lane.expert, $layer).$norm, eps);
            }
        };
    }

    // h₀ = √C · E[token] + position; the factor is in the file's embedding.
    for (x, lane) in x.chunks_exact_mut(n * n_embd).zip(lanes) {
        let expert = ensemble.expert(lane.expert);
        for (i, (x, &token)) in x.chunks_exact_mut(n_embd).zip(tokens).enumerate() {
            expert.token_embd.row(token as usize, x)?;
            k.add(x, &expert.position_embd[(past + i) * n_embd..][..n_embd]);
        }
    }
    for layer in 0..n_layer {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        layer_norm!(layer, attn_norm);
        matmul!(qkv, h, layer, attn_qkv, AttnQkvWeight, None);
        for (qkv, lane) in qkv.chunks_exact(n * 3 * n_embd).zip(lanes) {
            let (keys, values) = layer_of_mut(kv, lane.slot as usize, layer, cache);
            for (i, qkv) in qkv.chunks_exact(3 * n_embd).enumerate() {
                k.store(keys, &qkv[n_embd..2 * n_embd], past + i, shape);
                k.store(values, &qkv[2 * n_embd..], past + i, shape);
            }
        }
        let of_lane = |i: usize| layer_of(kv, lanes[i].slot as usize, layer, cache);
        k.attention(par, att, qkv, n_lanes, of_lane, shape);
        matmul!(h, att, layer, attn_output, AttnOutputWeight, None);
        k.add(x, h);

        layer_norm!(layer, ffn_norm);
        matmul!(ff, h, layer, ffn_up, FfnUpWeight, Some(activation));
        matmul!(h, ff, layer, ffn_down, FfnDownWeight, None);
        k.add(x, h);
    }
    Ok(())
}

/// Logits of the given rows of every lane's residual stream after a pass over `n` tokens,
/// E · LayerNorm(x), the head being the embedding or its rows for `outputs`:
/// `[n_lanes, rows.len(), outputs.len()]`.
pub(crate) fn head(
    machine: Machine<'_>,
    lanes: &[Lane],
    b: &mut Buffers<'_>,
    n: usize,
    rows: Range<usize>,
    outputs: &Outputs<'_>,
) {
    let Machine { ensemble, kernels: k, parallel: par, .. } = machine;
    let Config { n_embd, norm_eps, .. } = *ensemble.config();
    let (n_rows, n_lanes, n_out) = (rows.len(), lanes.len(), outputs.len());
    let h = &mut b.h[..n_lanes * n_rows * n_embd];
    for (i, (h, lane)) in h.chunks_exact_mut(n_rows * n_embd).zip(lanes).enumerate() {
        let x = &b.x[(i * n + rows.start) * n_embd..(i * n + rows.end) * n_embd];
        k.layer_norm(par, h, x, ensemble.expert(lane.expert).output_norm, norm_eps);
    }
    machine.observe(Role::TokenEmbd, None, lanes, h);
    let logits = &mut b.logits[..n_lanes * n_rows * n_out];
    let linear = |i: usize| (ensemble.expert(lanes[i].expert).output(outputs), &[][..]);
    if (0..n_lanes).all(|i| linear(i).0.n_rows == n_out) {
        return k.matmul(par, logits, h, n_lanes, linear, None, b.quants);
    }
    // Shortlists that differ: the outputs are the tokens of all of them.
    let of_lanes = logits.chunks_exact_mut(n_rows * n_out).zip(h.chunks_exact(n_rows * n_embd));
    for (i, (logits, h)) in of_lanes.enumerate() {
        let narrow = &mut logits[..n_rows * linear(i).0.n_rows];
        k.matmul(par, narrow, h, 1, |_| linear(i), None, b.quants);
    }
    spread(ensemble, lanes, logits, outputs);
}

/// Moves the logits of experts whose shortlists differ, `[n_lanes, n, outputs.len()]` with a lane's rows at the
/// beginning of its part, to where their tokens stand among the outputs.
pub(crate) fn spread(
    ensemble: &Ensemble<'_>,
    lanes: &[Lane],
    logits: &mut [f32],
    outputs: &Outputs<'_>,
) {
    let part = logits.len() / lanes.len();
    for (logits, lane) in logits.chunks_exact_mut(part).zip(lanes) {
        let expert = ensemble.expert(lane.expert);
        if let Some(list) = expert.shortlist().filter(|list| list.len() < outputs.len()) {
            outputs.spread(logits, list);
        }
    }
}

/// The lanes' parts of two buffers.
fn each<'a>(
    h: &'a mut [f32],
    x: &'a [f32],
    len: usize,
) -> impl Iterator<Item = (&'a mut [f32], &'a [f32])> {
    h.chunks_exact_mut(len).zip(x.chunks_exact(len))
}
