//! Continues a prompt with the expert that speaks a language, and shows the text as it comes.
//!
//!     cargo run --release -p xelm-runtime --example generate -- RUN/set-q8_0 de "Am Morgen" 200

mod common;

use common::{GREEDY, Result, memory, open_model};
use std::io::Write;
use std::process::ExitCode;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::parallel::Serial;
use xelm_runtime::sampler::Sampler;
use xelm_runtime::session::{Options, Session};
use xelm_runtime::tokenizer::TextStream;

fn main() -> ExitCode {
    common::run(generate)
}

fn generate(args: &[&str]) -> Result<()> {
    let [path, tag, prompt, n_tokens] = *args else {
        return Err("usage: generate SET LANGUAGE PROMPT N_TOKENS
       generate EXPERT - PROMPT N_TOKENS"
            .into());
    };
    let file = open_model(path, tag)?;
    let options = Options::default();
    let mut vec = Vec::new();
    let memory = memory(&mut vec, Session::plan(file.expert(), &options)?.total);
    let kernels = Kernels::new(Isa::detect());
    let mut session = Session::init(file.expert(), &options, memory, kernels, &Serial)?;
    let mut sampler = Sampler::new(GREEDY)?;

    let mut stdout = std::io::stdout().lock();
    write!(stdout, "{prompt}")?;
    session.prefill_text(prompt.as_bytes())?;
    // After an empty prompt a text begins, and its first space is dropped.
    let text = if prompt.is_empty() { TextStream::new() } else { TextStream::continuing() };
    let (n, _) = session.generate(&mut sampler, n_tokens.parse()?, text, |written| {
        // A reader that went away ends the text.
        write!(stdout, "{}", written.text).and_then(|()| stdout.flush()).is_ok()
    })?;
    writeln!(stdout)?;
    eprintln!("{n} tokens");
    Ok(())
}
