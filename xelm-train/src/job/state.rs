//! A job's state: what it begins with, what it saves, what it goes on with.

use super::{Job, JobSpec, to_json};
use crate::backend::Backend;
use crate::checkpoint::{Checkpoint, CheckpointInfo};
use crate::model::{Model, Recompute, init};
use crate::report::Report;
use crate::settings::TrainSettings;
use crate::{Error, Result};
use std::path::Path;

impl Job {
    /// Fills a new model: from the parent's checkpoint, or at random. Returns the tokens trained on and
    /// Adam's updates so far.
    pub(super) fn first_values(
        &self,
        model: &Model,
        backend: &mut dyn Backend,
        report: &mut dyn Report,
    ) -> Result<(u64, u64)> {
        let settings = &self.spec.settings;
        let Some(parent) = &self.parent else {
            init(backend, &model.params, &self.config, settings.seed);
            return Ok((0, 0));
        };
        let parent = Checkpoint::open(parent)?;
        self.check_family(&parent.info)?;
        parent.load(model, backend, settings.carry_adam);
        let adam_steps = if settings.carry_adam { parent.info.adam_steps } else { 0 };
        if settings.carry_adam && !parent.has_moments() {
            let name = &self.spec.name;
            report.note(&format!(
                "{name}: the parent has no Adam state to carry over, a fresh one begins"
            ));
        }
        Ok((parent.info.tokens, adam_steps))
    }

    fn check_family(&self, parent: &CheckpointInfo) -> Result<()> {
        if parent.config != self.config || parent.vocabulary != self.vocabulary {
            return Err(Error::usage(format!(
                "{}: the parent has other dimensions or another vocabulary",
                self.spec.name
            )));
        }
        Ok(())
    }

    pub(super) fn info(&self, step: u64, tokens: u64, adam_steps: u64) -> Result<CheckpointInfo> {
        Ok(CheckpointInfo {
            config: self.config,
            step,
            tokens,
            adam_steps,
            parent: self.spec.parent.clone(),
            job: to_json(&self.spec)?,
            vocabulary: self.vocabulary.clone(),
        })
    }

    /// Opens the job's own checkpoint and checks that it belongs to this job.
    pub(super) fn open_checkpoint(&self, path: &Path) -> Result<Checkpoint> {
        let checkpoint = Checkpoint::open(path)?;
        self.check_family(&checkpoint.info)?;
        let begun = JobSpec::of(&checkpoint.info, path)?;
        // How a batch is computed is no concern of the next; everything else decides the result.
        let comparable = |spec: &JobSpec| {
            let settings = spec.settings.clone();
            let settings = TrainSettings { micro_batch: 0, recompute: Recompute::None, ..settings };
            JobSpec { settings, ..spec.clone() }
        };
        if comparable(&begun) != comparable(&self.spec) {
            return Err(Error::usage(format!(
                "{} was begun with other settings: repeat them to resume, or remove the folder to \
                 start again",
                self.folder.display()
            )));
        }
        Ok(checkpoint)
    }
}
