//! Products of quantised weights with AVX2: the sums of `portable`, in the same order, so the same bits.

#![allow(unsafe_code, reason = "vector instructions exist on some CPUs only, and take pointers")]
#![expect(clippy::multiple_unsafe_ops_per_block, reason = "instructions in a row need one promise")]

use super::{Activations, Kernels};
use crate::expert::Matrix;
use crate::isa::Vectorised;
use crate::parallel::Columns;
use crate::quant::{BLOCK, BlockQ4_0, BlockQ8_0};
use bytemuck::AnyBitPattern;
use core::arch::x86_64::*;
use core::marker::PhantomData;

/// The rows of the table that are better here than in plain Rust, where the instruction set includes AVX2.
pub(super) fn kernels(others: Kernels) -> Option<Kernels> {
    (others.isa.vector_bytes() >= 32).then_some(Kernels {
        q4_0: |isa, w, x, out| isa.run(Matmul::<BlockQ4_0>(w, x, out, PhantomData)),
        q8_0: |isa, w, x, out| isa.run(Matmul::<BlockQ8_0>(w, x, out, PhantomData)),
        ..others
    })
}

/// A product with weights in blocks of 32 and activations in 8 bits. Only the functions above make one, for an
/// instruction set that includes AVX2.
struct Matmul<'a, B>(&'a Matrix<'a>, &'a Activations<'a>, Columns<'a>, PhantomData<B>);

/// A block of quantised weights.
trait Block: AnyBitPattern {
    /// Half-precision scale.
    fn scale(&self) -> u16;

    /// The 32 numbers.
    ///
    /// # Safety
    /// The CPU has AVX2.
    unsafe fn numbers(&self) -> __m256i;
}

impl Block for BlockQ8_0 {
    #[inline(always)]
    fn scale(&self) -> u16 {
        self.d
    }

    #[inline(always)]
    unsafe fn numbers(&self) -> __m256i {
        // SAFETY: 32 bytes are read from an array of as many; the caller guarantees the instructions.
        unsafe { _mm256_loadu_si256(self.qs.as_ptr().cast()) }
    }
}

impl Block for BlockQ4_0 {
    #[inline(always)]
    fn scale(&self) -> u16 {
        self.d
    }

    #[inline(always)]
    unsafe fn numbers(&self) -> __m256i {
        // SAFETY: 16 bytes are read from an array of as many; the caller guarantees the instructions.
        unsafe {
            let pairs = _mm_loadu_si128(self.qs.as_ptr().cast());
            let both = _mm256_set_m128i(_mm_srli_epi16(pairs, 4), pairs);
            let nibbles = _mm256_and_si256(both, _mm256_set1_epi8(0x0f));
            _mm256_sub_epi8(nibbles, _mm256_set1_epi8(8))
        }
    }
}

impl<B: Block> Vectorised for Matmul<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Matmul(w, x, mut out, _) = self;
        let n_blocks = w.n_cols / BLOCK;
        let tiles = Tiles {
            weights: w.elements::<B>(),
            quants: x.quants.as_chunks::<BLOCK>().0,
            scales: x.scales,
            n_blocks,
        };
        // Row by row, so that the weights are one stream of memory; tokens share the unpacking of a row.
        let n = out.n_rows();
        for row in out.range() {
            let mut t = 0;
            while t + 4 <= n {
                // SAFETY: `kernels` put this function into a table for CPUs with AVX2 only.
                let sums: [f32; 4] = unsafe { tiles.sums(row, t) };
                for i in 0..4 {
                    out.set(t + i, row, sums[i]);
                }
                t += 4;
            }
            while t < n {
                // SAFETY: as above.
                let [sum] = unsafe { tiles.sums(row, t) };
                out.set(t, row, sum);
                t += 1;
            }
        }
    }
}

struct Tiles<'a, B> {
    weights: &'a [B],
    quants: &'a [[i8; BLOCK]],
    scales: &'a [f32],
    n_blocks: usize,
}

impl<B: Block> Tiles<'_, B> {
    /// The products of a row with N tokens from `first` on.
    ///
    /// # Safety
    /// The CPU has AVX2 and F16C.
    #[inline(always)]
    unsafe fn sums<const N: usize>(&self, row: usize, first: usize) -> [f32; N] {
        let n = self.n_blocks;
        let row = &self.weights[row * n..][..n];
        let quants = &self.quants[first * n..][..N * n];
        let scales = &self.scales[first * n..][..N * n];
        // SAFETY: the caller guarantees the instructions.
        unsafe {
            // Even and odd blocks are summed apart: two additions are under way at once.
            let mut sums = [[_mm256_setzero_ps(); 2]; N];
            for i in (0..n - n % 2).step_by(2) {
                add_block::<B, N, 0>(&mut sums, row, quants, scales, i);
                add_block::<B, N, 1>(&mut sums, row, quants, scales, i + 1);
            }
            if n % 2 == 1 {
                add_block::<B, N, 0>(&mut sums, row, quants, scales, n - 1);
            }
            let mut folded = [0.0; N];
            for t in 0..N {
                folded[t] = fold(sums[t]);
            }
            folded
        }
    }
}

/// Bytes between a block and the one that is fetched while it is computed with.
const AHEAD: usize = 2048;

/// Adds block i of a row times block i of N tokens to the sums of its parity P.
///
/// # Safety
/// The CPU has AVX2 and F16C.
#[inline(always)]
unsafe fn add_block<B: Block, const N: usize, const P: usize>(
    sums: &mut [[__m256; 2]; N],
    row: &[B],
    quants: &[[i8; BLOCK]],
    scales: &[f32],
    i: usize,
) {
    // SAFETY: the caller guarantees the instructions; 32 bytes are read from arrays of as many.
    unsafe {
        // The processor's own prefetching ends with a page, and an expert's pages are small. Nothing is read here, so
        // that the address may lie behind the weights.
        _mm_prefetch::<_MM_HINT_T0>((&raw const row[i]).wrapping_byte_add(AHEAD).cast());
        let w = row[i].numbers();
        let d = _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(row[i].scale()))));
        let magnitudes = _mm256_abs_epi8(w);
        for t in 0..N {
            let at = t * row.len() + i;
            let x = _mm256_loadu_si256(quants[at].as_ptr().cast());
            // |w| · (x with w's sign). Activations are at least -127, so that no sum of two saturates.
            let pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(x, w));
            let lanes = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            let scaled = _mm256_mul_ps(lanes, _mm256_set1_ps(d * scales[at]));
            sums[t][P] = _mm256_add_ps(sums[t][P], scaled);
        }
    }
}

/// The sum of sixteen lanes, in the order of `lanes::fold`.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn fold([even, odd]: [__m256; 2]) -> f32 {
    // SAFETY: the caller guarantees the instructions.
    unsafe {
        let eight = _mm256_add_ps(even, odd);
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}
