//! The only source of `exp`, `ln`, `erf`, `tanh` and `sqrt`, for runtime and trainer alike.
//!
//! `core` has none of them on stable Rust, and two sources would give two sets of bits. All are
//! branch-free where it matters, so that a loop over them vectorises, and use neither fused
//! multiply-add nor tables, so that every instruction set gives the same bits. The polynomials are
//! our own minimax fits; the errors stated are the maxima found by the tests of this file.

/// 1.5 · 2²³: adding it rounds to an integer in the low mantissa bits.
const ROUND: f32 = 12_582_912.0;

/// eˣ; relative error ≤ 2.0e-7. Below −87.3 the result is 0 (no subnormals), above 88.7 it is ∞.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = core::f32::consts::LOG2_E;
    // ln 2 in two parts, so that n · LN2_HI is exact for |n| < 2¹⁰.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    let y = x.clamp(-88.0, 89.0);
    let shifted = y * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (y - n * LN2_HI) - n * LN2_LO;
    let p = 0.001_395_047_9_f32;
    let p = p * r + 0.008_368_882;
    let p = p * r + 0.041_666_206;
    let p = p * r + 0.166_665_2;
    let p = p * r + 0.5;
    let e = p * (r * r) + r + 1.0;
    // 2ⁿ in two factors: n may be 128, which no single exponent holds.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let a = f32::from_bits((half.wrapping_add(127) << 23) as u32);
    let b = f32::from_bits((n.wrapping_sub(half).wrapping_add(127) << 23) as u32);
    let e = e * a * b;
    // Selections, not branches; NaN fails both comparisons and passes through `x + …`.
    let e = if x < -87.3 { 0.0 } else { e };
    let e = if x > 88.722_83 { f32::INFINITY } else { e };
    if x.is_nan() { x } else { e }
}

/// ln x for x > 0; relative error ≤ 2.5e-7 (absolute 3e-8 near 1). 0 gives −∞, negatives NaN.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Subnormals are scaled into the normal range first.
    let tiny = x < f32::MIN_POSITIVE;
    let y = if tiny { x * 16_777_216.0 } else { x };
    let bits = y.to_bits() as i32;
    // Exponent of the representation with mantissa in [√½, √2).
    let shifted = bits.wrapping_sub(0x3f35_04f3);
    let n = (shifted >> 23) as f32 - if tiny { 24.0 } else { 0.0 };
    let m = f32::from_bits((shifted & 0x007f_ffff).wrapping_add(0x3f35_04f3) as u32);
    let f = m - 1.0;
    let p = -0.076_344_93_f32;
    let p = p * f + 0.127_615_75;
    let p = p * f - 0.131_601_83;
    let p = p * f + 0.142_017_59;
    let p = p * f - 0.166_233_57;
    let p = p * f + 0.200_012_27;
    let p = p * f - 0.250_008_2;
    let p = p * f + 0.333_333_3;
    let f2 = f * f;
    let r = p * (f2 * f) + n * LN2_LO - 0.5 * f2 + f + n * LN2_HI;
    let r = if x == f32::INFINITY { x } else { r };
    let r = if x == 0.0 { f32::NEG_INFINITY } else { r };
    if x < 0.0 || x.is_nan() { f32::NAN } else { r }
}

/// The error function; absolute error ≤ 1.5e-7.
#[inline(always)]
#[allow(clippy::approx_constant, reason = "a fitted coefficient, near ln 2 by nature")]
pub fn erf(x: f32) -> f32 {
    // From 4 on it rounds to 1. Unlike `min`, this lets NaN through.
    let a = x.abs();
    let a = if a > 4.0 { 4.0 } else { a };
    // 1 − erf a = 2^(−a · P(a)), P smooth: its error counts as much less as 1 − erf a is smaller.
    let p = 4.535_845e-5_f32;
    let p = p * a - 4.455_061_7e-4;
    let p = p * a + 1.489_436_1e-3;
    let p = p * a + 7.746_396_5e-4;
    let p = p * a - 2.825_369e-2;
    let p = p * a + 0.148_481_62;
    let p = p * a + 0.918_416_4;
    let p = p * a + 1.627_908_6;
    let y = p * a;
    // y = s − n with n an integer: 2^(−y) = 2ⁿ · 2^(−s).
    let shifted = ROUND - y;
    let s = y + (shifted - ROUND);
    let e = -1.326_472_4e-3_f32;
    let e = e * s + 9.671_513e-3;
    let e = e * s - 5.550_734e-2;
    let e = e * s + 0.240_222_42;
    let e = e * s - 0.693_147;
    let e = e * s + 1.0;
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let power = f32::from_bits((n.wrapping_add(127) << 23) as u32);
    (1.0 - e * power).copysign(x)
}

/// tanh x; absolute error ≤ 2e-7.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let e = exp(2.0 * x.abs());
    (1.0 - 2.0 / (e + 1.0)).copysign(x)
}

/// √x, correctly rounded (IEEE 754), so every implementation gives the same bits.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    #[cfg(feature = "std")]
    return x.sqrt();
    #[cfg(not(feature = "std"))]
    return libm::sqrtf(x);
}

/// sin x and cos x of the `f32` argument, computed in double precision and rounded once.
/// For the position table only: it is not meant to be fast.
pub fn sin_cos(x: f32) -> (f32, f32) {
    let (sin, cos) = libm::sincos(f64::from(x));
    (sin as f32, cos as f32)
}

/// GELU with the exact error function: x · Φ(x) (XGLM's activation).
#[inline(always)]
pub fn gelu_erf(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * core::f32::consts::FRAC_1_SQRT_2))
}

/// d/dx of [`gelu_erf`]: Φ(x) + x · φ(x).
#[inline(always)]
pub fn gelu_erf_derivative(x: f32) -> f32 {
    const INV_SQRT_2PI: f32 = 0.398_942_3;
    let cdf = 0.5 * (1.0 + erf(x * core::f32::consts::FRAC_1_SQRT_2));
    cdf + x * INV_SQRT_2PI * exp(-0.5 * x * x)
}

/// √(2/π), of the tanh form of GELU.
const SQRT_2_OVER_PI: f32 = 0.797_884_6;

/// GELU in its tanh approximation (what llama.cpp computes; at most 4.8e-4 from [`gelu_erf`]).
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    0.5 * x * (1.0 + tanh(SQRT_2_OVER_PI * x * (1.0 + 0.044_715 * x * x)))
}

/// d/dx of [`gelu_tanh`].
#[inline(always)]
pub fn gelu_tanh_derivative(x: f32) -> f32 {
    let t = tanh(SQRT_2_OVER_PI * x * (1.0 + 0.044_715 * x * x));
    let inner = SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044_715 * x * x);
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner
}

/// max(x, 0) that lets NaN through, so that a broken model stays visible.
#[inline(always)]
pub fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// ln Σ eˣ of a row, in f32 with the maximum taken out. An empty row gives −∞.
#[inline(always)]
pub fn log_sum_exp(row: &[f32]) -> f32 {
    let max = max(row);
    if max == f32::NEG_INFINITY {
        return max;
    }
    let mut lanes = [0.0f32; 16];
    let mut chunks = row.chunks_exact(16);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += exp(x - max);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += exp(x - max);
    }
    let mut sum = 0.0;
    for lane in lanes {
        sum += lane;
    }
    max + ln(sum)
}

/// The largest element, ignoring NaN; −∞ for an empty row.
#[inline(always)]
pub fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let mut chunks = row.chunks_exact(16);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    let mut max = f32::NEG_INFINITY;
    for &x in lanes.iter().chain(chunks.remainder()) {
        max = if x > max { x } else { max };
    }
    max
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest error of `f` against the double-precision `truth` over every 97th float in a range.
    fn worst(range: core::ops::Range<f32>, f: fn(f32) -> f32, truth: fn(f64) -> f64) -> (f64, f64) {
        let (mut relative, mut absolute) = (0.0f64, 0.0f64);
        let steps = 400_000;
        for i in 0..=steps {
            let x = range.start + (range.end - range.start) * (i as f32 / steps as f32);
            let (got, want) = (f64::from(f(x)), truth(f64::from(x)));
            absolute = absolute.max((got - want).abs());
            relative = relative.max((got - want).abs() / want.abs().max(1e-300));
        }
        (relative, absolute)
    }

    #[test]
    fn exp_is_within_its_stated_error() {
        assert!(worst(-87.2..88.7, exp, libm::exp).0 <= 2.0e-7);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-100.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn ln_is_within_its_stated_error() {
        assert!(worst(1e-6..0.5, ln, libm::log).0 <= 2.5e-7);
        assert!(worst(2.0..1e30, ln, libm::log).0 <= 2.5e-7);
        assert!(worst(0.5..2.0, ln, libm::log).1 <= 1e-7);
        assert_eq!(ln(1.0), 0.0);
        assert_eq!(ln(0.0), f32::NEG_INFINITY);
        assert!((f64::from(ln(1e-42)) - libm::log(f64::from(1e-42f32))).abs() < 1e-4);
        assert!(ln(-1.0).is_nan() && ln(f32::NAN).is_nan());
        assert_eq!(ln(f32::INFINITY), f32::INFINITY);
    }

    #[test]
    fn erf_and_tanh_are_within_their_stated_error() {
        assert!(worst(-6.0..6.0, erf, libm::erf).1 <= 1.5e-7);
        assert!(worst(-12.0..12.0, tanh, libm::tanh).1 <= 2e-7);
        assert_eq!((erf(0.0), erf(30.0), erf(-30.0)), (0.0, 1.0, -1.0));
        assert!(erf(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
    }

    #[test]
    fn gelu_derivatives_match_differences() {
        for (f, d) in [
            (gelu_erf as fn(f32) -> f32, gelu_erf_derivative as fn(f32) -> f32),
            (gelu_tanh, gelu_tanh_derivative),
        ] {
            for i in -60..=60 {
                let (x, h) = (i as f32 * 0.1, 1e-2);
                let difference = (f(x + h) - f(x - h)) / (2.0 * h);
                assert!((difference - d(x)).abs() < 2e-4, "x = {x}: {difference} {}", d(x));
            }
        }
    }

    #[test]
    fn log_sum_exp_of_any_length() {
        for n in [1usize, 2, 15, 16, 17, 97] {
            let row: std::vec::Vec<f32> = (0..n).map(|i| (i * 7 % 13) as f32 - 40.0).collect();
            let truth = row.iter().map(|&x| libm::exp(f64::from(x))).sum::<f64>();
            assert!((f64::from(log_sum_exp(&row)) - libm::log(truth)).abs() < 1e-5);
        }
        assert_eq!(log_sum_exp(&[]), f32::NEG_INFINITY);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 3]), f32::NEG_INFINITY);
    }
}
