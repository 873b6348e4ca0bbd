//! What a job would take.

use super::update::update;
use super::{Data, Job};
use crate::Result;
use crate::backend::Backend;
use crate::model::{Model, init};
use crate::settings::TrainSettings;
use std::time::Instant;

/// What a job takes, measured with its own first batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rehearsal {
    /// Parameters of the model.
    pub n_params: usize,
    /// Bytes of the device's memory.
    pub device_bytes: usize,
    /// Bytes of a checkpoint; while one is written there are two.
    pub checkpoint_bytes: usize,
    /// Tokens of all steps.
    pub tokens: u64,
    /// Seconds of one step.
    pub step_seconds: f64,
    /// Seconds of all steps.
    pub seconds: f64,
}

impl Job {
    /// Computes a few micro-batches as the job would, and keeps nothing.
    ///
    /// # Errors
    /// Settings out of range; too little memory.
    pub fn rehearse(&self, data: &mut Data<'_>, backend: &mut dyn Backend) -> Result<Rehearsal> {
        let settings = &self.spec.settings;
        let n_parallel = backend.n_parallel();
        settings.validate(&self.config, n_parallel)?;
        let TrainSettings { steps, batch, micro_batch, n_ctx, recompute, .. } = *settings;
        let model = Model::place(backend, self.config, micro_batch, n_ctx, recompute)?;
        init(backend, &model.params, &self.config, settings.seed);
        // A step of one micro-batch, or one for each card, twice: the first also gets work memory.
        let short = TrainSettings { batch: micro_batch * n_parallel, ..settings.clone() };
        let mut measure = || -> Result<f64> {
            let clock = Instant::now();
            update(&short, 0, 1, &model, &mut data.train, backend)?;
            Ok(clock.elapsed().as_secs_f64())
        };
        measure()?;
        let step_seconds = measure()? * (batch / micro_batch).div_ceil(n_parallel) as f64;
        let n_params = self.config.n_params();
        Ok(Rehearsal {
            n_params,
            device_bytes: backend.n_bytes(),
            checkpoint_bytes: n_params * 3 * 4,
            tokens: steps * (batch * n_ctx) as u64,
            step_seconds,
            seconds: step_seconds * steps as f64,
        })
    }
}
