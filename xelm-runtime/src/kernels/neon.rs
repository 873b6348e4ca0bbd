//! Vectors of NEON with the extension dotprod: eight rows in two registers, and sums of four products of bytes
//! by one instruction.

#![allow(
    unsafe_code,
    reason = "vector instructions take pointers, and some exist on some CPUs only"
)]
#![expect(clippy::multiple_unsafe_ops_per_block, reason = "instructions in a row need one promise")]

use super::quants::Quants;
use super::simd::{Runs, Simd, instructions};
use crate::isa::{Isa, Vectorised, run_neon};
use core::arch::aarch64::*;
use core::arch::asm;

/// Proof that the CPU has dotprod; every 64-bit ARM has NEON. Its methods are compiled for it where they are inlined
/// into a [`Vectorised`](crate::isa::Vectorised) computation.
#[derive(Clone, Copy)]
pub(super) struct Neon(());

/// Rows 0 to 3, and 4 to 7.
type Ints = [int32x4_t; 2];
type Floats = [float32x4_t; 2];

/// An instruction for both registers.
macro_rules! both {
    ($instruction:ident($($x:ident),*)) => {
        [$instruction($($x[0]),*), $instruction($($x[1]),*)]
    };
}

impl Neon {
    /// The proof, where `isa` includes dotprod: all but the portable one do.
    pub(super) fn of(isa: Isa) -> Option<Self> {
        (isa != Isa::PORTABLE).then_some(Neon(()))
    }

    /// Converts half-precision numbers, eight at a time; returns how many.
    #[inline(always)]
    pub(super) fn widen_halves(self, halves: &[u16], out: &mut [f32]) -> usize {
        let (halves, out) = (halves.as_chunks::<8>().0, out.as_chunks_mut::<8>().0);
        for (halves, out) in halves.iter().zip(out.iter_mut()) {
            // SAFETY: 16 bytes are read from an array of as many, 32 written to another.
            unsafe {
                let eight = vreinterpretq_f16_u16(vld1q_u16(halves.as_ptr()));
                vst1q_f32(out.as_mut_ptr(), vcvt_f32_f16(vget_low_f16(eight)));
                vst1q_f32(out.as_mut_ptr().wrapping_add(4), vcvt_high_f32_f16(eight));
            }
        }
        8 * halves.len().min(out.len())
    }

    /// Rounds to half precision, eight at a time; returns how many.
    #[inline(always)]
    pub(super) fn narrow_to_halves(self, x: &[f32], out: &mut [u16]) -> usize {
        let (x, out) = (x.as_chunks::<8>().0, out.as_chunks_mut::<8>().0);
        for (x, out) in x.iter().zip(out.iter_mut()) {
            // SAFETY: 32 bytes are read from an array of as many, 16 written to another.
            unsafe {
                let four = vcvt_f16_f32(vld1q_f32(x.as_ptr()));
                let eight = vcvt_high_f16_f32(four, vld1q_f32(x.as_ptr().wrapping_add(4)));
                vst1q_u16(out.as_mut_ptr(), vreinterpretq_u16_f16(eight));
            }
        }
        8 * x.len().min(out.len())
    }

    /// total + Σ w · x of signed bytes, four vectors at a time.
    #[inline(always)]
    fn dot_bytes(self, total: Ints, w: &[Ints], x: &[[i8; 4]]) -> Ints {
        // SAFETY: 16 bytes are read from an array of as many.
        unsafe {
            let mut sums = total;
            for (w, x) in w.as_chunks::<4>().0.iter().zip(x.as_chunks::<4>().0) {
                let x = vld1q_s8(x.as_ptr().cast());
                for i in 0..2 {
                    sums[i] = self.sdot::<0>(sums[i], w[0][i], x);
                    sums[i] = self.sdot::<1>(sums[i], w[1][i], x);
                    sums[i] = self.sdot::<2>(sums[i], w[2][i], x);
                    sums[i] = self.sdot::<3>(sums[i], w[3][i], x);
                }
            }
            sums
        }
    }

    /// To each lane of `sum`, the products of its four bytes with those in lane LANE of `x`.
    #[inline(always)]
    fn sdot<const LANE: i32>(self, sum: int32x4_t, w: int32x4_t, x: int8x16_t) -> int32x4_t {
        let mut total = sum;
        // SAFETY: `self` is the proof that the CPU has the instruction.
        unsafe {
            asm!(
                "sdot {total:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
                total = inout(vreg) total,
                w = in(vreg) w,
                x = in(vreg) x,
                lane = const LANE,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        total
    }

    /// To each lane of `sum`, the products of its four bytes with those of the same lane of `x`.
    #[inline(always)]
    fn sdot_all(self, sum: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t {
        let mut total = sum;
        // SAFETY: `self` is the proof that the CPU has the instruction.
        unsafe {
            asm!(
                "sdot {total:v}.4s, {w:v}.16b, {x:v}.16b",
                total = inout(vreg) total,
                w = in(vreg) w,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        total
    }
}

/// Lane j of vector i becomes lane i of vector j.
#[inline(always)]
fn transposed([a, b, c, d]: [int32x4_t; 4]) -> [int32x4_t; 4] {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        let even = |a, b| vreinterpretq_s64_s32(vtrn1q_s32(a, b));
        let odd = |a, b| vreinterpretq_s64_s32(vtrn2q_s32(a, b));
        let (ab, cd, ab2, cd2) = (even(a, b), even(c, d), odd(a, b), odd(c, d));
        [
            vreinterpretq_s32_s64(vtrn1q_s64(ab, cd)),
            vreinterpretq_s32_s64(vtrn1q_s64(ab2, cd2)),
            vreinterpretq_s32_s64(vtrn2q_s64(ab, cd)),
            vreinterpretq_s32_s64(vtrn2q_s64(ab2, cd2)),
        ]
    }
}

// SAFETY of all calls of intrinsics below: every 64-bit ARM has NEON. Loads say themselves what they read.
impl Simd for Neon {
    const ROWS: usize = 8;
    type Ints = Ints;
    type Floats = Floats;

    fn of(isa: Isa) -> Option<Self> {
        Neon::of(isa)
    }

    fn run<V: Vectorised<Output = ()>>(self, work: V) {
        // SAFETY: see above.
        unsafe { run_neon(work) }
    }

    #[inline(always)]
    fn load_rows(self, rows: Runs<'_>, r: usize, at: usize) -> Ints {
        // SAFETY: 16 bytes are read from an array of as many.
        let row = |r| unsafe { vreinterpretq_s32_u8(vld1q_u8(rows.get::<16>(r, at).as_ptr())) };
        [row(r), row(r + 4)]
    }

    #[inline(always)]
    fn transposed(self, rows: [Ints; 4]) -> [Ints; 4] {
        let [low, high] = [0, 1].map(|i| transposed(rows.map(|row| row[i])));
        [[low[0], high[0]], [low[1], high[1]], [low[2], high[2]], [low[3], high[3]]]
    }

    #[inline(always)]
    fn load4(self, rows: Runs<'_>, at: usize) -> Ints {
        let mut of = [0i32; 8];
        for r in 0..8 {
            of[r] = i32::from_ne_bytes(*rows.get(r, at));
        }
        // SAFETY: 32 bytes are read from an array of as many.
        unsafe { [vld1q_s32(of.as_ptr()), vld1q_s32(of.as_ptr().wrapping_add(4))] }
    }

    #[inline(always)]
    fn load2(self, rows: Runs<'_>, at: usize) -> Floats {
        let mut of = [0u16; 8];
        for r in 0..8 {
            of[r] = u16::from_ne_bytes(*rows.get(r, at));
        }
        // SAFETY: 16 bytes are read from an array of as many.
        unsafe {
            let eight = vreinterpretq_f16_u16(vld1q_u16(of.as_ptr()));
            [vcvt_f32_f16(vget_low_f16(eight)), vcvt_high_f32_f16(eight)]
        }
    }

    #[inline(always)]
    fn load_lanes(self, panels: Runs<'_>, at: usize) -> Ints {
        let lanes = panels.get::<32>(0, at).as_ptr();
        // SAFETY: 32 bytes are read from an array of as many.
        unsafe {
            let [low, high] = [vld1q_u8(lanes), vld1q_u8(lanes.wrapping_add(16))];
            [vreinterpretq_s32_u8(low), vreinterpretq_s32_u8(high)]
        }
    }

    #[inline(always)]
    fn load_halves(self, panels: Runs<'_>, at: usize) -> Floats {
        let halves = panels.get::<16>(0, at).as_ptr();
        // SAFETY: 16 bytes are read from an array of as many.
        unsafe {
            let eight = vreinterpretq_f16_u8(vld1q_u8(halves));
            [vcvt_f32_f16(vget_low_f16(eight)), vcvt_high_f32_f16(eight)]
        }
    }

    instructions! {
        splat(x: i32) -> Ints = [vdupq_n_s32(x); 2];
        and(a: Ints, b: Ints) -> Ints = both!(vandq_s32(a, b));
        or(a: Ints, b: Ints) -> Ints = both!(vorrq_s32(a, b));
        add_ints(a: Ints, b: Ints) -> Ints = both!(vaddq_s32(a, b));
        sub_ints(a: Ints, b: Ints) -> Ints = both!(vsubq_s32(a, b));
        floats(x: Ints) -> Floats = both!(vcvtq_f32_s32(x));
        splat_float(x: f32) -> Floats = [vdupq_n_f32(x); 2];
        mul(a: Floats, b: Floats) -> Floats = both!(vmulq_f32(a, b));
        add(a: Floats, b: Floats) -> Floats = both!(vaddq_f32(a, b));
        sub(a: Floats, b: Floats) -> Floats = both!(vsubq_f32(a, b));
    }

    #[inline(always)]
    fn shl(self, x: Ints, n: usize) -> Ints {
        let n = self.splat(n as i32);
        // SAFETY: see above.
        unsafe { both!(vshlq_s32(x, n)) }
    }

    #[inline(always)]
    fn shr(self, x: Ints, n: usize) -> Ints {
        let n = self.splat(-(n as i32));
        // SAFETY: see above.
        unsafe {
            let x = both!(vreinterpretq_u32_s32(x));
            let x = both!(vshlq_u32(x, n));
            both!(vreinterpretq_s32_u32(x))
        }
    }

    #[inline(always)]
    fn pairs(self, x: Ints) -> [Ints; 2] {
        // SAFETY: see above.
        unsafe {
            let [low, high] = x.map(|x| {
                let x = vreinterpretq_s8_s32(x);
                let (a, b) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
                let (a, b) = (vreinterpretq_s32_s16(a), vreinterpretq_s32_s16(b));
                [vuzp1q_s32(a, b), vuzp2q_s32(a, b)]
            });
            [[low[0], high[0]], [low[1], high[1]]]
        }
    }

    #[inline(always)]
    fn factors<const I: usize>(self, pairs: Ints) -> Ints {
        let x = self.shl(pairs, 16 - 16 * I);
        // SAFETY: see above.
        unsafe { [vshrq_n_s32::<16>(x[0]), vshrq_n_s32::<16>(x[1])] }
    }

    #[inline(always)]
    fn dot<const BITS: u32>(self, total: Ints, w: &[Ints], x: &[[i8; 4]], s: Option<Ints>) -> Ints {
        match s {
            Some(s) => {
                let sums = self.dot_bytes(self.splat(0), w, x);
                // SAFETY: see above.
                unsafe { both!(vmlaq_s32(total, sums, s)) }
            }
            None => self.dot_bytes(total, w, x),
        }
    }

    #[inline(always)]
    fn dot_signed(self, total: Ints, w: &[Ints; 8], x: &Quants) -> Ints {
        self.dot_bytes(total, w, &x.q)
    }

    #[inline(always)]
    fn repeat(self, x: &[[i8; 4]; 4]) -> Ints {
        // SAFETY: 16 bytes are read from an array of as many.
        unsafe { [vreinterpretq_s32_s8(vld1q_s8(x.as_ptr().cast())); 2] }
    }

    #[inline(always)]
    fn add_products(self, sums: Ints, w: Ints, x: Ints) -> Ints {
        [self.sdot_all(sums[0], w[0], x[0]), self.sdot_all(sums[1], w[1], x[1])]
    }

    #[inline(always)]
    fn sum_products(self, sums: [Ints; 4]) -> Ints {
        self.sum_scaled(sums)
    }

    #[inline(always)]
    fn add_scaled(self, sums: Ints, products: Ints, factors: Ints, i: usize) -> Ints {
        // To the upper half of each lane, where the sign is; an index that is too large gives 0.
        let at = 0x0100_ffff_u32 + 0x0202_0000 * i as u32;
        let mut sums = sums;
        for i in 0..2 {
            // SAFETY: see above.
            unsafe {
                let at = vreinterpretq_u8_u32(vdupq_n_u32(at));
                let factor = vqtbl1q_s8(vreinterpretq_s8_s32(factors[i]), at);
                let factor = vshrq_n_s32::<16>(vreinterpretq_s32_s8(factor));
                sums[i] = vmlaq_s32(sums[i], products[i], factor);
            }
        }
        sums
    }

    #[inline(always)]
    fn sum_scaled(self, [a, b, c, d]: [Ints; 4]) -> Ints {
        // SAFETY: see above.
        unsafe {
            let (ab, cd) = (both!(vpaddq_s32(a, b)), both!(vpaddq_s32(c, d)));
            both!(vpaddq_s32(ab, cd))
        }
    }

    #[inline(always)]
    fn add_signed(self, sums: Ints, w: Ints, x: Ints) -> Ints {
        self.add_products(sums, w, x)
    }

    #[inline(always)]
    fn sum_signed(self, sums: [Ints; 4], _: &Quants) -> Ints {
        self.sum_scaled(sums)
    }

    #[inline(always)]
    fn dot_pairs(self, ab: Ints, x: [i16; 2]) -> Ints {
        // SAFETY: see above.
        unsafe {
            let x = vreinterpretq_s16_s32(vdupq_n_s32(bytemuck::cast(x)));
            both!(vreinterpretq_s16_s32(ab)).map(|ab| {
                let low = vmull_s16(vget_low_s16(ab), vget_low_s16(x));
                vpaddq_s32(low, vmull_high_s16(ab, x))
            })
        }
    }

    #[inline(always)]
    fn halves(self, x: Ints) -> [Floats; 2] {
        // SAFETY: see above.
        unsafe {
            let [a, b] = both!(vreinterpretq_s16_s32(x));
            let (low, high) = (vuzp1q_s16(a, b), vuzp2q_s16(a, b));
            [low, high].map(|x| {
                let eight = vreinterpretq_f16_s16(x);
                [vcvt_f32_f16(vget_low_f16(eight)), vcvt_high_f32_f16(eight)]
            })
        }
    }

    #[inline(always)]
    fn store(self, x: Floats, out: &mut [f32]) {
        let out: &mut [f32; 8] = out.first_chunk_mut().expect("a place for every lane");
        // SAFETY: 32 bytes are written to an array of as many.
        unsafe {
            vst1q_f32(out.as_mut_ptr(), x[0]);
            vst1q_f32(out.as_mut_ptr().wrapping_add(4), x[1]);
        }
    }
}
