//! The forward pass of XGLM (Lin et al., EMNLP 2022) over a key-value cache, on one page.

use crate::arena::Arena;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::expert::Expert;
use crate::kernels::{AttentionShape, Kernels, KvElement, n_scales};
use crate::parallel::Parallel;
use core::ops::Range;

/// The buffers of one pass over at most N tokens; V, C, F as in [`Config`].
#[derive(Debug)]
pub(crate) struct Buffers<'m> {
    n_batch: usize,                   // N
    x: &'m mut [f32],                 // [N, C] residual stream
    h: &'m mut [f32],                 // [N, C] normalised, or the output of a sublayer
    qkv: &'m mut [f32],               // [N, 3C]
    att: &'m mut [f32],               // [N, C]
    ff: &'m mut [f32],                // [N, F]
    quants: &'m mut [i8],             // [N, max(C, F)] input of a quantised product
    scales: &'m mut [f32],            // one per 32 of them
    pub(crate) logits: &'m mut [f32], // [n_logits, V]
}

impl<'m> Buffers<'m> {
    pub(crate) fn carve(
        arena: &mut Arena<'m>,
        config: &Config,
        n_batch: usize,
        n_logits: usize,
    ) -> Result<Self> {
        let overflow = Error::OutOfRange { what: "a memory size" };
        let of = |width: usize| n_batch.checked_mul(width).ok_or(overflow);
        let (c, f) = (config.n_embd, config.n_ff);
        let widest = of(c.max(f))?;
        Ok(Buffers {
            n_batch,
            x: arena.take(of(c)?)?,
            h: arena.take(of(c)?)?,
            qkv: arena.take(of(3 * c)?)?,
            att: arena.take(of(c)?)?,
            ff: arena.take(of(f)?)?,
            quants: arena.take(widest)?,
            scales: arena.take(n_scales(widest))?,
            logits: arena.take(n_logits.checked_mul(config.n_vocab).ok_or(overflow)?)?,
        })
    }

    /// Tokens that one pass can take.
    pub(crate) fn n_batch(&self) -> usize {
        self.n_batch
    }
}

/// Runs `tokens` at positions `past..` through all layers: fills the cache, leaves the residual
/// stream in the buffers.
pub(crate) fn forward<E: KvElement>(
    expert: &Expert<'_>,
    kv: &mut [E],
    n_ctx: usize,
    b: &mut Buffers<'_>,
    tokens: &[u32],
    past: usize,
    k: &Kernels,
    par: &dyn Parallel,
    cancelled: &dyn Fn() -> bool,
) -> Result<()> {
    let Config { n_embd, n_head, n_ff, activation, norm_eps: eps, .. } = *expert.config();
    let head_dim = n_embd / n_head;
    let n = tokens.len();
    let shape = AttentionShape { n_head, head_dim, n_ctx, past };
    let x = &mut b.x[..n * n_embd];
    let h = &mut b.h[..n * n_embd];
    let qkv = &mut b.qkv[..n * 3 * n_embd];
    let att = &mut b.att[..n * n_embd];
    let ff = &mut b.ff[..n * n_ff];
    macro_rules! matmul {
        ($out:expr, $x:expr, $w:expr) => {
            k.matmul(par, $out, $x, &$w.0, $w.1, (&mut *b.quants, &mut *b.scales))
        };
    }

    // h₀ = √C · E[token] + position; the factor is in the file's embedding.
    for (i, &token) in tokens.iter().enumerate() {
        let row = &mut x[i * n_embd..][..n_embd];
        expert.token_embd.row(token as usize, row)?;
        k.add(row, &expert.position_embd[(past + i) * n_embd..][..n_embd]);
    }
    for (layer, kv) in expert.layers.iter().zip(kv.chunks_exact_mut(2 * n_ctx * n_embd)) {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        let (keys, values) = kv.split_at_mut(n_ctx * n_embd);

        k.layer_norm(h, x, layer.attn_norm, eps);
        matmul!(qkv, h, layer.attn_qkv);
        for (i, qkv) in qkv.chunks_exact(3 * n_embd).enumerate() {
            store(keys, &qkv[n_embd..2 * n_embd], past + i, shape);
            store(values, &qkv[2 * n_embd..], past + i, shape);
        }
        k.attention(par, att, qkv, (&*keys, &*values), shape);
        matmul!(h, att, layer.attn_output);
        k.add(x, h);

        k.layer_norm(h, x, layer.ffn_norm, eps);
        matmul!(ff, h, layer.ffn_up);
        k.activate(par, ff, activation);
        matmul!(h, ff, layer.ffn_down);
        k.add(x, h);
    }
    Ok(())
}

/// Logits of the given rows of the residual stream: E · LayerNorm(x), the head being the embedding.
pub(crate) fn head(
    expert: &Expert<'_>,
    b: &mut Buffers<'_>,
    rows: Range<usize>,
    k: &Kernels,
    par: &dyn Parallel,
) {
    let Config { n_embd, n_vocab, norm_eps, .. } = *expert.config();
    let n = rows.len();
    let h = &mut b.h[..n * n_embd];
    let x = &b.x[rows.start * n_embd..rows.end * n_embd];
    k.layer_norm(h, x, expert.output_norm, norm_eps);
    let logits = &mut b.logits[..n * n_vocab];
    k.matmul(par, logits, h, &expert.token_embd, &[], (&mut *b.quants, &mut *b.scales));
}

/// Writes the keys or values of one position, `[C]`, into a cache `[n_head, n_ctx, head_dim]`.
fn store<E: KvElement>(cache: &mut [E], row: &[f32], position: usize, shape: AttentionShape) {
    let AttentionShape { head_dim, n_ctx, .. } = shape;
    for (head, row) in row.chunks_exact(head_dim).enumerate() {
        let at = (head * n_ctx + position) * head_dim;
        for (slot, &x) in cache[at..at + head_dim].iter_mut().zip(row) {
            *slot = E::from_f32(x);
        }
    }
}
