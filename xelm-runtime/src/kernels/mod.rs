//! The kernels of the forward pass, chosen at run time from a table: dtype × instruction set.
//!
//! `portable` holds them in plain Rust, written so that the compiler vectorises them for each
//! [`Isa`]. A result never depends on how many rows or tokens one call covers, nor on the
//! instruction set.

#[cfg(any(all(target_arch = "x86_64", feature = "std"), target_arch = "aarch64"))]
mod ahead;
mod attention;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod avx2;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod avx512;
mod blocks;
mod kv;
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(any(all(target_arch = "x86_64", feature = "std"), target_arch = "aarch64"))]
mod panels;
mod portable;
mod quants;
#[cfg(any(all(target_arch = "x86_64", feature = "std"), target_arch = "aarch64"))]
mod rows;
mod scores;
#[cfg(any(all(target_arch = "x86_64", feature = "std"), target_arch = "aarch64"))]
mod simd;
#[cfg(any(all(target_arch = "x86_64", feature = "std"), target_arch = "aarch64"))]
mod weights;

use crate::config::Activation;
use crate::expert::Matrix;
use crate::isa::{Isa, Vectorised, prefetch};
use crate::parallel::{Columns, Parallel, part_len, split_columns, split_rows};
use crate::quant::{
    BLOCK, Bf16, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5K, BlockQ6K, BlockQ8_0, DType,
};
use attention::Attend;
use core::marker::PhantomData;
use portable::MatmulDense;
#[cfg(any(all(target_arch = "x86_64", feature = "std"), target_arch = "aarch64"))]
use simd::Simd;

pub(crate) use kv::AttentionShape;
pub use kv::KvElement;
pub(crate) use portable::LogSumExp;
pub use quants::Quants;

/// Rows of a matrix that kernels take together, and that tasks are multiples of.
const ROWS_AT_ONCE: usize = 32;

/// The functions that one CPU runs.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    isa: Isa,
    f32: MatmulFn,
    f16: MatmulFn,
    q4_0: MatmulFn,
    q8_0: MatmulFn,
    bf16: MatmulFn,
    q4_1: MatmulFn,
    q4_k: MatmulFn,
    q5_k: MatmulFn,
    q6_k: MatmulFn,
}

/// out[t, r] = Σ w[r, c] · x[t, c] for the rows r of `w` that `out` owns and every token t.
type MatmulFn = fn(Isa, &Matrix<'_>, &Activations<'_>, &mut Columns<'_>);

/// The right-hand side of a product: `[n_tokens, n_cols]` in f32, and quantised to 8 bits where the
/// weights are quantised.
#[derive(Clone, Copy, Debug)]
pub struct Activations<'a> {
    /// The numbers.
    pub x: &'a [f32],
    /// `[n_cols / 32, n_tokens]` groups of 32; as many share a scale as the weights' blocks have.
    pub quants: &'a [Quants],
}

impl Kernels {
    /// The kernels for an instruction set.
    pub fn new(isa: Isa) -> Self {
        let portable = Kernels {
            isa,
            f32: |isa, w, x, out| isa.run(MatmulDense::<f32>(w, x, out, PhantomData)),
            f16: |isa, w, x, out| isa.run(MatmulDense::<u16>(w, x, out, PhantomData)),
            q4_0: blocks::matmul::<BlockQ4_0>,
            q8_0: blocks::matmul::<BlockQ8_0>,
            bf16: |isa, w, x, out| isa.run(MatmulDense::<Bf16>(w, x, out, PhantomData)),
            q4_1: blocks::matmul::<BlockQ4_1>,
            q4_k: blocks::matmul::<BlockQ4K>,
            q5_k: blocks::matmul::<BlockQ5K>,
            q6_k: blocks::matmul::<BlockQ6K>,
        };
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        {
            if avx512::Avx512::of(isa).is_some() {
                return portable.with::<avx512::Avx512>();
            }
            if avx2::AvxVnni::of(isa).is_some() {
                return portable.with::<avx2::AvxVnni>();
            }
            if avx2::Avx2::of(isa).is_some() {
                return portable.with::<avx2::Avx2>();
            }
        }
        #[cfg(target_arch = "aarch64")]
        if neon::Neon::of(isa).is_some() {
            return portable.with::<neon::Neon>();
        }
        portable
    }

    /// The products with quantised weights over the vectors of `S`.
    #[cfg(any(all(target_arch = "x86_64", feature = "std"), target_arch = "aarch64"))]
    fn with<S: Simd>(self) -> Self {
        Kernels {
            q4_0: panels::matmul::<S, BlockQ4_0>,
            q8_0: panels::matmul::<S, BlockQ8_0>,
            q4_1: panels::matmul::<S, BlockQ4_1>,
            q4_k: panels::matmul::<S, BlockQ4K>,
            q5_k: panels::matmul::<S, BlockQ5K>,
            q6_k: panels::matmul::<S, BlockQ6K>,
            ..self
        }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// out[l, t, :] = after(x[l, t, :] · w(l)ᵀ (+ bias)) for each of `n_lanes` lanes and each of a lane's n
    /// tokens; all matrices have one shape, though not one type. `out` is `[n_lanes, n, n_rows]`, `x`
    /// `[n_lanes, n, n_cols]`; `quants` is scratch for as many numbers as `x` has. The lanes' work is one
    /// phase.
    pub fn matmul<'w>(
        &self,
        par: &dyn Parallel,
        out: &mut [f32],
        x: &[f32],
        n_lanes: usize,
        linear: impl Fn(usize) -> (Matrix<'w>, &'w [f32]) + Sync,
        after: Option<Activation>,
        quants: &mut [Quants],
    ) {
        let (Matrix { n_rows, n_cols, .. }, _) = linear(0);
        let lane_len = x.len() / n_lanes;
        let (n, n_groups) = (lane_len / n_cols, n_cols / BLOCK);
        for lane in 0..n_lanes {
            let (Matrix { dtype, .. }, _) = linear(lane);
            if !dtype.is_quantized() {
                continue;
            }
            let x = &x[lane * lane_len..][..lane_len];
            let quants = &mut quants[lane * n * n_groups..][..n * n_groups];
            let n_sharing = dtype.block_len() / BLOCK;
            // Quantising costs about as much as four multiply-adds a number.
            let part = part_len(n_groups, n_sharing, lane_len * 4);
            split_rows(par, quants, n, part, |first, quants| {
                self.isa.run(quants::Quantize { x, n, n_sharing, first, quants });
            });
        }
        let quants = &quants[..];
        let part = part_len(n_rows, ROWS_AT_ONCE, lane_len * n_rows);
        split_columns(par, out, n_lanes, n_rows, part, |lane, mut columns| {
            let (w, bias) = linear(lane);
            let x = Activations {
                x: &x[lane * lane_len..][..lane_len],
                quants: quants.get(lane * n * n_groups..).unwrap_or_default(),
            };
            let matmul = match w.dtype {
                DType::F32 => self.f32,
                DType::F16 => self.f16,
                DType::Q4_0 => self.q4_0,
                DType::BF16 => self.bf16,
                DType::Q4_1 => self.q4_1,
                DType::Q4K => self.q4_k,
                DType::Q5K => self.q5_k,
                DType::Q6K => self.q6_k,
                // Opening a model refuses every other type for a matrix.
                _ => self.q8_0,
            };
            debug_assert!((w.n_rows, w.n_cols) == (n_rows, n_cols));
            // Two or three cache lines that nothing else would have fetched until they are waited for.
            let of_task: &[u8] =
                bytemuck::cast_slice(bias.get(columns.range()).unwrap_or_default());
            (0..of_task.len()).step_by(64).for_each(|line| prefetch(of_task, line));
            matmul(self.isa, &w, &x, &mut columns);
            self.isa.run(portable::Finish { out: columns, bias, after });
        });
    }

    /// out[t, :] = LayerNorm(x[t, :]) · weight + bias, rows of `weight.len()` numbers.
    pub(crate) fn layer_norm(
        &self,
        parallel: &dyn Parallel,
        out: &mut [f32],
        x: &[f32],
        (weight, bias): (&[f32], &[f32]),
        eps: f32,
    ) {
        let n = weight.len();
        // A number costs about as much as eight multiply-adds.
        let part = part_len(out.len() / n, 1, out.len() * 8);
        split_rows(parallel, out, n, part, |first, out| {
            let x = &x[first * n..][..out.len()];
            self.isa.run(portable::LayerNorm { out, x, weight, bias, eps });
        });
    }

    /// x += y.
    pub(crate) fn add(&self, x: &mut [f32], y: &[f32]) {
        self.isa.run(portable::Add(x, y));
    }

    /// Causal attention of the n new tokens of each lane at positions `past..past + n` over the
    /// lane's cache. `out` is `[n_lanes, n, n_head · head_dim]`, `qkv` `[n_lanes, n, 3 · n_head ·
    /// head_dim]`; a lane's keys and values are `[n_head, n_ctx, head_dim]` each and already hold its
    /// new tokens.
    pub(crate) fn attention<'c, E: KvElement>(
        &self,
        parallel: &dyn Parallel,
        out: &mut [f32],
        qkv: &[f32],
        n_lanes: usize,
        cache: impl Fn(usize) -> (&'c [E], &'c [E]) + Sync,
        shape: AttentionShape,
    ) {
        let AttentionShape { n_head, head_dim, past, .. } = shape;
        let width = n_head * head_dim;
        let n = out.len() / width / n_lanes;
        // A number of a key and its value, in singles and converted, costs about as much as eight multiply-adds of bytes.
        let part = part_len(width, head_dim, n * (past + n) * width * 8);
        split_columns(parallel, out, n_lanes, width, part, |lane, out| {
            let qkv = &qkv[lane * n * 3 * width..][..n * 3 * width];
            self.isa.run(Attend { isa: self.isa, shape, out, qkv, cache: cache(lane) });
        });
    }

    /// Writes the keys or values of one position, `[C]`, into a cache `[n_head, n_ctx, head_dim]`.
    pub(crate) fn store<E: KvElement>(
        &self,
        cache: &mut [E],
        row: &[f32],
        position: usize,
        shape: AttentionShape,
    ) {
        self.isa.run(kv::Store { isa: self.isa, cache, row, position, shape });
    }

    /// Runs a loop of the caller's with this instruction set.
    pub fn run<V: Vectorised>(&self, work: V) -> V::Output {
        self.isa.run(work)
    }
}

/// [`Quants`] for `n` numbers in whole rows.
pub(crate) const fn n_quants(n: usize) -> usize {
    n.div_ceil(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::Serial;
    use crate::rng::Rng;
    use std::vec;
    use std::vec::Vec;

    fn random(rng: &mut Rng, n: usize) -> Vec<f32> {
        (0..n).map(|_| rng.next_normal()).collect()
    }

    #[test]
    fn layer_norm_and_attention_match_double_precision() {
        let mut rng = Rng::new(12, 0);
        for isa in Isa::supported().into_iter().flatten() {
            let kernels = Kernels::new(isa);
            for c in [1usize, 5, 16, 17, 33, 100] {
                let (x, w, b) = (random(&mut rng, c), random(&mut rng, c), random(&mut rng, c));
                let mut out = vec![0.0; c];
                kernels.layer_norm(&Serial, &mut out, &x, (&w, &b), 1e-5);
                let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / c as f64;
                let var = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / c as f64;
                for i in 0..c {
                    let want = (f64::from(x[i]) - mean) / (var + 1e-5).sqrt() * f64::from(w[i])
                        + f64::from(b[i]);
                    assert!((f64::from(out[i]) - want).abs() < 1e-4);
                }
            }
            for (head_dim, n_keys) in [(1usize, 1usize), (16, 31), (16, 32), (20, 33), (64, 200)] {
                let q = random(&mut rng, 3 * head_dim);
                let k = random(&mut rng, n_keys * head_dim);
                let v = random(&mut rng, n_keys * head_dim);
                let mut out = vec![f32::NAN; head_dim];
                let shape = AttentionShape { n_head: 1, head_dim, n_ctx: n_keys, past: n_keys - 1 };
                kernels.attention(&Serial, &mut out, &q, 1, |_| (&k[..], &v[..]), shape);
                let dots: Vec<f64> = k
                    .chunks(head_dim)
                    .map(|k| k.iter().zip(&q).map(|(a, b)| f64::from(a * b)).sum::<f64>())
                    .map(|dot| dot / (head_dim as f64).sqrt())
                    .collect();
                let max = dots.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = dots.iter().map(|d| (d - max).exp()).sum();
                for i in 0..head_dim {
                    let want: f64 = (0..n_keys)
                        .map(|j| (dots[j] - max).exp() / sum * f64::from(v[j * head_dim + i]))
                        .sum();
                    assert!((f64::from(out[i]) - want).abs() < 1e-5);
                }
            }
        }
    }
}
