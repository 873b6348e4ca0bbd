//! Mixes the two experts of a set that suit a text best at every token. Shows how improbable each token
//! of the text is, in nats, and which experts predicted it with what weights; then goes on with the text.
//!
//!     cargo run --release -p xelm-runtime --example mixed -- RUN/set-q8_0 \
//!         "Am Morgen sagte sie: good morning" 20

mod common;

use common::{GREEDY, Result, memory, open_expert};
use std::path::Path;
use std::process::ExitCode;
use xelm_runtime::ensemble::{Active, Ensemble};
use xelm_runtime::expert::Expert;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::mmap::ExpertFile;
use xelm_runtime::pack::SetFolder;
use xelm_runtime::parallel::Serial;
use xelm_runtime::sampler::Sampler;
use xelm_runtime::session::{Mixing, Options, Session};

fn main() -> ExitCode {
    common::run(mixed)
}

fn mixed(args: &[&str]) -> Result<()> {
    let [path, text, n_tokens] = *args else {
        return Err("usage: mixed SET TEXT N_TOKENS".into());
    };
    // All experts that are present.
    let folder = SetFolder::open(Path::new(path))?;
    let set = folder.set()?;
    let open = |i| folder.is_present(i).then(|| open_expert(&folder, i)).transpose();
    let files = (0..set.len()).map(open).collect::<Result<Vec<_>>>()?;
    let experts: Vec<Option<&Expert<'_>>> =
        files.iter().map(|file| file.as_ref().map(ExpertFile::expert)).collect();
    let ensemble = Ensemble::new(&experts, folder.router()?)?;

    let mixing = Mixing { top_m: 2, ..Mixing::default() };
    let options = Options { mixing, ..Options::default() };
    let mut vec = Vec::new();
    let memory = memory(&mut vec, Session::plan(ensemble, &options)?.total);
    let kernels = Kernels::new(Isa::detect());
    let mut session = Session::init(ensemble, &options, memory, kernels, &Serial)?;
    let mut sampler = Sampler::new(GREEDY)?;

    let tokenizer = session.tokenizer()?;
    let print_token = |token, active: &[Active]| {
        for Active { expert, weight } in active {
            let name = set.entry(*expert as usize).map_or("", |entry| entry.id);
            print!("  {name} {weight:.2}");
        }
        println!("  {}", tokenizer.piece(token));
    };
    let score = session.score_text_by_token(text.as_bytes(), |scored| {
        print!("{:7.3}", scored.nll);
        print_token(scored.token, scored.experts);
    })?;
    println!("{} tokens, {} bytes, {:.3} nats", score.tokens, score.bytes, score.nll_sum);

    // The text has been read already.
    session.prefill_text_again(text.as_bytes())?;
    for _ in 0..n_tokens.parse()? {
        let token = session.sample(&mut sampler)?;
        print_token(token, session.active());
        session.prefill(&[token])?;
    }
    Ok(())
}
