//! One token's products with rows of a standard file. Bringing four bytes of each row together, as `weights` does, costs
//! more than it saves if only one token is multiplied by them: here each row's products are added up where its bytes
//! lie, and the sums of all rows are brought together at the end of a block.

use super::ahead::Ahead;
use super::quants::Quants;
use super::simd::{Runs, Simd};
use super::weights::{GroupScales, Weights, each_group, nibble, six_bits, to_bit_4};
use crate::quant::{BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5K, BlockQ6K, BlockQ8_0};
use core::mem::offset_of;

/// A format: how to multiply blocks of all rows of a vector by one token's activations.
pub(super) trait ByRow<S: Simd>: Weights<S> {
    /// The sum of a block's products, `x` being its groups' activations; fetches what is ahead.
    fn dot(s: S, rows: Runs<'_>, of: &Self::Shared, x: &[Quants], ahead: Ahead<'_>) -> S::Ints;
}

/// The activations by which the halves of a group are multiplied, for each row.
#[inline(always)]
fn halves<S: Simd>(s: S, x: &Quants) -> [S::Ints; 2] {
    let x: &[[[i8; 4]; 4]; 2] = bytemuck::cast_ref(&x.q);
    [s.repeat(&x[0]), s.repeat(&x[1])]
}

impl<S: Simd> ByRow<S> for BlockQ8_0 {
    #[inline(always)]
    fn dot(s: S, rows: Runs<'_>, _: &S::Floats, x: &[Quants], ahead: Ahead<'_>) -> S::Ints {
        ahead.fetch(0, 1);
        let q = halves(s, &x[0]);
        let mut sums = [s.splat(0); 4];
        for r in 0..4 {
            for half in 0..2 {
                let w = s.load_rows(rows, r, offset_of!(Self, qs) + 16 * half);
                sums[r] = s.add_signed(sums[r], w, q[half]);
            }
        }
        s.sum_signed(sums, &x[0])
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
    s.sum_products(sums)
}

impl<S: Simd> ByRow<S> for BlockQ4_0 {
    #[inline(always)]
    fn dot(s: S, rows: Runs<'_>, _: &S::Floats, x: &[Quants], ahead: Ahead<'_>) -> S::Ints {
        ahead.fetch(0, 1);
        dot_nibbles(s, rows, offset_of!(Self, qs), &x[0])
    }
}

impl<S: Simd> ByRow<S> for BlockQ4_1 {
    #[inline(always)]
    fn dot(s: S, rows: Runs<'_>, _: &[S::Floats; 2], x: &[Quants], ahead: Ahead<'_>) -> S::Ints {
        ahead.fetch(0, 1);
        dot_nibbles(s, rows, offset_of!(Self, qs), &x[0])
    }
}

/// The sum of a block of Q4_K or Q5_K, whose lower four bits are at offset `low`; a fifth is at offset `fifth`.
#[inline(always)]
fn dot_groups<S: Simd>(
    s: S,
    rows: Runs<'_>,
    (low, fifth): (usize, Option<usize>),
    of: &GroupScales<S>,
    x: &[Quants],
    ahead: Ahead<'_>,
) -> S::Ints {
    let factors = s.transposed(of.scales);
    let mut sums = [s.splat(0); 4];
    for (part, x) in x.as_chunks::<2>().0.iter().enumerate() {
        ahead.fetch(part, 4);
        let q = [halves(s, &x[0]), halves(s, &x[1])];
        for r in 0..4 {
            let mut products = [s.splat(0); 2];
            for half in 0..2 {
                let low = s.load_rows(rows, r, low + 32 * part + 16 * half);
                let fifth = fifth.map(|at| s.shr(s.load_rows(rows, r, at + 16 * half), 2 * part));
                for g in 0..2 {
                    let mut w = nibble(s, low, g);
                    if let Some(fifth) = fifth {
                        w = s.or(w, to_bit_4(s, fifth, g, 1));
                    }
                    products[g] = s.add_products(products[g], w, q[g][half]);
                }
            }
            for g in 0..2 {
                sums[r] = s.add_scaled(sums[r], products[g], factors[r], 2 * part + g);
            }
        }
    }
    s.sum_scaled(sums)
}

impl<S: Simd> ByRow<S> for BlockQ4K {
    #[inline(always)]
    fn dot(s: S, rows: Runs<'_>, of: &GroupScales<S>, x: &[Quants], ahead: Ahead<'_>) -> S::Ints {
        dot_groups(s, rows, (offset_of!(Self, qs), None), of, x, ahead)
    }
}

impl<S: Simd> ByRow<S> for BlockQ5K {
    #[inline(always)]
    fn dot(s: S, rows: Runs<'_>, of: &GroupScales<S>, x: &[Quants], ahead: Ahead<'_>) -> S::Ints {
        let (low, fifth) = (offset_of!(Self, qs), offset_of!(Self, qh));
        dot_groups(s, rows, (low, Some(fifth)), of, x, ahead)
    }
}

impl<S: Simd> ByRow<S> for BlockQ6K {
    #[inline(always)]
    fn dot(
        s: S,
        rows: Runs<'_>,
        (_, pairs): &Self::Shared,
        x: &[Quants],
        ahead: Ahead<'_>,
    ) -> S::Ints {
        let mut sums = [s.splat(0); 4];
        for (part, x) in x.as_chunks::<4>().0.iter().enumerate() {
            let [a, b, c, d, ..] = pairs[4 * part..] else { break };
            let factors = s.transposed([a, b, c, d]);
            for half in 0..2 {
                ahead.fetch(2 * part + half, 4);
                let low = offset_of!(Self, ql) + 64 * part + 16 * half;
                let high = offset_of!(Self, qh) + 32 * part + 16 * half;
                for r in 0..4 {
                    let low = [s.load_rows(rows, r, low), s.load_rows(rows, r, low + 32)];
                    let high = s.load_rows(rows, r, high);
                    each_group!(G < 4, {
                        let w = six_bits(s, low[G % 2], high, G);
                        let products = s.add_products(s.splat(0), w, halves(s, &x[G])[half]);
                        sums[r] = s.add_scaled(sums[r], products, factors[r], 2 * G + half);
                    });
                }
            }
        }
        s.sum_scaled(sums)
    }
}
