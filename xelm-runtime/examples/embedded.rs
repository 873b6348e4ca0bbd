//! A model inside the program and memory of a fixed size: no files, no heap, no threads. Writes a text
//! with nothing but the core of the runtime, which needs no standard library.
//!
//!     cargo run --release -p xelm-runtime --example embedded

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use xelm_runtime::expert::{Expert, Layer};
use xelm_runtime::format::Gguf;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::parallel::Serial;
use xelm_runtime::sampler::{Sampler, SamplerOptions};
use xelm_runtime::session::{Options, Session};
use xelm_runtime::tokenizer::TextStream;

const PROMPT: &str = "Am Morgen";
const N_TOKENS: usize = 200;
const N_LAYER: usize = 2;

/// Aligned as the runtime asks for.
#[repr(align(64))]
struct Aligned<T: ?Sized>(T);

/// The file as it is; the runtime reads it in place.
static MODEL: &Aligned<[u8]> = &Aligned(*include_bytes!("../../tests/fixtures/tiny/expert.gguf"));
static MEMORY: Mutex<Aligned<[u8; 204_800]>> = Mutex::new(Aligned([0; 204_800]));

fn main() -> xelm_runtime::Result<()> {
    let gguf = Gguf::open(&MODEL.0)?;
    let mut layers = [Layer::default(); N_LAYER];
    let expert = Expert::open(gguf, &mut layers)?;

    // The plan says whether the memory is large enough.
    let options = Options { n_ctx: 224, max_text: 64, ..Options::default() };
    let plan = Session::plan(&expert, &options)?;
    let mut memory = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    let memory = &mut memory.0[..];
    eprintln!("session: {} of {} bytes, model: {}", plan.total, memory.len(), MODEL.0.len());
    assert!(plan.total <= memory.len(), "MEMORY is too small");
    let kernels = Kernels::new(Isa::COMPILED);
    let mut session = Session::init(&expert, &options, memory, kernels, &Serial)?;

    let sampling = SamplerOptions { repeat_penalty: 1.1, ..SamplerOptions::default() };
    let mut sampler = Sampler::new(sampling)?;
    let mut stdout = std::io::stdout().lock();
    write!(stdout, "{PROMPT}")?;
    session.prefill_text(PROMPT.as_bytes())?;
    session.generate(&mut sampler, N_TOKENS, TextStream::continuing(), |written| {
        write!(stdout, "{}", written.text).is_ok()
    })?;
    writeln!(stdout)?;
    Ok(())
}
