//! One token's products with rows of a standard file. Bringing four bytes of each row together, as `weights` does, costs
//! more than it saves if only one token is multiplied by them: here each row's products are added up where its bytes
//! lie, and the sums of all rows are brought together at the end of a group. They are those of `blocks`, in the same
//! order.

use super::quants::Quants;
use super::simd::{Rows, Runs, Simd};
use super::weights::{GroupScales, Weights, add_scaled, each_group, nibble, six_bits, to_bit_4};
use crate::quant::{BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5K, BlockQ6K, BlockQ8_0};
use core::mem::offset_of;

/// A format: how to multiply blocks of all rows of a vector by one token's activations.
pub(super) trait ByRow<S: Simd>: Weights<S> {
    /// Adds the products of a block, `x` being its groups' activations.
    fn add_block(s: S, sum: S::Floats, rows: Runs<'_>, x: &[Quants]) -> S::Floats;
}

/// The activations by which the halves of a group are multiplied, for each row.
#[inline(always)]
fn halves<S: Simd>(s: S, x: &Quants) -> [S::Ints; 2] {
    let x: &[[[i8; 4]; 4]; 2] = bytemuck::cast_ref(&x.q);
    [s.repeat(&x[0]), s.repeat(&x[1])]
}

impl<S: Simd> ByRow<S> for BlockQ8_0 {
    #[inline(always)]
    fn add_block(s: S, sum: S::Floats, rows: Runs<'_>, x: &[Quants]) -> S::Floats {
        let x = &x[0];
        let d = s.load2(rows, offset_of!(Self, d));
        let q = halves(s, x);
        let mut sums = [s.splat(0); 4];
        for r in 0..4 {
            for half in 0..2 {
                let w = s.load_rows(rows, r, offset_of!(Self, qs) + 16 * half);
                sums[r] = s.add_signed(sums[r], w, q[half]);
            }
        }
        add_scaled(s, sum, s.sum_rows_signed(sums, x), d, x)
    }
}

/// Σ q · x of numbers of 4 bits in the 16 bytes at offset `at`: all lower halves before the upper ones.
#[inline(always)]
fn dot_nibbles<S: Simd>(s: S, rows: Runs<'_>, at: usize, x: &Quants) -> S::Ints {
    let q = halves(s, x);
    let mut sums = [s.splat(0); 4];
    for r in 0..4 {
        let w = s.load_rows(rows, r, at);
        for half in 0..2 {
            sums[r] = s.add_products(sums[r], nibble(s, w, half), q[half]);
        }
    }
    s.sum_rows::<4, 2>(sums)
}

impl<S: Simd> ByRow<S> for BlockQ4_0 {
    #[inline(always)]
    fn add_block(s: S, sum: S::Floats, rows: Runs<'_>, x: &[Quants]) -> S::Floats {
        let x = &x[0];
        let d = s.load2(rows, offset_of!(Self, d));
        // Σ (q − 8) · x
        let dot = dot_nibbles(s, rows, offset_of!(Self, qs), x);
        add_scaled(s, sum, s.sub_ints(dot, s.splat(x.eight_sums)), d, x)
    }
}

impl<S: Simd> ByRow<S> for BlockQ4_1 {
    #[inline(always)]
    fn add_block(s: S, sum: S::Floats, rows: Runs<'_>, x: &[Quants]) -> S::Floats {
        let x = &x[0];
        let [d, m] = s.halves(s.load4(rows, offset_of!(Self, d)));
        let dot = dot_nibbles(s, rows, offset_of!(Self, qs), x);
        let sum = add_scaled(s, sum, dot, d, x);
        s.add(sum, s.mul(m, s.splat_float(x.scaled_sum)))
    }
}

/// Adds the products of a block of Q4_K or Q5_K, whose lower four bits are at offset `low`; a fifth is at offset `fifth`.
#[inline(always)]
fn add_with_minima<S: Simd, const BITS: u32>(
    s: S,
    sum: S::Floats,
    rows: Runs<'_>,
    (low, fifth): (usize, Option<usize>),
    x: &[Quants],
) -> S::Floats {
    let mut sum = sum;
    let scales = GroupScales::load(s, rows);
    for (part, x) in x.as_chunks::<2>().0.iter().enumerate() {
        let q = [halves(s, &x[0]), halves(s, &x[1])];
        let mut sums = [[s.splat(0); 4]; 2];
        for r in 0..4 {
            for half in 0..2 {
                let low = s.load_rows(rows, r, low + 32 * part + 16 * half);
                let fifth = fifth.map(|at| s.shr(s.load_rows(rows, r, at + 16 * half), 2 * part));
                for g in 0..2 {
                    let mut w = nibble(s, low, g);
                    if let Some(fifth) = fifth {
                        w = s.or(w, to_bit_4(s, fifth, g, 1));
                    }
                    sums[g][r] = s.add_products(sums[g][r], w, q[g][half]);
                }
            }
        }
        for g in 0..2 {
            let (scale, min) = scales.get(s, 2 * part + g);
            // Integers below 2²⁴, which are exact.
            let dot = s.mul(s.floats(s.sum_rows::<BITS, 2>(sums[g])), s.floats(scale));
            sum = s.add(sum, s.mul(dot, s.mul(scales.d, s.splat_float(x[g].scale))));
            sum = s.sub(sum, s.mul(min, s.splat_float(x[g].scaled_sum)));
        }
    }
    sum
}

impl<S: Simd> ByRow<S> for BlockQ4K {
    #[inline(always)]
    fn add_block(s: S, sum: S::Floats, rows: Runs<'_>, x: &[Quants]) -> S::Floats {
        add_with_minima::<S, 4>(s, sum, rows, (offset_of!(Self, qs), None), x)
    }
}

impl<S: Simd> ByRow<S> for BlockQ5K {
    #[inline(always)]
    fn add_block(s: S, sum: S::Floats, rows: Runs<'_>, x: &[Quants]) -> S::Floats {
        let (low, fifth) = (offset_of!(Self, qs), offset_of!(Self, qh));
        add_with_minima::<S, 5>(s, sum, rows, (low, Some(fifth)), x)
    }
}

impl<S: Simd> ByRow<S> for BlockQ6K {
    #[inline(always)]
    fn add_block(s: S, sum: S::Floats, rows: Runs<'_>, x: &[Quants]) -> S::Floats {
        let mut sum = sum;
        let d = s.load2(rows, offset_of!(Self, d));
        let scales = Rows::load16(rows, s, offset_of!(Self, scales));
        for (part, x) in x.as_chunks::<4>().0.iter().enumerate() {
            let mut dots = [s.splat_float(0.0); 4];
            // Their sum waits until all are there (one twentieth faster).
            each_group!(G < 4, {
                for half in 0..2 {
                    let low = offset_of!(Self, ql) + 64 * part + 32 * (G % 2) + 16 * half;
                    let high = offset_of!(Self, qh) + 32 * part + 16 * half;
                    let q = halves(s, &x[G])[half];
                    let mut sums = [s.splat(0); 4];
                    for r in 0..4 {
                        let (low, high) = (s.load_rows(rows, r, low), s.load_rows(rows, r, high));
                        sums[r] = s.add_products(sums[r], six_bits(s, low, high, G), q);
                    }
                    // Σ (q − 32) · x
                    let offset = s.dot_pairs(s.splat([32, 32 << 16][half]), x[G].halves);
                    let dot = s.sub_ints(s.sum_rows::<6, 1>(sums), offset);
                    let four = scales[2 * part + G / 2];
                    let scale = s.shr_signed(s.shl(four, 24 - 8 * (G % 2 * 2 + half)), 24);
                    dots[G] = s.add(dots[G], s.mul(s.floats(dot), s.floats(scale)));
                }
            });
            for (x, dot) in x.iter().zip(dots) {
                // Integers below 2²⁴, which are exact.
                sum = s.add(sum, s.mul(dot, s.mul(d, s.splat_float(x.scale))));
            }
        }
        sum
    }
}
