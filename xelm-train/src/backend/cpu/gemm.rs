//! Matrix products over the `gemm` crate: a checked view of matrices, and two ways of dividing a
//! product among threads that depend on its shape alone.

use super::grown;
use gemm::Parallelism;
use rayon::prelude::*;

/// A matrix view with strides in numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mat<'a> {
    data: &'a [f32],
    n_rows: usize,
    n_cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// Rows of `n_cols` numbers, one behind the other.
    pub(super) fn rows(data: &'a [f32], n_cols: usize) -> Self {
        Mat::strided(data, data.len() / n_cols, n_cols, n_cols)
    }

    /// `n_rows` rows of `n_cols` numbers that begin `stride` apart.
    pub(super) fn strided(data: &'a [f32], n_rows: usize, n_cols: usize, stride: usize) -> Self {
        assert!(n_rows == 0 || (n_rows - 1) * stride + n_cols <= data.len());
        Mat { data, n_rows, n_cols, row_stride: stride, col_stride: 1 }
    }

    /// The transposed matrix, without moving anything.
    pub(super) fn transposed(self) -> Self {
        Mat {
            n_rows: self.n_cols,
            n_cols: self.n_rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Rows `start..start + n`.
    fn row_range(self, start: usize, n: usize) -> Self {
        assert!(start + n <= self.n_rows);
        Mat { data: &self.data[start * self.row_stride..], n_rows: n, ..self }
    }

    /// Columns `start..start + n`.
    fn col_range(self, start: usize, n: usize) -> Self {
        assert!(start + n <= self.n_cols);
        Mat { data: &self.data[start * self.col_stride..], n_cols: n, ..self }
    }
}

/// out = a · b, or out += a · b, on the calling thread; `out` has rows `out_stride` apart.
#[expect(unsafe_code, reason = "the gemm crate takes pointers and strides")]
pub(super) fn gemm(out: &mut [f32], out_stride: usize, a: Mat<'_>, b: Mat<'_>, accumulate: bool) {
    let (m, n, k) = (a.n_rows, b.n_cols, a.n_cols);
    assert_eq!(k, b.n_rows);
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * out_stride + n <= out.len() && n <= out_stride);
    // SAFETY: the last element that each operand's strides reach lies inside its slice: of `out` by
    // the assertion above, of `a` and `b` by the assertions that made them. `out` is borrowed
    // mutably, so it overlaps neither.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            if accumulate { 1.0 } else { 0.0 },
            1.0f32,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Rows of an output of `n` rows that one task computes: few enough that several threads share a small
/// product, many enough that packing `b` anew in each task is a small part of its work.
fn rows_per_task(n: usize) -> usize {
    (n / 4).next_multiple_of(16).clamp(64, 256)
}

/// out = a · b, `out` row-major without gaps, divided by rows; `epilogue` sees each finished run of
/// rows while it is still in the cache.
pub(super) fn gemm_rows(
    out: &mut [f32],
    a: Mat<'_>,
    b: Mat<'_>,
    epilogue: impl Fn(&mut [f32]) + Sync,
) {
    let n = b.n_cols;
    let per_task = rows_per_task(a.n_rows);
    out.par_chunks_mut(per_task * n).enumerate().for_each(|(i, rows)| {
        let part = a.row_range(i * per_task, rows.len() / n);
        gemm(rows, n, part, b, false);
        epilogue(rows);
    });
}

/// out += a · b where the inner dimension is long (weight gradients). A small output is summed over
/// fixed parts of the inner dimension, a large one divided by rows.
pub(super) fn gemm_sum(out: &mut [f32], a: Mat<'_>, b: Mat<'_>, scratch: &mut Vec<f32>) {
    /// Outputs up to this many numbers are summed from parts.
    const SMALL: usize = 1 << 18;
    const INNER_PER_PART: usize = 256;
    let (n, k) = (b.n_cols, a.n_cols);
    let n_parts = k.div_ceil(INNER_PER_PART).clamp(1, 8);
    if out.len() > SMALL || n_parts == 1 {
        let per_task = rows_per_task(a.n_rows);
        out.par_chunks_mut(per_task * n).enumerate().for_each(|(i, rows)| {
            gemm(rows, n, a.row_range(i * per_task, rows.len() / n), b, true);
        });
        return;
    }
    let inner = k.div_ceil(n_parts);
    let len = out.len();
    let parts = grown(scratch, n_parts * len);
    parts.par_chunks_mut(len).enumerate().for_each(|(i, part)| {
        let start = (i * inner).min(k);
        let count = inner.min(k - start);
        gemm(
            part,
            n,
            a.col_range(start, count),
            b.transposed().col_range(start, count).transposed(),
            false,
        );
    });
    for part in parts.chunks_exact(len) {
        for (x, y) in out.iter_mut().zip(part) {
            *x += y;
        }
    }
}
