//! The seed model, from which everything branches.

use super::{MANIFEST, Run, SEED};
use crate::backend::Backend;
use crate::checkpoint::Checkpoint;
use crate::corpus::Split;
use crate::job::{CHECKPOINT, Cadence, Data, Job, JobResult, JobSpec, Rehearsal, write_json};
use crate::report::Report;
use crate::settings::{ModelSettings, TrainSettings};
use crate::stream::Stream;
use crate::{Error, Result};
use std::fs;
use xelm_runtime::config::Config;

impl Run {
    /// Trains the seed model on all languages.
    ///
    /// # Errors
    /// As [`Job::run`].
    pub fn pretrain(
        &mut self,
        model: ModelSettings,
        settings: TrainSettings,
        cadence: Cadence,
        backend: &mut dyn Backend,
        report: &mut dyn Report,
    ) -> Result<JobResult> {
        self.tokenize(report)?;
        self.check_model(model)?;
        self.manifest.model = Some(model);
        write_json(&self.shared_path(MANIFEST), &self.manifest)?;
        let n_parallel = backend.n_parallel();
        self.with_seed_job(model, settings, cadence, n_parallel, |job, data| {
            job.run(data, backend, report)
        })
    }

    /// What [`Run::pretrain`] would take: nothing is trained or saved, but the tokens are.
    ///
    /// # Errors
    /// As [`Job::rehearse`].
    pub fn rehearse_pretrain(
        &self,
        model: ModelSettings,
        settings: TrainSettings,
        backend: &mut dyn Backend,
        report: &mut dyn Report,
    ) -> Result<Rehearsal> {
        self.tokenize(report)?;
        self.check_model(model)?;
        let n_parallel = backend.n_parallel();
        self.with_seed_job(model, settings, Cadence::default(), n_parallel, |job, data| {
            job.rehearse(data, backend)
        })
    }

    fn check_model(&self, model: ModelSettings) -> Result<()> {
        if self.manifest.model.is_some_and(|m| m != model) {
            return Err(Error::usage(format!(
                "{} was begun with a model of other dimensions",
                self.root.display()
            )));
        }
        Ok(())
    }

    fn with_seed_job<R>(
        &self,
        model: ModelSettings,
        mut settings: TrainSettings,
        cadence: Cadence,
        n_parallel: usize,
        work: impl FnOnce(&Job, &mut Data<'_>) -> Result<R>,
    ) -> Result<R> {
        let (n_vocab, vocabulary, eos) = self.vocabulary()?;
        let config = model.config(n_vocab)?;
        settings.choose_micro_batch(&config, n_parallel);
        let shards = self.shards(self.languages(), Split::Train, &vocabulary, n_vocab)?;
        let all = |_, _| true;
        let train = Stream::new(&shards, all, eos, settings.seed, settings.n_ctx)?;
        let held_out = self.shards(self.languages(), Split::Valid, &vocabulary, n_vocab)?;
        let valid = Stream::new(&held_out, all, eos, settings.seed, settings.n_ctx).ok();
        let spec = JobSpec {
            name: SEED.to_owned(),
            languages: self.languages().to_vec(),
            parent: String::new(),
            round: 0,
            settings,
        };
        let folder = self.job_folder(SEED);
        let job = Job { spec, folder, config, parent: None, vocabulary, cadence };
        work(&job, &mut Data { train, valid })
    }

    /// Settings of the seed's job, for branches to take over.
    ///
    /// # Errors
    /// There is no seed yet.
    pub fn seed_settings(&self) -> Result<TrainSettings> {
        let path = self.job_folder(SEED).join("job.json");
        let text = fs::read_to_string(&path).map_err(|_| self.no_seed())?;
        let spec: JobSpec = serde_json::from_str(&text)
            .map_err(|e| Error::usage(format!("{}: {e}", path.display())))?;
        Ok(spec.settings)
    }

    fn no_seed(&self) -> Error {
        Error::usage(format!(
            "the run has no finished seed model yet: `xelm pretrain --run {}` trains it",
            self.root.display()
        ))
    }

    /// Dimensions of the seed model, the vocabulary's identity, and the token that ends documents.
    pub(super) fn seed_model(&self) -> Result<(Config, String, u32)> {
        let path = self.job_folder(SEED).join(CHECKPOINT);
        if !path.exists() {
            return Err(self.no_seed());
        }
        let info = Checkpoint::open(&path)?.info;
        if info.step < self.seed_settings()?.steps {
            return Err(self.no_seed());
        }
        let (_, vocabulary, eos) = self.vocabulary()?;
        Ok((info.config, vocabulary, eos))
    }
}
