//! `xelm train`

use crate::Result;
use crate::pretrain::TrainArgs;
use crate::progress::Progress;
use std::path::PathBuf;
use xelm_train::run::{Branch, DENSE, RANDOM, Run};

/// Branches models from a run's seed and trains them: one expert, all of them, or the baselines.
///
/// Each is a job of its own that needs nothing but the run directory: several can be trained at once, by
/// several processes or machines. A job that was interrupted goes on from its last checkpoint; one that
/// is done is left alone. An expert's batch is the dense model's divided by the number of experts, so
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
    #[command(flatten)]
    train: TrainArgs,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let run = Run::open(&self.run)?;
        let seed = run.seed_settings()?;
        let settings = self.train.settings(self.batch.unwrap_or(seed.batch), seed.n_ctx);
        let mut branches: Vec<Branch> = self.expert.into_iter().map(Branch::Expert).collect();
        if self.all {
            branches = run.clusters()?.into_iter().map(|c| Branch::Expert(c.id)).collect();
        }
        branches.extend(self.dense.then_some(Branch::Dense));
        branches.extend(self.random.then_some(Branch::Random));
        for branch in &branches {
            let backend = &mut *self.train.device.open()?;
            let (settings, save_every) = (settings.clone(), self.train.save_every);
            let result = run.train(branch, settings, save_every, backend, &mut Progress::new())?;
            let name = match branch {
                Branch::Expert(id) => id,
                Branch::Dense => DENSE,
                Branch::Random => RANDOM,
            };
            self.train.print(name, &result)?;
        }
        Ok(())
    }
}
