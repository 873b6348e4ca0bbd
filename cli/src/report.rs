//! `xelm report`

use crate::{Result, print_line};
use std::path::PathBuf;
use xelm_train::page::{Subject, write_page};

/// Writes a page about one run, several side by side, or an experiment: tables, plots, training curves.
///
/// The page is one HTML file that needs no network and no scripts, for every browser, in light and dark, and
/// for printing. It shows what is there: evaluations (`xelm eval`), clusters, logs, sets. What has no data is
/// named in a line. Runs with the same kind and number of clusters and different seeds of randomness are
/// taken together: their means are shown, and where their values lie.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run directory (may be repeated).
    #[arg(long, value_name = "DIR", required_unless_present = "experiment")]
    run: Vec<PathBuf>,
    /// Folder of an experiment, with its experiment.json.
    #[arg(long, value_name = "DIR", conflicts_with = "run")]
    experiment: Option<PathBuf>,
    /// HTML file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let subject = match self.experiment {
            Some(folder) => Subject::Experiment(folder),
            None => Subject::Runs(self.run),
        };
        write_page(&subject, &command_line(), &self.out)?;
        print_line(self.out.display())
    }
}

/// The command line of this process, for a reader to repeat.
pub(crate) fn command_line() -> String {
    let args = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned());
    std::iter::once("xelm".to_owned()).chain(args).collect::<Vec<_>>().join(" ")
}
