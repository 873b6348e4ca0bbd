//! Training speed: tokens per second and GFLOP/s at 1, 5 and 25 million parameters, beside the f32 GEMM
//! rate measured in the same run.
//!
//!     cargo run --release -p xelm-train --example train_speed [threads [which of the three]]

use std::time::Instant;
use xelm_train::backend::{AdamW, Backend, Cpu, Region};
use xelm_train::model::{DropoutPlan, Model, Recompute, init};
use xelm_train::settings::ModelSettings;

/// Layers, width, vocabulary, context, batch.
const SHAPES: [(usize, usize, usize, usize, usize); 3] =
    [(4, 128, 2048, 128, 32), (6, 256, 4096, 256, 16), (8, 512, 4096, 256, 8)];

fn main() {
    let threads = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let threads =
        threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("threads");
    let which: Option<usize> = std::env::args().nth(2).and_then(|n| n.parse().ok());
    println!("parameters  n_ctx  tokens/step  tokens/s  GFLOP/s  GEMM GFLOP/s  share");
    for (n_layer, n_embd, n_vocab, n_ctx, n_batch) in SHAPES
        .into_iter()
        .enumerate()
        .filter(|(i, _)| which.is_none_or(|w| w == *i))
        .map(|(_, s)| s)
    {
        let model = ModelSettings { n_layer, n_embd, n_head: n_embd / 32, n_ff: 4 * n_embd, n_ctx };
        let config = model.config(n_vocab).expect("dimensions");
        let backend = &mut Cpu::new();
        let model = Model::place(backend, config, n_batch, n_ctx, Recompute::None).expect("memory");
        init(backend, &model.params, &config, 1);
        let n = n_batch * n_ctx;
        let inputs: Vec<u32> = (0..n).map(|i| (i * 7919 % n_vocab) as u32).collect();
        let mut step = |t: u64| {
            let grads = model.params.all.of(Region::Grads);
            backend.zero(grads);
            backend.load_batch(&inputs, &inputs);
            model.train(backend, DropoutPlan::NONE, 1.0 / n as f32);
            backend.grad_norm(grads);
            let settings = AdamW {
                lr: 1e-4,
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.0,
                t,
                max_norm: 1.0,
            };
            backend.adamw(model.params.all, settings);
            backend.finish_step().expect("a CPU does not fail");
        };
        step(1);
        let mut rates = Vec::new();
        let clock = Instant::now();
        while rates.len() < 3 || clock.elapsed().as_secs_f64() < 5.0 {
            let lap = Instant::now();
            step(2);
            rates.push(n as f64 / lap.elapsed().as_secs_f64());
        }
        rates.sort_by(f64::total_cmp);
        let tokens_per_s = rates[rates.len() / 2];
        // 6 per weight of a product, and the attention's two products, halved by causality.
        let weights = config.n_params();
        let flop = 6.0 * weights as f64 + 6.0 * (n_layer * n_embd * n_ctx) as f64;
        let gemm = gemm_rate();
        let gflops = tokens_per_s * flop / 1e9;
        println!(
            "{weights:>10}  {n_ctx:>5}  {n:>11}  {tokens_per_s:>8.0}  {gflops:>7.0}  {gemm:>12.0}  {:>4.0} %",
            100.0 * gflops / gemm
        );
    }
}

/// The best of several large square products, GFLOP/s.
fn gemm_rate() -> f64 {
    let n = 1536;
    let (a, b) = (vec![1.0f32; n * n], vec![0.5f32; n * n]);
    let mut c = vec![0.0f32; n * n];
    (0..8)
        .map(|_| {
            let lap = Instant::now();
            xelm_train::backend::matmul(&mut c, &a, &b, n);
            2.0 * (n * n * n) as f64 / lap.elapsed().as_secs_f64() / 1e9
        })
        .fold(0.0, f64::max)
}
