//! `xelm score`

use crate::compute::ComputeArgs;
use crate::model::ModelArgs;
use crate::{Result, print_line};
use serde_json::json;
use std::io::Read;
use std::path::PathBuf;
use xelm_runtime::pool::Pool;
use xelm_runtime::session::{KvType, Options};

/// How probable an expert or a mixture of experts finds a text: its negative log likelihood, perplexity per token and bits per
/// byte.
///
/// The text is one document: it is read after </s>, and the </s> after it is scored too. What exceeds
/// the context is cut off and not counted. Shortlists are not used: every token has a probability.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// The text.
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    text: Option<String>,
    /// File that holds the text; without --text and --file it is read from stdin.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print {"tokens", "bytes", "nll_sum", "ppl", "bpb"}.
    #[arg(long)]
    json: bool,
    /// With --json, also "steps": every token with its negative log likelihood, and the experts that
    /// predicted it with their weights.
    #[arg(long, requires = "json")]
    steps: bool,
}

impl Args {
    pub(crate) fn run(self, threads: usize) -> Result<()> {
        let text = match (&self.text, &self.file) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(path)) => {
                std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?
            }
            (None, None) => {
                let mut text = Vec::new();
                std::io::stdin().lock().read_to_end(&mut text)?;
                text
            }
        };
        let model = self.model.open()?;
        let mut steps = Vec::new();
        let score = model.with(|ensemble| {
            let tokenizer = ensemble.tokenizer().ok_or(xelm_runtime::Error::NoTokenizer)?;
            let max_text = tokenizer.normalizer().normalized_len(&text);
            let mixing = model.mixing;
            let options = Options {
                kv: KvType::F32,
                n_logits: 8,
                max_text,
                mixing,
                full_output: true,
                ..Options::default()
            };
            let pool = Pool::new(threads)?;
            self.compute.with_session(ensemble, &options, &pool, |session, _| {
                Ok(session.score_text_by_token(&text, |token| {
                    if self.steps {
                        steps.push(json!({
                            "token": token.token, "piece": tokenizer.piece(token.token),
                            "nll": token.nll, "experts": model.weights_json(token.experts),
                        }));
                    }
                })?)
            })
        })?;
        let (ppl, bpb) = (score.ppl(), score.bpb());
        if self.json {
            let mut result = json!({
                "tokens": score.tokens, "bytes": score.bytes, "nll_sum": score.nll_sum,
                "ppl": ppl, "bpb": bpb,
            });
            if self.steps {
                result["steps"] = steps.into();
            }
            return print_line(result);
        }
        print_line(format_args!(
            "{} tokens, {} bytes: {:.4} nats, perplexity {ppl:.4}, {bpb:.4} bits per byte",
            score.tokens, score.bytes, score.nll_sum
        ))
    }
}
