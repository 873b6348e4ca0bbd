//! Causal attention with a running maximum, no row of scores being stored (Milakov and Gimelshein, 2018).
//!
//! Keys come in blocks of 32 that begin at multiples of 32, and a query's sums run over them in order, so that
//! its result does not depend on what was computed in one call with it. Queries of one call share the conversion of
//! keys and values to single precision.

use super::kv::{AttentionShape, KvElement};
use super::lanes::F32x8;
use super::portable::{TILE, dots};
use crate::config::MAX_HEAD_DIM;
use crate::isa::{Isa, Vectorised};
use crate::math;
use crate::parallel::Columns;

/// Keys whose scores are computed together.
const KEY_BLOCK: usize = 32;
/// Queries that share a conversion.
const QUERIES: usize = 16;
/// Numbers converted at a time: the keys of a block where a head has 64 dimensions.
const ROOM: usize = MAX_HEAD_DIM;

/// All heads in the columns that `out` owns, for the tokens at positions `past..`.
pub(super) struct Attend<'a, E> {
    pub(super) isa: Isa,
    pub(super) shape: AttentionShape,
    /// `[n, n_head · head_dim]`.
    pub(super) out: Columns<'a>,
    /// `[n, 3 · n_head · head_dim]`.
    pub(super) qkv: &'a [f32],
    /// `[n_head, n_ctx, head_dim]` numbers, keys and values.
    pub(super) cache: (&'a [E], &'a [E]),
}

impl<E: KvElement> Vectorised for Attend<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Attend { isa, shape, mut out, qkv, cache: (keys, values) } = self;
        let AttentionShape { n_head, head_dim, n_ctx, past } = shape;
        let n = out.n_rows();
        for column in out.range().step_by(head_dim) {
            let head = column * n_ctx / E::LEN..(column + head_dim) * n_ctx / E::LEN;
            let (keys, values) = (&keys[head.clone()], &values[head]);
            for first in (0..n).step_by(QUERIES) {
                let of = Queries {
                    first,
                    n: QUERIES.min(n - first),
                    position: past + first,
                    qkv,
                    row_len: 3 * n_head * head_dim,
                    column,
                    head_dim,
                };
                of.attend(isa, keys, values, &mut out);
            }
        }
    }
}

/// At most [`QUERIES`] neighbouring tokens' queries of one head.
struct Queries<'a> {
    first: usize,
    n: usize,
    /// Of the first.
    position: usize,
    qkv: &'a [f32],
    row_len: usize,
    column: usize,
    head_dim: usize,
}

impl Queries<'_> {
    #[inline(always)]
    fn attend<E: KvElement>(&self, isa: Isa, keys: &[E], values: &[E], out: &mut Columns<'_>) {
        let head_dim = self.head_dim;
        let scale = 1.0 / math::sqrt(head_dim as f32);
        let mut max = [f32::NEG_INFINITY; QUERIES];
        let mut sums = [F32x8::splat(0.0); QUERIES];
        let mut room = [0.0; ROOM];
        let at_a_time = ROOM / head_dim;
        // Elements of a key or value.
        let len = head_dim / E::LEN;
        for i in 0..self.n {
            out.run(self.first + i, self.column, head_dim).fill(0.0);
        }
        let n_keys = self.position + self.n;
        for block in (0..n_keys).step_by(KEY_BLOCK) {
            let end = n_keys.min(block + KEY_BLOCK);
            // Keys of the block that query i may see.
            let n_seen = |i: usize| (self.position + i + 1).saturating_sub(block).min(KEY_BLOCK);
            let mut weights = [[f32::NEG_INFINITY; KEY_BLOCK]; QUERIES];
            for first in (block..end).step_by(at_a_time) {
                let n_here = at_a_time.min(end - first);
                let keys = &keys[first * len..(first + n_here) * len];
                let keys = E::singles(isa, keys, &mut room);
                for i in 0..self.n {
                    let n = n_seen(i).saturating_sub(first - block).min(n_here);
                    let at = (self.first + i) * self.row_len + self.column;
                    let query = &self.qkv[at..at + head_dim];
                    let weights = &mut weights[i][first - block..][..n];
                    score(query, &keys[..n * head_dim], scale, weights);
                }
            }
            for i in 0..self.n {
                if n_seen(i) == 0 {
                    continue;
                }
                let weights = &mut weights[i];
                let new_max = max[i].max(math::max(weights));
                let correction = math::exp(max[i] - new_max);
                max[i] = new_max;
                for weight in weights.iter_mut() {
                    *weight = math::exp(*weight - new_max);
                }
                sums[i] = sums[i].scaled(correction);
                for eight in weights.as_chunks::<8>().0 {
                    sums[i] = sums[i].plus(F32x8(*eight));
                }
                for x in out.run(self.first + i, self.column, head_dim) {
                    *x *= correction;
                }
            }
            for first in (block..end).step_by(at_a_time) {
                let n_here = at_a_time.min(end - first);
                let values = &values[first * len..(first + n_here) * len];
                let values = E::singles(isa, values, &mut room);
                for i in 0..self.n {
                    let n = n_seen(i).saturating_sub(first - block).min(n_here);
                    let out = out.run(self.first + i, self.column, head_dim);
                    accumulate(&weights[i][first - block..][..n], values, out);
                }
            }
        }
        for i in 0..self.n {
            let inverse = 1.0 / sums[i].sum();
            for x in out.run(self.first + i, self.column, head_dim) {
                *x *= inverse;
            }
        }
    }
}

/// out[k] = scale · query · keys[k].
#[inline(always)]
fn score(query: &[f32], keys: &[f32], scale: f32, out: &mut [f32]) {
    let head_dim = query.len();
    let mut tiles = keys.chunks_exact(TILE * head_dim);
    let mut n = 0;
    for tile in &mut tiles {
        let dots: [f32; TILE] = dots(query, tile);
        for dot in dots {
            out[n] = dot * scale;
            n += 1;
        }
    }
    for key in tiles.remainder().chunks_exact(head_dim) {
        let [dot] = dots(query, key);
        out[n] = dot * scale;
        n += 1;
    }
}

/// out += Σ weights[k] · values[k].
#[inline(always)]
fn accumulate(weights: &[f32], values: &[f32], out: &mut [f32]) {
    let head_dim = out.len();
    let (chunks, tail) = out.as_chunks_mut::<32>();
    let at_tail = head_dim - tail.len();
    for (c, chunk) in chunks.iter_mut().enumerate() {
        let mut sums = F32x8::four(chunk);
        for (&weight, value) in weights.iter().zip(values.chunks_exact(head_dim)) {
            let Some(value) = value[c * 32..].first_chunk() else { continue };
            let (weight, value) = (F32x8::splat(weight), F32x8::four(value));
            for j in 0..4 {
                sums[j] = sums[j].add_product(weight, value[j]);
            }
        }
        *chunk = bytemuck::cast(sums.map(|x| x.0));
    }
    for (&weight, value) in weights.iter().zip(values.chunks_exact(head_dim)) {
        for (x, v) in tail.iter_mut().zip(&value[at_tail..]) {
            *x += weight * v;
        }
    }
}
