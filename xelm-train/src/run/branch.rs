//! The models that branch from a run's seed, or from one another, and what each is trained on.

use super::{ASSIGNMENT, DENSE, LAPT, RANDOM, Run, SEED};
use crate::assignment::Assignment;
use crate::backend::Backend;
use crate::checkpoint::Checkpoint;
use crate::corpus::Split;
use crate::job::{CHECKPOINT, Cadence, Data, Job, JobResult, JobSpec, Rehearsal};
use crate::report::Report;
use crate::settings::TrainSettings;
use crate::stream::Stream;
use crate::{Error, Result};
use xelm_runtime::rng::philox;

/// The models that branch from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Branch {
    /// The expert with this id: of a cluster, on its languages or documents, from the seed; or of an
    /// added language, on target and donor, from the donor's expert.
    Expert(String),
    /// The baseline: one model on all languages, with as many tokens as all experts together.
    Dense,
    /// The control: one expert on a random part of the documents of all languages.
    Random,
    /// The baseline of added languages: the dense model, trained on all of them and their donors, with as
    /// many tokens as all their experts together.
    Lapt,
}

impl Branch {
    /// The name of its model.
    pub fn name(&self) -> &str {
        match self {
            Branch::Expert(id) => id,
            Branch::Dense => DENSE,
            Branch::Random => RANDOM,
            Branch::Lapt => LAPT,
        }
    }
}

/// Where a branch comes from and what it is trained on.
struct Plan {
    parent: String,
    round: u32,
    languages: Vec<String>,
    /// The part of these languages' documents.
    part: Part,
    /// The models that share a batch.
    share: usize,
}

enum Part {
    All,
    /// One of so many random parts.
    Random(usize),
    /// The documents of this cluster.
    Cluster(Assignment, usize),
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
        cadence: Cadence,
        backend: &mut dyn Backend,
        report: &mut dyn Report,
    ) -> Result<JobResult> {
        self.tokenize(report)?;
        let n_parallel = backend.n_parallel();
        self.with_branch_job(branch, settings, cadence, n_parallel, |job, data| {
            job.run(data, backend, report)
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
        let n_parallel = backend.n_parallel();
        self.with_branch_job(branch, settings, Cadence::default(), n_parallel, |job, data| {
            job.rehearse(data, backend)
        })
    }

    fn with_branch_job<R>(
        &self,
        branch: &Branch,
        mut settings: TrainSettings,
        cadence: Cadence,
        n_parallel: usize,
        work: impl FnOnce(&Job, &mut Data<'_>) -> Result<R>,
    ) -> Result<R> {
        let (config, vocabulary, eos) = self.seed_model()?;
        let Plan { parent, round, languages, part, share } = self.plan(branch)?;
        if !settings.batch.is_multiple_of(share) {
            return Err(Error::usage(format!(
                "a batch of {} sequences cannot be divided among {share} experts",
                settings.batch
            )));
        }
        settings.batch /= share;
        settings.choose_micro_batch(&config, n_parallel);
        let shards = self.shards(&languages, Split::Train, &vocabulary, config.n_vocab)?;
        let clusters: Option<Vec<&[u32]>> = match &part {
            Part::Cluster(a, _) => {
                let of_shards = languages.iter().zip(&shards);
                Some(of_shards.map(|(l, shard)| a.of(l, shard)).collect::<Result<_>>()?)
            }
            _ => None,
        };
        // Document d of shard s belongs to one of k random parts; the control trains on the first.
        let key = [settings.seed as u32, 0x7061_7274];
        let random = |s: usize, d: usize| philox(d as u64, s as u64, key)[0] as usize;
        let keep = |s: usize, d: usize| match (&part, &clusters) {
            (Part::Random(k), _) => random(s, d).is_multiple_of(*k),
            (Part::Cluster(_, expert), Some(clusters)) => clusters[s][d] as usize == *expert,
            _ => true,
        };
        let train = Stream::new(&shards, keep, eos, settings.seed, settings.n_ctx)?;
        let held_out = self.shards(&languages, Split::Valid, &vocabulary, config.n_vocab)?;
        // Too little held-out text for one sequence is no failure: there are no losses of it.
        let valid = Stream::new(&held_out, |_, _| true, eos, settings.seed, settings.n_ctx).ok();
        let checkpoint = self.job_folder(&parent).join(CHECKPOINT);
        let name = branch.name();
        let job = Job {
            spec: JobSpec { name: name.to_owned(), languages, parent, round, settings },
            folder: self.job_folder(name),
            config,
            parent: Some(checkpoint),
            vocabulary,
            cadence,
        };
        work(&job, &mut Data { train, valid })
    }

    fn plan(&self, branch: &Branch) -> Result<Plan> {
        let all = |part, share| Plan {
            parent: SEED.to_owned(),
            round: 1,
            languages: self.languages().to_vec(),
            part,
            share,
        };
        Ok(match branch {
            Branch::Dense => all(Part::All, 1),
            Branch::Random => {
                let k = self.clusters()?.len();
                all(Part::Random(k), k)
            }
            Branch::Lapt => {
                let mut languages: Vec<String> = Vec::new();
                for language in self.adapted()?.into_iter().flat_map(|a| a.languages) {
                    if !languages.contains(&language) {
                        languages.push(language);
                    }
                }
                if languages.is_empty() {
                    return Err(Error::usage("no language was added to the run's experts yet"));
                }
                self.finished(DENSE)?;
                Plan { parent: DENSE.to_owned(), round: 2, languages, part: Part::All, share: 1 }
            }
            Branch::Expert(id) => self.expert_plan(id)?,
        })
    }

    fn expert_plan(&self, id: &str) -> Result<Plan> {
        let (clusters, adapted) = (self.clusters()?, self.adapted()?);
        if let Some(a) = adapted.iter().find(|a| a.id == id) {
            self.finished(&a.parent)?;
            return Ok(Plan {
                parent: a.parent.clone(),
                round: a.round,
                languages: a.languages.clone(),
                part: Part::All,
                share: a.together,
            });
        }
        let k = clusters.len();
        let index = clusters.iter().position(|c| c.id == id).ok_or_else(|| {
            let ids = clusters.iter().map(|c| &c.id).chain(adapted.iter().map(|a| &a.id));
            let ids: Vec<&str> = ids.map(String::as_str).collect();
            Error::usage(format!("no expert {id:?}; the run has {}", ids.join(", ")))
        })?;
        let of_documents = clusters.iter().any(|cluster| cluster.documents.is_some());
        // An expert on documents has parts of all languages, not only of those it is best at.
        let (languages, part) = if of_documents {
            let assignment = Assignment::open(&self.path(ASSIGNMENT), k)?;
            (assignment.languages_in(index), Part::Cluster(assignment, index))
        } else {
            (clusters[index].languages.clone(), Part::All)
        };
        Ok(Plan { parent: SEED.to_owned(), round: 1, languages, part, share: k })
    }

    /// The checkpoint of a job that is done.
    ///
    /// # Errors
    /// It is not.
    pub fn finished(&self, name: &str) -> Result<Checkpoint> {
        let path = self.job_folder(name).join(CHECKPOINT);
        let unfinished = |how: String| {
            Error::usage(format!("{name} {how}: `xelm train` with the same settings finishes it"))
        };
        if !path.exists() {
            return Err(unfinished("is not trained yet".into()));
        }
        let checkpoint = Checkpoint::open(&path)?;
        let steps = JobSpec::of(&checkpoint.info, &path)?.settings.steps;
        if checkpoint.info.step < steps {
            let done = checkpoint.info.step;
            return Err(unfinished(format!("is trained for {done} of {steps} steps only")));
        }
        Ok(checkpoint)
    }
}
