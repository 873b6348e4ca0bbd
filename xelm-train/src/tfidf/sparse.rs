//! Sparse matrices, one row per document, and their product with dense ones.

use rayon::prelude::*;

/// A matrix in compressed rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Sparse {
    /// Number of columns.
    pub n_cols: usize,
    /// Where each row begins in the two vectors below; one more for the end.
    pub starts: Vec<usize>,
    /// Column of each number.
    pub columns: Vec<u32>,
    /// The numbers.
    pub values: Vec<f32>,
}

impl Sparse {
    /// A matrix without rows.
    pub fn new(n_cols: usize) -> Self {
        Sparse { n_cols, starts: vec![0], columns: Vec::new(), values: Vec::new() }
    }

    /// Appends a row of (column, number).
    pub fn push(&mut self, row: impl IntoIterator<Item = (u32, f32)>) {
        for (column, value) in row {
            self.columns.push(column);
            self.values.push(value);
        }
        self.starts.push(self.columns.len());
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.starts.len() - 1
    }

    /// Row `i` as (column, number).
    pub fn row(&self, i: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
        let range = self.starts[i]..self.starts[i + 1];
        self.columns[range.clone()].iter().copied().zip(self.values[range].iter().copied())
    }

    /// The transpose. Rows of the result have ascending columns.
    pub fn transposed(&self) -> Sparse {
        let mut starts = vec![0usize; self.n_cols + 1];
        for &column in &self.columns {
            starts[column as usize + 1] += 1;
        }
        for i in 0..self.n_cols {
            starts[i + 1] += starts[i];
        }
        let mut next = starts.clone();
        let mut columns = vec![0; self.columns.len()];
        let mut values = vec![0.0; self.values.len()];
        for row in 0..self.n_rows() {
            for (column, value) in self.row(row) {
                let at = &mut next[column as usize];
                (columns[*at], values[*at]) = (row as u32, value);
                *at += 1;
            }
        }
        Sparse { n_cols: self.n_rows(), starts, columns, values }
    }

    /// self · dense, where `dense` is `[n_cols, width]`, row-major: `[n_rows, width]`. Each number is a
    /// sum in double precision, in the order of the row.
    pub fn times(&self, dense: &[f32], width: usize) -> Vec<f32> {
        let mut product = vec![0.0; self.n_rows() * width];
        let rows = product.par_chunks_mut(width.max(1)).enumerate();
        rows.for_each_init(
            || vec![0.0f64; width],
            |sums, (i, out)| {
                sums.fill(0.0);
                for (column, value) in self.row(i) {
                    let row = &dense[column as usize * width..][..width];
                    for (sum, &x) in sums.iter_mut().zip(row) {
                        *sum += f64::from(value) * f64::from(x);
                    }
                }
                for (out, &sum) in out.iter_mut().zip(sums.iter()) {
                    *out = sum as f32;
                }
            },
        );
        product
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_and_transpose() {
        let mut a = Sparse::new(3);
        a.push([(2, 2.0), (0, 1.0)]);
        a.push([]);
        a.push([(1, -1.0)]);
        a.push([(0, 3.0), (1, 0.5), (2, 4.0)]);
        let dense = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0];
        assert_eq!(a.times(&dense, 2), [7.0, 70.0, 0.0, 0.0, -2.0, -20.0, 16.0, 160.0]);
        let t = a.transposed();
        assert_eq!((t.n_rows(), t.n_cols), (3, 4));
        assert_eq!(t.row(0).collect::<Vec<_>>(), [(0, 1.0), (3, 3.0)]);
        assert_eq!(t.row(2).collect::<Vec<_>>(), [(0, 2.0), (3, 4.0)]);
        assert_eq!(t.times(&[1.0, 5.0, 7.0, 100.0], 1), [301.0, 43.0, 402.0]);
        assert_eq!(Sparse::new(0).transposed().n_rows(), 0);
    }
}
