//! Products with quantised weights, a vector's lanes being rows of the matrix.

use super::Activations;
use super::blocks::matmul_rows;
use super::quants::Quants;
use super::simd::{Rows, Simd};
use super::weights::{Weights, each_group};
use crate::expert::Matrix;
use crate::isa::{Isa, Vectorised};
use crate::layout::{Layout, PANEL};
use crate::parallel::Columns;
use crate::quant::BLOCK;
use core::marker::PhantomData;

/// Tokens that share the unpacking of a block.
const TILE: usize = 32;
/// Panels fetched side by side, where blocks are small: memory gives more to a core that reads at several places.
const STREAMS: usize = 4;
/// Bytes of a block that counts as small.
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

impl<'a, S: Simd, W: Weights<S>, L> Vectorised for Product<'a, '_, S, W, L>
where
    Panel<'a, L>: Rows<S>,
{
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Product(s, w, x, out, _) = self;
        let n = out.n_rows();
        let n_blocks = w.n_cols / BLOCK / W::GROUPS;
        let row_bytes = n_blocks * size_of::<W>();
        let range = out.range();
        let mut row = range.start;
        while row + S::ROWS <= range.end {
            let bytes = &w.bytes[row * row_bytes..][..S::ROWS * row_bytes];
            let rows = Panel::<L> { bytes, row_bytes, index: row / S::ROWS, layout: PhantomData };
            if n == 1 {
                one_token::<S, W, _>(s, rows, n_blocks, x.quants, out, row);
            } else {
                for t in (0..n).step_by(TILE) {
                    tile::<S, W, _>(s, rows, n_blocks, x.quants, (n, t), out, row);
                }
            }
            row += S::ROWS;
        }
        matmul_rows::<W>(w, x.quants, out, row..range.end);
    }
}

/// The products of ROWS rows with one token.
#[inline(always)]
fn one_token<S: Simd, W: Weights<S>, R: Rows<S>>(
    s: S,
    rows: R,
    n_blocks: usize,
    quants: &[Quants],
    out: &mut Columns<'_>,
    row: usize,
) {
    let mut sum = s.splat_float(0.0);
    for (i, x) in quants.chunks_exact(W::GROUPS).take(n_blocks).enumerate() {
        let at = i * size_of::<W>();
        rows.prefetch(s, at, size_of::<W>());
        let shared = W::shared(s, rows, at);
        for (part, x) in x.chunks_exact(W::PART).enumerate() {
            sum = W::add_part(s, sum, rows, at, &shared, part, x);
        }
    }
    s.store(sum, out.run(0, row, S::ROWS));
}

/// The products of ROWS rows with at most [`TILE`] of n tokens, from `first` on.
#[inline(always)]
fn tile<S: Simd, W: Weights<S>, R: Rows<S>>(
    s: S,
    rows: R,
    n_blocks: usize,
    quants: &[Quants],
    (n, first): (usize, usize),
    out: &mut Columns<'_>,
    row: usize,
) {
    let n_here = TILE.min(n - first);
    let mut sums = [s.splat_float(0.0); TILE];
    for i in 0..n_blocks {
        let at = i * size_of::<W>();
        rows.prefetch(s, at, size_of::<W>());
        let shared = W::shared(s, rows, at);
        for part in 0..W::GROUPS / W::PART {
            let bytes = W::part(s, rows, at, &shared, part);
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

/// As many rows as a vector has lanes.
#[derive(Clone, Copy)]
struct Panel<'a, L> {
    bytes: &'a [u8],
    row_bytes: usize,
    /// Index in the matrix.
    index: usize,
    layout: PhantomData<L>,
}

impl<L> Panel<'_, L> {
    /// While a group of panels is used up, the next group is fetched, a piece of each of its panels in turn.
    #[inline(always)]
    fn prefetch_next<S: Simd>(self, s: S, at: usize, len: usize) {
        // Pieces as large as super-blocks are: one place after the other (measured: 20 to 45 % faster so).
        let streams = if len > SMALL { 1 } else { STREAMS };
        let (place, n_blocks) = (self.index % streams, self.row_bytes / len);
        let step = place * n_blocks + at / len;
        let panels = streams - place + step % streams;
        let ahead = panels * self.bytes.len() + step / streams * S::ROWS * len;
        for line in (0..S::ROWS * len).step_by(64) {
            s.prefetch(self.bytes, ahead + line);
        }
    }
}

/// Rows as a standard file has them, one after the other.
#[derive(Clone, Copy)]
enum Apart {}

impl<S: Simd> Rows<S> for Panel<'_, Apart> {
    const INTERLEAVED: bool = false;
    #[inline(always)]
    fn load16(self, s: S, at: usize) -> [S::Ints; 4] {
        s.load16(self.bytes, self.row_bytes, at)
    }
    #[inline(always)]
    fn load4(self, s: S, at: usize) -> S::Ints {
        s.load4(self.bytes, self.row_bytes, at)
    }
    #[inline(always)]
    fn load2(self, s: S, at: usize) -> S::Floats {
        s.load2(self.bytes, self.row_bytes, at)
    }
    #[inline(always)]
    fn prefetch(self, s: S, at: usize, len: usize) {
        self.prefetch_next(s, at, len);
    }
}

/// Rows of a packed matrix: see [`crate::layout`].
#[derive(Clone, Copy)]
enum Interleaved {}

impl<S: Simd> Rows<S> for Panel<'_, Interleaved> {
    const INTERLEAVED: bool = true;
    #[inline(always)]
    fn load16(self, s: S, at: usize) -> [S::Ints; 4] {
        core::array::from_fn(|j| self.load4(s, at + 4 * j))
    }
    #[inline(always)]
    fn load4(self, s: S, at: usize) -> S::Ints {
        s.load_lanes(self.bytes, PANEL * at)
    }
    #[inline(always)]
    fn load2(self, s: S, at: usize) -> S::Floats {
        s.load_halves(self.bytes, PANEL * at)
    }
    #[inline(always)]
    fn prefetch(self, s: S, at: usize, len: usize) {
        self.prefetch_next(s, at, len);
    }
}
