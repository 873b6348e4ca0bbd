//! Vectors of sums, one type for each instruction set and precision.

#![allow(unsafe_code, reason = "vector instructions exist on some CPUs only, and take pointers")]

/// A register of f32 sums. Packed numbers are four bytes each: an f32, or a pair of bf16 that are neighbours along
/// the inner dimension, the first in the lower half.
///
/// # Safety
/// Everybody who calls a function of a type guarantees that the CPU has the type's instructions, and calls from code
/// compiled for them.
pub(super) unsafe trait Vector: Copy {
    /// Sums in it.
    const LEN: usize;

    /// `LEN` copies of a packed number.
    unsafe fn splat(x: f32) -> Self;

    /// `LEN` sums or packed numbers.
    ///
    /// # Safety
    /// They may be read at `from`.
    unsafe fn load(from: *const f32) -> Self;

    /// # Safety
    /// `LEN` numbers may be written at `to`.
    unsafe fn store(self, to: *mut f32);

    /// Sums plus products of packed numbers.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
}

/// Four sums on any CPU. The numbers are f32, fused where every CPU of the target fuses; or `PAIRS` of bf16.
#[derive(Clone, Copy)]
pub(super) struct Portable<const PAIRS: bool>([f32; 4]);

// SAFETY: no instructions but those of the target.
unsafe impl<const PAIRS: bool> Vector for Portable<PAIRS> {
    const LEN: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Portable([x; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller guarantees the numbers; an array is aligned as they are.
        Portable(unsafe { *from.cast() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { *to.cast() = self.0 }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        let mut sums = self.0;
        for i in 0..Self::LEN {
            if PAIRS {
                // The product of two bf16 is exact in an f32.
                let [a, b] = [a.0[i].to_bits(), b.0[i].to_bits()];
                sums[i] += f32::from_bits(a & 0xffff_0000) * f32::from_bits(b & 0xffff_0000);
                sums[i] += f32::from_bits(a << 16) * f32::from_bits(b << 16);
            } else if cfg!(target_arch = "aarch64") {
                sums[i] = a.0[i].mul_add(b.0[i], sums[i]);
            } else {
                sums[i] += a.0[i] * b.0[i];
            }
        }
        Portable(sums)
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::Avx512Bf16;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use std::arch::x86_64::*;

    /// A register of f32: its type and sums, and its instructions.
    macro_rules! register {
        ($type:ty, $len:literal, $splat:ident, $load:ident, $store:ident, $add_product:ident) => {
            // SAFETY: nothing but these instructions.
            unsafe impl Vector for $type {
                const LEN: usize = $len;

                #[inline(always)]
                unsafe fn splat(x: f32) -> Self {
                    // SAFETY: the caller guarantees the instructions.
                    unsafe { $splat(x) }
                }

                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: the caller guarantees the instructions and the numbers.
                    unsafe { $load(from) }
                }

                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: as above.
                    unsafe { $store(to, self) }
                }

                #[inline(always)]
                unsafe fn add_product(self, a: Self, b: Self) -> Self {
                    // SAFETY: the caller guarantees the instructions.
                    unsafe { $add_product(a, b, self) }
                }
            }
        };
    }

    // AVX2 and FMA.
    register!(__m256, 8, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_fmadd_ps);
    // AVX-512F.
    register!(__m512, 16, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_fmadd_ps);

    /// Sixteen sums; the numbers are pairs of bf16.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512Bf16(__m512);

    // SAFETY: AVX-512F and AVX512-BF16.
    unsafe impl Vector for Avx512Bf16 {
        const LEN: usize = 16;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller guarantees the instructions.
            Avx512Bf16(unsafe { _mm512_set1_ps(x) })
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller guarantees the instructions and the numbers.
            Avx512Bf16(unsafe { _mm512_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: both are 512 bits, every pattern of which is thirty-two bf16.
            let [a, b] = [a.0, b.0].map(|x| unsafe { std::mem::transmute::<__m512, __m512bh>(x) });
            // SAFETY: the caller guarantees the instructions.
            Avx512Bf16(unsafe { _mm512_dpbf16_ps(self.0, a, b) })
        }
    }
}
