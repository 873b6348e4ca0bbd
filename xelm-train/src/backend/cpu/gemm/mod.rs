//! Matrix products: views of matrices, and the division of a product among threads.
//!
//! The right factor is packed once, by all threads; then every thread multiplies runs of rows of the left
//! factor with it (Goto & van de Geijn 2008). Each number of the output is summed in the same order however
//! the rows are divided.

mod kernel;
mod pack;
mod tiles;
mod vector;

#[cfg(test)]
mod tests;

pub(super) use kernel::Kernel;

use pack::Packed;

/// A matrix view with strides in numbers; numbers of a row or of a column lie one behind the other.
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

    /// Row `k`, whose numbers must be neighbours.
    #[inline(always)]
    fn row(self, k: usize) -> &'a [f32] {
        debug_assert_eq!(self.col_stride, 1);
        &self.data[k * self.row_stride..][..self.n_cols]
    }

    /// Column `j`, whose numbers must be neighbours.
    #[inline(always)]
    fn column(self, j: usize) -> &'a [f32] {
        debug_assert_eq!(self.row_stride, 1);
        &self.data[j * self.col_stride..][..self.n_rows]
    }

    #[inline(always)]
    fn at_or_zero(self, row: usize, col: usize) -> f32 {
        let inside = row < self.n_rows && col < self.n_cols;
        if inside { self.data[row * self.row_stride + col * self.col_stride] } else { 0.0 }
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

/// What a product is added to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start<'a> {
    /// Nothing: what the output held is overwritten.
    Zero,
    /// One row, the same for all rows of the output.
    Row(&'a [f32]),
    /// What the output holds.
    Output,
}

/// out = start + a · b on the calling thread; `out` has rows `stride` apart.
pub(super) fn gemm(
    kernel: Kernel,
    out: &mut [f32],
    stride: usize,
    a: Mat<'_>,
    b: Mat<'_>,
    start: Start<'_>,
) {
    pack::with_buffer(|buffer| {
        let b = Packed::new(kernel, b, buffer);
        tiles::multiply(kernel, out, stride, a, b, start);
    });
}

/// out = start + a · b on all threads; `out` has its rows one behind the other.
pub(super) fn par_gemm(
    kernel: Kernel,
    out: &mut [f32],
    a: Mat<'_>,
    b: Mat<'_>,
    start: Start<'_>,
    scratch: &mut Vec<f32>,
) {
    let b = Packed::par_new(kernel, b, scratch);
    let tiles = a.n_rows.div_ceil(kernel.rows());
    let per_task = (tiles / (2 * rayon::current_num_threads())).clamp(1, kernel.block_tiles());
    divided(kernel, out, a, b, start, per_task);
}

/// Halves the rows until they are at most `per_task` tiles high.
fn divided(
    kernel: Kernel,
    out: &mut [f32],
    a: Mat<'_>,
    b: Packed<'_>,
    start: Start<'_>,
    per_task: usize,
) {
    let tiles = a.n_rows.div_ceil(kernel.rows());
    if tiles <= per_task {
        return tiles::multiply(kernel, out, b.n_cols(), a, b, start);
    }
    let half = tiles / 2 * kernel.rows();
    let (above, below) = out.split_at_mut(half * b.n_cols());
    let (a_above, a_below) = (a.row_range(0, half), a.row_range(half, a.n_rows - half));
    rayon::join(
        || divided(kernel, above, a_above, b, start, per_task),
        || divided(kernel, below, a_below, b, start, per_task),
    );
}
