//! What a job computes: updates, held-out losses, and where a number is not finite.

use crate::Result;
use crate::backend::{Backend, Region, StepStats};
use crate::model::{DropoutPlan, Model};
use crate::settings::TrainSettings;
use crate::stream::Stream;
use xelm_runtime::rng::philox;

/// Held-out sequences that are scored during training, at most.
const VALID_SEQUENCES: u64 = 32;

/// One update: the micro-batches' gradients, their norm, AdamW.
pub(super) fn update(
    settings: &TrainSettings,
    step: u64,
    t: u64,
    model: &Model,
    stream: &mut Stream<'_>,
    backend: &mut dyn Backend,
) -> Result<StepStats> {
    let grads = model.params.all.of(Region::Grads);
    let scale = 1.0 / (settings.batch * settings.n_ctx) as f32;
    let (mut inputs, mut targets) = (Vec::new(), Vec::new());
    backend.begin_step(grads);
    for micro in 0..settings.batch / settings.micro_batch {
        inputs.clear();
        targets.clear();
        for i in 0..settings.micro_batch {
            let sequence = step * settings.batch as u64 + (micro * settings.micro_batch + i) as u64;
            stream.read(sequence, &mut inputs, &mut targets);
        }
        let words = philox(step, micro as u64, [settings.seed as u32, 0x6472_6f70]);
        let key = u64::from(words[0]) << 32 | u64::from(words[1]);
        backend.load_batch(&inputs, &targets);
        model.train(backend, DropoutPlan { p: settings.dropout, key }, scale);
    }
    backend.grad_norm(grads);
    backend.adamw(model.params.all, settings.adamw(settings.lr_at(step), t));
    backend.finish_step()
}

/// The mean loss of held-out sequences, always the same ones.
pub(super) fn valid_loss(
    model: &Model,
    valid: &mut Stream<'_>,
    backend: &mut dyn Backend,
) -> Result<f64> {
    let micro = model.n_batch as u64;
    let n = VALID_SEQUENCES.min(valid.blocks_per_epoch()).div_ceil(micro) * micro;
    let (mut inputs, mut targets) = (Vec::new(), Vec::new());
    for sequence in 0..n {
        valid.read(sequence, &mut inputs, &mut targets);
        if (sequence + 1).is_multiple_of(micro) {
            backend.load_batch(&inputs, &targets);
            model.evaluate(backend);
            (inputs, targets) = (Vec::new(), Vec::new());
        }
    }
    Ok(backend.finish_step()?.loss)
}

/// The name of a tensor whose values or gradients are not finite.
pub(super) fn locate(model: &Model, backend: &mut dyn Backend) -> Result<String> {
    let tensors = model.params.tensors(&model.config);
    for (what, region) in [("", Region::Params), ("the gradient of ", Region::Grads)] {
        let spans: Vec<_> = tensors.iter().map(|t| t.span.of(region)).collect();
        if let Some(i) = backend.first_non_finite(&spans)? {
            return Ok(format!("{what}{}", tensors[i].name));
        }
    }
    Ok("the loss".to_owned())
}
