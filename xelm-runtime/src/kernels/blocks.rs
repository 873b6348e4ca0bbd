//! Products with quantised weights in plain Rust: what every instruction set must give, bit for bit.
//!
//! A group of 32 products is an exact integer. A dot product adds the groups one after the other in single
//! precision: sum += (Σ s · q · x) · (d · scale), and then, where the format has minima, sum += min · (scale · Σ x).

use super::Activations;
use super::quants::Quants;
use crate::expert::Matrix;
use crate::isa::Isa;
use crate::parallel::Columns;
use crate::quant::{
    BLOCK, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5K, BlockQ6K, BlockQ8_0, GROUPS, f16_to_f32,
};
use bytemuck::AnyBitPattern;
use core::ops::Range;

/// Tokens that share the unpacking of a row.
const TILE: usize = 4;

/// A group of 32 weights, x[j] = d · s[j / 16] · q[j] + min.
pub(super) struct Group {
    q: [i8; BLOCK],
    s: [i32; 2],
    d: f32,
    min: f32,
}

/// A block of one or more groups.
pub(super) trait Block: AnyBitPattern {
    /// Groups in a block.
    const GROUPS: usize;
    /// Whether `min` is anything but 0.
    const HAS_MIN: bool;
    /// One of them.
    fn group(&self, group: usize) -> Group;
}

impl Block for BlockQ8_0 {
    const GROUPS: usize = 1;
    const HAS_MIN: bool = false;
    #[inline(always)]
    fn group(&self, _: usize) -> Group {
        Group { q: self.qs, s: [1; 2], d: f16_to_f32(self.d), min: 0.0 }
    }
}

impl Block for BlockQ4_0 {
    const GROUPS: usize = 1;
    const HAS_MIN: bool = false;
    #[inline(always)]
    fn group(&self, _: usize) -> Group {
        Group { q: self.numbers(), s: [1; 2], d: f16_to_f32(self.d), min: 0.0 }
    }
}

impl Block for BlockQ4_1 {
    const GROUPS: usize = 1;
    const HAS_MIN: bool = true;
    #[inline(always)]
    fn group(&self, _: usize) -> Group {
        Group { q: self.numbers(), s: [1; 2], d: f16_to_f32(self.d), min: f16_to_f32(self.m) }
    }
}

impl Block for BlockQ4K {
    const GROUPS: usize = GROUPS;
    const HAS_MIN: bool = true;
    #[inline(always)]
    fn group(&self, group: usize) -> Group {
        let (s, m) = self.scales.get(group);
        let (d, dmin) = (f16_to_f32(self.d), f16_to_f32(self.dmin));
        Group { q: self.numbers(group), s: [s.into(); 2], d, min: -(dmin * f32::from(m)) }
    }
}

impl Block for BlockQ5K {
    const GROUPS: usize = GROUPS;
    const HAS_MIN: bool = true;
    #[inline(always)]
    fn group(&self, group: usize) -> Group {
        let (s, m) = self.scales.get(group);
        let (d, dmin) = (f16_to_f32(self.d), f16_to_f32(self.dmin));
        Group { q: self.numbers(group), s: [s.into(); 2], d, min: -(dmin * f32::from(m)) }
    }
}

impl Block for BlockQ6K {
    const GROUPS: usize = GROUPS;
    const HAS_MIN: bool = false;
    #[inline(always)]
    fn group(&self, group: usize) -> Group {
        let s = [self.scales[2 * group].into(), self.scales[2 * group + 1].into()];
        Group { q: self.numbers(group), s, d: f16_to_f32(self.d), min: 0.0 }
    }
}

/// An entry of the table of kernels.
pub(super) fn matmul<B: Block>(_: Isa, w: &Matrix<'_>, x: &Activations<'_>, out: &mut Columns<'_>) {
    matmul_rows::<B>(w, x.quants, out, out.range());
}

/// Fills the columns `rows` of `out`, one row of weights after the other.
#[inline(always)]
pub(super) fn matmul_rows<B: Block>(
    w: &Matrix<'_>,
    quants: &[Quants],
    out: &mut Columns<'_>,
    rows: Range<usize>,
) {
    let n = out.n_rows();
    for row in rows {
        let mut t = 0;
        while t + TILE <= n {
            let dots: [f32; TILE] = dots::<B, TILE>(w, row, quants, n, t);
            for i in 0..TILE {
                out.set(t + i, row, dots[i]);
            }
            t += TILE;
        }
        while t < n {
            let [dot] = dots::<B, 1>(w, row, quants, n, t);
            out.set(t, row, dot);
            t += 1;
        }
    }
}

/// The products of a row with N of n tokens, from `first` on.
#[inline(always)]
fn dots<B: Block, const N: usize>(
    w: &Matrix<'_>,
    row: usize,
    quants: &[Quants],
    n: usize,
    first: usize,
) -> [f32; N] {
    let mut sums = [0.0; N];
    for i in 0..w.n_cols / BLOCK / B::GROUPS {
        let block: B = w.block(row, i);
        for g in 0..B::GROUPS {
            let Group { q, s, d, min } = block.group(g);
            let x = &quants[(i * B::GROUPS + g) * n + first..][..N];
            for t in 0..N {
                let [low, high] = dot_halves(&q, &x[t].q);
                let dot = s[0] * low + s[1] * high;
                sums[t] += dot as f32 * (d * x[t].scale);
                if B::HAS_MIN {
                    sums[t] += min * x[t].scaled_sum;
                }
            }
        }
    }
    sums
}

/// The products of the first 16 numbers summed, and of the last.
#[inline(always)]
fn dot_halves(q: &[i8; BLOCK], x: &[[i8; 4]; BLOCK / 4]) -> [i32; 2] {
    let x: &[i8; BLOCK] = bytemuck::cast_ref(x);
    let mut sums = [0; 2];
    for l in 0..BLOCK / 2 {
        sums[0] += i32::from(q[l]) * i32::from(x[l]);
        sums[1] += i32::from(q[l + BLOCK / 2]) * i32::from(x[l + BLOCK / 2]);
    }
    sums
}
