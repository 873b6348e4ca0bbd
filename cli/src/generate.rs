//! `xelm generate`

use crate::open::{ExpertArgs, match_name};
use crate::{Result, print_line};
use serde_json::json;
use std::io::Write;
use xelm_runtime::expert::Expert;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::pool::Pool;
use xelm_runtime::sampler::{Sampler, SamplerOptions};
use xelm_runtime::score::Stop;
use xelm_runtime::session::{Options, Session};
use xelm_runtime::tokenizer::TextStream;
use xelm_train::memory::Memory;

/// Writes text with an expert, token by token.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    expert: ExpertArgs,
    /// How the text begins.
    #[arg(long, default_value = "", value_name = "TEXT")]
    prompt: String,
    /// Tokens to write at most.
    #[arg(long, default_value_t = 100, value_name = "N")]
    max_tokens: usize,
    #[command(flatten)]
    sampler: SamplerArgs,
    /// Print the text and how it came about as one JSON object.
    #[arg(long)]
    json: bool,
}

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct SamplerArgs {
    /// 0 takes the most probable token every time; higher values choose more freely.
    #[arg(long, default_value_t = 0.8, value_name = "T")]
    temperature: f32,
    /// Choose among this many most probable tokens; 0 for all.
    #[arg(long, default_value_t = 40, value_name = "N")]
    top_k: usize,
    /// Choose among the fewest tokens that reach this probability together.
    #[arg(long, default_value_t = 0.95, value_name = "P")]
    top_p: f32,
    /// Seed of the choice.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
}

impl From<SamplerArgs> for SamplerOptions {
    fn from(args: SamplerArgs) -> Self {
        let SamplerArgs { temperature, top_k, top_p, seed } = args;
        SamplerOptions { temperature, top_k, top_p, seed }
    }
}

impl Args {
    pub(crate) fn run(self, threads: usize) -> Result<()> {
        let opened = self.expert.open()?;
        let expert = opened.file.expert();
        let mut text = String::new();
        let written = {
            let mut emit = |part: &str| {
                text.push_str(part);
                // A reader that went away ends the text.
                self.json || (write_now(part).is_ok())
            };
            if !self.json {
                write_now(&self.prompt)?;
            }
            generate(
                expert,
                &self.prompt,
                self.max_tokens,
                self.sampler.into(),
                threads,
                &mut emit,
            )?
        };
        if !self.json {
            return print_line("");
        }
        let stop = match written.1 {
            Stop::EndOfText => "end",
            Stop::Limit => "limit",
            Stop::ContextFull => "context",
            Stop::Callback => "callback",
        };
        let (language, how) = opened.choice.map(|(l, how)| (l, match_name(how))).unzip();
        print_line(json!({
            "prompt": self.prompt, "text": text, "tokens": written.0, "stop": stop,
            "expert": expert.id(), "language": language, "match": how,
        }))
    }
}

fn write_now(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Continues a prompt; an empty one begins a new text. Returns the number of tokens and why it stopped.
pub(crate) fn generate(
    expert: &Expert<'_>,
    prompt: &str,
    max_tokens: usize,
    sampler: SamplerOptions,
    threads: usize,
    emit: &mut dyn FnMut(&str) -> bool,
) -> Result<(usize, Stop)> {
    let mut sampler = Sampler::new(sampler)?;
    let tokenizer = expert.tokenizer().ok_or(xelm_runtime::Error::NoTokenizer)?;
    let max_text = tokenizer.normalizer().normalized_len(prompt.as_bytes());
    let options = Options { max_text, ..Options::default() };
    let mut memory = Memory::new(Session::plan(expert, &options)?.total);
    let pool = Pool::new(threads)?;
    let kernels = Kernels::new(Isa::detect());
    let mut session = Session::init(expert, &options, memory.bytes(), kernels, &pool)?;
    session.prefill_text(prompt.as_bytes())?;
    let stream = if prompt.is_empty() { TextStream::new() } else { TextStream::continuing() };
    Ok(session.generate(&mut sampler, max_tokens, stream, |_, part| emit(part))?)
}
