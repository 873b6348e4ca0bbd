//! Layer norm, forward and backward, alone and together with the residual connection before it.

use super::elementwise::Residual;
use crate::backend::Dropout;
use rayon::prelude::*;
use xelm_runtime::isa::{Isa, Vectorised};
use xelm_runtime::math;

/// Rows that one task handles.
const ROWS: usize = 64;

pub(super) fn forward(
    isa: Isa,
    out: &mut [f32],
    stats: &mut [f32],
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
) {
    let c = weight.len();
    let tasks = out.par_chunks_mut(ROWS * c).zip(stats.par_chunks_mut(ROWS * 2));
    tasks.zip(x.par_chunks(ROWS * c)).for_each(|((out, stats), x)| {
        isa.run(Forward { out, stats, x, weight, bias, eps });
    });
}

/// stream = x + dropout(branch), then [`forward`] of it while it is in the cache.
pub(super) fn residual(
    isa: Isa,
    out: &mut [f32],
    stats: &mut [f32],
    stream: &mut [f32],
    x: &[f32],
    branch: &[f32],
    dropout: Dropout,
    weight: &[f32],
    bias: &[f32],
    eps: f32,
) {
    let n = ROWS * weight.len();
    let tasks = out.par_chunks_mut(n).zip(stats.par_chunks_mut(ROWS * 2)).enumerate();
    let inputs = stream.par_chunks_mut(n).zip(x.par_chunks(n).zip(branch.par_chunks(n)));
    tasks.zip(inputs).for_each(|((task, (out, stats)), (stream, (x, branch)))| {
        let first = (task * n) as u64;
        isa.run(Residual { out: stream, x: Some(x), branch, dropout, first });
        isa.run(Forward { out, stats, x: stream, weight, bias, eps });
    });
}

struct Forward<'a> {
    out: &'a mut [f32],
    stats: &'a mut [f32],
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
}

impl Vectorised for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let c = self.weight.len();
        let rows = self.out.chunks_exact_mut(c).zip(self.x.chunks_exact(c));
        for ((out, x), stats) in rows.zip(self.stats.chunks_exact_mut(2)) {
            let mean = sum_of_powers::<1>(x, 0.0) / c as f32;
            let variance = sum_of_powers::<2>(x, mean) / c as f32;
            let rstd = 1.0 / math::sqrt(variance + self.eps);
            stats.copy_from_slice(&[mean, rstd]);
            for i in 0..c {
                out[i] = (x[i] - mean) * rstd * self.weight[i] + self.bias[i];
            }
        }
    }
}

/// Σ (x − mean)ᴾ in sixteen lanes.
#[inline(always)]
fn sum_of_powers<const P: u32>(x: &[f32], mean: f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (chunks, tail) = x.as_chunks::<16>();
    for chunk in chunks {
        for l in 0..16 {
            let d = chunk[l] - mean;
            lanes[l] += if P == 1 { d } else { d * d };
        }
    }
    for (l, &x) in tail.iter().enumerate() {
        let d = x - mean;
        lanes[l] += if P == 1 { d } else { d * d };
    }
    lanes.iter().sum()
}

/// With a branch, its gradient follows from that of the input, which is the residual stream.
pub(super) fn backward(
    isa: Isa,
    d_x: &mut [f32],
    branch: Option<(&mut [f32], Dropout)>,
    d_weight: &mut [f32],
    d_bias: &mut [f32],
    d_out: &[f32],
    x: &[f32],
    stats: &[f32],
    weight: &[f32],
) {
    let c = weight.len();
    let tasks = d_x.par_chunks_mut(ROWS * c).zip(stats.par_chunks(ROWS * 2));
    let tasks = tasks.zip(d_out.par_chunks(ROWS * c).zip(x.par_chunks(ROWS * c)));
    let n_tasks = stats.len().div_ceil(ROWS * 2);
    let branches: Vec<_> = match branch {
        Some((d_branch, dropout)) => {
            d_branch.chunks_mut(ROWS * c).map(|part| Some((part, dropout))).collect()
        }
        None => (0..n_tasks).map(|_| None).collect(),
    };
    // Each task sums the weights' gradients over its rows; the sums are added in order.
    let sums: Vec<Vec<f32>> = tasks
        .zip(branches)
        .enumerate()
        .map(|(task, (((d_x, stats), (d_out, x)), branch))| {
            let mut sums = vec![0.0; 2 * c];
            let (d_weight, d_bias) = sums.split_at_mut(c);
            isa.run(Backward { d_x: &mut *d_x, d_weight, d_bias, d_out, x, stats, weight });
            if let Some((d_branch, dropout)) = branch {
                let first = (task * ROWS * c) as u64;
                isa.run(Residual { out: d_branch, x: None, branch: d_x, dropout, first });
            }
            sums
        })
        .collect();
    for sum in &sums {
        for i in 0..c {
            d_weight[i] += sum[i];
            d_bias[i] += sum[c + i];
        }
    }
}

struct Backward<'a> {
    d_x: &'a mut [f32],
    d_weight: &'a mut [f32],
    d_bias: &'a mut [f32],
    d_out: &'a [f32],
    x: &'a [f32],
    stats: &'a [f32],
    weight: &'a [f32],
}

impl Vectorised for Backward<'_> {
    type Output = ();
    /// With x̂ = (x − mean) · rstd and g = d_out · weight:
    /// d_x = rstd · (g − mean(g) − x̂ · mean(g · x̂)).
    #[inline(always)]
    fn run(self) {
        let Backward { d_x, d_weight, d_bias, d_out, x, stats, weight } = self;
        let c = weight.len();
        let rows = d_x.chunks_exact_mut(c).zip(d_out.chunks_exact(c));
        for ((d_x, d_out), (x, stats)) in rows.zip(x.chunks_exact(c).zip(stats.chunks_exact(2))) {
            let (mean, rstd) = (stats[0], stats[1]);
            let mut g_lanes = [0.0f32; 16];
            let mut gx_lanes = [0.0f32; 16];
            for start in (0..c).step_by(16) {
                for l in 0..16.min(c - start) {
                    let i = start + l;
                    let normed = (x[i] - mean) * rstd;
                    let g = d_out[i] * weight[i];
                    g_lanes[l] += g;
                    gx_lanes[l] += g * normed;
                    d_weight[i] += d_out[i] * normed;
                    d_bias[i] += d_out[i];
                }
            }
            let g_mean = g_lanes.iter().sum::<f32>() / c as f32;
            let gx_mean = gx_lanes.iter().sum::<f32>() / c as f32;
            for i in 0..c {
                let normed = (x[i] - mean) * rstd;
                d_x[i] += rstd * (d_out[i] * weight[i] - g_mean - normed * gx_mean);
            }
        }
    }
}
