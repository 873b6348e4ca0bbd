//! Products with quantised weights, a vector's lanes being rows of the matrix.

use super::Activations;
use super::blocks::matmul_rows;
use super::quants::Quants;
use super::simd::{Rows, Simd};
use super::weights::Weights;
use crate::expert::Matrix;
use crate::isa::{Isa, Vectorised};
use crate::parallel::Columns;
use crate::quant::BLOCK;
use core::marker::PhantomData;

/// Tokens that share the unpacking of a block.
const TILE: usize = 32;
/// Panels fetched side by side: memory gives more to a core that reads at several places.
const STREAMS: usize = 4;

/// An entry of the table of kernels.
pub(super) fn matmul<S: Simd, W: Weights<S>>(
    isa: Isa,
    w: &Matrix<'_>,
    x: &Activations<'_>,
    out: &mut Columns<'_>,
) {
    if let Some(s) = S::of(isa) {
        isa.run(MatmulPanels(s, w, x, out, PhantomData::<W>));
    }
}

struct MatmulPanels<'a, 'b, S, W>(
    S,
    &'a Matrix<'a>,
    &'a Activations<'a>,
    &'a mut Columns<'b>,
    PhantomData<W>,
);

impl<S: Simd, W: Weights<S>> Vectorised for MatmulPanels<'_, '_, S, W> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let MatmulPanels(s, w, x, out, _) = self;
        let n = out.n_rows();
        let n_blocks = w.n_cols / BLOCK / W::GROUPS;
        let row_bytes = n_blocks * size_of::<W>();
        let range = out.range();
        let mut row = range.start;
        while row + S::ROWS <= range.end {
            let bytes = &w.bytes[row * row_bytes..][..S::ROWS * row_bytes];
            let rows = Apart { bytes, row_bytes, index: row / S::ROWS };
            let mut t = 0;
            while t < n {
                if n - t == 1 {
                    tile::<S, W, _, 1>(s, rows, n_blocks, x.quants, (n, t), out, row);
                } else {
                    tile::<S, W, _, TILE>(s, rows, n_blocks, x.quants, (n, t), out, row);
                }
                t += TILE;
            }
            row += S::ROWS;
        }
        matmul_rows::<W>(w.elements(), w.n_cols, x.quants, out, row..range.end);
    }
}

/// The products of ROWS rows with at most N of n tokens, from `first` on.
#[inline(always)]
fn tile<S: Simd, W: Weights<S>, R: Rows<S>, const N: usize>(
    s: S,
    rows: R,
    n_blocks: usize,
    quants: &[Quants],
    (n, first): (usize, usize),
    out: &mut Columns<'_>,
    row: usize,
) {
    let n_here = N.min(n - first);
    let mut sums = [s.splat_float(0.0); N];
    for i in 0..n_blocks {
        let at = i * size_of::<W>();
        rows.prefetch(s, at, size_of::<W>());
        let shared = W::shared(s, rows, at);
        for part in 0..W::GROUPS / W::PART {
            let bytes = W::part(s, rows, at, &shared, part);
            // Not a loop: the group's index is a constant of its instructions.
            macro_rules! group {
                ($g:literal) => {
                    if $g < W::PART {
                        let w = W::unpack(s, &shared, part, &bytes, $g);
                        let group = i * W::GROUPS + part * W::PART + $g;
                        let x = &quants[group * n + first..][..n_here];
                        for (sum, x) in sums.iter_mut().zip(x) {
                            *sum = W::add(s, *sum, &w, x);
                        }
                    }
                };
            }
            group!(0);
            group!(1);
            group!(2);
            group!(3);
        }
    }
    for (t, &sum) in sums[..n_here].iter().enumerate() {
        s.store(sum, out.run(first + t, row, S::ROWS));
    }
}

/// A panel: as many rows as a vector has lanes, as a standard file has them, one after the other.
#[derive(Clone, Copy)]
struct Apart<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
    /// Index of the panel in the matrix.
    index: usize,
}

impl<S: Simd> Rows<S> for Apart<'_> {
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
        // While a group of panels is used up, the next group is fetched, a piece of each of its panels in turn.
        let (place, n_blocks) = (self.index % STREAMS, self.row_bytes / len);
        let step = place * n_blocks + at / len;
        let panels = STREAMS - place + step % STREAMS;
        let ahead = panels * self.bytes.len() + step / STREAMS * S::ROWS * len;
        for line in (0..S::ROWS * len).step_by(64) {
            s.prefetch(self.bytes, ahead + line);
        }
    }
}
