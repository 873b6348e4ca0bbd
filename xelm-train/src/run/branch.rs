//! The models that branch from a run's seed, and what each is trained on.

use super::{ASSIGNMENT, DENSE, RANDOM, Run, SEED};
use crate::backend::Backend;
use crate::job::{CHECKPOINT, Job, JobResult, JobSpec, Rehearsal};
use crate::report::Report;
use crate::settings::TrainSettings;
use crate::stream::Stream;
use crate::tfidf::Assignment;
use crate::{Error, Result};
use xelm_runtime::rng::philox;

/// The models that branch from the seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Branch {
    /// The expert with this id, on its cluster's languages or documents.
    Expert(String),
    /// The baseline: one model on all languages, with as many tokens as all experts together.
    Dense,
    /// The control: one expert on a random part of the documents of all languages.
    Random,
}

impl Run {
    /// Branches a model from the seed and trains it. `settings.batch` is the batch of the dense model;
    /// an expert's is that divided by the number of experts, so that all arms see equally many tokens.
    ///
    /// # Errors
    /// As [`Job::run`]; the seed is not trained yet, or the expert unknown.
    pub fn train(
        &self,
        branch: &Branch,
        settings: TrainSettings,
        save_every: u64,
        backend: &mut dyn Backend,
        report: &mut dyn Report,
    ) -> Result<JobResult> {
        self.tokenize(report)?;
        self.with_branch_job(branch, settings, save_every, |job, stream| {
            job.run(stream, backend, report)
        })
    }

    /// What [`Run::train`] would take: nothing is trained or saved, but the tokens are.
    ///
    /// # Errors
    /// As [`Job::rehearse`].
    pub fn rehearse_train(
        &self,
        branch: &Branch,
        settings: TrainSettings,
        backend: &mut dyn Backend,
        report: &mut dyn Report,
    ) -> Result<Rehearsal> {
        self.tokenize(report)?;
        self.with_branch_job(branch, settings, 1, |job, stream| job.rehearse(stream, backend))
    }

    fn with_branch_job<R>(
        &self,
        branch: &Branch,
        mut settings: TrainSettings,
        save_every: u64,
        work: impl FnOnce(&Job, &mut Stream<'_>) -> Result<R>,
    ) -> Result<R> {
        let clusters = self.clusters()?;
        let k = clusters.len();
        let (config, vocabulary, eos) = self.seed_model()?;
        if *branch != Branch::Dense {
            if !settings.batch.is_multiple_of(k) {
                return Err(Error::usage(format!(
                    "a batch of {} sequences cannot be divided among {k} experts",
                    settings.batch
                )));
            }
            settings.batch /= k;
        }
        settings.choose_micro_batch(&config);
        let of_documents = clusters.iter().any(|cluster| cluster.documents.is_some());
        let (name, languages, expert) = match branch {
            Branch::Expert(id) => {
                let expert = clusters.iter().position(|c| c.id == *id).ok_or_else(|| {
                    let ids: Vec<_> = clusters.iter().map(|c| c.id.as_str()).collect();
                    Error::usage(format!("no expert {id:?}; the run has {}", ids.join(", ")))
                })?;
                (id.as_str(), clusters[expert].languages.clone(), expert)
            }
            Branch::Dense => (DENSE, self.languages().to_vec(), 0),
            Branch::Random => (RANDOM, self.languages().to_vec(), 0),
        };
        // An expert on documents has parts of all languages, not only of those it is best at.
        let assignment = match branch {
            Branch::Expert(_) if of_documents => Some(Assignment::open(&self.path(ASSIGNMENT), k)?),
            _ => None,
        };
        let languages = assignment.as_ref().map_or(languages, |a| a.languages_in(expert));
        let shards = self.shards(&languages, &vocabulary, config.n_vocab)?;
        let parts: Option<Vec<&[u32]>> = assignment
            .as_ref()
            .map(|a| languages.iter().zip(&shards).map(|(l, shard)| a.of(l, shard)).collect())
            .transpose()?;
        // Document d of shard s belongs to one of k random parts; the control trains on the first.
        let key = [settings.seed as u32, 0x7061_7274];
        let in_part =
            |s: usize, d: usize| (philox(d as u64, s as u64, key)[0] as usize).is_multiple_of(k);
        let keep = |s: usize, d: usize| match (branch, &parts) {
            (Branch::Random, _) => in_part(s, d),
            (_, Some(clusters)) => clusters[s][d] as usize == expert,
            (_, None) => true,
        };
        let mut stream = Stream::new(&shards, keep, eos, settings.seed, settings.n_ctx)?;
        let job = Job {
            spec: JobSpec { name: name.to_owned(), languages, parent: SEED.to_owned(), settings },
            folder: self.job_folder(name),
            config,
            parent: Some(self.job_folder(SEED).join(CHECKPOINT)),
            vocabulary,
            save_every,
        };
        work(&job, &mut stream)
    }
}
