//! Short vectors of numbers as plain arrays: the compiler turns each operation into one or two vector
//! instructions of whatever instruction set it compiles for. A sum runs in sixteen lanes which are folded
//! in one fixed order, so every instruction set gives the same bits.

use super::KvElement;

/// Numbers per step of a sum.
pub(super) const WIDTH: usize = 16;

/// Eight numbers.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct F32x8([f32; 8]);

/// Sixteen numbers: the lanes of one sum.
pub(super) type Lanes = [F32x8; 2];

/// Lanes of an empty sum.
pub(super) const ZERO: Lanes = [F32x8([0.0; 8]); 2];

impl F32x8 {
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
pub(super) fn widen<E: KvElement>(stored: &[E; WIDTH]) -> Lanes {
    let (mut a, mut b) = ([0.0; 8], [0.0; 8]);
    for i in 0..8 {
        a[i] = stored[i].to_f32();
        b[i] = stored[i + 8].to_f32();
    }
    [F32x8(a), F32x8(b)]
}

/// The first numbers of a slice of fewer than sixteen, followed by zeros.
#[inline(always)]
pub(super) fn padded<E: KvElement>(tail: &[E]) -> [E; WIDTH] {
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
        let mut eight = [0.0; 8];
        for i in 0..8 {
            eight[i] = a.0[i] + b.0[i];
        }
        *sum = ((eight[0] + eight[4]) + (eight[2] + eight[6]))
            + ((eight[1] + eight[5]) + (eight[3] + eight[7]));
    }
    sums
}
