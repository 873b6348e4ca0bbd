//! Products with weights in groups of 32 that have a scale and a minimum, or two scales: Q4_1 and the
//! K formats.

use super::Activations;
use super::lanes::{F32x8, Lanes, ZERO, fold};
use super::portable::{Dots, matmul};
use crate::expert::Matrix;
use crate::isa::Vectorised;
use crate::parallel::Columns;
use crate::quant::{BLOCK, BlockQ4_1, BlockQ4K, BlockQ5K, BlockQ6K, GROUPS, f16_to_f32};
use bytemuck::AnyBitPattern;

/// A product with such weights and activations in 8 bits.
pub(super) struct MatmulGroups<'a, B>(
    pub(super) &'a Matrix<'a>,
    pub(super) &'a Activations<'a>,
    pub(super) Columns<'a>,
    pub(super) core::marker::PhantomData<B>,
);

impl<B: Block> Vectorised for MatmulGroups<'_, B> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let MatmulGroups(w, acts, out, _) = self;
        let weights = w.elements::<B>();
        let (quants, _) = acts.quants.as_chunks::<BLOCK>();
        let n_groups = w.n_cols / BLOCK;
        matmul(&Groups { weights, quants, scales: acts.scales, n_groups }, out);
    }
}

/// A block of one or more groups of 32 weights, x[j] = scales[j / 16] · q[j] + min.
pub(super) trait Block: AnyBitPattern {
    /// Groups in a block.
    const GROUPS: usize;
    /// Whether `min` is anything but 0.
    const HAS_MIN: bool;
    /// Group `group` of the block: q, scales, min.
    fn group(&self, group: usize) -> ([i8; BLOCK], [f32; 2], f32);
}

impl Block for BlockQ4_1 {
    const GROUPS: usize = 1;
    const HAS_MIN: bool = true;
    #[inline(always)]
    fn group(&self, _: usize) -> ([i8; BLOCK], [f32; 2], f32) {
        (self.numbers(), [f16_to_f32(self.d); 2], f16_to_f32(self.m))
    }
}

impl Block for BlockQ4K {
    const GROUPS: usize = GROUPS;
    const HAS_MIN: bool = true;
    #[inline(always)]
    fn group(&self, group: usize) -> ([i8; BLOCK], [f32; 2], f32) {
        let (scale, min) = self.scale_and_min(group);
        (self.numbers(group), [scale; 2], -min)
    }
}

impl Block for BlockQ5K {
    const GROUPS: usize = GROUPS;
    const HAS_MIN: bool = true;
    #[inline(always)]
    fn group(&self, group: usize) -> ([i8; BLOCK], [f32; 2], f32) {
        let (scale, min) = self.scale_and_min(group);
        (self.numbers(group), [scale; 2], -min)
    }
}

impl Block for BlockQ6K {
    const GROUPS: usize = GROUPS;
    const HAS_MIN: bool = false;
    #[inline(always)]
    fn group(&self, group: usize) -> ([i8; BLOCK], [f32; 2], f32) {
        (self.numbers(group), self.scales(group), 0.0)
    }
}

struct Groups<'a, B> {
    weights: &'a [B],
    quants: &'a [[i8; BLOCK]],
    scales: &'a [f32],
    n_groups: usize,
}

impl<B: Block> Dots for Groups<'_, B> {
    #[inline(always)]
    fn dots<const N: usize>(&self, row: usize, first: usize) -> [f32; N] {
        let n = self.n_groups;
        let n_blocks = n / B::GROUPS;
        let row = &self.weights[row * n_blocks..][..n_blocks];
        let quants = &self.quants[first * n..][..N * n];
        let scales = &self.scales[first * n..][..N * n];
        // Even and odd groups are summed apart.
        let mut sums = [ZERO; N];
        for i in (0..n - n % 2).step_by(2) {
            add_group::<B, N, 0>(&mut sums, row, quants, scales, i);
            add_group::<B, N, 1>(&mut sums, row, quants, scales, i + 1);
        }
        if n % 2 == 1 {
            add_group::<B, N, 0>(&mut sums, row, quants, scales, n - 1);
        }
        fold(&sums)
    }
}

/// Adds group i of a row times group i of N tokens to the sums of its parity P:
/// scales · Σ q · x + min · Σ x, times the token's scale.
#[inline(always)]
fn add_group<B: Block, const N: usize, const P: usize>(
    sums: &mut [Lanes; N],
    row: &[B],
    quants: &[[i8; BLOCK]],
    scales: &[f32],
    i: usize,
) {
    let (w, d, min) = row[i / B::GROUPS].group(i % B::GROUPS);
    for t in 0..N {
        let at = t * row.len() * B::GROUPS + i;
        let (x, scale) = (&quants[at], scales[at]);
        let products = F32x8::sums_of_four(&w, x);
        let mut sum = sums[t][P].add_product(products, F32x8::halves(d.map(|d| d * scale)));
        if B::HAS_MIN {
            let x = F32x8::sums_of_four(&[1; BLOCK], x);
            sum = sum.add_product(x, F32x8::splat(min * scale));
        }
        sums[t][P] = sum;
    }
}
