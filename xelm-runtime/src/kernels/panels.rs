//! Products with quantised weights, a vector's lanes being rows of the matrix.

use super::blocks::matmul_rows;
use super::quants::Quants;
use super::simd::{Rows, Runs, Simd};
use super::weights::{Weights, each_group};
use super::{Activations, ROWS_AT_ONCE};
use crate::expert::Matrix;
use crate::isa::{Isa, Vectorised, prefetch};
use crate::layout::{Layout, PANEL};
use crate::parallel::Columns;
use crate::quant::BLOCK;
use core::marker::PhantomData;

/// Tokens that share the unpacking of a block.
const TILE: usize = 32;
/// Bytes of a block at most where one token is multiplied by several panels at a time: memory gives more to a core that
/// reads at several places. Blocks that are larger are faster one panel after the other.
const SMALL: usize = 64;

/// An entry of the table of kernels.
pub(super) fn matmul<S: Simd, W: Weights<S>>(
    isa: Isa,
    w: &Matrix<'_>,
    x: &Activations<'_>,
    out: &mut Columns<'_>,
) {
    let Some(s) = S::of(isa) else { return };
    match w.layout {
        Layout::Standard => s.run(Product::<S, W, Apart>(s, w, x, out, PhantomData)),
        Layout::Packed => s.run(Product::<S, W, Interleaved>(s, w, x, out, PhantomData)),
    }
}

/// A product with rows that lie as L says.
struct Product<'a, 'b, S, W, L>(
    S,
    &'a Matrix<'a>,
    &'a Activations<'a>,
    &'a mut Columns<'b>,
    PhantomData<(W, L)>,
);

impl<'a, S: Simd, W: Weights<S>, L: Place<'a, S>> Vectorised for Product<'a, '_, S, W, L> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Product(s, w, x, out, _) = self;
        let n = out.n_rows();
        let range = out.range();
        let mut row = range.start;
        if n == 1 && size_of::<W>() <= SMALL {
            while row + ROWS_AT_ONCE <= range.end {
                let n = const { ROWS_AT_ONCE / S::ROWS };
                let panels = Panels::of::<S, W>(w, row, n);
                match n {
                    2 => one_token::<S, W, L, 2>(s, panels, x.quants, out, row),
                    _ => one_token::<S, W, L, 4>(s, panels, x.quants, out, row),
                }
                row += ROWS_AT_ONCE;
            }
        }
        while row + S::ROWS <= range.end {
            let panels = Panels::of::<S, W>(w, row, 1);
            if n == 1 {
                one_token::<S, W, L, 1>(s, panels, x.quants, out, row);
            } else {
                for t in (0..n).step_by(TILE) {
                    tile::<S, W, L>(s, panels, x.quants, (n, t), out, row);
                }
            }
            row += S::ROWS;
        }
        matmul_rows::<W>(w, x.quants, out, row..range.end);
    }
}

/// The products of the rows of N panels with one token.
#[inline(always)]
fn one_token<'a, S: Simd, W: Weights<S>, L: Place<'a, S>, const N: usize>(
    s: S,
    panels: Panels<'a>,
    quants: &[Quants],
    out: &mut Columns<'_>,
    row: usize,
) {
    let mut sums = [s.splat_float(0.0); N];
    for (i, x) in quants.chunks_exact(W::GROUPS).take(panels.n_blocks).enumerate() {
        for p in 0..N {
            panels.prefetch::<S, W>(p, i);
            let rows = L::block(panels, p, i, size_of::<W>());
            let shared = W::shared(s, rows);
            for (part, x) in x.chunks_exact(W::PART).enumerate() {
                sums[p] = W::add_part(s, sums[p], rows, &shared, part, x);
            }
        }
    }
    for p in 0..N {
        s.store(sums[p], out.run(0, row + p * S::ROWS, S::ROWS));
    }
}

/// The products of ROWS rows with at most [`TILE`] of n tokens, from `first` on.
#[inline(always)]
fn tile<'a, S: Simd, W: Weights<S>, L: Place<'a, S>>(
    s: S,
    panels: Panels<'a>,
    quants: &[Quants],
    (n, first): (usize, usize),
    out: &mut Columns<'_>,
    row: usize,
) {
    let n_here = TILE.min(n - first);
    let mut sums = [s.splat_float(0.0); TILE];
    for i in 0..panels.n_blocks {
        panels.prefetch::<S, W>(0, i);
        let rows = L::block(panels, 0, i, size_of::<W>());
        let shared = W::shared(s, rows);
        for part in 0..W::GROUPS / W::PART {
            let bytes = W::part(s, rows, &shared, part);
            each_group!(G < W::PART, {
                let w = W::unpack(s, &shared, part, &bytes, G);
                let group = i * W::GROUPS + part * W::PART + G;
                let x = &quants[group * n + first..][..n_here];
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = W::add(s, *sum, &w, x);
                }
            });
        }
    }
    for (t, &sum) in sums[..n_here].iter().enumerate() {
        s.store(sum, out.run(first + t, row, S::ROWS));
    }
}

/// Panels one after the other: of as many rows each as a vector has lanes.
#[derive(Clone, Copy)]
struct Panels<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
    /// Blocks of a row.
    n_blocks: usize,
}

impl<'a> Panels<'a> {
    /// The `n` panels of a matrix that begin at a row.
    #[inline(always)]
    fn of<S: Simd, W: Weights<S>>(w: &Matrix<'a>, row: usize, n: usize) -> Self {
        let n_blocks = w.n_cols / BLOCK / W::GROUPS;
        let row_bytes = n_blocks * size_of::<W>();
        let bytes = &w.bytes[row * row_bytes..][..n * S::ROWS * row_bytes];
        Panels { bytes, row_bytes, n_blocks }
    }

    /// Fetches as much of what follows as the blocks at index `i` of all rows of panel `p` are, each in its place.
    #[inline(always)]
    fn prefetch<S: Simd, W>(self, p: usize, i: usize) {
        let n_bytes = S::ROWS * size_of::<W>();
        let next = self.bytes.len() + p * S::ROWS * self.row_bytes + i * n_bytes;
        for line in (0..n_bytes).step_by(64) {
            prefetch(self.bytes, next + line);
        }
    }
}

/// A way in which the blocks of rows lie.
trait Place<'a, S: Simd>: Rows<S> {
    /// Those at index `i` of the rows of panel `p`; `len` is the size of one.
    fn block(panels: Panels<'a>, p: usize, i: usize, len: usize) -> Self;
}

/// Rows as a standard file has them, one after the other.
#[derive(Clone, Copy)]
struct Apart<'a>(Runs<'a>);

impl<'a, S: Simd> Place<'a, S> for Apart<'a> {
    #[inline(always)]
    fn block(panels: Panels<'a>, p: usize, i: usize, len: usize) -> Self {
        let Panels { bytes, row_bytes, .. } = panels;
        let start = p * S::ROWS * row_bytes + i * len;
        Apart(Runs::new(bytes, start, row_bytes, S::ROWS, len))
    }
}

impl<S: Simd> Rows<S> for Apart<'_> {
    const INTERLEAVED: bool = false;
    #[inline(always)]
    fn load16(self, s: S, at: usize) -> [S::Ints; 4] {
        s.load16(self.0, at)
    }
    #[inline(always)]
    fn load4(self, s: S, at: usize) -> S::Ints {
        s.load4(self.0, at)
    }
    #[inline(always)]
    fn load2(self, s: S, at: usize) -> S::Floats {
        s.load2(self.0, at)
    }
}

/// Rows of a packed matrix: see [`crate::layout`].
#[derive(Clone, Copy)]
struct Interleaved<'a>(Runs<'a>);

impl<'a, S: Simd> Place<'a, S> for Interleaved<'a> {
    #[inline(always)]
    fn block(panels: Panels<'a>, p: usize, i: usize, len: usize) -> Self {
        let Panels { bytes, row_bytes, .. } = panels;
        let start = p * S::ROWS * row_bytes + i * PANEL * len;
        Interleaved(Runs::new(bytes, start, PANEL * row_bytes, S::ROWS / PANEL, PANEL * len))
    }
}

impl<S: Simd> Rows<S> for Interleaved<'_> {
    const INTERLEAVED: bool = true;
    #[inline(always)]
    fn load16(self, s: S, at: usize) -> [S::Ints; 4] {
        core::array::from_fn(|j| self.load4(s, at + 4 * j))
    }
    #[inline(always)]
    fn load4(self, s: S, at: usize) -> S::Ints {
        s.load_lanes(self.0, PANEL * at)
    }
    #[inline(always)]
    fn load2(self, s: S, at: usize) -> S::Floats {
        s.load_halves(self.0, PANEL * at)
    }
}
