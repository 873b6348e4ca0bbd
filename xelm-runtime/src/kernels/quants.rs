//! Activations in 8 bits, as products with quantised weights take them.

use crate::isa::Vectorised;
use crate::quant::BLOCK;
use bytemuck::{AnyBitPattern, NoUninit};

/// 32 activations of one token, x ≈ scale · q with q in −127..=127, and the sums of them by which the offsets
/// of weights are multiplied.
#[derive(Clone, Copy, Debug, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Quants {
    /// The numbers, four neighbours together.
    pub q: [[i8; 4]; BLOCK / 4],
    /// The scale.
    pub scale: f32,
    /// 8 · Σ q.
    pub eight_sums: i32,
    /// scale · Σ q.
    pub scaled_sum: f32,
    /// Σ q of each half.
    pub halves: [i16; 2],
}

/// Quantises `n` rows, rounding half away from zero: x is `[n, n_groups · 32]`, `quants` `[n_groups, n]`, so
/// that what one group of weights is multiplied by lies together.
pub(super) struct Quantize<'a> {
    pub(super) x: &'a [f32],
    pub(super) n: usize,
    /// Index of the first group in `quants`.
    pub(super) first: usize,
    pub(super) quants: &'a mut [Quants],
}

impl Vectorised for Quantize<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Quantize { x, n, first, quants } = self;
        let (blocks, _) = x.as_chunks::<BLOCK>();
        let n_groups = blocks.len() / n;
        for (g, quants) in quants.chunks_exact_mut(n).enumerate() {
            for (t, quants) in quants.iter_mut().enumerate() {
                quantize(&blocks[t * n_groups + first + g], quants);
            }
        }
    }
}

/// Numbers that are all below this count as zeros: their inverse might be infinite.
const SMALLEST: f32 = 1e-36;
/// 2²³: singles of this size are integers.
const TWO_23: f32 = 8_388_608.0;

/// q and s with x ≈ s · q, q in −127..=127, rounded half away from zero.
#[inline(always)]
pub(super) fn to_bytes(x: &[f32; BLOCK]) -> ([i8; BLOCK], f32) {
    let (q, scale) = to_integers(x);
    let mut bytes = [0i8; BLOCK];
    for l in 0..BLOCK {
        bytes[l] = q[l] as i8;
    }
    (bytes, scale)
}

/// [`to_bytes`], before the numbers are narrowed.
#[inline(always)]
fn to_integers(x: &[f32; BLOCK]) -> ([i32; BLOCK], f32) {
    let mut magnitudes = [0.0f32; BLOCK];
    // Bits of numbers that are not negative are in the order of the numbers, and integers may be compared in any order.
    let mut amax = 0;
    for l in 0..BLOCK {
        magnitudes[l] = x[l].abs();
        amax = amax.max(magnitudes[l].to_bits() as i32);
    }
    let amax = f32::from_bits(amax as u32);
    let inverse = if amax < SMALLEST { 0.0 } else { 127.0 / amax };
    let mut q = [0; BLOCK];
    for l in 0..BLOCK {
        // Rounded without a conversion to an integer, which in Rust is never one of a vector: adding 2²³ rounds to
        // the nearest integer, in the low bits.
        let v = magnitudes[l] * inverse;
        let v = if v < 127.0 { v } else { 127.0 } + 0.5;
        let shifted = v + TWO_23;
        let rounded = (shifted.to_bits() & 0xff) as i32;
        let floor = rounded - i32::from(shifted - TWO_23 > v);
        let sign = (x[l].to_bits() as i32) >> 31;
        q[l] = (floor ^ sign) - sign;
    }
    (q, amax / 127.0)
}

#[inline(always)]
fn quantize(x: &[f32; BLOCK], out: &mut Quants) {
    let (q, scale) = to_integers(x);
    let mut bytes = [0i8; BLOCK];
    let mut halves = [0; 2];
    for l in 0..BLOCK / 2 {
        bytes[l] = q[l] as i8;
        bytes[l + BLOCK / 2] = q[l + BLOCK / 2] as i8;
        halves[0] += q[l];
        halves[1] += q[l + BLOCK / 2];
    }
    let sum = halves[0] + halves[1];
    let (eight_sums, scaled_sum) = (8 * sum, scale * sum as f32);
    let halves = [halves[0] as i16, halves[1] as i16];
    *out = Quants { q: bytemuck::cast(bytes), scale, eight_sums, scaled_sum, halves };
}
