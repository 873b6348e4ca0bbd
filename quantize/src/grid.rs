//! The numbers that a block can hold once its scales are chosen: what rounding that looks at other columns
//! chooses among.

use crate::blocks::{q4_0, q4_1, q4_k, q5_k, q6_k};
use bytemuck::NoUninit;
use xelm_runtime::quant::{
    BLOCK, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5K, BlockQ6K, GROUPS, Q6K_PART, SUPER_BLOCK,
    f16_to_f32, pack_nibbles,
};

/// The scales of a block of N numbers: number i is `scale[i] · (q − zero) − min[i]`, q in 0..=max.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid<const N: usize> {
    pub(crate) scale: [f32; N],
    pub(crate) min: [f32; N],
    pub(crate) zero: i32,
    pub(crate) max: i32,
}

impl<const N: usize> Grid<N> {
    /// The q whose number is nearest to `x`.
    pub(crate) fn nearest(&self, i: usize, x: f32) -> u8 {
        let scale = self.scale[i];
        // A group whose scale is 0 holds one number, whatever q is.
        let q = if scale == 0.0 { 0.0 } else { ((x + self.min[i]) / scale).round_ties_even() };
        // In floats, where nothing overflows.
        (q + self.zero as f32).clamp(0.0, self.max as f32) as u8
    }

    /// The number that q stands for.
    pub(crate) fn number(&self, i: usize, q: u8) -> f32 {
        self.scale[i] * (i32::from(q) - self.zero) as f32 - self.min[i]
    }
}

/// A block whose q may be chosen anew.
pub(crate) trait Block<const N: usize>: NoUninit {
    /// The block with the scales that suit `x` best, where errors weigh by `importance`; `variance` is that of
    /// the row.
    fn fit(x: &[f32; N], importance: &[f32; N], variance: f32) -> Self;
    /// What it can hold.
    fn grid(&self) -> Grid<N>;
    /// The block with other q.
    fn with(&self, q: &[u8; N]) -> Self;
}

impl Block<BLOCK> for BlockQ4_0 {
    fn fit(x: &[f32; BLOCK], importance: &[f32; BLOCK], variance: f32) -> Self {
        q4_0(x, Some(importance), variance)
    }

    fn grid(&self) -> Grid<BLOCK> {
        Grid { scale: [f16_to_f32(self.d); BLOCK], min: [0.0; BLOCK], zero: 8, max: 15 }
    }

    fn with(&self, q: &[u8; BLOCK]) -> Self {
        BlockQ4_0 { qs: pack_nibbles(q), ..*self }
    }
}

impl Block<BLOCK> for BlockQ4_1 {
    fn fit(x: &[f32; BLOCK], importance: &[f32; BLOCK], variance: f32) -> Self {
        q4_1(x, Some(importance), variance)
    }

    fn grid(&self) -> Grid<BLOCK> {
        let (scale, min) = ([f16_to_f32(self.d); BLOCK], [-f16_to_f32(self.m); BLOCK]);
        Grid { scale, min, zero: 0, max: 15 }
    }

    fn with(&self, q: &[u8; BLOCK]) -> Self {
        BlockQ4_1 { qs: pack_nibbles(q), ..*self }
    }
}

/// q by groups.
fn groups(q: &[u8; SUPER_BLOCK]) -> [[u8; BLOCK]; GROUPS] {
    core::array::from_fn(|g| core::array::from_fn(|l| q[g * BLOCK + l]))
}

impl Block<SUPER_BLOCK> for BlockQ4K {
    fn fit(x: &[f32; SUPER_BLOCK], importance: &[f32; SUPER_BLOCK], _: f32) -> Self {
        q4_k(x, Some(importance))
    }

    fn grid(&self) -> Grid<SUPER_BLOCK> {
        let of = core::array::from_fn::<_, GROUPS, _>(|g| self.scale_and_min(g));
        Grid {
            scale: core::array::from_fn(|i| of[i / BLOCK].0),
            min: core::array::from_fn(|i| of[i / BLOCK].1),
            zero: 0,
            max: 15,
        }
    }

    fn with(&self, q: &[u8; SUPER_BLOCK]) -> Self {
        BlockQ4K::pack(self.d, self.dmin, self.scales, &groups(q))
    }
}

impl Block<SUPER_BLOCK> for BlockQ5K {
    fn fit(x: &[f32; SUPER_BLOCK], importance: &[f32; SUPER_BLOCK], _: f32) -> Self {
        q5_k(x, Some(importance))
    }

    fn grid(&self) -> Grid<SUPER_BLOCK> {
        let of = core::array::from_fn::<_, GROUPS, _>(|g| self.scale_and_min(g));
        Grid {
            scale: core::array::from_fn(|i| of[i / BLOCK].0),
            min: core::array::from_fn(|i| of[i / BLOCK].1),
            zero: 0,
            max: 31,
        }
    }

    fn with(&self, q: &[u8; SUPER_BLOCK]) -> Self {
        BlockQ5K::pack(self.d, self.dmin, self.scales, &groups(q))
    }
}

impl Block<SUPER_BLOCK> for BlockQ6K {
    fn fit(x: &[f32; SUPER_BLOCK], importance: &[f32; SUPER_BLOCK], _: f32) -> Self {
        q6_k(x, Some(importance))
    }

    fn grid(&self) -> Grid<SUPER_BLOCK> {
        let d = f16_to_f32(self.d);
        Grid {
            scale: core::array::from_fn(|i| d * f32::from(self.scales[i / Q6K_PART])),
            min: [0.0; SUPER_BLOCK],
            zero: 32,
            max: 63,
        }
    }

    fn with(&self, q: &[u8; SUPER_BLOCK]) -> Self {
        BlockQ6K::pack(self.d, self.scales, &groups(q))
    }
}
