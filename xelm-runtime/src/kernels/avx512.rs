//! Vectors of AVX-512 with VNNI: sixteen rows, and products of bytes summed in 32 bits by one instruction.

#![allow(unsafe_code, reason = "vector instructions exist on some CPUs only, and take pointers")]
#![expect(clippy::multiple_unsafe_ops_per_block, reason = "instructions in a row need one promise")]

use super::quants::Quants;
use super::simd::{Runs, Simd, instructions};
use crate::isa::{Isa, Vectorised, run_avx512};
use core::arch::x86_64::*;

/// Proof that the CPU has AVX-512 F, BW, DQ, VL and VNNI. Its methods are compiled for them where they are inlined
/// into a [`Vectorised`](crate::isa::Vectorised) computation.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

// SAFETY of all calls of intrinsics below: `self` exists only where `of` found the instructions. Loads say
// themselves what they read.
impl Simd for Avx512 {
    const ROWS: usize = 16;
    type Ints = __m512i;
    type Floats = __m512;

    fn of(isa: Isa) -> Option<Self> {
        (isa.vector_bytes() >= 64).then_some(Avx512(()))
    }

    fn run<V: Vectorised<Output = ()>>(self, work: V) {
        // SAFETY: see above.
        unsafe { run_avx512(work) }
    }

    #[inline(always)]
    fn load_rows(self, rows: Runs<'_>, r: usize, at: usize) -> __m512i {
        let row = |r: usize| rows.get::<16>(r, at).as_ptr().cast();
        // SAFETY: 16 bytes are read from an array of as many.
        unsafe {
            let x = _mm512_castsi128_si512(_mm_loadu_si128(row(r)));
            let x = _mm512_inserti32x4::<1>(x, _mm_loadu_si128(row(r + 4)));
            let x = _mm512_inserti32x4::<2>(x, _mm_loadu_si128(row(r + 8)));
            _mm512_inserti32x4::<3>(x, _mm_loadu_si128(row(r + 12)))
        }
    }

    #[inline(always)]
    fn transposed(self, [a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
        // SAFETY: see above.
        unsafe {
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            let (ab2, cd2) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab2, cd2),
                _mm512_unpackhi_epi64(ab2, cd2),
            ]
        }
    }

    #[inline(always)]
    fn load4(self, rows: Runs<'_>, at: usize) -> __m512i {
        let mut of = [0i32; 16];
        for r in 0..16 {
            of[r] = i32::from_ne_bytes(*rows.get(r, at));
        }
        // SAFETY: 64 bytes are read from an array of as many.
        unsafe { _mm512_loadu_si512(of.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load2(self, rows: Runs<'_>, at: usize) -> __m512 {
        let mut of = [0u16; 16];
        for r in 0..16 {
            of[r] = u16::from_ne_bytes(*rows.get(r, at));
        }
        // SAFETY: 32 bytes are read from an array of as many.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(of.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_lanes(self, panels: Runs<'_>, at: usize) -> __m512i {
        let (a, b) = (panels.get::<32>(0, at), panels.get::<32>(1, at));
        // SAFETY: 32 bytes are read from each of two arrays of as many.
        unsafe {
            let low = _mm512_castsi256_si512(_mm256_loadu_si256(a.as_ptr().cast()));
            _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(b.as_ptr().cast()))
        }
    }

    #[inline(always)]
    fn load_halves(self, panels: Runs<'_>, at: usize) -> __m512 {
        let (a, b) = (panels.get::<16>(0, at), panels.get::<16>(1, at));
        // SAFETY: 16 bytes are read from each of two arrays of as many.
        unsafe {
            let low = _mm256_castsi128_si256(_mm_loadu_si128(a.as_ptr().cast()));
            let high = _mm_loadu_si128(b.as_ptr().cast());
            _mm512_cvtph_ps(_mm256_inserti128_si256::<1>(low, high))
        }
    }

    instructions! {
        splat(x: i32) -> __m512i = _mm512_set1_epi32(x);
        and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        shl(x: __m512i, n: usize) -> __m512i = _mm512_sll_epi32(x, _mm_cvtsi32_si128(n as i32));
        shr(x: __m512i, n: usize) -> __m512i = _mm512_srl_epi32(x, _mm_cvtsi32_si128(n as i32));
        add_ints(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        sub_ints(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32(a, b);
        dot_pairs(ab: __m512i, x: [i16; 2]) -> __m512i =
            _mm512_madd_epi16(ab, _mm512_set1_epi32(bytemuck::cast(x)));
        add_products(sums: __m512i, w: __m512i, x: __m512i) -> __m512i =
            _mm512_dpbusd_epi32(sums, w, x);
        // As in `dot_signed`, with 128 added to the weights.
        add_signed(sums: __m512i, w: __m512i, x: __m512i) -> __m512i =
            _mm512_dpbusd_epi32(sums, _mm512_xor_si512(w, _mm512_set1_epi8(i8::MIN)), x);
        floats(x: __m512i) -> __m512 = _mm512_cvtepi32_ps(x);
        splat_float(x: f32) -> __m512 = _mm512_set1_ps(x);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
    }

    #[inline(always)]
    fn pairs(self, x: __m512i) -> [__m512i; 2] {
        let mut pairs = [x; 2];
        for i in 0..2 {
            // Each byte to the upper one of a number, where the sign is; 0x80 gives 0.
            let at = |lane: i32| 0x0180_0080 + 0x0200_0200 * i as i32 + 0x0400_0400 * lane;
            // SAFETY: see above.
            unsafe {
                let at = _mm512_broadcast_i32x4(_mm_setr_epi32(at(0), at(1), at(2), at(3)));
                pairs[i] = _mm512_srai_epi16(_mm512_shuffle_epi8(x, at), 8);
            }
        }
        pairs
    }

    #[inline(always)]
    fn factors<const I: usize>(self, pairs: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_srai_epi32(self.shl(pairs, 16 - 16 * I), 16) }
    }

    #[inline(always)]
    fn dot<const BITS: u32>(
        self,
        total: __m512i,
        w: &[__m512i],
        x: &[[i8; 4]],
        s: Option<__m512i>,
    ) -> __m512i {
        let mut sum = if s.is_some() { self.splat(0) } else { total };
        // SAFETY: see above.
        unsafe {
            for (&w, &x) in w.iter().zip(x) {
                sum = _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(bytemuck::cast(x)));
            }
            s.map_or(sum, |s| _mm512_add_epi32(total, _mm512_mullo_epi32(sum, s)))
        }
    }

    #[inline(always)]
    fn dot_signed(self, total: __m512i, w: &[__m512i; 8], x: &Quants) -> __m512i {
        // The instruction takes weights without sign: Σ (w + 128) · x − 128 · Σ x.
        // SAFETY: see above.
        unsafe {
            let mut total = total;
            for (&w, &x) in w.iter().zip(&x.q) {
                let w = _mm512_xor_si512(w, _mm512_set1_epi8(i8::MIN));
                total = _mm512_dpbusd_epi32(total, w, _mm512_set1_epi32(bytemuck::cast(x)));
            }
            let sums = _mm512_slli_epi32(_mm512_set1_epi32(x.eight_sums), 4);
            _mm512_sub_epi32(total, sums)
        }
    }

    #[inline(always)]
    fn repeat(self, x: &[[i8; 4]; 4]) -> __m512i {
        // SAFETY: 16 bytes are read from an array of as many.
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn sum_products(self, sums: [__m512i; 4]) -> __m512i {
        self.sum_scaled(sums)
    }

    #[inline(always)]
    fn add_scaled(self, sums: __m512i, products: __m512i, factors: __m512i, i: usize) -> __m512i {
        // Partial sums of eight products, or of four, are numbers of 16 bits: the other half is multiplied by 0.
        let at = 0x8080_0100_u32 + 0x0202 * i as u32;
        // SAFETY: see above.
        unsafe {
            let factor = _mm512_shuffle_epi8(factors, self.splat(at as i32));
            _mm512_dpwssd_epi32(sums, products, factor)
        }
    }

    #[inline(always)]
    fn sum_scaled(self, [a, b, c, d]: [__m512i; 4]) -> __m512i {
        // SAFETY: see above.
        unsafe {
            let (ab, ab2) = (_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
            let (cd, cd2) = (_mm512_unpacklo_epi64(c, d), _mm512_unpackhi_epi64(c, d));
            let ab = _mm512_castsi512_ps(_mm512_add_epi32(ab, ab2));
            let cd = _mm512_castsi512_ps(_mm512_add_epi32(cd, cd2));
            let even = _mm512_shuffle_ps::<0b10_00_10_00>(ab, cd);
            let odd = _mm512_shuffle_ps::<0b11_01_11_01>(ab, cd);
            _mm512_add_epi32(_mm512_castps_si512(even), _mm512_castps_si512(odd))
        }
    }

    #[inline(always)]
    fn sum_signed(self, sums: [__m512i; 4], x: &Quants) -> __m512i {
        self.sub_ints(self.sum_scaled(sums), self.splat(16 * x.eight_sums))
    }

    #[inline(always)]
    fn halves(self, x: __m512i) -> [__m512; 2] {
        // SAFETY: see above.
        unsafe {
            [
                _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)),
                _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(x, 16))),
            ]
        }
    }

    #[inline(always)]
    fn store(self, x: __m512, out: &mut [f32]) {
        let out: &mut [f32; 16] = out.first_chunk_mut().expect("a place for every lane");
        // SAFETY: 64 bytes are written to an array of as many.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) }
    }
}
