//! `xelm train`

use crate::Result;
use crate::pretrain::TrainArgs;
use crate::progress::Progress;
use std::path::PathBuf;
use xelm_train::report::Report;
use xelm_train::run::{Branch, Run};
use xelm_train::settings::TrainSettings;

/// Branches models from a run's seed and trains them: one expert, all of them, or the baselines.
///
/// Each is a job of its own that needs nothing but the run directory: several can be trained at once, by
/// several processes or machines that share it. Each job is trained by one of them at a time; the others
/// take those that are left, and wait until all are done. A job that was interrupted, even by a power cut,
/// goes on from its last checkpoint on whichever machine comes first; one that is done is left alone. An
/// expert's batch is the dense model's divided by the number of experts, so
/// that both see the same number of tokens in all.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub(crate) struct Args {
    /// Run directory with a finished seed and clusters.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Train the expert with this id (may be repeated).
    #[arg(long, value_name = "ID", group = "what")]
    expert: Vec<String>,
    /// Train every expert.
    #[arg(long, group = "what")]
    all: bool,
    /// Train the dense baseline.
    #[arg(long, group = "what")]
    dense: bool,
    /// Train the random-split control.
    #[arg(long, group = "what")]
    random: bool,
    /// Sequences per update of the dense model; the default is the seed's.
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Train the baseline of added languages (see `xelm adapt`).
    #[arg(long, group = "what")]
    lapt: bool,
    /// Models trained at the same time, each on its share of --threads: on a CPU as many as there are cores
    /// is fastest, on a card small ones fill it together.
    #[arg(long, default_value_t = 1, value_name = "N")]
    jobs: usize,
    #[command(flatten)]
    train: TrainArgs,
}

impl Args {
    /// The settings of the dense model.
    pub(crate) fn settings(&self, run: &Run) -> Result<TrainSettings> {
        let seed = run.seed_settings()?;
        Ok(self.train.settings(self.batch.unwrap_or(seed.batch), seed.n_ctx))
    }

    pub(crate) fn run(self) -> Result<()> {
        let run = Run::open(&self.run)?;
        let settings = self.settings(&run)?;
        let mut branches: Vec<Branch> = self.expert.into_iter().map(Branch::Expert).collect();
        if self.all {
            branches = run.clusters()?.into_iter().map(|c| Branch::Expert(c.id)).collect();
        }
        branches.extend(self.dense.then_some(Branch::Dense));
        branches.extend(self.random.then_some(Branch::Random));
        branches.extend(self.lapt.then_some(Branch::Lapt));
        train(&run, &branches, &settings, &self.train, self.jobs)
    }
}

/// Trains branches, `jobs` at once, and prints what became of each.
pub(crate) fn train(
    run: &Run,
    branches: &[Branch],
    settings: &TrainSettings,
    train: &TrainArgs,
    jobs: usize,
) -> Result<()> {
    train.device.check_jobs(jobs)?;
    // The corpus is tokenized before several look for its tokens.
    run.tokenize(&mut Progress::new())?;
    if train.dry_run {
        for branch in branches {
            let backend = &mut *train.device.open()?;
            let rehearsal =
                run.rehearse_train(branch, settings.clone(), backend, &mut Progress::new())?;
            train.print_rehearsal(branch.name(), &rehearsal)?;
        }
        return Ok(());
    }
    let listener = move || -> Box<dyn Report + Send> {
        Box::new(if jobs > 1 { Progress::lines() } else { Progress::new() })
    };
    run.train_all(branches, jobs, &listener, &|branch, report| {
        let backend = &mut *train.device.open()?;
        let result = run.train(branch, settings.clone(), train.cadence(), backend, report)?;
        let printed = train.print(branch.name(), &result);
        printed.map(|()| result).map_err(|e| xelm_train::Error::usage(e.to_string()))
    })?;
    Ok(())
}
