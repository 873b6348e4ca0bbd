//! What `tests/gpu.sh` runs on a machine with a card: every operation of the trainer's and every model of the
//! runtime's against the CPU, training speed beside the rate of matrix products, and the rate at which memory is
//! written. Prints tab-separated values.
//!
//!     xelm-gpu-check ops [f32 | bf16] | speed | runtime DIR [WORD] | memory

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;
use xelm_runtime::config::{Activation, Config};
use xelm_runtime::mmap::ExpertFile;
use xelm_runtime::session::Session;
use xelm_tests::card;
use xelm_tests::counting::{Counting, allocations};
use xelm_tests::operations::{self, config, difference, tolerance, train};
use xelm_train::backend::cuda::{
    Cuda, Device, Driver, Layout, Precision, Product, Ptr, Replicas, cards, has_nccl,
};
use xelm_train::backend::{AdamW, Backend, Cpu, Region};
use xelm_train::model::{DropoutPlan, Model, Recompute, init};
use xelm_train::{Error, Result};

const USAGE: &str = "usage: xelm-gpu-check ops [f32 | bf16] | speed | runtime DIR [WORD] | memory";

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> std::process::ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some("ops") => ops().map_err(Into::into),
        Some("speed") => speed().map_err(Into::into),
        Some("runtime") => runtime(),
        Some("memory") => memory_rate().map_err(Into::into),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xelm-gpu-check: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// With the library for products and with our own kernels.
fn open(precision: Precision, library: bool) -> Result<Driver> {
    let driver = Driver::open(0, precision)?;
    Ok(if library { driver } else { driver.without_cublaslt() })
}

/// Worst error of each operation; false where one is above its bound.
fn ops() -> Result<bool> {
    let mut fine = true;
    println!("operation\tprecision\tproducts\tcases\tworst\tbound");
    let cases = operations::all();
    let only = std::env::args().nth(2);
    for (precision, name) in [(Precision::F32, "f32"), (Precision::Bf16, "bf16")] {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        for library in [true, false] {
            let products = if library { "cuBLASLt" } else { "own" };
            let mut worst: BTreeMap<&str, (f32, usize)> = BTreeMap::new();
            let mut backend = Cuda::new(open(precision, library)?);
            for case in &cases {
                let want = case.run(&mut Cpu::new(), precision);
                let got = case.run(&mut backend, precision);
                let off = got.difference(&want, &case.name);
                let again = case.run(&mut backend, precision);
                if again.bits() != got.bits() {
                    println!("{}: a second run has other bits", case.name);
                    fine = false;
                }
                let operation = case.name.split(' ').next().unwrap_or(&case.name);
                let entry = worst.entry(operation).or_default();
                *entry = (entry.0.max(off), entry.1 + 1);
            }
            for (operation, (worst, n)) in worst {
                fine &= worst <= tolerance(precision);
                let bound = tolerance(precision);
                println!("{operation}\t{name}\t{products}\t{n}\t{worst:.1e}\t{bound:.1e}");
            }
            let config = config(48, 2);
            let (_, want) = train(&mut Cpu::new(), config);
            let (_, got) = train(&mut backend, config);
            let worst = difference(&got, &want, "parameters");
            let bound = if precision == Precision::F32 { 1e-3 } else { 2e-2 };
            fine &= worst <= bound;
            println!("five_steps\t{name}\t{products}\t1\t{worst:.1e}\t{bound:.1e}");
            operations::compare_residual_norm_with_its_steps(&mut backend, precision);
            // By the same algorithms, graphs and single kernels have the same bits.
            let untimed = || Ok::<_, Error>(open(precision, library)?.without_timing());
            let graphs = train(&mut Cuda::new(untimed()?), config);
            let same = graphs == train(&mut Cuda::new(untimed()?.without_graphs()), config);
            fine &= same;
            let off = f64::from(u8::from(!same));
            println!("bits_of_graphs\t{name}\t{products}\t1\t{off:.1e}\t0");
            if library && has_nccl() {
                // A group of one card: the library is called, its sums change nothing.
                let mut one = Cuda::new(open(precision, true)?);
                let want = train(&mut one, config);
                let mut group = Replicas::open(&[0], precision)?;
                let same_algorithms = one.plans().is_none_or(|plans| group.repeat(&plans));
                let same = same_algorithms && train(&mut group, config) == want;
                fine &= same;
                let off = f64::from(u8::from(!same));
                println!("bits_of_nccl\t{name}\t{products}\t1\t{off:.1e}\t0");
            }
        }
    }
    Ok(fine)
}

/// Layers, width, heads, vocabulary, tokens of a sequence, sequences of a micro-batch.
const SHAPES: [(&str, [usize; 6]); 4] = [
    ("4M", [4, 256, 4, 4096, 256, 16]),
    ("25M", [8, 512, 8, 4096, 1024, 32]),
    ("124M", [12, 768, 12, 50_304, 1024, 16]),
    ("564M", [24, 1024, 16, 256_008, 2048, 8]),
];

/// A name, and what it changes.
type Way = (&'static str, fn(Driver) -> Driver);
/// How products are computed and kernels are started.
const WAYS: [Way; 4] = [
    ("cuBLASLt", |driver| driver),
    ("cuBLASLt untimed", Driver::without_timing),
    ("cuBLASLt without graphs", Driver::without_graphs),
    ("own products", Driver::without_cublaslt),
];

/// Tokens per second in bf16, with the library and without, and on several cards, beside the rate of its products.
fn speed() -> Result<bool> {
    println!("model\tway\ttokens/s\tTFLOP/s\tGEMM TFLOP/s\tshare");
    let gemm = gemm_rate()?;
    for (name, [n_layer, n_embd, n_head, n_vocab, n_ctx, n_batch]) in SHAPES {
        let config = Config {
            n_vocab,
            n_ctx,
            n_embd,
            n_layer,
            n_head,
            n_ff: 4 * n_embd,
            activation: Activation::GeluErf,
            norm_eps: 1e-5,
        };
        let print = |way: &str, rate: f64, n_cards: usize| {
            // 6 per weight of a product, and the attention's two products, halved by causality.
            let flop = 6.0 * (config.n_params() + n_layer * n_embd * n_ctx) as f64;
            let (tflops, gemm) = (rate * flop / 1e12, gemm * n_cards as f64);
            let share = 100.0 * tflops / gemm;
            println!("{name}\t{way}\t{rate:.0}\t{tflops:.0}\t{gemm:.0}\t{share:.0} %");
        };
        for (way, with) in WAYS {
            let driver = with(open(Precision::Bf16, true)?);
            print(way, training_rate(&mut Cuda::new(driver), config, n_batch)?, 1);
        }
        let all: Vec<usize> = (0..cards()?.len()).collect();
        if all.len() > 1 && has_nccl() {
            let group = &mut Replicas::open(&all, Precision::Bf16)?;
            let way = format!("{} cards", all.len());
            print(&way, training_rate(group, config, n_batch)?, all.len());
        }
    }
    Ok(true)
}

/// Tokens per second of steps with one micro-batch, on each card where there are several.
fn training_rate(backend: &mut dyn Backend, config: Config, n_batch: usize) -> Result<f64> {
    let model = Model::place(backend, config, n_batch, config.n_ctx, Recompute::None)?;
    init(backend, &model.params, &config, 1);
    let micro_batch = n_batch * config.n_ctx;
    let inputs: Vec<u32> = (0..micro_batch).map(|i| (i * 7919 % config.n_vocab) as u32).collect();
    let n = micro_batch * backend.n_parallel();
    let mut step = |t: u64| -> Result<()> {
        let grads = model.params.all.of(Region::Grads);
        backend.begin_step(grads);
        for _ in 0..backend.n_parallel() {
            backend.load_batch(&inputs, &inputs);
            model.train(backend, DropoutPlan::NONE, 1.0 / n as f32);
        }
        backend.grad_norm(grads);
        let (beta1, beta2, eps) = (0.9, 0.95, 1e-8);
        let rest = AdamW { lr: 1e-4, beta1, beta2, eps, weight_decay: 0.0, t, max_norm: 1.0 };
        backend.adamw(model.params.all, rest);
        backend.finish_step().map(|_| ())
    };
    for t in 1..4 {
        step(t)?;
    }
    let (clock, mut n_steps) = (Instant::now(), 0u64);
    while n_steps < 5 || clock.elapsed().as_secs_f64() < 8.0 {
        step(4 + n_steps)?;
        n_steps += 1;
    }
    Ok((n_steps * n as u64) as f64 / clock.elapsed().as_secs_f64())
}

/// TFLOP/s of square bf16 products of 8,192 by the library, the best of several.
fn gemm_rate() -> Result<f64> {
    const N: usize = 8192;
    let mut device = open(Precision::Bf16, true)?;
    let memory = device.allocate(3 * N * N * 2)?;
    device.clear(memory, 3 * N * N * 2);
    let part = |i: usize| memory.offset(i * N * N * 2);
    let product = Product {
        layout: Layout::NT,
        out: part(0),
        wide: false,
        accumulate: false,
        a: part(1),
        b: part(2),
        bias: Ptr::NULL,
        m: N,
        n: N,
        k: N,
    };
    let mut best = 0.0f64;
    for _ in 0..5 {
        let clock = Instant::now();
        for _ in 0..20 {
            if !device.multiply(&product) {
                return Err(Error::usage("cuBLASLt is not installed: no rate to compare with"));
            }
        }
        device.finish()?;
        let flop = 20.0 * 2.0 * (N * N * N) as f64;
        best = best.max(flop / clock.elapsed().as_secs_f64() / 1e12);
    }
    Ok(best)
}

/// Worst error of each format of the runtime's, whether other passes give the same bits, and how often the host
/// allocates while a card decodes; false where a bound is not kept. With a word, only models that have it in
/// their name.
fn runtime() -> std::result::Result<bool, Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(2).ok_or(USAGE)?;
    let only = std::env::args().nth(3).unwrap_or_default();
    let mut fine = true;
    println!("model\tbest\tworst\tbounds\tsame bits\tallocations");
    for case in card::cases(Path::new(&folder)).iter().filter(|case| case.name.contains(&only)) {
        let want = case.logits(None, &[usize::MAX])?;
        let got = case.logits(Some(0), &[usize::MAX])?;
        let (off, bound) = (case.off(&got, &want), case.bound());
        let same = [&[3, 66, 1, 2, 1][..], &[1]].into_iter().try_fold(true, |same, parts| {
            Ok::<_, xelm_runtime::Error>(
                same && card::same_bits(&case.logits(Some(0), parts)?, &got),
            )
        })?;
        let file = ExpertFile::open(&case.path)?;
        let ids = card::ids(file.expert().config());
        let decode = |session: &mut Session<'_>| {
            // The driver's functions are looked up when they are called for the first time.
            let mut read = |ids: &[u32]| ids.iter().try_for_each(|&id| session.prefill(&[id]));
            let first = read(&ids[..2]);
            let mut rest = Ok(());
            let n = allocations(|| rest = read(&ids[2..]));
            first.and(rest).map(|()| n)
        };
        let n = card::session(file.expert(), &card::options(case.kv), Some(0), decode)??;
        fine &= off.is_within(&bound) && same && n == 0;
        let (card::Off { best, worst }, name) = (off, &case.name);
        let bounds = format!("{:.0e}, {:.0e}", bound.best, bound.worst);
        println!("{name}\t{best:.1e}\t{worst:.1e}\t{bounds}\t{same}\t{n}");
    }
    Ok(fine)
}

/// GB/s at which the card's memory is set to zero, the best of several: what a product that only reads weights
/// could reach.
fn memory_rate() -> Result<bool> {
    const N: usize = 1 << 30;
    let mut device = open(Precision::Bf16, false)?;
    let memory = device.allocate(N)?;
    let mut best = 0.0f64;
    for _ in 0..5 {
        let clock = Instant::now();
        for _ in 0..10 {
            device.clear(memory, N);
        }
        device.finish()?;
        best = best.max(10.0 * N as f64 / clock.elapsed().as_secs_f64() / 1e9);
    }
    println!("{best:.0}");
    Ok(true)
}
