//! `xelm eval ppl`

use crate::{Result, print_line};
use clap::Subcommand;
use std::fmt::Write;
use std::path::PathBuf;
use xelm_train::evaluate::{Table, evaluate_run};
use xelm_train::run::Run;

/// How good the models are.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Ppl(Ppl),
}

/// Scores the held-out text of every language of a run, through the runtime and from the packed files:
/// seed, dense baseline, random-split control, and the experts of every set in the run directory.
///
/// The figures are bits per UTF-8 byte: the text's negative log likelihood, the final </s> included. Each
/// document is read from its own beginning; what exceeds the context is cut off and not counted.
#[derive(Debug, clap::Args)]
pub(crate) struct Ppl {
    /// Run directory with packed models.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Print the table as JSON.
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        let Command::Ppl(args) = self;
        let table = evaluate_run(&Run::open(&args.run)?)?;
        if args.json {
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
    let order = ["seed", "dense", "random", "expert", "expert_f16", "expert_q8_0", "expert_q4_0"];
    let rank = |c: &&String| order.iter().position(|o| o == c).unwrap_or(order.len());
    let mut columns = columns;
    columns.sort_by_key(|c| (rank(c), *c));
    let mut out = String::from("bits per byte ");
    // Writing to a String cannot fail.
    for column in &columns {
        let _ = write!(out, "{column:>13}");
    }
    out.push('\n');
    let mean = std::iter::once(("mean", &table.mean));
    for (language, row) in table.languages.iter().map(|(l, r)| (l.as_str(), r)).chain(mean) {
        let _ = write!(out, "{language:<14}");
        for column in &columns {
            match row.get(*column) {
                Some(bpb) => {
                    let _ = write!(out, "{bpb:>13.3}");
                }
                None => {
                    let _ = write!(out, "{:>13}", "-");
                }
            }
        }
        out.push('\n');
    }
    let _ = writeln!(
        out,
        "The experts beat the dense model in {} of {} languages.",
        table.wins,
        table.languages.len()
    );
    out
}
