//! What a small model writes: the same in every language, on every instruction set, with any number of threads.

use std::path::Path;
use std::process::Command;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::mmap::ExpertFile;
use xelm_runtime::pool::Pool;
use xelm_runtime::sampler::{Sampler, SamplerOptions};
use xelm_runtime::score::Stop;
use xelm_runtime::session::{Options, Session};
use xelm_runtime::tokenizer::TextStream;
use xelm_tests::c_abi::{text, tiny_expert};
use xelm_tests::examples::{Example, static_library};
use xelm_tests::xelm::Xelm;
use xelm_train::memory::Memory;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

const PROMPT: &str = "Am Morgen";
const N_TOKENS: usize = 200;

/// What the model writes after the prompt, the prompt included: text, then a line for each token.
fn written(isa: Isa, n_threads: usize, n_batch: usize) -> String {
    let file = ExpertFile::open(&tiny_expert()).unwrap();
    let options = Options { n_batch, ..Options::default() };
    let mut memory = Memory::new(Session::plan(file.expert(), &options).unwrap().total);
    let (kernels, pool) = (Kernels::new(isa), Pool::new(n_threads).unwrap());
    let mut session =
        Session::init(file.expert(), &options, memory.bytes(), kernels, &pool).unwrap();
    let sampling = SamplerOptions { repeat_penalty: 1.1, ..SamplerOptions::default() };
    let mut sampler = Sampler::new(sampling).unwrap();
    session.prefill_text(PROMPT.as_bytes()).unwrap();
    let n_prompt = session.n_past();
    let mut text = PROMPT.to_owned();
    let (n, stop) = session
        .generate(&mut sampler, N_TOKENS, TextStream::continuing(), |part| {
            text.push_str(part.text);
            true
        })
        .unwrap();
    assert_eq!((n, stop), (N_TOKENS, Stop::Limit));
    text.push('\n');
    for token in &session.tokens()[n_prompt..] {
        text.push_str(&format!("{token}\n"));
    }
    text
}

/// `XELM_UPDATE=1 cargo test -p xelm-tests --test golden` writes the text anew.
#[test]
fn the_text_is_the_same_everywhere() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny/golden.txt");
    if std::env::var_os("XELM_UPDATE").is_some() {
        std::fs::write(&path, written(Isa::PORTABLE, 1, 32)).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    for isa in Isa::supported().into_iter().flatten() {
        for (n_threads, n_batch) in [(1, 32), (3, 1)] {
            let written = written(isa, n_threads, n_batch);
            assert_eq!(written, golden, "{}, {n_threads} threads", isa.name());
        }
    }
    // No single token is most of it.
    let tokens: Vec<&str> = golden.lines().skip(1).collect();
    let count = |token: &&str| tokens.iter().filter(|t| t == &token).count();
    assert!(tokens.len() == N_TOKENS && tokens.iter().map(count).max() < Some(N_TOKENS / 5));

    let line = format!("{}\n", golden.lines().next().unwrap());
    let folder = XELM.folder("golden");
    let rust = env!("CARGO_BIN_EXE_example-generate");
    let example = Example::new("generate", rust, &folder, &[], &static_library());
    for (language, program) in &example.programs {
        for isa in Isa::supported().into_iter().flatten() {
            let output = Command::new(program)
                .args([text(&tiny_expert()), "-", PROMPT, &N_TOKENS.to_string()])
                .env("XELM_ISA", isa.name())
                .output()
                .unwrap();
            let stdout = String::from_utf8(output.stdout).unwrap();
            assert_eq!(stdout, line, "{language}, {}", isa.name());
        }
    }
}
