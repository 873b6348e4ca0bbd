//! `xelm eval quality`

use crate::progress::Progress;
use crate::{Result, print_line};
use std::fmt::Write;
use std::path::PathBuf;
use xelm_train::evaluate::{Compared, MAX_DOCUMENTS, QualityLine, evaluate_quality};

/// Compares quantised experts with those that they were made from, token by token on held-out text: what
/// the bits that were saved have cost in each language.
///
/// A line has the bits per weight of the matrices (the embedding is one), the perplexity per token before and
/// after, the mean Kullback-Leibler divergence of the probabilities after from those before, in nats per token,
/// and the share of tokens at which both find the same one most probable. Documents are read as for
/// `xelm eval ppl`. Of a set, the lines are also written into its folder, as quality.json.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Quantised expert file; several are compared with the same one.
    #[arg(long, value_name = "FILE", required_unless_present = "set", conflicts_with = "set")]
    expert: Vec<PathBuf>,
    /// Folder of a quantised set.
    #[arg(long, value_name = "DIR")]
    set: Option<PathBuf>,
    /// The expert file, or the set's folder, that they were made from.
    #[arg(long, value_name = "PATH")]
    against: PathBuf,
    /// Folder of the corpus.
    #[arg(long, value_name = "DIR")]
    corpus: PathBuf,
    /// Languages, separated by commas; the default is the experts' own, where the corpus has text of them.
    #[arg(long, value_delimiter = ',', value_name = "TAGS")]
    languages: Vec<String>,
    /// Documents of a language at most; the first ones are taken.
    #[arg(long, default_value_t = MAX_DOCUMENTS, value_name = "N")]
    max_documents: usize,
    /// Print the lines as JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let compared = match &self.set {
            Some(set) => Compared::Set { before: &self.against, after: set },
            None => Compared::Experts { before: &self.against, after: &self.expert },
        };
        let progress = &mut Progress::new();
        let lines = evaluate_quality(
            compared,
            &self.corpus,
            &self.languages,
            self.max_documents,
            progress,
        )?;
        if self.json {
            print_line(serde_json::to_string(&lines)?)
        } else {
            print_line(render(&lines).trim_end())
        }
    }
}

/// The lines for people.
pub(crate) fn render(lines: &[QualityLine]) -> String {
    let width = |of: fn(&QualityLine) -> &str| {
        lines.iter().map(|line| of(line).chars().count()).max().unwrap_or(0).max(8)
    };
    let (first, second) = (width(|line| &line.expert), width(|line| &line.language));
    let mut out = format!("{:<first$}  {:<second$}", "expert", "language");
    for column in ["tokens", "bits", "ppl before", "ppl", "more", "kld", "top 1"] {
        // Writing to a String cannot fail.
        let _ = write!(out, "{column:>12}");
    }
    for line in lines {
        let more = 100.0 * (line.ppl / line.ppl_before - 1.0);
        let _ = write!(
            out,
            "\n{:<first$}  {:<second$}{:>12}{:>12.3}{:>12.3}{:>12.3}{:>10.2} %{:>12.6}{:>10.2} %",
            line.expert,
            line.language,
            line.tokens,
            line.bits_per_weight,
            line.ppl_before,
            line.ppl,
            more,
            line.kld,
            100.0 * line.top1
        );
    }
    out
}
