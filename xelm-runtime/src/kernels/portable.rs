//! The kernels in plain Rust, over the short vectors of `lanes`.

use super::Activations;
use super::lanes::{Element, Lanes, WIDTH, ZERO, fold, padded, widen};
use crate::config::Activation;
use crate::expert::Matrix;
use crate::isa::Vectorised;
use crate::math;
use crate::parallel::Columns;

/// Tokens that share one pass over a weight row.
pub(super) const TILE: usize = 4;

/// The dot products of one weight row with activation rows. A trait rather than closures: closures are
/// compiled on their own, without the instruction set of [`Vectorised::run`]'s caller.
pub(super) trait Dots {
    /// The products of row `row` with the tokens `first..first + N`.
    fn dots<const N: usize>(&self, row: usize, first: usize) -> [f32; N];
}

/// Fills `out`, [`TILE`] tokens sharing one pass over a weight row.
#[inline(always)]
pub(super) fn matmul(weights: &impl Dots, out: &mut Columns<'_>) {
    let n = out.n_rows();
    for row in out.range() {
        let mut t = 0;
        while t + TILE <= n {
            let dots: [f32; TILE] = weights.dots(row, t);
            for i in 0..TILE {
                out.set(t + i, row, dots[i]);
            }
            t += TILE;
        }
        while t < n {
            let [dot] = weights.dots(row, t);
            out.set(t, row, dot);
            t += 1;
        }
    }
}

/// A product with weights that are plain numbers.
pub(super) struct MatmulDense<'a, 'b, E>(
    pub(super) &'a Matrix<'a>,
    pub(super) &'a Activations<'a>,
    pub(super) &'a mut Columns<'b>,
    pub(super) core::marker::PhantomData<E>,
);

impl<E: Element> Vectorised for MatmulDense<'_, '_, E> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let MatmulDense(w, acts, out, _) = self;
        matmul(&Dense { weights: w.elements::<E>(), x: acts.x, n_cols: w.n_cols }, out);
    }
}

struct Dense<'a, E> {
    weights: &'a [E],
    x: &'a [f32],
    n_cols: usize,
}

impl<E: Element> Dots for Dense<'_, E> {
    #[inline(always)]
    fn dots<const N: usize>(&self, row: usize, first: usize) -> [f32; N] {
        let n = self.n_cols;
        dots(&self.weights[row * n..][..n], &self.x[first * n..][..N * n])
    }
}

/// The dot products of one row with N rows of `x`, N being 1 or [`TILE`].
#[inline(always)]
pub(super) fn dots<A: Element, B: Element, const N: usize>(row: &[A], x: &[B]) -> [f32; N] {
    let n = row.len();
    let of = |t: usize| x[t * n..][..n].as_chunks::<WIDTH>().0;
    let (chunks, tail) = row.as_chunks::<WIDTH>();
    let mut sums = [ZERO; N];
    // Iterators rather than indices: the sums stay in registers.
    if N == TILE {
        let rest = of(1).iter().zip(of(2)).zip(of(3));
        for ((w, x0), ((x1, x2), x3)) in chunks.iter().zip(of(0)).zip(rest) {
            let w = widen(w);
            for (sum, x) in sums.iter_mut().zip([x0, x1, x2, x3]) {
                add_products(sum, w, widen(x));
            }
        }
    } else {
        for t in 0..N {
            for (w, x) in chunks.iter().zip(of(t)) {
                add_products(&mut sums[t], widen(w), widen(x));
            }
        }
    }
    if !tail.is_empty() {
        let w = widen(&padded(tail));
        for t in 0..N {
            let x = widen(&padded(&x[(t + 1) * n - tail.len()..(t + 1) * n]));
            add_products(&mut sums[t], w, x);
        }
    }
    // A copy: what has an address is written to memory in every step.
    let sums = core::array::from_fn(|t| sums[t]);
    fold(&sums)
}

#[inline(always)]
fn add_products(sum: &mut Lanes, a: Lanes, b: Lanes) {
    *sum = [sum[0].add_product(a[0], b[0]), sum[1].add_product(a[1], b[1])];
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

/// Mean and (biased) variance of a row, in two passes of sixteen lanes.
#[inline(always)]
fn mean_variance(x: &[f32]) -> (f32, f32) {
    let n = x.len() as f32;
    let (chunks, tail) = x.as_chunks::<WIDTH>();
    let mut sums = [0.0; WIDTH];
    for chunk in chunks {
        for l in 0..WIDTH {
            sums[l] += chunk[l];
        }
    }
    for (l, &x) in tail.iter().enumerate() {
        sums[l] += x;
    }
    let mean = sums.iter().sum::<f32>() / n;
    let mut squares = [0.0; WIDTH];
    for chunk in chunks {
        for l in 0..WIDTH {
            squares[l] += (chunk[l] - mean) * (chunk[l] - mean);
        }
    }
    for (l, &x) in tail.iter().enumerate() {
        squares[l] += (x - mean) * (x - mean);
    }
    (mean, squares.iter().sum::<f32>() / n)
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

/// out = after(out + bias), for the columns that `out` owns.
pub(super) struct Finish<'a> {
    pub(super) out: Columns<'a>,
    /// Empty, or one number for every column of the whole matrix.
    pub(super) bias: &'a [f32],
    pub(super) after: Option<Activation>,
}

impl Vectorised for Finish<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        macro_rules! each {
            ($row:ident, $function:expr) => {
                for x in $row {
                    *x = $function(*x);
                }
            };
        }
        let Finish { mut out, bias, after } = self;
        let columns = out.range();
        let bias = bias.get(columns.clone()).unwrap_or_default();
        for t in 0..out.n_rows() {
            let row = out.run(t, columns.start, columns.len());
            for (x, b) in row.iter_mut().zip(bias) {
                *x += b;
            }
            // Three loops: a choice inside one would keep it from being vectorised.
            match after {
                Some(Activation::GeluErf) => each!(row, math::gelu_erf),
                Some(Activation::GeluTanh) => each!(row, math::gelu_tanh),
                Some(Activation::Relu) => each!(row, math::relu),
                None => {}
            }
        }
    }
}

/// ln Σ eˣ of a row.
pub(crate) struct LogSumExp<'a>(pub(crate) &'a [f32]);

impl Vectorised for LogSumExp<'_> {
    type Output = f32;
    #[inline(always)]
    fn run(self) -> f32 {
        math::log_sum_exp(self.0)
    }
}
