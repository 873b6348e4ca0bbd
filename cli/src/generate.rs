//! `xelm generate`

use crate::compute::ComputeArgs;
use crate::model::ModelArgs;
use crate::{Result, print_line};
use serde_json::json;
use std::io::Write;
use xelm_runtime::ensemble::{Active, Ensemble};
use xelm_runtime::pool::Pool;
use xelm_runtime::sampler::{Sampler, SamplerOptions};
use xelm_runtime::score::{Stop, Written};
use xelm_runtime::session::{Mixing, Options};
use xelm_runtime::tokenizer::TextStream;

/// Writes text with an expert or a mixture of experts, token by token.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// How the text begins.
    #[arg(long, default_value = "", value_name = "TEXT")]
    prompt: String,
    /// Tokens to write at most.
    #[arg(long, default_value_t = 100, value_name = "N")]
    max_tokens: usize,
    #[command(flatten)]
    sampler: SamplerArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Choose among all tokens of the vocabulary, also where the experts have shortlists.
    #[arg(long)]
    full_output: bool,
    /// Print the text and how it came about as one JSON object.
    #[arg(long)]
    json: bool,
    /// With --json, also every token with the experts that it was drawn from and their weights.
    #[arg(long, requires = "json")]
    steps: bool,
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
    /// Choose among tokens at least this many times as probable as the most probable one.
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    min_p: f32,
    /// Multiply the log probability of tokens that have just occurred by this; 1 for no penalty.
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    repeat_penalty: f32,
    /// How many tokens back --repeat-penalty looks.
    #[arg(long, default_value_t = 64, value_name = "N")]
    repeat_last: usize,
    /// Seed of the choice.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
}

impl SamplerArgs {
    /// Whether the most probable token is taken every time.
    pub(crate) fn is_greedy(self) -> bool {
        self.temperature == 0.0
    }
}

impl From<SamplerArgs> for SamplerOptions {
    fn from(args: SamplerArgs) -> Self {
        let SamplerArgs { temperature, top_k, top_p, min_p, repeat_penalty, repeat_last, seed } =
            args;
        SamplerOptions { temperature, top_k, top_p, min_p, repeat_penalty, repeat_last, seed }
    }
}

impl Args {
    pub(crate) fn run(self, threads: usize) -> Result<()> {
        let model = self.model.open()?;
        let (mut text, mut steps) = (String::new(), Vec::new());
        if !self.json {
            write_now(&self.prompt)?;
        }
        let mut emit = |written: Written<'_>| {
            text.push_str(written.text);
            if self.steps {
                let weights = model.weights_json(written.experts);
                steps.push(
                    json!({"token": written.token, "text": written.text, "experts": weights}),
                );
            }
            // A reader that went away ends the text.
            self.json || write_now(written.text).is_ok()
        };
        let Generated { n_tokens, stop, active } = model.with(|ensemble| {
            let sampler = self.sampler.into();
            generate(
                ensemble,
                model.mixing,
                self.full_output,
                &self.prompt,
                self.max_tokens,
                sampler,
                self.compute,
                threads,
                &mut emit,
            )
        })?;
        if !self.json {
            return print_line("");
        }
        let stop = match stop {
            Stop::EndOfText => "end",
            Stop::Limit => "limit",
            Stop::ContextFull => "context",
            Stop::Callback => "callback",
        };
        let (language, how) = model.choice();
        let weights = model.weights(&active);
        let mut result = json!({
            "prompt": self.prompt, "text": text, "tokens": n_tokens, "stop": stop,
            "expert": weights.first().map(|(id, _)| id), "experts": model.weights_json(&active),
            "language": language, "match": how,
        });
        if self.steps {
            result["steps"] = steps.into();
        }
        print_line(result)
    }
}

fn write_now(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// How a text came to its end.
pub(crate) struct Generated {
    n_tokens: usize,
    stop: Stop,
    /// The experts of the last step.
    active: Vec<Active>,
}

/// Continues a prompt; an empty one begins a new text.
pub(crate) fn generate<'e>(
    experts: impl Into<Ensemble<'e>>,
    mixing: Mixing,
    full_output: bool,
    prompt: &str,
    max_tokens: usize,
    sampler: SamplerOptions,
    compute: ComputeArgs,
    threads: usize,
    emit: &mut dyn FnMut(Written<'_>) -> bool,
) -> Result<Generated> {
    let ensemble = experts.into();
    let mut sampler = Sampler::new(sampler)?;
    let tokenizer = ensemble.tokenizer().ok_or(xelm_runtime::Error::NoTokenizer)?;
    let max_text = tokenizer.normalizer().normalized_len(prompt.as_bytes());
    let options = Options { max_text, mixing, full_output, ..Options::default() };
    let pool = Pool::new(threads)?;
    compute.with_session(ensemble, &options, &pool, |session, _| {
        session.prefill_text(prompt.as_bytes())?;
        let stream = if prompt.is_empty() { TextStream::new() } else { TextStream::continuing() };
        let (n_tokens, stop) = session.generate(&mut sampler, max_tokens, stream, emit)?;
        Ok(Generated { n_tokens, stop, active: session.active().to_vec() })
    })
}
