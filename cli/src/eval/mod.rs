//! `xelm eval`

mod forgetting;
mod icl;
mod ppl;
pub(crate) mod quality;

use crate::Result;
use clap::Subcommand;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use xelm_train::evaluate::MAX_DOCUMENTS;

pub(crate) use ppl::render;

/// How good the models are.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Ppl(ppl::Args),
    Forgetting(forgetting::Args),
    Icl(icl::Args),
    Quality(quality::Args),
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Command::Ppl(args) => args.run(),
            Command::Forgetting(args) => args.run(),
            Command::Icl(args) => args.run(),
            Command::Quality(args) => args.run(),
        }
    }
}

/// The held-out text of a run, and how its scores are told.
#[derive(Debug, clap::Args)]
struct TextArgs {
    /// Run directory with packed models.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Languages, separated by commas; the default is the run's and those that its set speaks beyond
    /// them, where the corpus has text of them.
    #[arg(long, value_delimiter = ',', value_name = "TAGS")]
    languages: Vec<String>,
    /// Documents of a language at most; the first ones are taken.
    #[arg(long, default_value_t = MAX_DOCUMENTS, value_name = "N")]
    max_documents: usize,
    /// Print the table as JSON.
    #[arg(long)]
    json: bool,
}

/// Reads a number of experts from 1, or `all` as 0.
fn ensemble_size(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        _ if text == "all" => Ok(0),
        Ok(n) if n > 0 => Ok(n),
        _ => Err("a number of experts from 1, or all".into()),
    }
}

/// A table of numbers with three decimals; what a row lacks is a dash.
fn table<'a>(
    title: &str,
    columns: &[&String],
    rows: impl Iterator<Item = (&'a str, BTreeMap<&'a str, f64>)>,
) -> String {
    let first = title.len().max(14);
    let width = |column: &str| column.chars().count().max(11) + 2;
    let mut out = format!("{title:<first$}");
    // Writing to a String cannot fail.
    for column in columns {
        let _ = write!(out, "{column:>0$}", width(column));
    }
    out.push('\n');
    for (name, row) in rows {
        let _ = write!(out, "{name:<first$}");
        for column in columns {
            let cell = row.get(column.as_str()).map_or("-".into(), |x| format!("{x:.3}"));
            let _ = write!(out, "{cell:>0$}", width(column));
        }
        out.push('\n');
    }
    out
}

/// A row of a table.
fn row(of: &BTreeMap<String, f64>) -> BTreeMap<&str, f64> {
    of.iter().map(|(column, &x)| (column.as_str(), x)).collect()
}
