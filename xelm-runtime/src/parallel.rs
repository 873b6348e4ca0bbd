//! Dividing a phase of work among threads, with results that do not depend on their number.
//!
//! A phase is a number of tasks; each task writes its own part of the output and reads nothing that
//! another one writes. Who runs which task therefore cannot change a bit of the result.

use core::ops::Range;

/// Something that runs the tasks of a phase. Implementations may be threads of the caller's; none
/// allocates.
///
/// # Safety
/// `run` must call `task` with each of `0..n_tasks` exactly once, and return only when all calls
/// have ended: the kernels write disjoint parts of their output through that promise.
pub unsafe trait Parallel: Sync {
    /// Runs every task.
    fn run(&self, n_tasks: usize, task: &(dyn Fn(usize) + Sync));
}

/// Runs all tasks on the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

// SAFETY: a plain loop over the indices.
unsafe impl Parallel for Serial {
    fn run(&self, n_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..n_tasks).for_each(task);
    }
}

/// Multiply-adds of a task at least: below, the work is not worth sharing.
const MIN_WORK: usize = 1 << 15;

/// How many equal parts `n` items are divided into when the whole phase costs `work` multiply-adds
/// and parts must be multiples of `unit`. Depends on shapes only.
pub(crate) fn part_len(n: usize, unit: usize, work: usize) -> usize {
    let parts = (work / MIN_WORK).clamp(1, 64);
    n.div_ceil(parts).next_multiple_of(unit).max(1)
}

/// Divides the rows of `out` (`row_len` elements each) into runs of `rows_per_task` and hands each
/// task the index of its first row and the run.
pub(crate) fn split_rows<T: Send>(
    parallel: &dyn Parallel,
    out: &mut [T],
    row_len: usize,
    rows_per_task: usize,
    task: impl Fn(usize, &mut [T]) + Sync,
) {
    let len = out.len();
    let chunk = row_len.saturating_mul(rows_per_task).max(1);
    let base = Shared(out.as_mut_ptr());
    parallel.run(len.div_ceil(chunk), &|i| {
        let start = i * chunk;
        let n = chunk.min(len - start);
        // SAFETY: `start < len` for every task index, so the range lies inside `out`, which is
        // borrowed mutably until `run` returns; ranges of different tasks do not overlap, and
        // `Parallel::run` runs each index once.
        let run = unsafe { core::slice::from_raw_parts_mut(base.at(start), n) };
        task(i * rows_per_task, run);
    });
}

/// Divides the columns of `n_lanes` row-major matrices of width `n_cols` and equal height, which `out`
/// holds one after the other, into ranges of `cols_per_task`: one task each, told the index of its
/// matrix.
pub(crate) fn split_columns(
    parallel: &dyn Parallel,
    out: &mut [f32],
    n_lanes: usize,
    n_cols: usize,
    cols_per_task: usize,
    task: impl Fn(usize, Columns<'_>) + Sync,
) {
    let n_rows = out.len().checked_div(n_lanes * n_cols).unwrap_or(0);
    let base = Shared(out.as_mut_ptr());
    let tasks_per_lane = n_cols.div_ceil(cols_per_task.max(1));
    parallel.run(n_lanes * tasks_per_lane, &|i| {
        let (lane, start) = (i / tasks_per_lane, i % tasks_per_lane * cols_per_task);
        let range = start..n_cols.min(start + cols_per_task);
        let base = base.at(lane * n_rows * n_cols);
        task(lane, Columns { base, n_rows, n_cols, range, _out: core::marker::PhantomData });
    });
}

/// The columns `range` of a row-major matrix, writable by one task.
#[derive(Debug)]
pub struct Columns<'a> {
    base: *mut f32,
    n_rows: usize,
    n_cols: usize,
    range: Range<usize>,
    _out: core::marker::PhantomData<&'a mut [f32]>,
}

impl Columns<'_> {
    /// The columns that this task owns.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Writes one element.
    ///
    /// # Panics
    /// The element is not in this task's columns.
    #[inline(always)]
    pub fn set(&mut self, row: usize, col: usize, value: f32) {
        assert!(row < self.n_rows && self.range.contains(&col));
        let place = self.base.wrapping_add(row * self.n_cols + col);
        // SAFETY: inside the matrix by the assertion; only this task owns the column, and the
        // matrix stays mutably borrowed in `split_columns` until all tasks are done.
        unsafe { *place = value };
    }

    /// The elements `col..col + len` of a row.
    ///
    /// # Panics
    /// They are not all in this task's columns.
    #[inline(always)]
    pub fn run(&mut self, row: usize, col: usize, len: usize) -> &mut [f32] {
        let inside =
            self.range.start <= col && col <= self.range.end && len <= self.range.end - col;
        assert!(row < self.n_rows && inside);
        let first = self.base.wrapping_add(row * self.n_cols + col);
        // SAFETY: as in `set`; the slice borrows this value mutably, so that there is one at a time.
        unsafe { core::slice::from_raw_parts_mut(first, len) }
    }
}

/// A pointer that tasks may share because they use disjoint parts of what it points to.
struct Shared<T>(*mut T);
// SAFETY: every use is an access to a range that belongs to one task (see the callers above).
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn at(&self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn every_row_and_column_once() {
        for (rows, cols, per) in [(1, 1, 1), (3, 7, 2), (5, 64, 64), (4, 10, 3), (0, 4, 2)] {
            let mut out = vec![0.0f32; rows * cols];
            for lanes in [1, rows.max(1)] {
                let height = rows / lanes;
                split_columns(&Serial, &mut out, lanes, cols, per, |lane, mut tile| {
                    assert_eq!(tile.n_rows(), height);
                    for r in 0..tile.n_rows() {
                        for c in tile.range() {
                            tile.set(r, c, ((lane * height + r) * cols + c) as f32);
                        }
                    }
                });
                assert!(out.iter().enumerate().all(|(i, &x)| x == i as f32));
                out.fill(0.0);
            }
            let mut rows_seen = vec![0u8; rows * cols];
            split_rows(&Serial, &mut rows_seen, cols, per, |first, run| {
                assert_eq!(run.len() % cols, 0);
                assert!(first * cols < rows * cols);
                run.iter_mut().for_each(|x| *x += 1);
            });
            assert!(rows_seen.iter().all(|&n| n == 1));
        }
    }
}
