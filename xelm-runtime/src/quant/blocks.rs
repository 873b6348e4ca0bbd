//! Blocks of [`BLOCK`] numbers: one scale, and a minimum in Q4_1.

use super::{BLOCK, f16_to_f32, f32_to_f16};
use bytemuck::{AnyBitPattern, NoUninit};

/// x = d · (q − 8), q in 0..16. Byte j of `qs` holds number j in its low and number j + 16 in its
/// high half. 4.5 bits per weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// Scale, half precision bits.
    pub d: u16,
    /// Two numbers per byte.
    pub qs: [u8; BLOCK / 2],
}
const _: () = assert!(size_of::<BlockQ4_0>() == 18);

/// x = d · q + m, q in 0..16, in the order of [`BlockQ4_0`]. 5 bits per weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct BlockQ4_1 {
    /// Scale, half precision bits.
    pub d: u16,
    /// Minimum, half precision bits.
    pub m: u16,
    /// Two numbers per byte.
    pub qs: [u8; BLOCK / 2],
}
const _: () = assert!(size_of::<BlockQ4_1>() == 20);

/// x = d · q, q in −127..=127. 8.5 bits per weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// Scale, half precision bits.
    pub d: u16,
    /// One number per byte.
    pub qs: [i8; BLOCK],
}
const _: () = assert!(size_of::<BlockQ8_0>() == 34);

/// Truncates as the reference's C does on x86: through 32 bits, where everything that does not fit becomes
/// the smallest integer, whose low byte is 0. (Scales so small that their inverse overflows get there.)
fn to_i8(x: f32) -> i8 {
    let wide = if x.abs() < 2_147_483_648.0 { x as i32 } else { i32::MIN };
    wide as i8
}

/// 1 / d, and 0 for 0.
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// Numbers below 16 in the order of [`BlockQ4_0`].
pub fn pack_nibbles(q: &[u8; BLOCK]) -> [u8; BLOCK / 2] {
    core::array::from_fn(|j| q[j] | (q[j + BLOCK / 2] << 4))
}

/// The numbers that [`pack_nibbles`] packed.
#[inline(always)]
fn nibbles(qs: &[u8; BLOCK / 2]) -> [i8; BLOCK] {
    let mut numbers = [0; BLOCK];
    for j in 0..BLOCK / 2 {
        numbers[j] = (qs[j] & 0x0f) as i8;
        numbers[j + BLOCK / 2] = (qs[j] >> 4) as i8;
    }
    numbers
}

impl BlockQ4_0 {
    /// Quantises one block as ggml's `quantize_row_q4_0_ref`.
    pub fn quantize(x: &[f32; BLOCK]) -> Self {
        // The scale takes the sign of the largest magnitude, so that this number becomes −8.
        let mut max = 0.0f32;
        for &v in x {
            if v.abs() > max.abs() {
                max = v;
            }
        }
        let d = max / -8.0;
        let inverse = inverse(d);
        // Truncation after + 8.5.
        let q = x.map(|v| to_i8(v * inverse + 8.5).min(15) as u8);
        BlockQ4_0 { d: f32_to_f16(d), qs: pack_nibbles(&q) }
    }

    /// The numbers q − 8.
    #[inline(always)]
    pub fn numbers(&self) -> [i8; BLOCK] {
        let mut numbers = nibbles(&self.qs);
        for q in &mut numbers {
            *q -= 8;
        }
        numbers
    }

    /// The block's numbers.
    #[inline(always)]
    pub fn dequantize(&self) -> [f32; BLOCK] {
        let d = f16_to_f32(self.d);
        self.numbers().map(|q| d * f32::from(q))
    }
}

impl BlockQ4_1 {
    /// Quantises one block as ggml's `quantize_row_q4_1_ref`.
    pub fn quantize(x: &[f32; BLOCK]) -> Self {
        let (mut min, mut max) = (f32::MAX, -f32::MAX);
        for &v in x {
            if v < min {
                min = v;
            }
            if v > max {
                max = v;
            }
        }
        let d = (max - min) / 15.0;
        let inverse = inverse(d);
        let q = x.map(|v| to_i8((v - min) * inverse + 0.5).min(15) as u8);
        BlockQ4_1 { d: f32_to_f16(d), m: f32_to_f16(min), qs: pack_nibbles(&q) }
    }

    /// The numbers q.
    #[inline(always)]
    pub fn numbers(&self) -> [i8; BLOCK] {
        nibbles(&self.qs)
    }

    /// The block's numbers.
    #[inline(always)]
    pub fn dequantize(&self) -> [f32; BLOCK] {
        let (d, m) = (f16_to_f32(self.d), f16_to_f32(self.m));
        self.numbers().map(|q| d * f32::from(q) + m)
    }
}

impl BlockQ8_0 {
    /// Quantises one block as ggml's `quantize_row_q8_0_ref`.
    pub fn quantize(x: &[f32; BLOCK]) -> Self {
        let amax = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let d = amax / 127.0;
        let inverse = inverse(d);
        // Half away from zero, as C's `roundf`.
        let qs = core::array::from_fn(|j| to_i8(libm::roundf(x[j] * inverse)));
        BlockQ8_0 { d: f32_to_f16(d), qs }
    }

    /// The block's numbers.
    #[inline(always)]
    pub fn dequantize(&self) -> [f32; BLOCK] {
        let d = f16_to_f32(self.d);
        let mut x = [0.0; BLOCK];
        for i in 0..BLOCK {
            x[i] = d * f32::from(self.qs[i]);
        }
        x
    }
}
