//! `xelm score`

use crate::open::ExpertArgs;
use crate::{Result, print_line};
use serde_json::json;
use std::io::Read;
use std::path::PathBuf;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::pool::Pool;
use xelm_runtime::session::{KvType, Options, Session};
use xelm_train::memory::Memory;

/// How probable an expert finds a text: its negative log likelihood, perplexity per token and bits per
/// byte.
///
/// The text is one document: it is read after </s>, and the </s> after it is scored too. What exceeds
/// the context is cut off and not counted.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    expert: ExpertArgs,
    /// The text.
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    text: Option<String>,
    /// File that holds the text; without --text and --file it is read from stdin.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print {"tokens", "bytes", "nll_sum", "ppl", "bpb"}.
    #[arg(long)]
    json: bool,
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
        let opened = self.expert.open()?;
        let expert = opened.file.expert();
        let tokenizer = expert.tokenizer().ok_or(xelm_runtime::Error::NoTokenizer)?;
        let max_text = tokenizer.normalizer().normalized_len(&text);
        let options = Options { kv: KvType::F32, n_logits: 8, max_text, ..Options::default() };
        let mut memory = Memory::new(Session::plan(expert, &options)?.total);
        let pool = Pool::new(threads)?;
        let kernels = Kernels::new(Isa::detect());
        let mut session = Session::init(expert, &options, memory.bytes(), kernels, &pool)?;
        let score = session.score_text(&text)?;
        let (ppl, bpb) = (score.ppl(), score.bpb());
        if self.json {
            return print_line(json!({
                "tokens": score.tokens, "bytes": score.bytes, "nll_sum": score.nll_sum,
                "ppl": ppl, "bpb": bpb,
            }));
        }
        print_line(format_args!(
            "{} tokens, {} bytes: {:.4} nats, perplexity {ppl:.4}, {bpb:.4} bits per byte",
            score.tokens, score.bytes, score.nll_sum
        ))
    }
}
