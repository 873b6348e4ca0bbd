//! XGLM's forward pass once more, in double precision, one number at a time: the truth that
//! gradients are compared with by finite differences.

use std::collections::BTreeMap;
use xelm_runtime::config::{Activation, Config};

/// Parameters by their names in checkpoints.
pub type Weights = BTreeMap<String, Vec<f64>>;

/// Mean cross-entropy over all positions of sequences of `n_ctx` tokens.
pub fn loss(
    config: &Config,
    weights: &Weights,
    positions: &[f32],
    inputs: &[u32],
    targets: &[u32],
    n_ctx: usize,
) -> f64 {
    let c = config.n_embd;
    let mut sum = 0.0;
    for (inputs, targets) in inputs.chunks(n_ctx).zip(targets.chunks(n_ctx)) {
        let embd = &weights["model.embed_tokens.weight"];
        let mut x: Vec<Vec<f64>> = inputs
            .iter()
            .enumerate()
            .map(|(t, &id)| {
                (0..c)
                    .map(|i| {
                        (c as f64).sqrt() * embd[id as usize * c + i]
                            + f64::from(positions[t * c + i])
                    })
                    .collect()
            })
            .collect();
        for l in 0..config.n_layer {
            layer(config, weights, &format!("model.layers.{l}."), &mut x);
        }
        for (x, &target) in x.iter().zip(targets) {
            let h = norm(config, weights, "model.layer_norm", x);
            let logits: Vec<f64> = embd.chunks(c).map(|row| dot(row, &h)).collect();
            let max = logits.iter().copied().fold(f64::MIN, f64::max);
            let log_sum = max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
            sum += log_sum - logits[target as usize];
        }
    }
    sum / inputs.len() as f64
}

fn layer(config: &Config, weights: &Weights, name: &str, x: &mut [Vec<f64>]) {
    let (c, hd) = (config.n_embd, config.head_dim());
    let linear = |part: &str, x: &[f64]| -> Vec<f64> {
        let w = &weights[&format!("{name}{part}.weight")];
        let b = &weights[&format!("{name}{part}.bias")];
        w.chunks(x.len()).zip(b).map(|(row, b)| dot(row, x) + b).collect()
    };
    let rows = |part: &str, x: &[Vec<f64>]| -> Vec<Vec<f64>> {
        x.iter().map(|x| linear(part, x)).collect()
    };
    let a: Vec<_> = x
        .iter()
        .map(|x| norm(config, weights, &format!("{name}self_attn_layer_norm"), x))
        .collect();
    let (q, k, v) =
        (rows("self_attn.q_proj", &a), rows("self_attn.k_proj", &a), rows("self_attn.v_proj", &a));
    for (t, x) in x.iter_mut().enumerate() {
        let mut mixed = vec![0.0; c];
        for h in (0..c).step_by(hd) {
            let scores: Vec<f64> = (0..=t)
                .map(|s| dot(&q[t][h..h + hd], &k[s][h..h + hd]) / (hd as f64).sqrt())
                .collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            for (s, score) in scores.iter().enumerate() {
                for i in h..h + hd {
                    mixed[i] += (score - max).exp() / total * v[s][i];
                }
            }
        }
        add(x, &linear("self_attn.out_proj", &mixed));
    }
    for x in x.iter_mut() {
        let h = norm(config, weights, &format!("{name}final_layer_norm"), x);
        let h: Vec<f64> =
            linear("fc1", &h).iter().map(|&x| activation(config.activation, x)).collect();
        add(x, &linear("fc2", &h));
    }
}

fn norm(config: &Config, weights: &Weights, name: &str, x: &[f64]) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let scale = 1.0 / (variance + f64::from(config.norm_eps)).sqrt();
    let (w, b) = (&weights[&format!("{name}.weight")], &weights[&format!("{name}.bias")]);
    (0..x.len()).map(|i| (x[i] - mean) * scale * w[i] + b[i]).collect()
}

fn activation(kind: Activation, x: f64) -> f64 {
    match kind {
        Activation::GeluErf => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        Activation::GeluTanh => {
            0.5 * x
                * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Activation::Relu => x.max(0.0),
    }
}

/// The error function by its Taylor series (|x| < 3) or continued fraction, to 1e-14.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 3.0 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-17 {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        2.0 / std::f64::consts::PI.sqrt() * sum
    } else {
        let fraction = (1..=60).rev().fold(a, |f, n| a + f64::from(n) / 2.0 / f);
        1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
