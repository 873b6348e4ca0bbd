//! Training speed: tokens per second and GFLOP/s at 1 to 25 million parameters, beside the f32 GEMM rate measured
//! in the same run.
//!
//!     cargo run --release -p xelm-train --example train_speed [threads [which of the four]]
//!
//! With the folder of a model and a file of batches instead, it trains on these and prints losses and
//! seconds of the steps as JSON: `tests/train_speed.sh` compares them with PyTorch's.
//!
//!     train_speed threads folder batches [bf16]

use serde_json::json;
use std::path::Path;
use std::time::Instant;
use xelm_train::backend::{AdamW, Backend, Cpu, Region};
use xelm_train::hf::Folder;
use xelm_train::model::{DropoutPlan, Model, Recompute, init};
use xelm_train::settings::ModelSettings;
use xelm_train::weights::Weights;

/// Layers, width, heads, vocabulary, context, batch. The last is that of `tests/train_speed.sh`.
const SHAPES: [(usize, usize, usize, usize, usize, usize); 4] = [
    (4, 128, 4, 2048, 128, 32),
    (6, 256, 8, 4096, 256, 16),
    (8, 512, 16, 4096, 256, 8),
    (6, 512, 8, 12_032, 256, 8),
];

fn main() {
    let mut args = std::env::args().skip(1);
    let threads = args.next().and_then(|n| n.parse().ok());
    let threads =
        threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("threads");
    match (args.next(), args.next()) {
        (Some(folder), Some(batches)) => {
            let bf16 = args.next().is_some_and(|precision| precision == "bf16");
            paired(Path::new(&folder), Path::new(&batches), bf16);
        }
        (which, _) => shapes(which.and_then(|n| n.parse().ok())),
    }
}

/// Batches of 8 sequences of 256 tokens and the target of the last one.
const PAIRED: (usize, usize) = (8, 256);

fn paired(folder: &Path, batches: &Path, bf16: bool) {
    let (n_batch, n_ctx) = PAIRED;
    let folder = Folder::open(folder).expect("a model of transformers");
    let backend = &mut if bf16 { Cpu::bf16() } else { Cpu::new() };
    let model = Model::place(backend, *folder.config(), n_batch, n_ctx, Recompute::None);
    let model = model.expect("memory");
    for tensor in model.params.tensors(folder.config()) {
        let mut values = vec![0.0; tensor.span.len];
        folder.read(&tensor.name, 0, &mut values);
        backend.write(tensor.span, &values);
    }
    let bytes = std::fs::read(batches).expect("a file of batches");
    let ids: Vec<u32> = bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
    let (mut losses, mut seconds) = (Vec::new(), Vec::new());
    for (i, batch) in ids.chunks_exact(n_batch * (n_ctx + 1)).enumerate() {
        let rows = || batch.chunks_exact(n_ctx + 1);
        let inputs: Vec<u32> = rows().flat_map(|row| &row[..n_ctx]).copied().collect();
        let targets: Vec<u32> = rows().flat_map(|row| &row[1..]).copied().collect();
        let lr = (1e-3 * ((i + 1) as f64 / 10.0).min(1.0)) as f32;
        let lap = Instant::now();
        losses.push(step(backend, &model, &inputs, &targets, lr, i as u64 + 1));
        seconds.push(lap.elapsed().as_secs_f64());
    }
    println!("{}", json!({"losses": losses, "seconds": seconds}));
}

/// Forward, backward and update `t` (from 1); returns the loss.
fn step(backend: &mut Cpu, model: &Model, inputs: &[u32], targets: &[u32], lr: f32, t: u64) -> f64 {
    let grads = model.params.all.of(Region::Grads);
    backend.begin_step(grads);
    backend.load_batch(inputs, targets);
    model.train(backend, DropoutPlan::NONE, 1.0 / inputs.len() as f32);
    backend.grad_norm(grads);
    let (beta1, beta2, eps) = (0.9, 0.95, 1e-8);
    let settings = AdamW { lr, beta1, beta2, eps, weight_decay: 0.0, t, max_norm: 1.0 };
    backend.adamw(model.params.all, settings);
    backend.finish_step().expect("a CPU does not fail").loss
}

fn shapes(which: Option<usize>) {
    println!("parameters  n_ctx  tokens/step  tokens/s  GFLOP/s  GEMM GFLOP/s  share");
    for (n_layer, n_embd, n_head, n_vocab, n_ctx, n_batch) in SHAPES
        .into_iter()
        .enumerate()
        .filter(|(i, _)| which.is_none_or(|w| w == *i))
        .map(|(_, s)| s)
    {
        let model = ModelSettings { n_layer, n_embd, n_head, n_ff: 4 * n_embd, n_ctx };
        let config = model.config(n_vocab).expect("dimensions");
        let backend = &mut Cpu::new();
        let model = Model::place(backend, config, n_batch, n_ctx, Recompute::None).expect("memory");
        init(backend, &model.params, &config, 1);
        let n = n_batch * n_ctx;
        let inputs: Vec<u32> = (0..n).map(|i| (i * 7919 % n_vocab) as u32).collect();
        step(backend, &model, &inputs, &inputs, 1e-4, 1);
        let mut rates = Vec::new();
        let clock = Instant::now();
        while rates.len() < 3 || clock.elapsed().as_secs_f64() < 5.0 {
            let lap = Instant::now();
            step(backend, &model, &inputs, &inputs, 1e-4, 2);
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
