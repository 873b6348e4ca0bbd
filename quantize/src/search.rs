//! Searches for the scale, and the minimum, with which a group of numbers loses least: ggml's, so that the
//! same blocks come out, bit for bit. Sums run in the order of the numbers, every operation is rounded.
//!
//! N numbers x with weights w; the loss is Σ w · (x − what is stored)².

/// A group whose largest magnitude is below this is stored as zeros.
pub(crate) const EPSILON: f32 = 1e-15;

/// The nearest integer, half to even, of a number below 2²² in magnitude. What becomes of others is part of
/// the format, too: their bits are read as if they were small.
pub(crate) fn nearest(x: f32) -> i32 {
    // The sum has no bits left for a fraction, and the integer in its lowest ones.
    let bits = (x + 12_582_912.0).to_bits();
    (bits & 0x007f_ffff) as i32 - 0x0040_0000
}

/// Σ w·x·q and Σ w·q², from which the best scale for given q is the ratio.
#[derive(Clone, Copy, Debug, Default)]
struct Fit {
    xq: f32,
    qq: f32,
}

impl Fit {
    fn new<const N: usize>(x: &[f32; N], weights: &[f32; N], q: &[i32; N]) -> Self {
        let mut fit = Fit::default();
        for i in 0..N {
            fit = fit.with(x[i], weights[i], q[i]);
        }
        fit
    }

    fn with(self, x: f32, w: f32, q: i32) -> Self {
        let q = q as f32;
        Fit { xq: self.xq + w * x * q, qq: self.qq + w * q * q }
    }

    fn without(self, x: f32, w: f32, q: i32) -> Self {
        let q = q as f32;
        Fit { xq: self.xq - w * x * q, qq: self.qq - w * q * q }
    }
}

/// x ≈ scale · (q − half), q in 0 .. 2 · half. The scale may be negative, so that the number of largest
/// magnitude is −half; it is 0, and so are all q, where that magnitude is negligible.
pub(crate) fn signed<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    half: i32,
) -> (f32, [u8; N]) {
    let mut max = 0.0f32;
    for &v in x {
        if v.abs() > max.abs() {
            max = v;
        }
    }
    if max.abs() < EPSILON {
        return (0.0, [0; N]);
    }
    let rounded = |inverse: f32| x.map(|v| nearest(inverse * v).clamp(-half, half - 1));
    let mut q = rounded(-(half as f32) / max);
    let fit = Fit::new(x, weights, &q);
    let mut scale = if fit.qq != 0.0 { fit.xq / fit.qq } else { 0.0 };
    // What is gained over storing zeros.
    let mut best = scale * fit.xq;
    for step in (-9..=9).filter(|&step| step != 0) {
        let tried = rounded(-(half as f32 + 0.1 * step as f32) / max);
        let fit = Fit::new(x, weights, &tried);
        if fit.qq > 0.0 && fit.xq * fit.xq > best * fit.qq {
            q = tried;
            scale = fit.xq / fit.qq;
            best = scale * fit.xq;
        }
    }
    (scale, q.map(|q| (q + half) as u8))
}

/// Which inverse scales [`with_minimum`] tries: (max + first + i · step) / (high − low) for i in 0..=n.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steps {
    pub(crate) first: f32,
    pub(crate) step: f32,
    pub(crate) n: u32,
}

/// x ≈ scale · q − minimum, q in 0..=max. The minimum is never negative: numbers that are all positive are
/// stored by their scale alone.
pub(crate) fn with_minimum<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    max: i32,
    steps: Steps,
) -> (f32, f32, [u8; N]) {
    let (mut low, mut high) = (x[0], x[0]);
    let mut sum_w = weights[0];
    let mut sum_x = sum_w * x[0];
    for i in 1..N {
        if x[i] < low {
            low = x[i];
        }
        if x[i] > high {
            high = x[i];
        }
        sum_w += weights[i];
        sum_x += weights[i] * x[i];
    }
    if low > 0.0 {
        low = 0.0;
    }
    if high == low {
        return (0.0, -low, [0; N]);
    }
    let rounded = |inverse: f32, low: f32| x.map(|v| nearest(inverse * (v - low)).clamp(0, max));
    let loss = |q: &[i32; N], scale: f32, min: f32| {
        let mut loss = 0.0;
        for i in 0..N {
            let difference = scale * q[i] as f32 + min - x[i];
            loss += weights[i] * (difference * difference);
        }
        loss
    };
    let inverse = max as f32 / (high - low);
    let mut scale = 1.0 / inverse;
    let mut q = rounded(inverse, low);
    let mut best = loss(&q, scale, low);
    for i in 0..=steps.n {
        // From the best minimum so far.
        let above = steps.first + steps.step * i as f32;
        let tried = rounded((above + max as f32) / (high - low), low);
        let (mut sum_q, mut sum_qq, mut sum_xq) = (0.0, 0.0, 0.0);
        for i in 0..N {
            let (w, q) = (weights[i], tried[i] as f32);
            sum_q += w * q;
            sum_qq += w * q * q;
            sum_xq += w * q * x[i];
        }
        // Least squares of x over q.
        let determinant = sum_w * sum_qq - sum_q * sum_q;
        if determinant > 0.0 {
            let mut this_scale = (sum_w * sum_xq - sum_x * sum_q) / determinant;
            let mut this_low = (sum_qq * sum_x - sum_q * sum_xq) / determinant;
            if this_low > 0.0 {
                this_low = 0.0;
                this_scale = sum_xq / sum_qq;
            }
            let this_loss = loss(&tried, this_scale, this_low);
            if this_loss < best {
                (q, best, scale, low) = (tried, this_loss, this_scale, this_low);
            }
        }
    }
    (scale, -low, q.map(|q| q as u8))
}

/// x ≈ scale · q for numbers that are not negative, q in 0..=max: first the best of nine scales, then single
/// q are changed as long as that helps.
pub(crate) fn unsigned<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    max: i32,
) -> (f32, [u8; N]) {
    let mut high = 0.0f32;
    for &v in x {
        if v >= high {
            high = v;
        }
    }
    if high < EPSILON {
        return (0.0, [0; N]);
    }
    let loss = |inverse: f32| {
        let scale = 1.0 / inverse;
        let mut loss = 0.0;
        for i in 0..N {
            let difference = x[i] - scale * nearest(inverse * x[i]).min(max) as f32;
            loss += weights[i] * difference * difference;
        }
        loss
    };
    let mut inverse = max as f32 / high;
    let mut best = loss(inverse);
    for step in (-4..=4).filter(|&step| step != 0) {
        let tried = (0.1 * step as f32 + max as f32) / high;
        let loss = loss(tried);
        if loss < best {
            (best, inverse) = (loss, tried);
        }
    }
    let mut q = x.map(|v| nearest(inverse * v).min(max));
    let mut fit = Fit::new(x, weights, &q);
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..N {
            let others = fit.without(x[i], weights[i], q[i]);
            if others.xq > 0.0 && others.qq > 0.0 {
                let new = nearest(x[i] * others.qq / others.xq).min(max);
                let new_fit = others.with(x[i], weights[i], new);
                let better = new_fit.xq * new_fit.xq * fit.qq > fit.xq * fit.xq * new_fit.qq;
                if new != q[i] && better {
                    (q[i], fit) = (new, new_fit);
                    changed = true;
                }
            }
        }
        if !changed {
            break;
        }
    }
    (if fit.qq > 0.0 { fit.xq / fit.qq } else { 0.0 }, q.map(|q| q as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_is_half_to_even() {
        for (x, n) in [(0.5, 0), (1.5, 2), (-0.5, 0), (-1.5, -2), (2.49, 2), (-3.7, -4)] {
            assert_eq!(nearest(x), n, "{x}");
        }
    }

    #[test]
    fn what_can_be_stored_exactly_is() {
        let x = [0.0f32, 1.0, 2.0, 3.0, -4.0, -3.0, -2.0, -1.0].map(|v| v * 0.5);
        let (scale, q) = signed(&x, &[1.0; 8], 4);
        assert_eq!(q.map(|q| scale * (f32::from(q) - 4.0)), x);
        let x: [f32; 8] = core::array::from_fn(|i| i as f32 * 0.25 - 1.0);
        let steps = Steps { first: -0.9, step: 0.05, n: 36 };
        let (scale, min, q) = with_minimum(&x, &[1.0; 8], 7, steps);
        assert_eq!(q.map(|q| scale * f32::from(q) - min), x);
        let x: [f32; 8] = core::array::from_fn(|i| (9 * i) as f32 * 0.5);
        let (scale, q) = unsigned(&x, &[1.0; 8], 63);
        assert_eq!(q.map(|q| scale * f32::from(q)), x);
    }

    #[test]
    fn weights_draw_the_scale_towards_heavy_numbers() {
        let x: [f32; 16] = core::array::from_fn(|i| ((i * 7 % 16) as f32 - 7.3) * 0.1);
        let error = |heavy: usize, weight: f32| {
            let mut weights = [1.0; 16];
            weights[heavy] = weight;
            let (scale, q) = signed(&x, &weights, 4);
            (scale * (f32::from(q[heavy]) - 4.0) - x[heavy]).abs()
        };
        let sum = |weight| (0..16).map(|heavy| error(heavy, weight)).sum::<f32>();
        assert!(sum(1e3) < 0.5 * sum(1.0), "{} {}", sum(1e3), sum(1.0));
    }
}
