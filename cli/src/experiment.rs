//! `xelm experiment`

use crate::device::DeviceArgs;
use crate::progress::Progress;
use crate::{Result, print_line};
use std::path::PathBuf;
use xelm_train::experiment::{Config, Experiment};
use xelm_train::report::Report;

/// Runs a whole experiment: several ways of dividing a corpus among experts, beside one dense model, from the
/// same seed model and with as many tokens each; languages that are added afterwards; everything once per
/// seed of randomness; the evaluation; and a report as one HTML page.
///
/// The configuration is a TOML file; experiments/ has examples. Interrupted at any moment and started
/// again, an experiment goes on where it was and ends with the same models, bit for bit. Several processes
/// and machines that share the folder may work on it at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to compare.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Folder of the corpus (see `xelm tokenizer train --help`).
    #[arg(long, value_name = "DIR")]
    corpus: PathBuf,
    /// Folder for everything: models, figures, report.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Models trained at the same time, each on its share of --threads; the default is one per thread.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Args {
    pub(crate) fn run(self, threads: usize) -> Result<()> {
        let config = Config::open(&self.config)?;
        let jobs = self.jobs.unwrap_or(threads);
        let experiment = Experiment::create(&self.out, &self.corpus, config)?;
        let open = || self.device.open();
        let listener = || -> Box<dyn Report + Send> { Box::new(Progress::lines()) };
        let repetitions = experiment.train(jobs, &open, &listener)?;
        let path = experiment.describe(&repetitions, &serde_json::json!({}))?;
        print_line(path.display())
    }
}
