//! Causal attention with a running maximum, no row of scores being stored (Milakov and Gimelshein, 2018).
//!
//! Keys come in blocks of 32 that begin at multiples of 32, and a query's sums run over them in order, so that
//! its result does not depend on what was computed in one call with it. Queries of one call share the conversion of
//! keys and values to single precision; scores come from [`super::scores`].

use super::kv::{AttentionShape, KvElement};
use super::lanes::{F32x8, WIDTH, ZERO};
use super::scores::{score, score_transposed, transpose, worth_transposing};
use crate::config::MAX_HEAD_DIM;
use crate::isa::{Isa, Vectorised, prefetch};
use crate::math;
use crate::parallel::Columns;

/// Keys whose scores are computed together.
const KEY_BLOCK: usize = 32;
/// Bytes of what is read next that are fetched ahead: a page, since a CPU's own fetching ends where one does.
const AHEAD: usize = 4096;
/// Queries that share a conversion.
const QUERIES: usize = 32;
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
    fn query(&self, i: usize) -> &[f32] {
        &self.qkv[(self.first + i) * self.row_len + self.column..][..self.head_dim]
    }

    #[inline(always)]
    fn attend<E: KvElement>(&self, isa: Isa, keys: &[E], values: &[E], out: &mut Columns<'_>) {
        let head_dim = self.head_dim;
        let scale = 1.0 / math::sqrt(head_dim as f32);
        let mut max = [f32::NEG_INFINITY; QUERIES];
        let mut sums = [F32x8::splat(0.0); QUERIES];
        let mut room = [0.0; ROOM];
        let at_a_time = ROOM / head_dim;
        let transposing = worth_transposing(self.n, at_a_time, head_dim);
        let mut transposed = if transposing { Some([ZERO; ROOM / WIDTH]) } else { None };
        // Elements of a key or value.
        let len = head_dim / E::LEN;
        for i in 0..self.n {
            out.run(self.first + i, self.column, head_dim).fill(0.0);
        }
        let n_keys = self.position + self.n;
        for block in (0..n_keys).step_by(KEY_BLOCK) {
            let end = n_keys.min(block + KEY_BLOCK);
            fetch(&values[block * len..end * len]);
            // Keys of the block that query i may see.
            let n_seen = |i: usize| (self.position + i + 1).saturating_sub(block).min(KEY_BLOCK);
            let mut weights = [[f32::NEG_INFINITY; KEY_BLOCK]; QUERIES];
            for first in (block..end).step_by(at_a_time) {
                let n_here = at_a_time.min(end - first);
                let keys = &keys[first * len..(first + n_here) * len];
                let keys = E::singles(isa, keys, &mut room);
                let n_of = |i: usize| n_seen(i).saturating_sub(first - block).min(n_here);
                let weights = weights[..self.n].iter_mut().map(|w| &mut w[first - block..]);
                if let Some(transposed) = &mut transposed {
                    transpose(keys, head_dim, transposed);
                    for (i, weights) in weights.enumerate() {
                        score_transposed(self.query(i), transposed, scale, &mut weights[..n_of(i)]);
                    }
                } else {
                    for (i, weights) in weights.enumerate() {
                        let keys = &keys[..n_of(i) * head_dim];
                        score(self.query(i), keys, scale, &mut weights[..n_of(i)]);
                    }
                }
            }
            fetch(&keys[end * len..n_keys.min(end + KEY_BLOCK) * len]);
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

/// Fetches the beginning of keys or values that are read soon.
#[inline(always)]
fn fetch<E: KvElement>(next: &[E]) {
    let bytes: &[u8] = bytemuck::cast_slice(next);
    for line in (0..bytes.len().min(AHEAD)).step_by(64) {
        prefetch(bytes, line);
    }
}

/// out += Σ weights[k] · values[k].
#[inline(always)]
fn accumulate(weights: &[f32], values: &[f32], out: &mut [f32]) {
    let head_dim = out.len();
    let (chunks, tail) = out.as_chunks_mut::<64>();
    let at_tail = head_dim - tail.len();
    for (c, chunk) in chunks.iter_mut().enumerate() {
        let mut sums = F32x8::eight(chunk);
        for (&weight, value) in weights.iter().zip(values.chunks_exact(head_dim)) {
            let Some(value) = value[c * 64..].first_chunk() else { continue };
            let (weight, value) = (F32x8::splat(weight), F32x8::eight(value));
            for j in 0..8 {
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
