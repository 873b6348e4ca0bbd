//! Causal attention, forward and backward, one task per sequence and head.
//!
//! A tile of queries meets all keys before it; probabilities exist for one tile at a time and are
//! recomputed in the backward pass from the log-sum-exp (Dao et al. 2022), so memory is linear in T.

use super::gemm::{Kernel, Mat, Start, gemm};
use super::grown;
use crate::backend::{AttentionShape, Dropout};
use rayon::prelude::*;
use xelm_runtime::isa::{Isa, Vectorised};
use xelm_runtime::math;

/// Queries per tile.
const TILE: usize = 64;

/// Where a head's queries, keys and values lie in the rows of one sequence's `qkv`.
struct Heads<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    stride: usize,
}

impl<'a> Heads<'a> {
    fn new(qkv: &'a [f32], s: AttentionShape, b: usize, h: usize) -> Self {
        let c = s.n_head * s.head_dim;
        let rows = &qkv[b * s.n_ctx * 3 * c..][..s.n_ctx * 3 * c];
        let at = |part: usize| &rows[part * c + h * s.head_dim..];
        Heads { q: at(0), k: at(1), v: at(2), stride: 3 * c }
    }
}

pub(super) fn forward(
    isa: Isa,
    out: &mut [f32],
    lse: &mut [f32],
    qkv: &[f32],
    s: AttentionShape,
    dropout: Dropout,
    scratch: &mut Vec<f32>,
) {
    let AttentionShape { n_ctx: t, n_head, head_dim: hd, .. } = s;
    let kernel = Kernel::f32(isa);
    // Each task writes its head without gaps; the heads are laid side by side afterwards.
    let heads = grown(scratch, out.len());
    let tasks = heads.par_chunks_exact_mut(t * hd).zip(lse.par_chunks_exact_mut(t)).enumerate();
    tasks.for_each_init(Vec::new, |tile, (task, (out, lse))| {
        let x = Heads::new(qkv, s, task / n_head, task % n_head);
        for start in (0..t).step_by(TILE) {
            let n = TILE.min(t - start);
            let n_keys = start + n;
            let p = grown(tile, n * n_keys);
            scores(kernel, p, &x, s, start, n);
            isa.run(Softmax { p, lse: &mut lse[start..start + n], start, n_keys });
            apply_dropout(p, dropout, task, t, start, n_keys);
            let v = Mat::strided(x.v, n_keys, hd, x.stride);
            gemm(
                kernel,
                &mut out[start * hd..][..n * hd],
                hd,
                Mat::rows(p, n_keys),
                v,
                Start::Zero,
            );
        }
    });
    let heads = &*heads;
    let c = n_head * hd;
    out.par_chunks_exact_mut(c).enumerate().for_each(|(n, row)| {
        let (b, position) = (n / t, n % t);
        for (h, row) in row.chunks_exact_mut(hd).enumerate() {
            row.copy_from_slice(&heads[((b * n_head + h) * t + position) * hd..][..hd]);
        }
    });
}

/// The dot products of a tile of queries with all keys up to its last, unscaled.
fn scores(kernel: Kernel, p: &mut [f32], x: &Heads<'_>, s: AttentionShape, start: usize, n: usize) {
    let hd = s.head_dim;
    let n_keys = start + n;
    let q = Mat::strided(&x.q[start * x.stride..], n, hd, x.stride);
    let k = Mat::strided(x.k, n_keys, hd, x.stride);
    gemm(kernel, p, n_keys, q, k.transposed(), Start::Zero);
    // q is scaled after its bias, which is scaling the product.
    let scale = 1.0 / math::sqrt(hd as f32);
    for x in p {
        *x *= scale;
    }
}

/// Turns scores into probabilities row by row; row i of the tile sees keys `0..=start + i`.
struct Softmax<'a> {
    p: &'a mut [f32],
    lse: &'a mut [f32],
    start: usize,
    n_keys: usize,
}

impl Vectorised for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for (i, (row, lse)) in self.p.chunks_exact_mut(self.n_keys).zip(self.lse).enumerate() {
            let (seen, masked) = row.split_at_mut(self.start + i + 1);
            let max = math::max(seen);
            let mut lanes = [0.0f32; 16];
            for chunk in seen.chunks_mut(16) {
                for (x, lane) in chunk.iter_mut().zip(&mut lanes) {
                    *x = math::exp(*x - max);
                    *lane += *x;
                }
            }
            let sum: f32 = lanes.iter().sum();
            let inverse = 1.0 / sum;
            for x in seen {
                *x *= inverse;
            }
            masked.fill(0.0);
            *lse = max + math::ln(sum);
        }
    }
}

/// The tile's part of the mask over `[B, H, T, T]`.
fn apply_dropout(
    p: &mut [f32],
    dropout: Dropout,
    head: usize,
    t: usize,
    start: usize,
    n_keys: usize,
) {
    if dropout.p == 0.0 {
        return;
    }
    for (i, row) in p.chunks_exact_mut(n_keys).enumerate() {
        let first = ((head * t + start + i) * t) as u64;
        for (key, x) in (0u64..).zip(row) {
            *x *= dropout.factor(first + key);
        }
    }
}

pub(super) fn backward(
    isa: Isa,
    d_qkv: &mut [f32],
    d_out: &[f32],
    out: &[f32],
    lse: &[f32],
    qkv: &[f32],
    s: AttentionShape,
    dropout: Dropout,
    scratch: &mut Vec<f32>,
) {
    let AttentionShape { n_ctx: t, n_head, head_dim: hd, .. } = s;
    let kernel = Kernel::f32(isa);
    let c = n_head * hd;
    let heads = grown(scratch, d_qkv.len());
    let tasks = heads.par_chunks_exact_mut(3 * t * hd).zip(lse.par_chunks_exact(t)).enumerate();
    tasks.for_each_init(Vec::new, |tile, (task, (d_head, lse))| {
        let (b, h) = (task / n_head, task % n_head);
        let x = Heads::new(qkv, s, b, h);
        let rows = |all: &'_ [f32]| -> usize {
            debug_assert_eq!(all.len(), s.n_batch * t * c);
            b * t * c + h * hd
        };
        let (d_out, out) = (&d_out[rows(d_out)..], &out[rows(out)..]);
        let (d_q, d_kv) = d_head.split_at_mut(t * hd);
        let (d_k, d_v) = d_kv.split_at_mut(t * hd);
        d_k.fill(0.0);
        d_v.fill(0.0);
        for start in (0..t).step_by(TILE) {
            let n = TILE.min(t - start);
            let n_keys = start + n;
            let (p, rest) = grown(tile, 2 * n * n_keys + n).split_at_mut(n * n_keys);
            let (d_p, delta) = rest.split_at_mut(n * n_keys);
            let d_out = &d_out[start * c..];
            let d_out_mat = Mat::strided(d_out, n, hd, c);
            // δ = Σ d_out · out, the softmax's correction.
            for (i, delta) in delta.iter_mut().enumerate() {
                let (a, b) = (&d_out[i * c..][..hd], &out[(start + i) * c..][..hd]);
                *delta = a.iter().zip(b).map(|(a, b)| a * b).sum();
            }
            scores(kernel, p, &x, s, start, n);
            let lse = &lse[start..start + n];
            isa.run(Probabilities { p, lse, start, n_keys });
            gemm(
                kernel,
                d_p,
                n_keys,
                d_out_mat,
                Mat::strided(x.v, n_keys, hd, x.stride).transposed(),
                Start::Zero,
            );
            if dropout.p > 0.0 {
                apply_dropout(d_p, dropout, task, t, start, n_keys);
                // The values' gradient needs the dropped probabilities, the scores' the plain ones.
                let mut dropped = p.to_vec();
                apply_dropout(&mut dropped, dropout, task, t, start, n_keys);
                gemm(
                    kernel,
                    d_v,
                    hd,
                    Mat::rows(&dropped, n_keys).transposed(),
                    d_out_mat,
                    Start::Output,
                );
            } else {
                gemm(kernel, d_v, hd, Mat::rows(p, n_keys).transposed(), d_out_mat, Start::Output);
            }
            let scale = 1.0 / math::sqrt(hd as f32);
            isa.run(ScoreGradients { d_p, p, delta, n_keys, scale });
            let d_s = Mat::rows(d_p, n_keys);
            gemm(
                kernel,
                &mut d_q[start * hd..][..n * hd],
                hd,
                d_s,
                Mat::strided(x.k, n_keys, hd, x.stride),
                Start::Zero,
            );
            let q = Mat::strided(&x.q[start * x.stride..], n, hd, x.stride);
            gemm(kernel, d_k, hd, d_s.transposed(), q, Start::Output);
        }
    });
    let heads = &*heads;
    d_qkv.par_chunks_exact_mut(3 * c).enumerate().for_each(|(n, row)| {
        let (b, position) = (n / t, n % t);
        for (i, row) in row.chunks_exact_mut(hd).enumerate() {
            let (part, h) = (i / n_head, i % n_head);
            let at = (((b * n_head + h) * 3 + part) * t + position) * hd;
            row.copy_from_slice(&heads[at..at + hd]);
        }
    });
}

/// Scores to probabilities with a known log-sum-exp.
struct Probabilities<'a> {
    p: &'a mut [f32],
    lse: &'a [f32],
    start: usize,
    n_keys: usize,
}

impl Vectorised for Probabilities<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for (i, (row, &lse)) in self.p.chunks_exact_mut(self.n_keys).zip(self.lse).enumerate() {
            let (seen, masked) = row.split_at_mut(self.start + i + 1);
            for x in seen {
                *x = math::exp(*x - lse);
            }
            masked.fill(0.0);
        }
    }
}

/// d_s = p · (d_p − δ) · scale, in place of d_p.
struct ScoreGradients<'a> {
    d_p: &'a mut [f32],
    p: &'a [f32],
    delta: &'a [f32],
    n_keys: usize,
    scale: f32,
}

impl Vectorised for ScoreGradients<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let rows = self.d_p.chunks_exact_mut(self.n_keys).zip(self.p.chunks_exact(self.n_keys));
        for ((d_p, p), &delta) in rows.zip(self.delta) {
            for i in 0..d_p.len() {
                d_p[i] = p[i] * (d_p[i] - delta) * self.scale;
            }
        }
    }
}
