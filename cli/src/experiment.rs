//! `xelm experiment`

use crate::device::DeviceArgs;
use crate::progress::Progress;
use crate::report::command_line;
use crate::{Result, print_line};
use serde_json::json;
use std::path::PathBuf;
use std::time::SystemTime;
use xelm_quantize::{Recipe, quantize_set};
use xelm_train::card::write_cards;
use xelm_train::experiment::{Config, Experiment};
use xelm_train::page::{Subject, write_page};
use xelm_train::report::Report;
use xelm_train::run::SET;

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

/// Set types besides f32 for arms that ask for them.
const RECIPES: [Recipe; 2] = [Recipe::Q8_0, Recipe::Q4_0];

impl Args {
    pub(crate) fn run(self, threads: usize) -> Result<()> {
        let config = Config::open(&self.config)?;
        let jobs = self.jobs.unwrap_or_else(|| self.device.most_jobs(threads));
        self.device.check_jobs(jobs)?;
        let experiment = Experiment::create(&self.out, &self.corpus, config)?;
        let open = || self.device.open();
        let listener = || -> Box<dyn Report + Send> { Box::new(Progress::lines()) };
        let repetitions = experiment.train(jobs, &open, &listener)?;
        for (arm, run) in repetitions.iter().flat_map(|repetition| &repetition.arms) {
            for recipe in RECIPES.into_iter().filter(|_| arm.quantise) {
                let folder = run.path(&format!("{SET}-{}", recipe.name()));
                quantize_set(&run.path(SET), &folder, recipe)?;
            }
        }
        experiment.evaluate(&repetitions, &mut Progress::lines())?;
        for (_, run) in repetitions.iter().flat_map(|repetition| &repetition.arms) {
            write_cards(run)?;
        }
        let about = json!({
            "command": command_line(),
            "machine": format!("{}, {threads} threads", processor()),
            "date": humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        });
        experiment.describe(&repetitions, &about)?;
        let page = self.out.join("report.html");
        write_page(&Subject::Experiment(self.out), &command_line(), &page)?;
        print_line(page.display())
    }
}

/// What the processor calls itself.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name"));
    let name = name.map(|name| name.trim_start_matches([' ', '\t', ':']).to_owned());
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}
