//! `xelm eval ppl`

use super::{TextArgs, ensemble_size, row};
use crate::progress::Progress;
use crate::{Result, print_line};
use std::fmt::Write;
use xelm_train::evaluate::{PplSettings, Table, evaluate_run};
use xelm_train::run::Run;

/// Scores the held-out text of every language of a run, through the runtime and from the packed files:
/// seed, dense baseline, random-split control, and the experts of every set in the run directory.
///
/// Each document is scored alone: it is read after </s>, the </s> after it is scored too, and what exceeds
/// the context is cut off and not counted. The table shows bits per UTF-8 byte; the perplexities per token,
/// weighted by token within a language, are in the JSON and in eval.json.
///
/// Every finished cell, a model on a language, is noted in eval.jsonl in the run directory. A second call
/// measures only what that lacks: it goes on where an interrupted one was, and measures again what has
/// changed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    text: TextArgs,
    /// Also mix the experts of the set by its router, token by token: the M that suit the text best, or
    /// all. Several are separated by commas, such as 1,2,4,all.
    #[arg(long, value_delimiter = ',', value_name = "M", value_parser = ensemble_size)]
    ensemble: Vec<usize>,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let TextArgs { run, languages, max_documents, json } = self.text;
        let ensembles = self.ensemble;
        let settings =
            PplSettings { languages, ensembles, max_documents, ..PplSettings::default() };
        let table = evaluate_run(&Run::open(&run)?, &settings, &mut Progress::new())?;
        if json {
            print_line(serde_json::to_string(&table)?)
        } else {
            print_line(render(&table).trim_end())
        }
    }
}

/// The table for people.
pub(crate) fn render(table: &Table) -> String {
    let columns: Vec<&String> = table.mean.keys().collect();
    // Baselines first, then the experts, most precise first.
    let order =
        ["seed", "dense", "lapt", "random", "expert", "expert_f16", "expert_q8_0", "expert_q4_0"];
    let rank = |c: &&String| order.iter().position(|o| o == c).unwrap_or(order.len());
    let mut columns = columns;
    columns.sort_by_key(|c| (rank(c), *c));
    let mean = std::iter::once(("mean", &table.mean));
    let rows = table.languages.iter().map(|(l, r)| (l.as_str(), r)).chain(mean);
    let mut out = super::table("bits per byte", &columns, rows.map(|(name, r)| (name, row(r))));
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "The experts beat the dense model in {} of {} languages.",
        table.wins,
        table.languages.len()
    );
    out
}
