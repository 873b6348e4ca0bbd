//! The kernels in plain Rust. Sums run in sixteen lanes and are folded in one fixed order, so that
//! the compiler may vectorise them and every instruction set gives the same bits.

use super::Activations;
use crate::config::Activation;
use crate::expert::Matrix;
use crate::isa::Vectorised;
use crate::math;
use crate::parallel::Columns;
use crate::quant::{BLOCK, BlockQ4_0, BlockQ8_0, f16_to_f32, f32_to_f16};
use bytemuck::{AnyBitPattern, NoUninit};

const LANES: usize = 16;
type Lanes = [f32; LANES];

/// Tokens that share one pass over a weight row.
const TILE: usize = 4;

#[inline(always)]
fn fold(mut lanes: Lanes) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Splits the tokens into tiles of [`TILE`] and single ones, and writes `dot(row, tokens)` for each.
#[inline(always)]
fn for_tiles(
    out: &mut Columns<'_>,
    mut tile: impl FnMut(usize, usize) -> [f32; TILE],
    mut single: impl FnMut(usize, usize) -> f32,
) {
    let n = out.n_rows();
    for row in out.range() {
        let mut t = 0;
        while t + TILE <= n {
            for (i, dot) in tile(row, t).into_iter().enumerate() {
                out.set(t + i, row, dot);
            }
            t += TILE;
        }
        while t < n {
            let dot = single(row, t);
            out.set(t, row, dot);
            t += 1;
        }
    }
}

pub(super) struct MatmulF32<'a>(pub &'a Matrix<'a>, pub &'a Activations<'a>, pub Columns<'a>);

impl Vectorised for MatmulF32<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let MatmulF32(w, acts, mut out) = self;
        dense(w.n_cols, w.elements::<f32>(), |x| x, acts.x, &mut out);
    }
}

pub(super) struct MatmulF16<'a>(pub &'a Matrix<'a>, pub &'a Activations<'a>, pub Columns<'a>);

impl Vectorised for MatmulF16<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let MatmulF16(w, acts, mut out) = self;
        dense(w.n_cols, w.elements::<u16>(), f16_to_f32, acts.x, &mut out);
    }
}

#[inline(always)]
fn dense<W: Copy>(
    n_cols: usize,
    weights: &[W],
    widen: impl Fn(W) -> f32 + Copy,
    x: &[f32],
    out: &mut Columns<'_>,
) {
    let row = |r: usize| &weights[r * n_cols..][..n_cols];
    let token = |t: usize| &x[t * n_cols..][..n_cols];
    for_tiles(
        out,
        |r, t| dots(row(r), widen, [token(t), token(t + 1), token(t + 2), token(t + 3)]),
        |r, t| dots(row(r), widen, [token(t)])[0],
    );
}

/// The dot products of one weight row with N activation rows.
#[inline(always)]
fn dots<W: Copy, const N: usize>(row: &[W], widen: impl Fn(W) -> f32, xs: [&[f32]; N]) -> [f32; N] {
    let mut sums = [[0.0; LANES]; N];
    let (chunks, tail) = row.as_chunks::<LANES>();
    let split = chunks.len() * LANES;
    let x_chunks = xs.map(|x| x[..split].as_chunks::<LANES>().0);
    for i in 0..chunks.len() {
        let mut w = [0.0; LANES];
        for l in 0..LANES {
            w[l] = widen(chunks[i][l]);
        }
        for n in 0..N {
            let x = &x_chunks[n][i];
            for l in 0..LANES {
                sums[n][l] += w[l] * x[l];
            }
        }
    }
    for (l, &w) in tail.iter().enumerate() {
        for n in 0..N {
            sums[n][l] += widen(w) * xs[n][split + l];
        }
    }
    sums.map(fold)
}

pub(super) struct MatmulQ8_0<'a>(pub &'a Matrix<'a>, pub &'a Activations<'a>, pub Columns<'a>);

impl Vectorised for MatmulQ8_0<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let MatmulQ8_0(w, acts, mut out) = self;
        quantized(w.n_cols, w.elements::<BlockQ8_0>(), acts, &mut out, |b: &BlockQ8_0| (b.d, b.qs));
    }
}

pub(super) struct MatmulQ4_0<'a>(pub &'a Matrix<'a>, pub &'a Activations<'a>, pub Columns<'a>);

impl Vectorised for MatmulQ4_0<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let MatmulQ4_0(w, acts, mut out) = self;
        quantized(w.n_cols, w.elements::<BlockQ4_0>(), acts, &mut out, |b: &BlockQ4_0| {
            let mut qs = [0i8; BLOCK];
            for j in 0..BLOCK / 2 {
                qs[j] = (b.qs[j] & 0x0f) as i8 - 8;
                qs[j + BLOCK / 2] = (b.qs[j] >> 4) as i8 - 8;
            }
            (b.d, qs)
        });
    }
}

#[inline(always)]
fn quantized<B>(
    n_cols: usize,
    weights: &[B],
    acts: &Activations<'_>,
    out: &mut Columns<'_>,
    unpack: impl Fn(&B) -> (u16, [i8; BLOCK]) + Copy,
) {
    let n_blocks = n_cols / BLOCK;
    let (quants, _) = acts.quants.as_chunks::<BLOCK>();
    let row = |r: usize| &weights[r * n_blocks..][..n_blocks];
    let token =
        |t: usize| (&quants[t * n_blocks..][..n_blocks], &acts.scales[t * n_blocks..][..n_blocks]);
    for_tiles(
        out,
        |r, t| block_dots(row(r), unpack, [token(t), token(t + 1), token(t + 2), token(t + 3)]),
        |r, t| block_dots(row(r), unpack, [token(t)])[0],
    );
}

#[inline(always)]
fn block_dots<B, const N: usize>(
    row: &[B],
    unpack: impl Fn(&B) -> (u16, [i8; BLOCK]),
    xs: [(&[[i8; BLOCK]], &[f32]); N],
) -> [f32; N] {
    let mut sums = [[0.0; LANES]; N];
    for (i, block) in row.iter().enumerate() {
        let (d, w) = unpack(block);
        let d = f16_to_f32(d);
        for n in 0..N {
            let (quants, scales) = xs[n];
            let x = &quants[i];
            let scale = d * scales[i];
            for l in 0..LANES {
                // Two products of at most 128 · 127 fit 16 bits.
                let low = i16::from(w[l]).wrapping_mul(i16::from(x[l]));
                let high = i16::from(w[l + LANES]).wrapping_mul(i16::from(x[l + LANES]));
                sums[n][l] += f32::from(low.wrapping_add(high)) * scale;
            }
        }
    }
    sums.map(fold)
}

/// Quantises activations in blocks of 32 to 8 bits, symmetrically, rounding half away from zero.
pub(super) struct QuantizeActivations<'a>(pub &'a [f32], pub &'a mut [i8], pub &'a mut [f32]);

impl Vectorised for QuantizeActivations<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let QuantizeActivations(x, quants, scales) = self;
        let (blocks, _) = x.as_chunks::<BLOCK>();
        let (quants, _) = quants.as_chunks_mut::<BLOCK>();
        for ((x, q), scale) in blocks.iter().zip(quants).zip(scales) {
            let mut amax = [0.0f32; LANES];
            for l in 0..LANES {
                let (a, b) = (x[l].abs(), x[l + LANES].abs());
                amax[l] = if a > b { a } else { b };
            }
            let amax = math::max(&amax);
            *scale = amax / 127.0;
            let inverse = if amax == 0.0 { 0.0 } else { 127.0 / amax };
            for l in 0..BLOCK {
                let v = x[l] * inverse;
                q[l] = (v + 0.5f32.copysign(v)) as i8;
            }
        }
    }
}

pub(super) struct LayerNorm<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) x: &'a [f32],
    pub(super) weight: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) eps: f32,
}

impl Vectorised for LayerNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let n = self.weight.len();
        for (out, x) in self.out.chunks_exact_mut(n).zip(self.x.chunks_exact(n)) {
            let (mean, variance) = mean_variance(x);
            let scale = 1.0 / math::sqrt(variance + self.eps);
            for i in 0..n {
                out[i] = (x[i] - mean) * scale * self.weight[i] + self.bias[i];
            }
        }
    }
}

/// Mean and (biased) variance of a row, in two passes.
#[inline(always)]
fn mean_variance(x: &[f32]) -> (f32, f32) {
    let sum = |f: &dyn Fn(f32) -> f32| -> f32 {
        let mut lanes = [0.0; LANES];
        let (chunks, tail) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for l in 0..LANES {
                lanes[l] += f(chunk[l]);
            }
        }
        for (l, &x) in tail.iter().enumerate() {
            lanes[l] += f(x);
        }
        fold(lanes)
    };
    let n = x.len() as f32;
    let mean = sum(&|x| x) / n;
    let variance = sum(&|x| (x - mean) * (x - mean)) / n;
    (mean, variance)
}

pub(super) struct Add<'a>(pub &'a mut [f32], pub &'a [f32]);

impl Vectorised for Add<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for (x, y) in self.0.iter_mut().zip(self.1) {
            *x += y;
        }
    }
}

pub(super) struct AddBias<'a>(pub &'a mut [f32], pub &'a [f32]);

impl Vectorised for AddBias<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for row in self.0.chunks_exact_mut(self.1.len()) {
            for (x, b) in row.iter_mut().zip(self.1) {
                *x += b;
            }
        }
    }
}

pub(super) struct Activate<'a>(pub &'a mut [f32], pub Activation);

impl Vectorised for Activate<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        match self.1 {
            Activation::GeluErf => self.0.iter_mut().for_each(|x| *x = math::gelu_erf(*x)),
            Activation::GeluTanh => self.0.iter_mut().for_each(|x| *x = math::gelu_tanh(*x)),
            Activation::Relu => self.0.iter_mut().for_each(|x| *x = math::relu(*x)),
        }
    }
}

/// A number as the KV cache stores it.
pub trait KvElement: NoUninit + AnyBitPattern + Send + Sync {
    /// The stored form of a number.
    fn from_f32(x: f32) -> Self;
    /// The number.
    fn to_f32(self) -> f32;
}

impl KvElement for f32 {
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

/// Half precision bits.
impl KvElement for u16 {
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        f32_to_f16(x)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16_to_f32(self)
    }
}

/// Keys whose scores are computed together. Blocks start at multiples of this position, so a
/// query's result does not depend on which keys came in one batch with it.
const KEY_BLOCK: usize = 32;

/// One query over all keys up to its own, with a running maximum (no row of scores is stored).
pub(super) struct Attend<'a, E> {
    /// `[head_dim]`
    pub(super) out: &'a mut [f32],
    /// `[head_dim]`
    pub(super) query: &'a [f32],
    /// `[n_keys, head_dim]`
    pub(super) keys: &'a [E],
    /// `[n_keys, head_dim]`
    pub(super) values: &'a [E],
}

impl<E: KvElement> Vectorised for Attend<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Attend { out, query, keys, values } = self;
        let head_dim = query.len();
        let scale = 1.0 / math::sqrt(head_dim as f32);
        let block_len = KEY_BLOCK * head_dim;
        let (mut max, mut sum) = (f32::NEG_INFINITY, 0.0f32);
        out.fill(0.0);
        for (keys, values) in keys.chunks(block_len).zip(values.chunks(block_len)) {
            let mut scores = [f32::NEG_INFINITY; KEY_BLOCK];
            for (score, key) in scores.iter_mut().zip(keys.chunks_exact(head_dim)) {
                *score = dots(key, E::to_f32, [query])[0] * scale;
            }
            let new_max = max.max(math::max(&scores));
            let correction = math::exp(max - new_max);
            max = new_max;
            sum *= correction;
            for x in out.iter_mut() {
                *x *= correction;
            }
            for score in &mut scores {
                *score = math::exp(*score - max);
            }
            for (&p, value) in scores.iter().zip(values.chunks_exact(head_dim)) {
                sum += p;
                for (x, v) in out.iter_mut().zip(value) {
                    *x += p * v.to_f32();
                }
            }
        }
        let inverse = 1.0 / sum;
        for x in out.iter_mut() {
            *x *= inverse;
        }
    }
}
