//! Short vectors of numbers as plain arrays: the compiler turns each operation into one or two vector
//! instructions of whatever instruction set it compiles for. A sum runs in sixteen lanes which are folded
//! in one fixed order, so every instruction set gives the same bits.

use crate::quant::{Bf16, f16_to_f32, f32_to_f16};
use bytemuck::{AnyBitPattern, NoUninit};

/// Numbers per step of a sum.
pub(super) const WIDTH: usize = 16;

/// Eight numbers.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct F32x8(pub(super) [f32; 8]);

/// Sixteen numbers: the lanes of one sum.
pub(super) type Lanes = [F32x8; 2];

/// Lanes of an empty sum.
pub(super) const ZERO: Lanes = [F32x8([0.0; 8]); 2];

impl F32x8 {
    #[inline(always)]
    pub(super) fn splat(x: f32) -> Self {
        F32x8([x; 8])
    }

    /// 64 numbers.
    #[inline(always)]
    pub(super) fn eight(x: &[f32; 64]) -> [Self; 8] {
        bytemuck::cast::<_, [[f32; 8]; 8]>(*x).map(F32x8)
    }

    #[inline(always)]
    pub(super) fn plus(self, other: Self) -> Self {
        let mut sum = self.0;
        for i in 0..8 {
            sum[i] += other.0[i];
        }
        F32x8(sum)
    }

    #[inline(always)]
    pub(super) fn scaled(self, by: f32) -> Self {
        F32x8(self.0.map(|x| x * by))
    }

    /// The sum of the eight.
    #[inline(always)]
    pub(super) fn sum(self) -> f32 {
        let x = self.0;
        ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
    }

    /// self + a · b, rounded twice.
    #[inline(always)]
    pub(super) fn add_product(self, a: Self, b: Self) -> Self {
        let mut sum = self.0;
        for i in 0..8 {
            sum[i] += a.0[i] * b.0[i];
        }
        F32x8(sum)
    }
}

/// Sixteen stored numbers in single precision.
#[inline(always)]
pub(super) fn widen<E: Element>(stored: &[E; WIDTH]) -> Lanes {
    let (mut a, mut b) = ([0.0; 8], [0.0; 8]);
    for i in 0..8 {
        a[i] = stored[i].to_f32();
        b[i] = stored[i + 8].to_f32();
    }
    [F32x8(a), F32x8(b)]
}

/// The first numbers of a slice of fewer than sixteen, followed by zeros.
#[inline(always)]
pub(super) fn padded<E: Element>(tail: &[E]) -> [E; WIDTH] {
    let mut stored = [E::from_f32(0.0); WIDTH];
    stored[..tail.len()].copy_from_slice(tail);
    stored
}

/// The sums of N sets of lanes. Not inlined: seen together with the loop before it, the compiler would
/// vectorise the fold and tear the loop apart.
#[inline(never)]
pub(super) fn fold<const N: usize>(lanes: &[Lanes; N]) -> [f32; N] {
    let mut sums = [0.0; N];
    for (sum, [a, b]) in sums.iter_mut().zip(lanes) {
        *sum = a.plus(*b).sum();
    }
    sums
}

/// A number as weights store it.
pub(super) trait Element: NoUninit + AnyBitPattern + Send + Sync {
    /// The stored form of a number.
    fn from_f32(x: f32) -> Self;
    /// The number.
    fn to_f32(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

/// Half precision bits.
impl Element for u16 {
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        f32_to_f16(x)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16_to_f32(self)
    }
}

impl Element for Bf16 {
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        Bf16::from_f32(x)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        Bf16::to_f32(self)
    }
}
