//! Rounding that makes up for itself: a matrix is chosen so that its *products* with the inputs that an expert
//! has seen come out right, not its numbers one by one.
//!
//! With H = Σ x·xᵀ of the inputs, a row w stored as ŵ loses eᵀHe, e = w − ŵ. Columns are rounded one after
//! the other; what was lost so far moves the next (Frantar et al., GPTQ, ICLR 2023, in the form of Chee et al.,
//! QuIP, NeurIPS 2023). Then single numbers are changed as long as that helps (Behdin et al., QuantEase, 2023).
//! What is lost on average goes into the bias.

use crate::grid::{Block, Grid};
use rayon::prelude::*;

/// Sweeps of single changes over a row at most.
const SWEEPS: usize = 8;

/// What errors cost, by the inputs of a matrix with n columns.
#[derive(Debug)]
pub(crate) struct Cost {
    n: usize,
    h: Vec<f32>,        // [n, n] symmetric
    feedback: Vec<f32>, // [n, n] row j: what an error in column j adds to the columns after it
    diagonal: Vec<f32>, // [n] of h
}

impl Cost {
    /// From the mean products of the inputs, `[n, n]`, of which `damping` times the mean square is added to the
    /// diagonal.
    pub(crate) fn new(mut h: Vec<f64>, n: usize, damping: f64) -> Cost {
        let mean = (0..n).map(|i| h[i * n + i]).sum::<f64>() / n as f64;
        for i in 0..n {
            // Where nothing was ever seen, any number will do; 1 keeps the factor alive.
            h[i * n + i] += if mean > 0.0 { damping * mean } else { 1.0 };
        }
        let mut factor = h.clone();
        factorize(&mut factor, n);
        let mut feedback = vec![0.0; n * n];
        feedback.par_chunks_mut(n).enumerate().for_each(|(j, row)| {
            for k in j + 1..n {
                row[k] = (factor[j * n + k] / factor[k * n + k]) as f32;
            }
        });
        let diagonal = (0..n).map(|i| h[i * n + i] as f32).collect();
        Cost { n, h: h.into_iter().map(|x| x as f32).collect(), feedback, diagonal }
    }

    /// Stores a row in blocks; returns the errors, w − ŵ.
    pub(crate) fn round<const N: usize, B: Block<N>>(
        &self,
        row: &[f32],
        out: &mut [u8],
    ) -> Vec<f32> {
        let n = self.n;
        let variance = row.iter().map(|w| w * w).sum::<f32>() / n as f32;
        let (mut error, mut moved) = (vec![0.0; n], row.to_vec());
        let (mut blocks, mut codes): (Vec<(B, Grid<N>)>, Vec<u8>) = (Vec::new(), vec![0; n]);
        for at in (0..n).step_by(N) {
            // The scales suit what the numbers have become.
            let (Some(x), Some(weights)) =
                (moved[at..].first_chunk(), self.diagonal[at..].first_chunk())
            else {
                break;
            };
            let block = B::fit(x, weights, variance);
            let grid = block.grid();
            for j in at..at + N {
                codes[j] = grid.nearest(j - at, moved[j]);
                error[j] = row[j] - grid.number(j - at, codes[j]);
                let feedback = &self.feedback[j * n..(j + 1) * n];
                for k in j + 1..n {
                    moved[k] += error[j] * feedback[k];
                }
            }
            blocks.push((block, grid));
        }
        self.improve(row, &blocks, &mut codes, &mut error);
        for ((block, _), (codes, out)) in blocks
            .iter()
            .zip(codes.as_chunks::<N>().0.iter().zip(out.chunks_exact_mut(size_of::<B>())))
        {
            out.copy_from_slice(bytemuck::bytes_of(&block.with(codes)));
        }
        error
    }

    /// Changes single numbers of a row as long as that helps.
    fn improve<const N: usize, B>(
        &self,
        row: &[f32],
        blocks: &[(B, Grid<N>)],
        codes: &mut [u8],
        error: &mut [f32],
    ) {
        let n = self.n;
        // The gradient of half the cost, H·e.
        let mut gradient = vec![0.0f32; n];
        for (j, &e) in error.iter().enumerate() {
            add(&mut gradient, &self.h[j * n..(j + 1) * n], e);
        }
        for _ in 0..SWEEPS {
            let mut changed = false;
            for j in 0..n {
                let (grid, i) = (&blocks[j / N].1, j % N);
                let stored = row[j] - error[j];
                let code = grid.nearest(i, stored + gradient[j] / self.diagonal[j]);
                let change = grid.number(i, code) - stored;
                // Of two that are equally near, the one that is there.
                let gain = change * (2.0 * gradient[j] - change * self.diagonal[j]);
                if code != codes[j] && gain > 1e-6 * self.diagonal[j] * change * change {
                    codes[j] = code;
                    error[j] = row[j] - grid.number(i, code);
                    add(&mut gradient, &self.h[j * n..(j + 1) * n], -change);
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
    }
}

/// x += a · y.
fn add(x: &mut [f32], y: &[f32], a: f32) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += a * y);
}

/// The upper triangular R with R·Rᵀ = a, in place of the upper half; what is below is left over.
fn factorize(a: &mut [f64], n: usize) {
    for k in (0..n).rev() {
        let pivot = a[k * n + k].max(f64::MIN_POSITIVE).sqrt();
        let column: Vec<f64> = (0..k).map(|i| a[i * n + k] / pivot).collect();
        a[k * n + k] = pivot;
        a[..k * n].par_chunks_mut(n).enumerate().for_each(|(i, row)| {
            row[k] = column[i];
            for (x, c) in row[i..k].iter_mut().zip(&column[i..]) {
                *x -= column[i] * c;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xelm_runtime::quant::{BlockQ4_0, BlockQ4K, DType, SUPER_BLOCK, dequantize_row};
    use xelm_runtime::rng::Rng;

    /// Mean products of inputs that go together: each is the one before it and something new.
    fn products(rng: &mut Rng, n: usize) -> Vec<f64> {
        let mut h = vec![0.0; n * n];
        for _ in 0..4 * n {
            let mut last = 0.0;
            let x: Vec<f64> = (0..n)
                .map(|_| {
                    last = 0.9 * last + f64::from(rng.next_normal());
                    last
                })
                .collect();
            for i in 0..n {
                for j in 0..n {
                    h[i * n + j] += x[i] * x[j] / (4 * n) as f64;
                }
            }
        }
        h
    }

    /// eᵀHe in double precision.
    fn loss(h: &[f64], e: &[f32]) -> f64 {
        let n = e.len();
        let of = |i: usize| {
            let row = h[i * n..(i + 1) * n].iter().zip(e);
            f64::from(e[i]) * row.map(|(h, &e)| h * f64::from(e)).sum::<f64>()
        };
        (0..n).map(of).sum()
    }

    #[test]
    fn the_factor_is_one() {
        let n = 40;
        let mut rng = Rng::new(5, 0);
        let h = products(&mut rng, n);
        let mut factor = h.clone();
        factorize(&mut factor, n);
        for i in 0..n {
            for j in i..n {
                let product: f64 = (j..n).map(|k| factor[i * n + k] * factor[j * n + k]).sum();
                assert!((product - h[i * n + j]).abs() < 1e-9 * h[0].max(1.0));
            }
        }
    }

    /// Rounding that looks at other columns loses far less than rounding to the nearest, and single changes
    /// never make it worse; the errors that are returned are those of what is stored.
    fn loses_less<const N: usize, B: Block<N>>(dtype: DType) {
        let n = SUPER_BLOCK * 2;
        let mut rng = Rng::new(6, 0);
        let h = products(&mut rng, n);
        let cost = Cost::new(h.clone(), n, 0.01);
        let (mut with, mut without) = (0.0, 0.0);
        for _ in 0..8 {
            let row: Vec<f32> = (0..n).map(|_| rng.next_normal()).collect();
            let mut out = vec![0; dtype.row_bytes(n).unwrap()];
            let mut stored = vec![0.0; n];
            let errors = cost.round::<N, B>(&row, &mut out);
            dequantize_row(dtype, &out, &mut stored).unwrap();
            for j in 0..n {
                assert!((row[j] - stored[j] - errors[j]).abs() < 1e-6);
            }
            with += loss(&h, &errors);
            crate::quantize_row(dtype, &row, Some(&cost.diagonal), &mut out).unwrap();
            dequantize_row(dtype, &out, &mut stored).unwrap();
            let errors: Vec<f32> = row.iter().zip(&stored).map(|(w, s)| w - s).collect();
            without += loss(&h, &errors);
        }
        assert!(with < 0.5 * without, "{}: {with} {without}", dtype.name());
    }

    #[test]
    fn errors_make_up_for_each_other() {
        loses_less::<_, BlockQ4_0>(DType::Q4_0);
        loses_less::<_, BlockQ4K>(DType::Q4K);
    }

    #[test]
    fn inputs_that_were_never_seen_are_harmless() {
        let (n, row) = (64, vec![0.25f32; 64]);
        let mut out = vec![0; 36];
        let mut h = vec![0.0; n * n];
        let errors = Cost::new(h.clone(), n, 0.01).round::<_, BlockQ4_0>(&row, &mut out);
        assert!(errors.iter().all(|e| e.abs() < 0.02));
        // One column alone.
        h[3 * n + 3] = 1.0;
        let errors = Cost::new(h, n, 0.01).round::<_, BlockQ4_0>(&row, &mut out);
        assert!(errors.iter().all(|e| e.is_finite()) && errors[3].abs() < 0.02);
    }
}
