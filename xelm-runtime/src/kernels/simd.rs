//! What the kernels for quantised weights ask of an instruction set: vectors with a lane for each of several
//! rows of weights. A lane is 32 bits: a single, an integer, or four neighbouring bytes of its row.

#![allow(unsafe_code, reason = "loads without a check each, and calls of vector instructions")]

use super::quants::Quants;
use crate::isa::{Isa, Vectorised};
use core::marker::PhantomData;

/// One block of each row of a vector.
pub(super) trait Rows<S: Simd>: Copy {
    /// The 16 bytes at offset `at` of each block, the j-th four in vector j.
    fn load16(self, s: S, at: usize) -> [S::Ints; 4];
    /// The four bytes at offset `at` of each block.
    fn load4(self, s: S, at: usize) -> S::Ints;
    /// The half-precision number at offset `at` of each block.
    fn load2(self, s: S, at: usize) -> S::Floats;
}

impl<S: Simd> Rows<S> for Runs<'_> {
    #[inline(always)]
    fn load16(self, s: S, at: usize) -> [S::Ints; 4] {
        s.transposed([
            s.load_rows(self, 0, at),
            s.load_rows(self, 1, at),
            s.load_rows(self, 2, at),
            s.load_rows(self, 3, at),
        ])
    }
    #[inline(always)]
    fn load4(self, s: S, at: usize) -> S::Ints {
        s.load4(self, at)
    }
    #[inline(always)]
    fn load2(self, s: S, at: usize) -> S::Floats {
        s.load2(self, at)
    }
}

/// Runs of bytes, equally long and equally far apart: what vectors are loaded from.
#[derive(Clone, Copy)]
pub(super) struct Runs<'a> {
    first: *const u8,
    /// Bytes from the beginning of a run to that of the next.
    stride: usize,
    n_runs: usize,
    /// Bytes of a run.
    len: usize,
    _bytes: PhantomData<&'a [u8]>,
}

impl<'a> Runs<'a> {
    /// `n_runs` runs, one after the other, of which `bytes` consists.
    ///
    /// # Panics
    /// They are not equally long.
    #[inline(always)]
    pub(super) fn new(bytes: &'a [u8], n_runs: usize) -> Self {
        let len = bytes.len() / n_runs;
        assert!(len * n_runs == bytes.len());
        Runs { first: bytes.as_ptr(), stride: len, n_runs, len, _bytes: PhantomData }
    }

    /// The first `len` bytes of each run, and what follows them, unless there are fewer.
    #[inline(always)]
    pub(super) fn split(self, len: usize) -> Option<(Self, Self)> {
        let rest = self.len.checked_sub(len)?;
        let first = self.first.wrapping_add(len);
        Some((Runs { len, ..self }, Runs { first, len: rest, ..self }))
    }

    /// `n` of the runs, from `first` on.
    ///
    /// # Panics
    /// There are not as many.
    #[inline(always)]
    pub(super) fn some(self, first: usize, n: usize) -> Self {
        assert!(first <= self.n_runs && n <= self.n_runs - first);
        Runs { first: self.first.wrapping_add(first * self.stride), n_runs: n, ..self }
    }

    /// N bytes at offset `at` of run `i`. Where these and the length are constants, nothing is left of the check.
    ///
    /// # Panics
    /// They do not lie in the run, or there is no such run.
    #[inline(always)]
    pub(super) fn get<const N: usize>(self, i: usize, at: usize) -> &'a [u8; N] {
        assert!(i < self.n_runs && at <= self.len && N <= self.len - at);
        let first = self.first.wrapping_add(i * self.stride + at);
        // SAFETY: run `i` lies in the bytes that are borrowed, as `new` made sure and `split` and `some` left it; these
        // lie in the run, and an array of bytes may begin anywhere.
        unsafe { &*first.cast() }
    }
}

/// Vectors of one instruction set; a value is the proof that the CPU has it.
pub(super) trait Simd: Copy {
    /// Lanes of a vector.
    const ROWS: usize;
    /// A vector of integers or bytes.
    type Ints: Copy;
    /// A vector of singles.
    type Floats: Copy;

    /// The proof, where `isa` includes these instructions.
    fn of(isa: Isa) -> Option<Self>;
    /// Runs `work` compiled for these instructions, and for no others as [`Isa::run`] does.
    fn run<V: Vectorised<Output = ()>>(self, work: V);

    /// The 16 bytes at offset `at` of the runs `r`, `r` + 4 and on, one after the other.
    fn load_rows(self, rows: Runs<'_>, r: usize, at: usize) -> Self::Ints;
    /// The j-th four bytes of each run in vector j, from [`Simd::load_rows`] of each `r` below 4.
    fn transposed(self, rows: [Self::Ints; 4]) -> [Self::Ints; 4];
    /// The four bytes at offset `at` of each of ROWS runs.
    fn load4(self, rows: Runs<'_>, at: usize) -> Self::Ints;
    /// The half-precision number at offset `at` of each of ROWS runs.
    fn load2(self, rows: Runs<'_>, at: usize) -> Self::Floats;
    /// The ROWS lanes at offset `at` of a run, [`PANEL`](crate::layout::PANEL) from each where there are more.
    fn load_lanes(self, panels: Runs<'_>, at: usize) -> Self::Ints;
    /// The ROWS half-precision numbers there.
    fn load_halves(self, panels: Runs<'_>, at: usize) -> Self::Floats;

    /// x in every lane.
    fn splat(self, x: i32) -> Self::Ints;
    /// a & b.
    fn and(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// a | b.
    fn or(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// x << n.
    fn shl(self, x: Self::Ints, n: usize) -> Self::Ints;
    /// x >> n, zeros moving in.
    fn shr(self, x: Self::Ints, n: usize) -> Self::Ints;
    /// a + b.
    fn add_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;

    /// a − b.
    fn sub_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;

    /// Numbers of 16 bits, two in a lane: bytes 0 and 1 of each lane with their signs, and bytes 2 and 3.
    fn pairs(self, x: Self::Ints) -> [Self::Ints; 2];
    /// Factors for [`Simd::dot`]: number I of each pair.
    fn factors<const I: usize>(self, pairs: Self::Ints) -> Self::Ints;
    /// a · x[0] + b · x[1] of pairs (a, b).
    fn dot_pairs(self, ab: Self::Ints, x: [i16; 2]) -> Self::Ints;
    /// total + s · Σ w · x of four or eight vectors of bytes w below 2^BITS, at most six bits, and of activations x; `s`
    /// from [`Simd::factors`], or 1.
    fn dot<const BITS: u32>(
        self,
        total: Self::Ints,
        w: &[Self::Ints],
        x: &[[i8; 4]],
        s: Option<Self::Ints>,
    ) -> Self::Ints;
    /// total + Σ w · x of signed bytes w.
    fn dot_signed(self, total: Self::Ints, w: &[Self::Ints; 8], x: &Quants) -> Self::Ints;

    /// 16 activations for each run of a vector of [`Simd::load_rows`].
    fn repeat(self, x: &[[i8; 4]; 4]) -> Self::Ints;
    /// Adds to partial sums the products of bytes w below 2⁶ with x from [`Simd::repeat`].
    fn add_products(self, sums: Self::Ints, w: Self::Ints, x: Self::Ints) -> Self::Ints;
    /// The sum of each run, from 32 products of bytes below 2⁴.
    fn sum_products(self, sums: [Self::Ints; 4]) -> Self::Ints;
    /// Adds to partial sums those of at most 32 products, of at most 16 where the bytes are above 2⁵, times number `i` of
    /// eight that each run has in `factors`.
    fn add_scaled(
        self,
        sums: Self::Ints,
        products: Self::Ints,
        factors: Self::Ints,
        i: usize,
    ) -> Self::Ints;
    /// The sum of each run, from what [`Simd::add_scaled`] has summed.
    fn sum_scaled(self, sums: [Self::Ints; 4]) -> Self::Ints;
    /// Adds to partial sums the products of signed bytes w.
    fn add_signed(self, sums: Self::Ints, w: Self::Ints, x: Self::Ints) -> Self::Ints;
    /// The sum of each run, from 32 products of signed bytes with `x`.
    fn sum_signed(self, sums: [Self::Ints; 4], x: &Quants) -> Self::Ints;

    /// The lower and the upper half of each lane as half-precision numbers.
    fn halves(self, x: Self::Ints) -> [Self::Floats; 2];
    /// The integers as singles.
    fn floats(self, x: Self::Ints) -> Self::Floats;
    /// x in every lane.
    fn splat_float(self, x: f32) -> Self::Floats;
    /// a · b.
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a + b.
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a − b.
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// Writes the ROWS lanes to the beginning of `out`.
    fn store(self, x: Self::Floats, out: &mut [f32]);
}

/// Methods of one instruction, or of few.
macro_rules! instructions {
    ($($name:ident($($x:ident: $type:ty),*) -> $result:ty = $call:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($x: $type),*) -> $result {
            // SAFETY: `self` is the proof that the CPU has them; they take no pointers.
            unsafe { $call }
        }
    )*};
}
pub(super) use instructions;
