//! Vectors of AVX2: eight rows. AVX-VNNI adds instructions that multiply bytes and sum the products in 32 bits.

#![allow(unsafe_code, reason = "vector instructions exist on some CPUs only, and take pointers")]
#![expect(clippy::multiple_unsafe_ops_per_block, reason = "instructions in a row need one promise")]

use super::quants::Quants;
use super::simd::{Runs, Simd, instructions};
use crate::isa::{Isa, Vectorised, run_avx_vnni, run_avx2};
use core::arch::x86_64::*;

/// Proof that the CPU has AVX2 and F16C, and AVX-VNNI where its instructions are to be used. Its methods are compiled for
/// them where they are inlined into a [`Vectorised`](crate::isa::Vectorised) computation.
#[derive(Clone, Copy)]
pub(super) struct Avx2<const VNNI: bool = false>(());

/// The proof for AVX-VNNI too.
pub(super) type AvxVnni = Avx2<true>;

impl Avx2 {
    /// The proof, where `isa` includes AVX2.
    pub(super) fn of(isa: Isa) -> Option<Self> {
        (isa.vector_bytes() >= 32).then_some(Avx2(()))
    }

    /// Converts half-precision numbers, eight at a time; returns how many.
    #[inline(always)]
    pub(super) fn widen_halves(self, halves: &[u16], out: &mut [f32]) -> usize {
        let (halves, out) = (halves.as_chunks::<8>().0, out.as_chunks_mut::<8>().0);
        for (halves, out) in halves.iter().zip(out.iter_mut()) {
            // SAFETY: the CPU has F16C; 16 bytes are read from an array of as many, 32 written to another.
            unsafe {
                let eight = _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().cast()));
                _mm256_storeu_ps(out.as_mut_ptr(), eight);
            }
        }
        8 * halves.len().min(out.len())
    }

    /// Rounds to half precision, eight at a time; returns how many.
    #[inline(always)]
    pub(super) fn narrow_to_halves(self, x: &[f32], out: &mut [u16]) -> usize {
        let (x, out) = (x.as_chunks::<8>().0, out.as_chunks_mut::<8>().0);
        for (x, out) in x.iter().zip(out.iter_mut()) {
            // SAFETY: the CPU has F16C; 32 bytes are read from an array of as many, 16 written to another.
            unsafe {
                let eight =
                    _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(x.as_ptr()));
                _mm_storeu_si128(out.as_mut_ptr().cast(), eight);
            }
        }
        8 * x.len().min(out.len())
    }
}

/// The sums of neighbouring halves of 64 bits, those of `a` and of `b` taking turns.
macro_rules! sums_of_halves {
    ($add:ident, $a:expr, $b:expr) => {{
        let (a, b) = ($a, $b);
        let crossed = _mm256_alignr_epi8::<8>(b, a);
        $add(_mm256_blend_epi32::<0b1100_1100>(a, b), crossed)
    }};
}

/// The sums of neighbours of 32 bits, in each half those of `a` before those of `b`.
macro_rules! sums_of_neighbours {
    ($add:ident, $a:expr, $b:expr) => {{
        let (a, b) = (_mm256_castsi256_ps($a), _mm256_castsi256_ps($b));
        let even = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(a, b));
        let odd = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
        $add(even, odd)
    }};
}

// SAFETY of all calls of intrinsics below: `self` exists only where `of` found the instructions. Loads say themselves what
// they read.
impl<const VNNI: bool> Simd for Avx2<VNNI> {
    const ROWS: usize = 8;
    type Ints = __m256i;
    type Floats = __m256;

    fn of(isa: Isa) -> Option<Self> {
        let found = if VNNI { isa.has_avx_vnni() } else { isa.vector_bytes() >= 32 };
        found.then_some(Avx2(()))
    }

    fn run<V: Vectorised<Output = ()>>(self, work: V) {
        // SAFETY: see above.
        unsafe { if VNNI { run_avx_vnni(work) } else { run_avx2(work) } }
    }

    #[inline(always)]
    fn load_rows(self, rows: Runs<'_>, r: usize, at: usize) -> __m256i {
        let row = |r: usize| rows.get::<16>(r, at).as_ptr().cast();
        // SAFETY: 16 bytes are read from an array of as many.
        unsafe { _mm256_set_m128i(_mm_loadu_si128(row(r + 4)), _mm_loadu_si128(row(r))) }
    }

    #[inline(always)]
    fn transposed(self, [a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
        // SAFETY: see above.
        unsafe {
            let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
            let (ab2, cd2) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
            [
                _mm256_unpacklo_epi64(ab, cd),
                _mm256_unpackhi_epi64(ab, cd),
                _mm256_unpacklo_epi64(ab2, cd2),
                _mm256_unpackhi_epi64(ab2, cd2),
            ]
        }
    }

    #[inline(always)]
    fn load4(self, rows: Runs<'_>, at: usize) -> __m256i {
        let row = |r: usize| i32::from_ne_bytes(*rows.get(r, at));
        // SAFETY: see above.
        unsafe { _mm256_setr_epi32(row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)) }
    }

    #[inline(always)]
    fn load2(self, rows: Runs<'_>, at: usize) -> __m256 {
        // Put together in general registers: in this loop vector instructions are what is short.
        let four = |first: usize| {
            let half = |r: usize| u64::from(u16::from_ne_bytes(*rows.get(first + r, at)));
            (half(0) | half(1) << 16 | half(2) << 32 | half(3) << 48) as i64
        };
        // SAFETY: see above.
        unsafe { _mm256_cvtph_ps(_mm_set_epi64x(four(4), four(0))) }
    }

    #[inline(always)]
    fn load_lanes(self, panels: Runs<'_>, at: usize) -> __m256i {
        let lanes = panels.get::<32>(0, at);
        // SAFETY: 32 bytes are read from an array of as many.
        unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_halves(self, panels: Runs<'_>, at: usize) -> __m256 {
        let halves = panels.get::<16>(0, at);
        // SAFETY: 16 bytes are read from an array of as many.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().cast())) }
    }

    instructions! {
        splat(x: i32) -> __m256i = _mm256_set1_epi32(x);
        and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256(a, b);
        or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
        shl(x: __m256i, n: usize) -> __m256i = _mm256_sll_epi32(x, _mm_cvtsi32_si128(n as i32));
        shr(x: __m256i, n: usize) -> __m256i = _mm256_srl_epi32(x, _mm_cvtsi32_si128(n as i32));
        add_ints(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b);
        sub_ints(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi32(a, b);
        dot_pairs(ab: __m256i, x: [i16; 2]) -> __m256i =
            _mm256_madd_epi16(ab, _mm256_set1_epi32(bytemuck::cast(x)));
        add_products(sums: __m256i, w: __m256i, x: __m256i) -> __m256i = if VNNI {
            _mm256_dpbusd_avx_epi32(sums, w, x)
        } else {
            _mm256_add_epi16(sums, _mm256_maddubs_epi16(w, x))
        };
        // As in `dot_signed`.
        add_signed(sums: __m256i, w: __m256i, x: __m256i) -> __m256i = if VNNI {
            _mm256_dpbusd_avx_epi32(sums, _mm256_xor_si256(w, _mm256_set1_epi8(i8::MIN)), x)
        } else {
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
            _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        };
        floats(x: __m256i) -> __m256 = _mm256_cvtepi32_ps(x);
        splat_float(x: f32) -> __m256 = _mm256_set1_ps(x);
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
    }

    #[inline(always)]
    fn pairs(self, x: __m256i) -> [__m256i; 2] {
        let mut pairs = [x; 2];
        for i in 0..2 {
            // Each byte to the upper one of a number, where the sign is; 0x80 gives 0.
            let at = |lane: i32| 0x0180_0080 + 0x0200_0200 * i as i32 + 0x0400_0400 * lane;
            // SAFETY: see above.
            unsafe {
                let at = _mm256_broadcastsi128_si256(_mm_setr_epi32(at(0), at(1), at(2), at(3)));
                pairs[i] = _mm256_srai_epi16(_mm256_shuffle_epi8(x, at), 8);
            }
        }
        pairs
    }

    #[inline(always)]
    fn factors<const I: usize>(self, pairs: __m256i) -> __m256i {
        if VNNI {
            // SAFETY: see above.
            return unsafe { _mm256_srai_epi32(self.shl(pairs, 16 - 16 * I), 16) };
        }
        // The number's bytes twice.
        let at = |lane: i32| 0x0100_0100 + 0x0202_0202 * I as i32 + 0x0404_0404 * lane;
        // SAFETY: see above.
        unsafe {
            let at = _mm_setr_epi32(at(0), at(1), at(2), at(3));
            _mm256_shuffle_epi8(pairs, _mm256_broadcastsi128_si256(at))
        }
    }

    #[inline(always)]
    fn dot<const BITS: u32>(
        self,
        total: __m256i,
        w: &[__m256i],
        x: &[[i8; 4]],
        s: Option<__m256i>,
    ) -> __m256i {
        if VNNI {
            let mut sum = if s.is_some() { self.splat(0) } else { total };
            for (&w, &x) in w.iter().zip(x) {
                sum = self.add_products(sum, w, self.splat(bytemuck::cast(x)));
            }
            // SAFETY: see above.
            return s
                .map_or(sum, |s| unsafe { _mm256_add_epi32(total, _mm256_mullo_epi32(sum, s)) });
        }
        // Sums of products stay in 16 bits for as long as they fit: in each, a number times at most 127.
        let n = const { i16::MAX as usize / (2 * 127 * ((1 << BITS) - 1)) };
        // SAFETY: see above.
        unsafe {
            let factors = s.unwrap_or(_mm256_set1_epi16(1));
            let mut total = total;
            for (w, x) in w.chunks(n).zip(x.chunks(n)) {
                let mut sum = _mm256_setzero_si256();
                for (&w, &x) in w.iter().zip(x) {
                    let pairs = _mm256_maddubs_epi16(w, _mm256_set1_epi32(bytemuck::cast(x)));
                    sum = _mm256_add_epi16(sum, pairs);
                }
                total = _mm256_add_epi32(total, _mm256_madd_epi16(sum, factors));
            }
            total
        }
    }

    #[inline(always)]
    fn dot_signed(self, total: __m256i, w: &[__m256i; 8], x: &Quants) -> __m256i {
        // AVX2: |w| · (x with w's sign). Activations are at least −127, so that no sum of two saturates.
        // VNNI, whose instruction takes weights without sign: Σ (w + 128) · x − 128 · Σ x.
        let mut total = total;
        for (&w, &x) in w.iter().zip(&x.q) {
            total = self.add_signed(total, w, self.splat(bytemuck::cast(x)));
        }
        if VNNI { self.sub_ints(total, self.splat(16 * x.eight_sums)) } else { total }
    }

    #[inline(always)]
    fn repeat(self, x: &[[i8; 4]; 4]) -> __m256i {
        // SAFETY: 16 bytes are read from an array of as many.
        unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn sum_products(self, [a, b, c, d]: [__m256i; 4]) -> __m256i {
        if VNNI {
            return self.sum_scaled([a, b, c, d]);
        }
        // Sums of eight bytes' products, and of sixteen, which 16 bits just hold.
        // SAFETY: see above.
        unsafe {
            let ab = sums_of_halves!(_mm256_add_epi16, a, b);
            let cd = sums_of_halves!(_mm256_add_epi16, c, d);
            let sums = sums_of_neighbours!(_mm256_add_epi16, ab, cd);
            _mm256_madd_epi16(sums, _mm256_set1_epi16(1))
        }
    }

    #[inline(always)]
    fn add_scaled(self, sums: __m256i, products: __m256i, factors: __m256i, i: usize) -> __m256i {
        let at = 0x0100 + 0x0202 * i as i16;
        // SAFETY: see above.
        unsafe {
            if VNNI {
                // Partial sums of eight products, or of four, are numbers of 16 bits: the other half is multiplied by 0.
                let at = _mm256_set1_epi32(0x8080_0000_u32 as i32 | i32::from(at));
                return _mm256_dpwssd_avx_epi32(sums, products, _mm256_shuffle_epi8(factors, at));
            }
            let factor = _mm256_shuffle_epi8(factors, _mm256_set1_epi16(at));
            _mm256_add_epi32(sums, _mm256_madd_epi16(products, factor))
        }
    }

    #[inline(always)]
    fn sum_scaled(self, [a, b, c, d]: [__m256i; 4]) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let ab = sums_of_halves!(_mm256_add_epi32, a, b);
            let cd = sums_of_halves!(_mm256_add_epi32, c, d);
            sums_of_neighbours!(_mm256_add_epi32, ab, cd)
        }
    }

    #[inline(always)]
    fn sum_signed(self, sums: [__m256i; 4], x: &Quants) -> __m256i {
        let total = self.sum_scaled(sums);
        if VNNI { self.sub_ints(total, self.splat(16 * x.eight_sums)) } else { total }
    }

    #[inline(always)]
    fn halves(self, x: __m256i) -> [__m256; 2] {
        // SAFETY: see above.
        unsafe {
            let (low, high) = (self.and(x, self.splat(0xffff)), _mm256_srli_epi32(x, 16));
            // Lanes 0 to 3 of both, then 4 to 7 of both.
            let words = _mm256_packus_epi32(low, high);
            let words = _mm256_permute4x64_epi64(words, 0b11_01_10_00);
            [
                _mm256_cvtph_ps(_mm256_castsi256_si128(words)),
                _mm256_cvtph_ps(_mm256_extracti128_si256(words, 1)),
            ]
        }
    }

    #[inline(always)]
    fn store(self, x: __m256, out: &mut [f32]) {
        let out: &mut [f32; 8] = out.first_chunk_mut().expect("a place for every lane");
        // SAFETY: 32 bytes are written to an array of as many.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), x) }
    }
}
