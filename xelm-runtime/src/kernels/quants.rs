//! Activations in 8 bits, as products with quantised weights take them.

use crate::isa::Vectorised;
use crate::quant::{BLOCK, GROUPS};
use bytemuck::{AnyBitPattern, NoUninit};

/// 32 activations of one token, x ≈ scale · q with q in −127..=127, and the sums of them by which the offsets
/// of weights are multiplied.
#[derive(Clone, Copy, Debug, NoUninit, AnyBitPattern)]
#[repr(C, align(16))]
pub struct Quants {
    /// The numbers, four neighbours together.
    pub q: [[i8; 4]; BLOCK / 4],
    /// The scale: the same in all groups by which a block of weights is multiplied.
    pub scale: f32,
    /// 8 · Σ q.
    pub eight_sums: i32,
    /// Σ q of each half.
    pub halves: [i16; 2],
    /// Σ q, and that of the next group with the same scale, if there is one.
    pub two_sums: [i16; 2],
}

/// Quantises `n` rows, rounding half away from zero: x is `[n, n_groups · 32]`, `quants` `[n_groups, n]`, so
/// that what one group of weights is multiplied by lies together.
pub(super) struct Quantize<'a> {
    pub(super) x: &'a [f32],
    pub(super) n: usize,
    /// Groups that share a scale.
    pub(super) n_sharing: usize,
    /// Index of the first group in `quants`.
    pub(super) first: usize,
    pub(super) quants: &'a mut [Quants],
}

impl Vectorised for Quantize<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        match self.n_sharing {
            1 => self.quantize::<1>(),
            _ => self.quantize::<GROUPS>(),
        }
    }
}

impl Quantize<'_> {
    #[inline(always)]
    fn quantize<const SHARING: usize>(self) {
        let Quantize { x, n, first, quants, .. } = self;
        let (groups, _) = x.as_chunks::<BLOCK>();
        let n_groups = groups.len() / n;
        for (i, quants) in quants.chunks_exact_mut(SHARING * n).enumerate() {
            for t in 0..n {
                let x = &groups[t * n_groups + first + i * SHARING..][..SHARING];
                let scale = Scale::of(x);
                let mut next = 0;
                for g in (0..SHARING).rev() {
                    let group = quantize(&x[g], &scale, next);
                    next = group.two_sums[0];
                    quants[g * n + t] = group;
                }
            }
        }
    }
}

/// Numbers that are all below this count as zeros: their inverse might be infinite.
const SMALLEST: f32 = 1e-36;
/// 2²³: singles of this size are integers.
const TWO_23: f32 = 8_388_608.0;

/// x ≈ scale · q.
struct Scale {
    scale: f32,
    inverse: f32,
}

impl Scale {
    /// The one with which the largest magnitude becomes 127; NaN where a number is.
    #[inline(always)]
    fn of(x: &[[f32; BLOCK]]) -> Self {
        // Bits of numbers that are not negative are in the order of the numbers, and integers may be compared in any order.
        let mut largest = 0;
        for x in x {
            for l in 0..BLOCK {
                largest = largest.max(x[l].abs().to_bits() as i32);
            }
        }
        let largest = f32::from_bits(largest as u32);
        let inverse = if largest < SMALLEST { 0.0 } else { 127.0 / largest };
        Scale { scale: largest / 127.0, inverse }
    }
}

/// q and s with x ≈ s · q, q in −127..=127, rounded half away from zero.
#[inline(always)]
pub(super) fn to_bytes(x: &[f32; BLOCK]) -> ([i8; BLOCK], f32) {
    let scale = Scale::of(core::slice::from_ref(x));
    let q = to_integers(x, &scale);
    let mut bytes = [0i8; BLOCK];
    for l in 0..BLOCK {
        bytes[l] = q[l] as i8;
    }
    (bytes, scale.scale)
}

/// The numbers as multiples of a scale.
#[inline(always)]
fn to_integers(x: &[f32; BLOCK], scale: &Scale) -> [i32; BLOCK] {
    let mut q = [0; BLOCK];
    for l in 0..BLOCK {
        // Rounded without a conversion to an integer, which in Rust is never one of a vector: adding 2²³ rounds to
        // the nearest integer, in the low bits.
        let v = x[l].abs() * scale.inverse;
        let v = if v < 127.0 { v } else { 127.0 } + 0.5;
        let shifted = v + TWO_23;
        let rounded = (shifted.to_bits() & 0xff) as i32;
        let floor = rounded - i32::from(shifted - TWO_23 > v);
        let sign = (x[l].to_bits() as i32) >> 31;
        q[l] = (floor ^ sign) - sign;
    }
    q
}

/// A group, `next` being the sum of the one after it.
#[inline(always)]
fn quantize(x: &[f32; BLOCK], scale: &Scale, next: i16) -> Quants {
    let q = to_integers(x, scale);
    let mut bytes = [0i8; BLOCK];
    let mut halves = [0; 2];
    for l in 0..BLOCK / 2 {
        bytes[l] = q[l] as i8;
        bytes[l + BLOCK / 2] = q[l + BLOCK / 2] as i8;
        halves[0] += q[l];
        halves[1] += q[l + BLOCK / 2];
    }
    let sum = halves[0] + halves[1];
    Quants {
        q: bytemuck::cast(bytes),
        scale: scale.scale,
        eight_sums: 8 * sum,
        halves: [halves[0] as i16, halves[1] as i16],
        two_sums: [sum as i16, next],
    }
}
