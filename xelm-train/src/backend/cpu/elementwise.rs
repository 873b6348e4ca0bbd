//! Loops over numbers and columns.

use super::{CHUNK, grown};
use crate::backend::{Activation, AdamW, Dropout};
use rayon::prelude::*;
use xelm_runtime::isa::{Isa, Vectorised};
use xelm_runtime::math;

/// out = activation(x).
pub(super) struct Activate<'a>(
    pub(super) &'a mut [f32],
    pub(super) &'a [f32],
    pub(super) Activation,
);

/// A loop with its body in place: through a function value it would not be inlined, nor vectorised.
macro_rules! for_pairs {
    ($out:ident, $x:ident, $value:expr) => {
        for ($out, $x) in $out.iter_mut().zip($x.iter().copied()) {
            *$out = $value;
        }
    };
}

impl Vectorised for Activate<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Activate(out, x, kind) = self;
        match kind {
            Activation::GeluErf => for_pairs!(out, x, math::gelu_erf(x)),
            Activation::GeluTanh => for_pairs!(out, x, math::gelu_tanh(x)),
            Activation::Relu => for_pairs!(out, x, math::relu(x)),
        }
    }
}

/// d_x = d_x · activation′(x).
pub(super) struct ActivateBackward<'a>(
    pub(super) &'a mut [f32],
    pub(super) &'a [f32],
    pub(super) Activation,
);

impl Vectorised for ActivateBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let ActivateBackward(d_x, x, kind) = self;
        match kind {
            Activation::GeluErf => for_pairs!(d_x, x, *d_x * math::gelu_erf_derivative(x)),
            Activation::GeluTanh => for_pairs!(d_x, x, *d_x * math::gelu_tanh_derivative(x)),
            Activation::Relu => for_pairs!(d_x, x, if x > 0.0 { *d_x } else { 0.0 }),
        }
    }
}

/// out = x + dropout(branch), without `x` where there is none; `first` is the counter of the first
/// number.
pub(super) struct Residual<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) x: Option<&'a [f32]>,
    pub(super) branch: &'a [f32],
    pub(super) dropout: Dropout,
    pub(super) first: u64,
}

impl Vectorised for Residual<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Residual { out, x, branch, dropout, first } = self;
        match x {
            Some(x) => {
                for i in 0..out.len() {
                    out[i] = x[i] + branch[i];
                }
            }
            None => out.copy_from_slice(branch),
        }
        if dropout.p > 0.0 {
            for (i, out) in out.iter_mut().enumerate() {
                let dropped = branch[i] * dropout.factor(first + i as u64);
                *out = x.map_or(dropped, |x| x[i] + dropped);
            }
        }
    }
}

/// One AdamW update (Loshchilov & Hutter 2019, decoupled decay): p ← p·(1 − lr·wd), then
/// p ← p − lr · m̂ / (√v̂ + eps).
pub(super) struct AdamWStep<'a> {
    pub(super) p: &'a mut [f32],
    pub(super) g: &'a [f32],
    pub(super) m: &'a mut [f32],
    pub(super) v: &'a mut [f32],
    pub(super) clip: f32,
    pub(super) settings: AdamW,
}

impl Vectorised for AdamWStep<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let AdamWStep { p, g, m, v, clip, settings } = self;
        let AdamW { lr, beta1, beta2, eps, weight_decay, .. } = settings;
        let (correction1, correction2) = settings.corrections();
        let step = lr / correction1;
        let root = 1.0 / math::sqrt(correction2);
        let keep = 1.0 - lr * weight_decay;
        for i in 0..p.len() {
            let g = g[i] * clip;
            m[i] = beta1 * m[i] + (1.0 - beta1) * g;
            v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
            p[i] = p[i] * keep - step * m[i] / (math::sqrt(v[i]) * root + eps);
        }
    }
}

/// out[j] += Σ over rows of x[·, j], rows of `out.len()` numbers. Runs of rows are summed apart and
/// added in order.
pub(super) fn column_sums(isa: Isa, out: &mut [f32], x: &[f32], scratch: &mut Vec<f32>) {
    let n = out.len();
    let run = (CHUNK / n).max(1) * n;
    let n_runs = x.len().div_ceil(run);
    let sums = grown(scratch, n_runs * n);
    sums.par_chunks_mut(n).zip(x.par_chunks(run)).for_each(|(sum, rows)| {
        isa.run(SumRows(sum, rows));
    });
    for sum in sums.chunks_exact(n) {
        for (x, y) in out.iter_mut().zip(sum) {
            *x += y;
        }
    }
}

struct SumRows<'a>(&'a mut [f32], &'a [f32]);

impl Vectorised for SumRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let SumRows(sum, rows) = self;
        sum.fill(0.0);
        for row in rows.chunks_exact(sum.len()) {
            for (x, y) in sum.iter_mut().zip(row) {
                *x += y;
            }
        }
    }
}

/// Σ x², in double precision over fixed chunks.
pub(super) fn square_sum(isa: Isa, x: &[f32]) -> f64 {
    let parts: Vec<f64> = x.par_chunks(CHUNK).map(|x| isa.run(SquareSum(x))).collect();
    parts.iter().sum()
}

struct SquareSum<'a>(&'a [f32]);

impl Vectorised for SquareSum<'_> {
    type Output = f64;
    #[inline(always)]
    fn run(self) -> f64 {
        let mut lanes = [0.0f64; 16];
        let (chunks, tail) = self.0.as_chunks::<16>();
        for chunk in chunks {
            for l in 0..16 {
                lanes[l] += f64::from(chunk[l]) * f64::from(chunk[l]);
            }
        }
        for (l, &x) in tail.iter().enumerate() {
            lanes[l] += f64::from(x) * f64::from(x);
        }
        lanes.iter().sum()
    }
}
