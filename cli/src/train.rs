//! `xelm train`

use crate::Result;
use crate::pretrain::TrainArgs;
use crate::progress::Progress;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use xelm_train::run::{Branch, DENSE, RANDOM, Run};
use xelm_train::settings::TrainSettings;

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
    /// Models trained at the same time. Small ones fill a card together; on a CPU, one after the other is
    /// as fast.
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
        // The corpus is tokenized before several look for its tokens.
        run.tokenize(&mut Progress::new())?;
        let queue = Mutex::new(branches.into_iter());
        let train = self.train;
        let work = |mut report: Progress| -> std::result::Result<(), String> {
            let next = || queue.lock().map_or(None, |mut queue| queue.next());
            while let Some(branch) = next() {
                one(&run, &branch, &settings, &train, &mut report).map_err(|e| e.to_string())?;
            }
            Ok(())
        };
        if self.jobs <= 1 {
            return Ok(work(Progress::new())?);
        }
        thread::scope(|scope| {
            let workers: Vec<_> =
                (0..self.jobs).map(|_| scope.spawn(|| work(Progress::lines()))).collect();
            // Every job is waited for; the first failure is told.
            let ends: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
            for end in ends {
                end.map_err(|_| "a training job panicked")??;
            }
            Ok(())
        })
    }
}

fn one(
    run: &Run,
    branch: &Branch,
    settings: &TrainSettings,
    train: &TrainArgs,
    report: &mut Progress,
) -> Result<()> {
    let name = match branch {
        Branch::Expert(id) => id,
        Branch::Dense => DENSE,
        Branch::Random => RANDOM,
    };
    let backend = &mut *train.device.open()?;
    if train.dry_run {
        let rehearsal = run.rehearse_train(branch, settings.clone(), backend, report)?;
        return train.print_rehearsal(name, &rehearsal);
    }
    let result = run.train(branch, settings.clone(), train.save_every, backend, report)?;
    train.print(name, &result)
}
