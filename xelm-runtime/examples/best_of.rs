//! Scores texts with the expert that speaks a language and prints them, the most probable first.
//!
//!     cargo run --release -p xelm-runtime --example best_of -- RUN/set-q8_0 de \
//!         "Am Morgen ist es hell." "Am Morgen hell es ist."

mod common;

use common::{Result, memory, open_model};
use std::process::ExitCode;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::parallel::Serial;
use xelm_runtime::session::{Options, Session};

fn main() -> ExitCode {
    common::run(best_of)
}

fn best_of(args: &[&str]) -> Result<()> {
    let [path, tag, ref texts @ ..] = *args else {
        return Err("usage: best_of SET LANGUAGE TEXT...\n       best_of EXPERT - TEXT...".into());
    };
    let file = open_model(path, tag)?;
    let options = Options::default();
    let mut vec = Vec::new();
    let memory = memory(&mut vec, Session::plan(file.expert(), &options)?.total);
    let kernels = Kernels::new(Isa::detect());
    let mut session = Session::init(file.expert(), &options, memory, kernels, &Serial)?;

    let mut scored = Vec::new();
    for &text in texts {
        scored.push((session.score_text(text.as_bytes())?.bpb(), text));
    }
    // The lower the better; equals stay in their order.
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (bits_per_byte, text) in scored {
        println!("{bits_per_byte:.4}  {text}");
    }
    Ok(())
}
