//! Packing: the numbers of a factor in the order in which the kernel reads them.

use super::Mat;
use super::kernel::{BLOCK_INNER, Kernel};
use crate::backend::cpu::grown;
use rayon::prelude::*;
use std::cell::RefCell;
use xelm_runtime::isa::Vectorised;

/// The right factor: blocks of [`BLOCK_INNER`] packed rows (a row of the matrix each, or two in bf16); in each block,
/// panels as wide as a tile; in each panel, its rows one behind the other. What the matrix lacks is zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed<'a> {
    data: &'a [f32],
    n_rows: usize,
    n_cols: usize,
    width: usize,
    depth: usize,
}

/// Rows `first..first + n_rows` of the matrix, packed into `n_packed` rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    pub(super) data: &'a [f32],
    pub(super) first: usize,
    pub(super) n_rows: usize,
    pub(super) n_packed: usize,
}

impl<'a> Packed<'a> {
    /// Packs on the calling thread.
    pub(super) fn new(kernel: Kernel, b: Mat<'_>, buffer: &'a mut Vec<f32>) -> Self {
        let mut packed = Packed::empty(kernel, b);
        let data = aligned(buffer, packed.len());
        for (i, block) in data.chunks_mut(BLOCK_INNER * packed.width).enumerate() {
            let rows = packed.rows_of(b, i);
            let panel = block.len() / packed.width * kernel.columns();
            for (j, to) in block.chunks_exact_mut(panel).enumerate() {
                pack_columns(kernel, to, rows, j);
            }
        }
        packed.data = data;
        packed
    }

    /// Packs on all threads.
    pub(super) fn par_new(kernel: Kernel, b: Mat<'_>, buffer: &'a mut Vec<f32>) -> Self {
        let mut packed = Packed::empty(kernel, b);
        let data = aligned(buffer, packed.len());
        data.par_chunks_mut(BLOCK_INNER * packed.width).enumerate().for_each(|(i, block)| {
            let rows = packed.rows_of(b, i);
            let panel = block.len() / packed.width * kernel.columns();
            block.par_chunks_exact_mut(panel).enumerate().for_each(|(j, to)| {
                pack_columns(kernel, to, rows, j);
            });
        });
        packed.data = data;
        packed
    }

    fn empty(kernel: Kernel, b: Mat<'_>) -> Self {
        let width = b.n_cols.next_multiple_of(kernel.columns());
        Packed { data: &[], n_rows: b.n_rows, n_cols: b.n_cols, width, depth: kernel.depth() }
    }

    fn len(&self) -> usize {
        self.n_rows.div_ceil(self.depth) * self.width
    }

    fn rows_of<'b>(&self, b: Mat<'b>, block: usize) -> Mat<'b> {
        let first = block * BLOCK_INNER * self.depth;
        b.row_range(first, (BLOCK_INNER * self.depth).min(b.n_rows - first))
    }

    pub(super) fn n_rows(self) -> usize {
        self.n_rows
    }

    pub(super) fn n_cols(self) -> usize {
        self.n_cols
    }

    /// The blocks in order.
    pub(super) fn blocks(self) -> impl Iterator<Item = Block<'a>> {
        self.data.chunks(BLOCK_INNER * self.width).enumerate().map(move |(i, data)| {
            let first = i * BLOCK_INNER * self.depth;
            let n_packed = data.len() / self.width;
            Block {
                data,
                first,
                n_rows: (n_packed * self.depth).min(self.n_rows - first),
                n_packed,
            }
        })
    }
}

/// Packs panel `j` of `rows`.
fn pack_columns(kernel: Kernel, to: &mut [f32], rows: Mat<'_>, j: usize) {
    let columns = kernel.columns();
    let first = j * columns;
    let from = rows.col_range(first, columns.min(rows.n_cols - first));
    let isa = kernel.isa();
    match columns {
        32 => isa.run(Pack::<32> { kernel, to, from }),
        16 => isa.run(Pack::<16> { kernel, to, from }),
        _ => isa.run(Pack::<8> { kernel, to, from }),
    }
}

struct Pack<'a, const W: usize> {
    kernel: Kernel,
    to: &'a mut [f32],
    from: Mat<'a>,
}

impl<const W: usize> Vectorised for Pack<'_, W> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        pack_panel::<W>(self.kernel, self.to, self.from);
    }
}

/// Packs at most `W` columns.
#[inline(always)]
pub(super) fn pack_panel<const W: usize>(kernel: Kernel, to: &mut [f32], from: Mat<'_>) {
    let to = to.as_chunks_mut::<W>().0;
    if kernel.depth() == 2 {
        pack_pairs(to, from);
    } else {
        pack(to, from);
    }
}

/// Rows of at most `W` numbers to rows of `W`, filled up with zeros.
#[inline(always)]
fn pack<const W: usize>(to: &mut [[f32; W]], from: Mat<'_>) {
    if from.n_cols < W {
        for k in 0..to.len() {
            for j in 0..W {
                to[k][j] = from.at_or_zero(k, j);
            }
        }
    } else if from.col_stride == 1 {
        for (k, to) in to.iter_mut().enumerate() {
            to.copy_from_slice(from.row(k));
        }
    } else {
        // All columns at once, so that a row is written in one go.
        let columns: [&[f32]; W] = std::array::from_fn(|j| from.column(j));
        for k in 0..to.len() {
            for j in 0..W {
                to[k][j] = columns[j][k];
            }
        }
    }
}

/// Pairs of rows of at most `W` numbers to rows of `W` pairs of bf16, filled up with zeros.
#[inline(always)]
fn pack_pairs<const W: usize>(to: &mut [[f32; W]], from: Mat<'_>) {
    let whole = if from.n_cols < W { 0 } else { from.n_rows / 2 };
    if from.col_stride == 1 {
        for k in 0..whole {
            let (low, high) = (from.row(2 * k), from.row(2 * k + 1));
            for j in 0..W {
                to[k][j] = pair(low[j], high[j]);
            }
        }
    } else if whole > 0 {
        let columns: [&[f32]; W] = std::array::from_fn(|j| from.column(j));
        for k in 0..whole {
            for j in 0..W {
                to[k][j] = pair(columns[j][2 * k], columns[j][2 * k + 1]);
            }
        }
    }
    for k in whole..to.len() {
        for j in 0..W {
            to[k][j] = pair(from.at_or_zero(2 * k, j), from.at_or_zero(2 * k + 1, j));
        }
    }
}

#[inline(always)]
fn pair(low: f32, high: f32) -> f32 {
    f32::from_bits(bf16_bits(low) | bf16_bits(high) << 16)
}

/// Rounded to the nearest, ties to even; NaN stays NaN.
#[inline(always)]
fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() { 0x7fc0 } else { (bits + 0x7fff + (bits >> 16 & 1)) >> 16 }
}

/// The first `len` numbers of a work vector from a cache line's begin on, grown where needed; their values are
/// arbitrary.
pub(super) fn aligned(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
    #[repr(C, align(64))]
    struct Line([f32; 16]);
    let numbers = grown(buffer, len.next_multiple_of(16) + 16);
    let (_, lines, _) = bytemuck::pod_align_to_mut::<f32, Line>(numbers);
    &mut bytemuck::cast_slice_mut(lines)[..len]
}

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Lends work memory that this thread keeps.
pub(super) fn with_buffer<T>(work: impl FnOnce(&mut Vec<f32>) -> T) -> T {
    let mut buffer = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default();
    let result = work(&mut buffer);
    BUFFERS.with_borrow_mut(|buffers| buffers.push(buffer));
    result
}
