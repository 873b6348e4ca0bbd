//! Blocks that need a search: the K formats, and the simple ones where some columns matter more.
//!
//! `importance` holds a weight per number, as ggml's importance matrices do: the mean square of the
//! activation that meets it.

use crate::search::{EPSILON, Steps, nearest, signed, unsigned, with_minimum};
use xelm_runtime::quant::{
    BLOCK, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5K, BlockQ6K, GROUPS, GroupScales, Q6K_PART,
    SUPER_BLOCK, f16_to_f32, f32_to_f16, pack_nibbles,
};

/// Steps of the search where there is an importance.
const FINE: Steps = Steps { first: -0.9, step: 0.05, n: 36 };

/// Σ x².
pub(crate) fn sum_of_squares(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, v| sum + v * v)
}

/// Importance times √(variance + x²): large numbers matter more, as their errors are larger.
fn weigh<const N: usize>(x: &[f32; N], importance: &[f32; N], variance: f32) -> [f32; N] {
    core::array::from_fn(|i| importance[i] * (variance + x[i] * x[i]).sqrt())
}

/// A Q4_0 block; `variance` is that of its row.
pub(crate) fn q4_0(
    x: &[f32; BLOCK],
    importance: Option<&[f32; BLOCK]>,
    variance: f32,
) -> BlockQ4_0 {
    let Some(importance) = importance else { return BlockQ4_0::quantize(x) };
    let (d, q) = signed(x, &weigh(x, importance, variance), 8);
    BlockQ4_0 { d: f32_to_f16(d), qs: pack_nibbles(&q) }
}

/// A Q4_1 block; `variance` is that of its row.
pub(crate) fn q4_1(
    x: &[f32; BLOCK],
    importance: Option<&[f32; BLOCK]>,
    variance: f32,
) -> BlockQ4_1 {
    let Some(importance) = importance else { return BlockQ4_1::quantize(x) };
    let (d, min, q) = with_minimum(x, &weigh(x, importance, variance), 15, FINE);
    BlockQ4_1 { d: f32_to_f16(d), m: f32_to_f16(-min), qs: pack_nibbles(&q) }
}

/// A Q4_K super-block.
pub(crate) fn q4_k(x: &[f32; SUPER_BLOCK], importance: Option<&[f32; SUPER_BLOCK]>) -> BlockQ4K {
    let coarse = Steps { first: -1.0, step: 0.1, n: 20 };
    let (d, dmin, scales, q) = groups(x, importance, 15, coarse);
    BlockQ4K::pack(d, dmin, scales, &q)
}

/// A Q5_K super-block.
pub(crate) fn q5_k(x: &[f32; SUPER_BLOCK], importance: Option<&[f32; SUPER_BLOCK]>) -> BlockQ5K {
    let coarse = Steps { first: -0.5, step: 0.1, n: 15 };
    let (d, dmin, scales, q) = groups(x, importance, 31, coarse);
    BlockQ5K::pack(d, dmin, scales, &q)
}

type Groups = (u16, u16, GroupScales, [[u8; BLOCK]; GROUPS]);

/// Groups of 32 numbers as d · s · q − dmin · m, q in 0..=max: a scale and a minimum for each group, these
/// in 6 bits, then every q anew, for what the scale and minimum have become.
fn groups(
    x: &[f32; SUPER_BLOCK],
    importance: Option<&[f32; SUPER_BLOCK]>,
    max: i32,
    coarse: Steps,
) -> Groups {
    let x: &[[f32; BLOCK]; GROUPS] = parts(x);
    let (mut scales, mut minima) = ([0.0; GROUPS], [0.0; GROUPS]);
    let mut q = [[0; BLOCK]; GROUPS];
    let (dmin, d, pairs);
    if let Some(importance) = importance {
        let importance: &[[f32; BLOCK]; GROUPS] = parts(importance);
        let variance = 2.0 * sum_of_squares(x.as_flattened()) / SUPER_BLOCK as f32;
        let mut sums = [0.0; GROUPS];
        for g in 0..GROUPS {
            let weights = weigh(&x[g], &importance[g], variance);
            sums[g] = weights.iter().fold(0.0, |sum, w| sum + w);
            (scales[g], minima[g], q[g]) = with_minimum(&x[g], &weights, max, FINE);
        }
        let (scale, s) = unsigned(&scales, &sums, 63);
        let (min, m) = unsigned(&minima, &sums, 63);
        (d, dmin) = (scale, min);
        pairs = core::array::from_fn(|g| (s[g], m[g]));
    } else {
        for g in 0..GROUPS {
            let mean = (sum_of_squares(&x[g]) / BLOCK as f32).sqrt();
            let weights = x[g].map(|v| mean + v.abs());
            (scales[g], minima[g], q[g]) = with_minimum(&x[g], &weights, max, coarse);
        }
        let (scale, s) = of_largest(&scales);
        let (min, m) = of_largest(&minima);
        (d, dmin) = (scale, min);
        pairs = core::array::from_fn(|g| (s[g], m[g]));
    }
    let (d, dmin, packed) = (f32_to_f16(d), f32_to_f16(dmin), GroupScales::pack(&pairs));
    for g in 0..GROUPS {
        let (s, m) = packed.get(g);
        let scale = f16_to_f32(d) * f32::from(s);
        // A group whose scale has become 0 keeps its q, which then mean nothing.
        if scale != 0.0 {
            let min = f16_to_f32(dmin) * f32::from(m);
            q[g] = x[g].map(|v| nearest((v + min) / scale).clamp(0, max) as u8);
        }
    }
    (d, dmin, packed, q)
}

/// Numbers that are not negative as d · q, q in 0..64, the largest as 63.
fn of_largest(x: &[f32; GROUPS]) -> (f32, [u8; GROUPS]) {
    let largest = x.iter().fold(0.0f32, |max, &v| if v > max { v } else { max });
    let inverse = if largest > 0.0 { 63.0 / largest } else { 0.0 };
    (largest / 63.0, x.map(|v| (nearest(inverse * v) as u8).min(63)))
}

/// A Q6_K super-block.
pub(crate) fn q6_k(x: &[f32; SUPER_BLOCK], importance: Option<&[f32; SUPER_BLOCK]>) -> BlockQ6K {
    const PARTS: usize = SUPER_BLOCK / Q6K_PART;
    let x: &[[f32; Q6K_PART]; PARTS] = parts(x);
    let importance: Option<&[[f32; Q6K_PART]; PARTS]> = importance.map(parts);
    let mut scales = [0.0; PARTS];
    let mut q = [[0; Q6K_PART]; PARTS];
    let mut largest = 0.0f32;
    for p in 0..PARTS {
        let weights = importance.map_or_else(|| x[p].map(|v| v * v), |w| w[p]);
        (scales[p], q[p]) = signed(&x[p], &weights, 32);
        if scales[p].abs() > largest.abs() {
            largest = scales[p];
        }
    }
    if largest.abs() < EPSILON {
        return BlockQ6K::pack(0, [0; PARTS], &[[0; BLOCK]; GROUPS]);
    }
    let inverse = -128.0 / largest;
    let d = f32_to_f16(1.0 / inverse);
    let scales = scales.map(|scale| nearest(inverse * scale).min(127) as i8);
    for p in 0..PARTS {
        let scale = f16_to_f32(d) * f32::from(scales[p]);
        if scale != 0.0 {
            q[p] = x[p].map(|v| (nearest(v / scale).clamp(-32, 31) + 32) as u8);
        }
    }
    let q = core::array::from_fn(|g| core::array::from_fn(|l| q[2 * g + l / 16][l % 16]));
    BlockQ6K::pack(d, scales, &q)
}

/// A super-block in parts of equal length.
fn parts<const N: usize, const P: usize>(x: &[f32; SUPER_BLOCK]) -> &[[f32; N]; P] {
    const { assert!(N * P == SUPER_BLOCK) };
    x.as_chunks().0.try_into().expect("the parts of all numbers")
}
