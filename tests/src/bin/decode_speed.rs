//! How fast one token after another is decoded, and in how much memory: `tests/contention.sh` and
//! `tests/footprint.sh` run it, `tests/speed.sh` has it make models.
//!
//!     xelm-decode-speed make OUT.gguf N_LAYER N_EMBD N_VOCAB [N_CTX TYPE]    a random expert, 256 q8_0
//!     xelm-decode-speed set DIR EXPERT.gguf...                  makes random experts in a folder a set
//!     xelm-decode-speed run FILE THREADS SECONDS                prints tokens per second
//!     xelm-decode-speed footprint FILE THREADS N_TOKENS         prints times and memory as JSON

use std::path::Path;
use std::time::{Duration, Instant};
use xelm_runtime::config::{Activation, Config};
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::mmap::ExpertFile;
use xelm_runtime::pool::Pool;
use xelm_runtime::quant::DType;
use xelm_runtime::sampler::{Sampler, SamplerOptions};
use xelm_runtime::session::{Options, Session};
use xelm_tests::random;
use xelm_train::memory::Memory;

const USAGE: &str = "usage: xelm-decode-speed make OUT.gguf N_LAYER N_EMBD N_VOCAB [N_CTX TYPE]
       xelm-decode-speed set DIR EXPERT.gguf...
       xelm-decode-speed run FILE THREADS SECONDS
       xelm-decode-speed footprint FILE THREADS N_TOKENS";

fn config(n_layer: usize, n_embd: usize, n_vocab: usize, n_ctx: usize) -> Config {
    Config {
        n_vocab,
        n_ctx,
        n_embd,
        n_layer,
        n_head: n_embd / 64,
        n_ff: 4 * n_embd,
        activation: Activation::GeluErf,
        norm_eps: 1e-5,
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["make", path, n_layer, n_embd, n_vocab, ref more @ ..] => {
            let (n_ctx, dtype) = match *more {
                [] => (256, DType::Q8_0),
                [n_ctx, "f32"] => (n_ctx.parse()?, DType::F32),
                [n_ctx, "q8_0"] => (n_ctx.parse()?, DType::Q8_0),
                [n_ctx, "q4_0"] => (n_ctx.parse()?, DType::Q4_0),
                _ => return Err(USAGE.into()),
            };
            let config = config(n_layer.parse()?, n_embd.parse()?, n_vocab.parse()?, n_ctx);
            Ok(random::write_expert(Path::new(path), &config, dtype)?)
        }
        ["set", folder, ref files @ ..] if !files.is_empty() => {
            Ok(random::write_set(Path::new(folder), files)?)
        }
        ["run", path, threads, seconds] => {
            let seconds = Duration::from_secs_f64(seconds.parse()?);
            println!("{:.2}", decode(Path::new(path), threads.parse()?, seconds)?);
            Ok(())
        }
        ["footprint", path, threads, n_tokens] => {
            println!("{}", footprint(Path::new(path), threads.parse()?, n_tokens.parse()?)?);
            Ok(())
        }
        _ => Err(USAGE.into()),
    }
}

/// Tokens per second, after a first context that warms up. A context that is full begins again.
fn decode(path: &Path, n_threads: usize, time: Duration) -> xelm_runtime::Result<f64> {
    let file = ExpertFile::open(path)?;
    let options = Options { max_text: 0, ..Options::default() };
    let pool = Pool::new(n_threads)?;
    let mut memory = Memory::new(Session::plan(file.expert(), &options)?.total);
    let kernels = Kernels::new(Isa::detect());
    let mut session = Session::init(file.expert(), &options, memory.bytes(), kernels, &pool)?;
    let mut sampler = Sampler::new(SamplerOptions::default())?;
    let mut token = 2;
    let mut start = Instant::now();
    let mut n_tokens = 0;
    let mut warm = false;
    while !warm || start.elapsed() < time {
        if session.n_past() == session.n_ctx() || (!warm && session.n_past() == 32) {
            session.reset();
            if !warm {
                (start, n_tokens, warm) = (Instant::now(), 0, true);
            }
        }
        session.prefill(&[token])?;
        token = session.sample(&mut sampler)?;
        n_tokens += 1;
    }
    Ok(f64::from(n_tokens) / start.elapsed().as_secs_f64())
}

/// Time to open the file, the session's plan, and the memory that the process has more after decoding than
/// before opening, in bytes.
fn footprint(
    path: &Path,
    n_threads: usize,
    n_tokens: usize,
) -> xelm_runtime::Result<serde_json::Value> {
    let before = resident("RssAnon");
    let start = Instant::now();
    let file = ExpertFile::open(path)?;
    let open = start.elapsed();
    let mapped = resident("RssFile");
    let options = Options { max_text: 0, ..Options::default() };
    let pool = Pool::new(n_threads)?;
    let plan = Session::plan(file.expert(), &options)?;
    let mut memory = Memory::new(plan.total);
    let kernels = Kernels::new(Isa::detect());
    let mut session = Session::init(file.expert(), &options, memory.bytes(), kernels, &pool)?;
    let mut sampler = Sampler::new(SamplerOptions::default())?;
    session.prefill(&[2])?;
    let first = start.elapsed();
    for _ in 1..n_tokens.min(session.n_ctx()) {
        let token = session.sample(&mut sampler)?;
        session.prefill(&[token])?;
    }
    Ok(serde_json::json!({
        "open_ms": open.as_secs_f64() * 1e3, "first_token_ms": first.as_secs_f64() * 1e3,
        "plan": plan.total, "anonymous": resident("RssAnon") - before, "mapped_by_opening": mapped,
    }))
}

/// A number of /proc/self/status in bytes; 0 where there is none.
fn resident(key: &str) -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<i64>().ok());
    kib.unwrap_or(0) * 1024
}
