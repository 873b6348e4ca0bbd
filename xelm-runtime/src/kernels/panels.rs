//! Products with quantised weights, a vector's lanes being rows of the matrix.

use super::ahead::Ahead;
use super::blocks::matmul_rows;
use super::quants::Quants;
use super::rows::ByRow;
use super::simd::{Rows, Runs, Simd};
use super::weights::{Weights, each_group};
use super::{Activations, ROWS_AT_ONCE};
use crate::expert::Matrix;
use crate::isa::{Isa, Vectorised};
use crate::layout::{Layout, PANEL};
use crate::parallel::Columns;
use core::hint::black_box;
use core::marker::PhantomData;
use core::ops::Range;

/// Tokens that share the unpacking of a block.
const TILE: usize = 32;

/// An entry of the table of kernels.
pub(super) fn matmul<S: Simd, W: ByRow<S>>(
    isa: Isa,
    w: &Matrix<'_>,
    x: &Activations<'_>,
    out: &mut Columns<'_>,
) {
    let Some(s) = S::of(isa) else { return };
    match w.layout {
        Layout::Standard => s.run(Product::<S, W, Runs>(s, w, x, out, PhantomData)),
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

impl<'a, S: Simd, W: ByRow<S>, L: Place<'a, S>> Vectorised for Product<'a, '_, S, W, L> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Product(s, w, x, out, _) = self;
        let n = out.n_rows();
        let range = out.range();
        let mut row = range.start;
        if n == 1 && L::several(size_of::<W>()) {
            let len = L::together(range.len());
            while len > 0 && row + len <= range.end {
                match const { ROWS_AT_ONCE / S::ROWS } {
                    2 => one_token::<S, W, L, 2>(s, w, x.quants, out, row..row + len),
                    _ => one_token::<S, W, L, 4>(s, w, x.quants, out, row..row + len),
                }
                row += len;
            }
        }
        while row + S::ROWS <= range.end {
            if n == 1 {
                one_token::<S, W, L, 1>(s, w, x.quants, out, row..row + S::ROWS);
            } else {
                for t in (0..n).step_by(TILE) {
                    tile::<S, W, L>(s, w, x.quants, (n, t), out, row);
                }
            }
            row += S::ROWS;
        }
        matmul_rows::<W>(w, x.quants, out, row..range.end);
    }
}

/// The products of rows with one token, a panel of each of their N equal parts at a time.
#[inline(always)]
fn one_token<'a, S: Simd, W: ByRow<S>, L: Place<'a, S>, const N: usize>(
    s: S,
    w: &Matrix<'a>,
    quants: &[Quants],
    out: &mut Columns<'_>,
    rows: Range<usize>,
) {
    let part = rows.len() / N;
    for first in (0..part).step_by(S::ROWS) {
        // From one panel to the next of its part; after the last, to the part of rows that follow.
        let step = if first + S::ROWS < part { S::ROWS } else { rows.len() - first };
        let first = rows.start + first;
        let panels = Panels::of(w, first, (N - 1) * part + S::ROWS);
        let mut rest: L = Place::<S>::new(panels.bytes, panels.n_rows);
        let mut sums = [s.splat_float(0.0); N];
        // Unrolled, the loop over panels would fetch for all of them at once, which keeps memory less busy.
        let n = black_box(N).min(N);
        for (i, x) in quants.chunks_exact(W::GROUPS).enumerate() {
            let Some((blocks, next)) = rest.split(size_of::<W>()) else { break };
            for p in 0..n {
                let rows = blocks.panel(p * part);
                let shared = W::shared(s, rows);
                let ahead = panels.ahead::<S, W>(p * part + step, i);
                let total = rows.dot::<W>(s, &shared, x, ahead);
                sums[p] = W::finish(s, sums[p], total, &shared, |g| &x[g]);
            }
            rest = next;
        }
        for p in 0..N {
            s.store(sums[p], out.run(0, first + p * part, S::ROWS));
        }
    }
}

/// The products of ROWS rows with at most [`TILE`] of n tokens, from `first` on.
#[inline(always)]
fn tile<'a, S: Simd, W: ByRow<S>, L: Place<'a, S>>(
    s: S,
    w: &Matrix<'a>,
    quants: &[Quants],
    (n, first): (usize, usize),
    out: &mut Columns<'_>,
    row: usize,
) {
    let n_here = TILE.min(n - first);
    let panels = Panels::of(w, row, S::ROWS);
    let mut rest = L::new(panels.bytes, S::ROWS);
    let mut sums = [s.splat_float(0.0); TILE];
    for i in 0.. {
        let Some((rows, next)) = rest.split(size_of::<W>()) else { break };
        rest = next;
        let ahead = panels.ahead::<S, W>(S::ROWS, i);
        let shared = W::shared(s, rows);
        let x = |g| &quants[(i * W::GROUPS + g) * n + first..][..n_here];
        let mut totals = [s.splat(0); TILE];
        for part in 0..W::GROUPS / W::PART {
            ahead.fetch(part, W::GROUPS / W::PART);
            let bytes = W::part(s, rows, part);
            each_group!(G < W::PART, {
                let w = W::unpack(s, &shared, part, &bytes, G);
                let x = x(part * W::PART + G);
                // A total that no other group adds to stays in a register.
                if W::GROUPS == 1 {
                    for (sum, x) in sums.iter_mut().zip(x) {
                        let total = W::add(s, s.splat(0), &w, x);
                        *sum = W::finish(s, *sum, total, &shared, |_| x);
                    }
                } else {
                    for (total, x) in totals.iter_mut().zip(x) {
                        *total = W::add(s, *total, &w, x);
                    }
                }
            });
        }
        if W::GROUPS > 1 {
            for t in 0..n_here {
                sums[t] = W::finish(s, sums[t], totals[t], &shared, |g| &x(g)[t]);
            }
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
    n_rows: usize,
    row_bytes: usize,
}

impl<'a> Panels<'a> {
    /// Those of `n_rows` rows of a matrix.
    #[inline(always)]
    fn of(w: &Matrix<'a>, row: usize, n_rows: usize) -> Self {
        let row_bytes = w.bytes.len() / w.n_rows;
        Panels { bytes: &w.bytes[row * row_bytes..][..n_rows * row_bytes], n_rows, row_bytes }
    }

    /// As much of the panel that begins `row` rows after the first as the blocks at index `i` of all its rows are, each in
    /// its place.
    #[inline(always)]
    fn ahead<S: Simd, W>(self, row: usize, i: usize) -> Ahead<'a> {
        let len = S::ROWS * size_of::<W>();
        Ahead { from: self.bytes, first: row * self.row_bytes + i * len, len }
    }
}

/// A way in which the blocks of a panel's rows lie.
trait Place<'a, S: Simd>: Rows<S> {
    /// Whether one token is multiplied by blocks of `len` bytes of several panels at a time: memory gives more to a core
    /// that reads at several places.
    fn several(len: usize) -> bool;
    /// Of how many of a task's rows these panels are.
    fn together(n_rows: usize) -> usize;
    /// All blocks of `n_rows` rows.
    fn new(panels: &'a [u8], n_rows: usize) -> Self;
    /// Those of the panel that begins with a row.
    fn panel(self, row: usize) -> Self;
    /// The first blocks of all rows, of `len` bytes each, and those that follow.
    fn split(self, len: usize) -> Option<(Self, Self)>;
    /// The sums of single blocks' products with one token's activations; fetches what is ahead.
    fn dot<W: ByRow<S>>(self, s: S, of: &W::Shared, x: &[Quants], ahead: Ahead<'_>) -> S::Ints;
}

/// The sums of single blocks' products with one token's activations, the bytes of all rows being brought together.
#[inline(always)]
fn dot_parts<S: Simd, W: Weights<S>, R: Rows<S>>(
    s: S,
    rows: R,
    of: &W::Shared,
    x: &[Quants],
    ahead: Ahead<'_>,
) -> S::Ints {
    let mut total = s.splat(0);
    for (part, x) in x.chunks_exact(W::PART).enumerate() {
        total = W::add_part(s, total, rows, of, part, x, ahead);
    }
    total
}

/// Rows as a standard file has them, one after the other.
impl<'a, S: Simd> Place<'a, S> for Runs<'a> {
    /// Q8_0: the other formats' arithmetic takes longer than memory does, and with one panel the addresses of its rows stay in
    /// registers.
    #[inline(always)]
    fn several(len: usize) -> bool {
        (32..=64).contains(&len)
    }
    /// Neighbours: places that are far apart, with as many rows at each, are more than the caches follow.
    #[inline(always)]
    fn together(_: usize) -> usize {
        ROWS_AT_ONCE
    }
    #[inline(always)]
    fn new(panels: &'a [u8], n_rows: usize) -> Self {
        Runs::new(panels, n_rows)
    }
    #[inline(always)]
    fn panel(self, row: usize) -> Self {
        self.some(row, S::ROWS)
    }
    #[inline(always)]
    fn split(self, len: usize) -> Option<(Self, Self)> {
        Runs::split(self, len)
    }
    #[inline(always)]
    fn dot<W: ByRow<S>>(self, s: S, of: &W::Shared, x: &[Quants], ahead: Ahead<'_>) -> S::Ints {
        // What several groups share is cheaper to bring together than the sums of each, if a vector holds sixteen rows.
        if S::ROWS > 8 && W::GROUPS > 1 {
            return dot_parts::<S, W, Self>(s, self, of, x, ahead);
        }
        W::dot(s, self, of, x, ahead)
    }
}

/// Rows of a packed matrix: see [`crate::layout`].
#[derive(Clone, Copy)]
struct Interleaved<'a>(Runs<'a>);

impl<'a, S: Simd> Place<'a, S> for Interleaved<'a> {
    /// Blocks that are larger are faster one panel after the other.
    #[inline(always)]
    fn several(len: usize) -> bool {
        len <= 64
    }
    /// All: memory gives the more the longer it is read on at each place.
    #[inline(always)]
    fn together(n_rows: usize) -> usize {
        n_rows / ROWS_AT_ONCE * ROWS_AT_ONCE
    }
    #[inline(always)]
    fn new(panels: &'a [u8], n_rows: usize) -> Self {
        Interleaved(Runs::new(panels, n_rows / PANEL))
    }
    #[inline(always)]
    fn panel(self, row: usize) -> Self {
        Interleaved(self.0.some(row / PANEL, S::ROWS / PANEL))
    }
    #[inline(always)]
    fn split(self, len: usize) -> Option<(Self, Self)> {
        let (first, rest) = self.0.split(PANEL * len)?;
        Some((Interleaved(first), Interleaved(rest)))
    }
    #[inline(always)]
    fn dot<W: ByRow<S>>(self, s: S, of: &W::Shared, x: &[Quants], ahead: Ahead<'_>) -> S::Ints {
        dot_parts::<S, W, Self>(s, self, of, x, ahead)
    }
}

impl<S: Simd> Rows<S> for Interleaved<'_> {
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

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::super::avx2::{Avx2, AvxVnni};
    use super::super::avx512::Avx512;
    use super::super::quants::Quantize;
    use super::*;
    use crate::quant::{BLOCK, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5K, BlockQ6K, BlockQ8_0};
    use crate::rng::Rng;
    use bytemuck::Zeroable;
    use std::vec;
    use std::vec::Vec;

    /// Multiplies one block of each row of a standard file in both ways, of which an instruction set uses the faster one.
    struct Both<'a, S, W>(S, &'a [u8], &'a [Quants], &'a mut [Vec<f32>; 2], PhantomData<W>);

    impl<S: Simd, W: ByRow<S>> Vectorised for Both<'_, S, W> {
        type Output = ();
        #[inline(always)]
        fn run(self) {
            let Both(s, bytes, x, out, _) = self;
            let rows = Runs::new(bytes, S::ROWS);
            let of = W::shared(s, rows);
            let ahead = Ahead { from: bytes, first: 0, len: 0 };
            let by_row = <W as ByRow<S>>::dot(s, rows, &of, x, ahead);
            let by_part = dot_parts::<S, W, _>(s, rows, &of, x, ahead);
            for (total, out) in [by_row, by_part].into_iter().zip(out) {
                s.store(W::finish(s, s.splat_float(0.0), total, &of, |g| &x[g]), out);
            }
        }
    }

    fn check<S: Simd, W: ByRow<S>>(isa: Isa, rng: &mut Rng) {
        let Some(s) = S::of(isa) else { return };
        for _ in 0..50 {
            let mut bytes = vec![0; S::ROWS * size_of::<W>()];
            bytes.fill_with(|| rng.next_u32() as u8);
            let x: Vec<f32> = (0..W::GROUPS * BLOCK).map(|_| rng.next_normal()).collect();
            let mut quants = vec![Quants::zeroed(); W::GROUPS];
            let (n_sharing, quants) = (W::GROUPS, &mut quants[..]);
            Quantize { x: &x, n: 1, n_sharing, first: 0, quants }.run();
            let mut out = [vec![0.0; S::ROWS], vec![1.0; S::ROWS]];
            s.run(Both::<S, W>(s, &bytes, quants, &mut out, PhantomData));
            let [by_row, by_part] = out.map(|out| out.into_iter().map(f32::to_bits));
            assert!(by_row.eq(by_part), "{}, blocks of {} bytes", isa.name(), size_of::<W>());
        }
    }

    fn check_formats<S: Simd>(isa: Isa, rng: &mut Rng) {
        check::<S, BlockQ4_0>(isa, rng);
        check::<S, BlockQ4_1>(isa, rng);
        check::<S, BlockQ8_0>(isa, rng);
        check::<S, BlockQ4K>(isa, rng);
        check::<S, BlockQ5K>(isa, rng);
        check::<S, BlockQ6K>(isa, rng);
    }

    #[test]
    fn rows_are_multiplied_in_both_ways_alike() {
        let mut rng = Rng::new(14, 0);
        for isa in Isa::supported().into_iter().flatten() {
            check_formats::<Avx2>(isa, &mut rng);
            check_formats::<AvxVnni>(isa, &mut rng);
            check_formats::<Avx512>(isa, &mut rng);
        }
    }
}
