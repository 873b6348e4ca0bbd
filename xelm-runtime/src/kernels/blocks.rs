//! Products with quantised weights in plain Rust: what every instruction set must give, bit for bit.
//!
//! The products with a block of weights, and what its minima are multiplied by, are exact integers: activations have
//! one scale for as many numbers. A dot product adds the blocks one after the other in single precision:
//! sum += (Σ s · q · x) · (d · scale), and then, where the format has minima, sum −= (Σ m · x) · (dmin · scale).

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

/// A group of 32 weights, x[j] = d · s[j / 16] · q[j] − dmin · m, d and dmin being its block's.
pub(super) struct Group {
    q: [i8; BLOCK],
    s: [i32; 2],
    m: i32,
}

/// A block of one or more groups.
pub(super) trait Block: AnyBitPattern {
    /// Groups in a block.
    const GROUPS: usize;
    /// Whether `dmin` is anything but 0.
    const HAS_MIN: bool;
    /// d and dmin.
    fn scales(&self) -> [f32; 2];
    /// One of the groups.
    fn group(&self, group: usize) -> Group;
}

impl Block for BlockQ8_0 {
    const GROUPS: usize = 1;
    const HAS_MIN: bool = false;
    #[inline(always)]
    fn scales(&self) -> [f32; 2] {
        [f16_to_f32(self.d), 0.0]
    }
    #[inline(always)]
    fn group(&self, _: usize) -> Group {
        Group { q: self.qs, s: [1; 2], m: 0 }
    }
}

impl Block for BlockQ4_0 {
    const GROUPS: usize = 1;
    const HAS_MIN: bool = false;
    #[inline(always)]
    fn scales(&self) -> [f32; 2] {
        [f16_to_f32(self.d), 0.0]
    }
    #[inline(always)]
    fn group(&self, _: usize) -> Group {
        Group { q: self.numbers(), s: [1; 2], m: 0 }
    }
}

impl Block for BlockQ4_1 {
    const GROUPS: usize = 1;
    const HAS_MIN: bool = true;
    #[inline(always)]
    fn scales(&self) -> [f32; 2] {
        [f16_to_f32(self.d), -f16_to_f32(self.m)]
    }
    #[inline(always)]
    fn group(&self, _: usize) -> Group {
        Group { q: self.numbers(), s: [1; 2], m: 1 }
    }
}

impl Block for BlockQ4K {
    const GROUPS: usize = GROUPS;
    const HAS_MIN: bool = true;
    #[inline(always)]
    fn scales(&self) -> [f32; 2] {
        [self.d, self.dmin].map(f16_to_f32)
    }
    #[inline(always)]
    fn group(&self, group: usize) -> Group {
        let (s, m) = self.scales.get(group);
        Group { q: self.numbers(group), s: [s.into(); 2], m: m.into() }
    }
}

impl Block for BlockQ5K {
    const GROUPS: usize = GROUPS;
    const HAS_MIN: bool = true;
    #[inline(always)]
    fn scales(&self) -> [f32; 2] {
        [self.d, self.dmin].map(f16_to_f32)
    }
    #[inline(always)]
    fn group(&self, group: usize) -> Group {
        let (s, m) = self.scales.get(group);
        Group { q: self.numbers(group), s: [s.into(); 2], m: m.into() }
    }
}

impl Block for BlockQ6K {
    const GROUPS: usize = GROUPS;
    const HAS_MIN: bool = false;
    #[inline(always)]
    fn scales(&self) -> [f32; 2] {
        [f16_to_f32(self.d), 0.0]
    }
    #[inline(always)]
    fn group(&self, group: usize) -> Group {
        let s = [self.scales[2 * group].into(), self.scales[2 * group + 1].into()];
        Group { q: self.numbers(group), s, m: 0 }
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
        let (mut totals, mut minima) = ([0; N], [0; N]);
        for g in 0..B::GROUPS {
            let Group { q, s, m } = block.group(g);
            let x = &quants[(i * B::GROUPS + g) * n + first..][..N];
            for t in 0..N {
                let [low, high] = dot_halves(&q, &x[t].q);
                totals[t] += s[0] * low + s[1] * high;
                minima[t] += m * i32::from(x[t].two_sums[0]);
            }
        }
        let [d, dmin] = block.scales();
        let x = &quants[i * B::GROUPS * n + first..][..N];
        for t in 0..N {
            sums[t] += totals[t] as f32 * (d * x[t].scale);
            if B::HAS_MIN {
                sums[t] -= minima[t] as f32 * (dmin * x[t].scale);
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
