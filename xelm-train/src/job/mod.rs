//! One training job: a folder with `job.json`, `log.jsonl` and `checkpoint.gguf`, from the first step to
//! the last, however often it is interrupted on the way.

mod claim;
mod log;
mod plans;
mod rehearsal;
mod spike;
mod state;
mod update;

pub use claim::{Claim, Holder};
pub use log::{LogLine, read as read_log};
pub use rehearsal::Rehearsal;

use crate::backend::{Backend, StepStats};
use crate::checkpoint::{self, CheckpointInfo};
use crate::model::Model;
use crate::report::{Report, StepReport};
use crate::settings::TrainSettings;
use crate::stream::Stream;
use crate::{Error, Result};
use log::Log;
use plans::PlansFile;
use serde::{Deserialize, Serialize};
use spike::Spikes;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;
use update::{locate, update, valid_loss};
use xelm_runtime::config::Config;
use xelm_runtime::format::AtomicFile;

/// What a job trains, as `job.json` and its checkpoints record it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Name of the model: `seed`, `dense`, or an expert's id.
    pub name: String,
    /// Languages it is trained on.
    pub languages: Vec<String>,
    /// The job it branched from; empty for one that starts from nothing.
    pub parent: String,
    /// Branches between the seed and it.
    #[serde(default)]
    pub round: u32,
    /// How.
    pub settings: TrainSettings,
}

impl JobSpec {
    /// The job that a checkpoint, `path`, belongs to.
    ///
    /// # Errors
    /// The description inside cannot be read.
    pub fn of(info: &CheckpointInfo, path: &Path) -> Result<JobSpec> {
        serde_json::from_str(&info.job).map_err(|e| {
            Error::usage(format!("{}: its job description cannot be read: {e}", path.display()))
        })
    }
}

/// A job and where it lives.
#[derive(Debug)]
pub struct Job {
    /// What is trained.
    pub spec: JobSpec,
    /// The job's folder.
    pub folder: PathBuf,
    /// Dimensions of the model.
    pub config: Config,
    /// Checkpoint of the parent, where there is one.
    pub parent: Option<PathBuf>,
    /// Identity of the vocabulary, hexadecimal.
    pub vocabulary: String,
    /// What it does how often.
    pub cadence: Cadence,
}

/// What a job does every so many steps; no result depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    /// Steps between checkpoints.
    pub save_every: u64,
    /// Steps between losses of held-out text, which is also scored at the end; 0 for never.
    pub valid_every: u64,
}

impl Default for Cadence {
    fn default() -> Self {
        Cadence { save_every: 100, valid_every: 100 }
    }
}

/// What a job reads.
#[derive(Debug)]
pub struct Data<'a> {
    /// The documents that it is trained on.
    pub train: Stream<'a>,
    /// Held-out documents of the same languages, where there are enough.
    pub valid: Option<Stream<'a>>,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JobResult {
    /// Updates in all.
    pub steps: u64,
    /// Steps that were done in this call.
    pub new_steps: u64,
    /// Loss of the last step, where one was done.
    pub loss: Option<f64>,
}

/// Name of the checkpoint in a job's folder.
pub const CHECKPOINT: &str = "checkpoint.gguf";
/// Name of the log in a job's folder.
pub const LOG: &str = "log.jsonl";
/// Name of the description in a job's folder.
pub const SPEC: &str = "job.json";

impl Job {
    /// Runs the job to its end: starts it, resumes it, or finds it done.
    ///
    /// # Errors
    /// Unreadable or unwritable files; settings that differ from those the job was begun with; another
    /// process at work on it; a number that is not finite.
    pub fn run(
        &self,
        data: &mut Data<'_>,
        backend: &mut dyn Backend,
        report: &mut dyn Report,
    ) -> Result<JobResult> {
        let settings = &self.spec.settings;
        settings.validate(&self.config, backend.n_parallel())?;
        fs::create_dir_all(&self.folder).map_err(Error::io("create", &self.folder))?;
        let claim = Claim::take(&self.folder)?;
        let path = self.folder.join(CHECKPOINT);
        AtomicFile::remove_unfinished(&self.folder);

        let saved = if path.exists() { Some(self.open_checkpoint(&path)?) } else { None };
        if let Some(done) = saved.as_ref().filter(|c| c.info.step == settings.steps) {
            let steps = done.info.step;
            return Ok(JobResult { steps, new_steps: 0, loss: None });
        }
        let TrainSettings { micro_batch, n_ctx, recompute, .. } = *settings;
        let model = Model::place(backend, self.config, micro_batch, n_ctx, recompute)?;
        let (start, mut tokens, mut adam_steps) = match &saved {
            Some(checkpoint) => {
                checkpoint.load(&model, backend, true);
                (checkpoint.info.step, checkpoint.info.tokens, checkpoint.info.adam_steps)
            }
            None => {
                write_json(&self.folder.join(SPEC), &self.spec)?;
                let (tokens, adam_steps) = self.first_values(&model, backend, report)?;
                (0, tokens, adam_steps)
            }
        };
        drop(saved);

        let mut plans = PlansFile::open(&self.folder, &self.spec.name, backend, report)?;
        let (mut log, losses) = Log::open(self.folder.join(LOG), start)?;
        let mut spikes = Spikes::after(&losses);
        report.begin(&self.spec.name, start, settings.steps);
        let clock = Instant::now();
        let tokens_per_step = (settings.batch * settings.n_ctx) as u64;
        let mut loss = None;
        for step in start..settings.steps {
            let lr = settings.lr_at(step);
            adam_steps += 1;
            let stats = update(settings, step, adam_steps, &model, &mut data.train, backend)?;
            if !stats.is_finite() {
                let tensor = locate(&model, backend)?;
                let documents = self.documents_of(step, &mut data.train);
                return Err(Error::NotFinite { step, tensor, documents });
            }
            tokens += tokens_per_step;
            loss = Some(stats.loss);
            let StepStats { loss, grad_norm } = stats;
            log.write(&LogLine::Step { step, loss, lr, grad_norm })?;
            if spikes.is_spike(loss) {
                let documents = self.documents_of(step, &mut data.train);
                report.note(&format!(
                    "{}: step {step}: the loss of {loss:.3} stands out; its batch holds {}",
                    self.spec.name,
                    some_of(&documents)
                ));
                log.write(&LogLine::Spike { step, spike: loss, documents })?;
            }
            let (done, is_last) = (step + 1, step + 1 == settings.steps);
            if let Some(valid) = &mut data.valid
                && self.cadence.valid_every > 0
                && (is_last || done.is_multiple_of(self.cadence.valid_every))
            {
                let valid_loss = valid_loss(&model, valid, backend)?;
                log.write(&LogLine::Valid { step: done, valid_loss })?;
            }
            if is_last || done.is_multiple_of(self.cadence.save_every) {
                // Whoever lost the job to another process must not write over what that one does.
                claim.check()?;
                plans.update(backend)?;
                checkpoint::save(&path, &self.info(done, tokens, adam_steps)?, &model, backend)?;
            }
            let new_tokens = (done - start) * tokens_per_step;
            let tokens_per_s = new_tokens as f64 / clock.elapsed().as_secs_f64();
            report.step(&StepReport { step: done, loss, lr, tokens_per_s });
        }
        report.end();
        Ok(JobResult { steps: settings.steps, new_steps: settings.steps - start, loss })
    }

    /// The documents in a step's batch, by language and place in its training documents.
    fn documents_of(&self, step: u64, stream: &mut Stream<'_>) -> Vec<String> {
        let batch = self.spec.settings.batch as u64;
        let documents = stream.documents_of(step * batch..(step + 1) * batch);
        let name = |(shard, document): (usize, usize)| {
            format!("{} {document}", self.spec.languages.get(shard).map_or("", String::as_str))
        };
        documents.into_iter().map(name).collect()
    }
}

/// A list for a message: the first few, and how many.
pub(crate) fn some_of(documents: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut text = documents[..documents.len().min(SHOWN)].join(", ");
    if documents.len() > SHOWN {
        text += &format!(" and {} more", documents.len() - SHOWN);
    }
    text
}

pub(crate) fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::usage(format!("cannot write JSON: {e}")))
}

/// Writes a value as readable JSON.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::usage(format!("cannot write {}: {e}", path.display())))?;
    text.push('\n');
    AtomicFile::write(path, text.as_bytes()).map_err(Error::io("write", path))
}
