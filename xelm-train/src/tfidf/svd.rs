//! Randomised truncated SVD (Halko, Martinsson and Tropp, 2011) of a large sparse matrix.
//!
//! A random subspace is driven towards the leading right singular vectors by multiplying with the matrix
//! and its transpose, orthonormalised after each product, as scikit-learn does; the small problem inside it
//! is solved exactly. All sums have a fixed order, so the result is the same for any number of threads.

use super::sparse::Sparse;
use rayon::prelude::*;
use xelm_runtime::rng::Rng;

/// Rounds of products with the matrix and its transpose.
const N_ITER: usize = 5;
/// Dimensions of the subspace beyond those wanted.
const OVERSAMPLING: usize = 10;
/// Directions shorter than this share of the longest are rounding errors.
const NEGLIGIBLE: f64 = 1e-6;
/// Rows whose products are added up together; not a matter of threads.
const ROWS: usize = 2048;

/// The leading singular values and right singular vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Svd {
    /// Singular values, descending.
    pub values: Vec<f64>,
    /// `[n_cols, values.len()]`, row-major: one row per column of the matrix. The largest number of each
    /// vector is positive.
    pub vectors: Vec<f32>,
}

/// At most `dims` singular values and vectors of `matrix`: fewer where its rank is lower.
pub fn svd(matrix: &Sparse, dims: usize, seed: u64) -> Svd {
    let (n_rows, n_cols) = (matrix.n_rows(), matrix.n_cols);
    let dims = dims.min(n_rows).min(n_cols);
    let mut width = (dims + OVERSAMPLING).min(n_rows).min(n_cols);
    if dims == 0 {
        return Svd { values: Vec::new(), vectors: Vec::new() };
    }
    let transposed = matrix.transposed();
    let mut z = vec![0.0; n_cols * width];
    z.par_chunks_mut(width).enumerate().for_each(|(i, row)| {
        let mut rng = Rng::new(seed, i as u64);
        row.iter_mut().for_each(|x| *x = rng.next_normal());
    });
    // One round more than asked for: scikit-learn's last projection counts for as much.
    for _ in 0..=N_ITER {
        (z, width) = orthonormal(matrix.times(&z, width), width);
        (z, width) = orthonormal(transposed.times(&z, width), width);
    }
    // Each pass leaves an error that grows with the ratio of the lengths; the second leaves none.
    (z, width) = orthonormal(z, width);
    if width == 0 {
        return Svd { values: Vec::new(), vectors: Vec::new() };
    }
    // Within the subspace of z, the squared singular values are the eigenvalues of (A z)ᵀ (A z).
    let small = gram(&matrix.times(&z, width), width);
    let (squares, rotation) = eigen(small, width);
    let smallest = squares[0] * NEGLIGIBLE * NEGLIGIBLE;
    let dims = squares.iter().take(dims).take_while(|&&square| square > smallest).count();
    let values = squares[..dims].iter().map(|square| square.sqrt()).collect();
    let mut vectors = rotated(&z, width, &rotation, dims);
    fix_signs(&mut vectors, dims);
    Svd { values, vectors }
}

/// An orthonormal basis of the columns of `z`, `[n, width]`, and its width: directions that are negligible
/// are dropped.
fn orthonormal(z: Vec<f32>, width: usize) -> (Vec<f32>, usize) {
    if width == 0 {
        return (z, width);
    }
    let (squares, mut rotation) = eigen(gram(&z, width), width);
    let smallest = squares[0] * NEGLIGIBLE * NEGLIGIBLE;
    let kept = squares.iter().take_while(|&&square| square > smallest).count();
    for row in rotation.chunks_mut(width) {
        row.iter_mut().zip(&squares[..kept]).for_each(|(x, square)| *x /= square.sqrt());
    }
    (rotated(&z, width, &rotation, kept), kept)
}

/// zᵀ z of `z`, `[n, width]`.
fn gram(z: &[f32], width: usize) -> Vec<f64> {
    let parts: Vec<Vec<f64>> = z
        .par_chunks(ROWS * width)
        .map(|rows| {
            let mut part = vec![0.0f64; width * width];
            // Four rows at a time, so that a sum is read and written once for the four.
            let mut four = vec![0.0f64; 4 * width];
            for rows in rows.chunks(4 * width) {
                four.fill(0.0);
                four.iter_mut().zip(rows).for_each(|(x, &y)| *x = f64::from(y));
                let (a, bcd) = four.split_at(width);
                let (b, cd) = bcd.split_at(width);
                let (c, d) = cd.split_at(width);
                for i in 0..width {
                    for (j, sum) in part[i * width..][..=i].iter_mut().enumerate() {
                        *sum += a[i] * a[j] + b[i] * b[j] + c[i] * c[j] + d[i] * d[j];
                    }
                }
            }
            part
        })
        .collect();
    let mut whole = vec![0.0; width * width];
    for part in parts {
        whole.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    }
    for i in 0..width {
        for j in 0..i {
            whole[j * width + i] = whole[i * width + j];
        }
    }
    whole
}

/// z · the first `kept` columns of `rotation`, `[width, width]`.
fn rotated(z: &[f32], width: usize, rotation: &[f64], kept: usize) -> Vec<f32> {
    let mut out = vec![0.0; z.len() / width * kept];
    if kept > 0 {
        out.par_chunks_mut(kept).zip(z.par_chunks(width)).for_each_init(
            || vec![0.0f64; kept],
            |sums, (out, row)| {
                sums.fill(0.0);
                for (&x, column) in row.iter().zip(rotation.chunks(width)) {
                    for (sum, &r) in sums.iter_mut().zip(column) {
                        *sum += f64::from(x) * r;
                    }
                }
                out.iter_mut().zip(sums.iter()).for_each(|(out, &sum)| *out = sum as f32);
            },
        );
    }
    out
}

fn fix_signs(vectors: &mut [f32], dims: usize) {
    let mut largest = vec![0.0f32; dims];
    for row in vectors.chunks(dims.max(1)) {
        for (largest, &x) in largest.iter_mut().zip(row) {
            if x.abs() > largest.abs() {
                *largest = x;
            }
        }
    }
    for row in vectors.chunks_mut(dims.max(1)) {
        for (x, largest) in row.iter_mut().zip(&largest) {
            *x *= largest.signum();
        }
    }
}

/// Eigenvalues of a symmetric matrix, descending, and the eigenvectors as the columns of a matrix, by
/// Jacobi's rotations.
fn eigen(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    // Rows of `v` become the eigenvectors: rotations touch whole rows.
    let mut v = vec![0.0; n * n];
    (0..n).for_each(|i| v[i * n + i] = 1.0);
    const SWEEPS: usize = 30;
    for _ in 0..SWEEPS {
        let mut rotations = 0;
        for p in 0..n {
            for q in p + 1..n {
                let (app, aqq, apq) = (a[p * n + p], a[q * n + q], a[p * n + q]);
                if apq.abs() <= f64::EPSILON * (app * aqq).abs().sqrt() {
                    continue;
                }
                rotations += 1;
                let theta = (aqq - app) / (2.0 * apq);
                let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let cos = 1.0 / t.hypot(1.0);
                let sin = t * cos;
                rotate_rows(&mut a, n, p, q, cos, sin);
                for i in 0..n {
                    let (x, y) = (a[i * n + p], a[i * n + q]);
                    (a[i * n + p], a[i * n + q]) = (cos * x - sin * y, sin * x + cos * y);
                }
                rotate_rows(&mut v, n, p, q, cos, sin);
            }
        }
        if rotations == 0 {
            break;
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| a[j * n + j].total_cmp(&a[i * n + i]).then(i.cmp(&j)));
    let values = order.iter().map(|&i| a[i * n + i].max(0.0)).collect();
    let mut vectors = vec![0.0; n * n];
    for (to, &from) in order.iter().enumerate() {
        for i in 0..n {
            vectors[i * n + to] = v[from * n + i];
        }
    }
    (values, vectors)
}

fn rotate_rows(a: &mut [f64], n: usize, p: usize, q: usize, cos: f64, sin: f64) {
    let (head, tail) = a.split_at_mut(q * n);
    for (x, y) in head[p * n..][..n].iter_mut().zip(&mut tail[..n]) {
        (*x, *y) = (cos * *x - sin * *y, sin * *x + cos * *y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(rows: usize, cols: usize, seed: u64) -> Sparse {
        let mut rng = Rng::new(seed, 1);
        let mut matrix = Sparse::new(cols);
        for row in 0..rows {
            let n = rng.below(9);
            // Earlier rows are longer, so that the singular values fall off.
            let scale = 1.0 / (1.0 + row as f32 * 0.1);
            let mut columns: Vec<u32> = (0..n).map(|_| rng.below(cols as u32)).collect();
            columns.sort_unstable();
            columns.dedup();
            matrix.push(columns.into_iter().map(|c| (c, scale * rng.next_normal())));
        }
        matrix
    }

    fn dense(matrix: &Sparse) -> Vec<f32> {
        let mut out = vec![0.0; matrix.n_rows() * matrix.n_cols];
        for row in 0..matrix.n_rows() {
            matrix.row(row).for_each(|(c, x)| out[row * matrix.n_cols + c as usize] += x);
        }
        out
    }

    #[test]
    fn eigenvectors_solve_their_equation() {
        let n = 23;
        let mut rng = Rng::new(1, 2);
        let z: Vec<f32> = (0..40 * n).map(|_| rng.next_normal()).collect();
        let a = gram(&z, n);
        let (values, vectors) = eigen(a.clone(), n);
        assert!(values.windows(2).all(|w| w[0] >= w[1]));
        for k in 0..n {
            for i in 0..n {
                let av: f64 = (0..n).map(|j| a[i * n + j] * vectors[j * n + k]).sum();
                assert!((av - values[k] * vectors[i * n + k]).abs() < 1e-10 * values[0]);
            }
        }
        assert_eq!(eigen(vec![0.0; 4], 2).0, [0.0, 0.0]);
    }

    #[test]
    fn equals_the_exact_decomposition() {
        let matrix = random(70, 40, 3);
        let (squares, exact) = eigen(gram(&dense(&matrix), 40), 40);
        let svd = svd(&matrix, 6, 5);
        for k in 0..6 {
            let value = squares[k].sqrt();
            assert!((svd.values[k] - value).abs() < 1e-3 * value, "{} {value}", svd.values[k]);
            let dot: f64 =
                (0..40).map(|i| f64::from(svd.vectors[i * 6 + k]) * exact[i * 40 + k]).sum();
            assert!(dot.abs() > 0.999, "vector {k}: {dot}");
        }
        let unit = gram(&svd.vectors, 6);
        for (i, x) in unit.iter().enumerate() {
            assert!((x - f64::from(u8::from(i % 7 == 0))).abs() < 1e-5, "{unit:?}");
        }
    }

    #[test]
    fn fewer_dimensions_where_the_rank_is_lower() {
        let mut matrix = Sparse::new(9);
        for row in [[(0, 1.0), (3, 2.0)], [(0, 2.0), (3, 4.0)], [(1, 1.0), (8, -1.0)]] {
            matrix.push(row);
        }
        let found = svd(&matrix, 100, 1);
        assert_eq!((found.values.len(), found.vectors.len()), (2, 18));
        assert!(
            (found.values[0] - 5.0).abs() < 1e-5 && (found.values[1] - 2f64.sqrt()).abs() < 1e-5
        );
        for (rows, cols) in [(1, 5), (5, 1), (12, 3)] {
            assert!(svd(&random(rows, cols, 7), 100, 1).values.len() <= rows.min(cols));
        }
        let mut zeros = Sparse::new(4);
        zeros.push([]);
        assert_eq!(svd(&zeros, 3, 1), Svd { values: vec![], vectors: vec![] });
        assert!(svd(&Sparse::new(0), 3, 1).values.is_empty());
    }

    #[test]
    fn the_same_bits_for_any_number_of_threads() {
        let matrix = random(5000, 300, 4);
        let with = |n| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
            pool.install(|| svd(&matrix, 12, 9))
        };
        assert_eq!(with(1), with(3));
        assert_ne!(with(1), svd(&matrix, 12, 10));
    }
}
