//! `xelm pretrain`

use crate::device::DeviceArgs;
use crate::progress::Progress;
use crate::{Result, print_line};
use serde_json::json;
use std::path::PathBuf;
use xelm_train::job::{Cadence, JobResult, Rehearsal};
use xelm_train::model::Recompute;
use xelm_train::run::Run;
use xelm_train::settings::{ModelSettings, Preset, Schedule, TrainSettings};

/// Trains a seed model on all languages of a run, from nothing.
///
/// Started again after an interruption, it goes on from its last checkpoint and ends with the same
/// weights, bit for bit. The learning rate stays at its peak after the warm-up: the experts that branch
/// from the seed lower it to 0.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run directory, begun by `xelm tokenizer train`.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// Sequences per update.
    #[arg(long, default_value_t = 32, value_name = "N")]
    batch: usize,
    #[command(flatten)]
    train: TrainArgs,
}

/// Dimensions of a model.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// Layers.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub(crate) n_layer: usize,
    /// Width; a multiple of 32 for quantised files.
    #[arg(long, default_value_t = 128, value_name = "N")]
    pub(crate) n_embd: usize,
    /// Attention heads.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub(crate) n_head: usize,
    /// Width of the feed-forward layer; the default is four times the model's.
    #[arg(long, value_name = "N")]
    pub(crate) n_ff: Option<usize>,
    /// Tokens in a sequence, and positions of the model; the default is 256, and 128 for the demo.
    #[arg(long, value_name = "N")]
    pub(crate) n_ctx: Option<usize>,
}

impl ModelArgs {
    pub(crate) fn settings(&self, default_n_ctx: usize) -> ModelSettings {
        let ModelArgs { n_layer, n_embd, n_head, n_ff, n_ctx } = *self;
        let (n_ff, n_ctx) = (n_ff.unwrap_or(4 * n_embd), n_ctx.unwrap_or(default_n_ctx));
        ModelSettings { n_layer, n_embd, n_head, n_ff, n_ctx }
    }
}

/// What every training command takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TrainArgs {
    /// Updates.
    #[arg(long, value_name = "N")]
    pub(crate) steps: u64,
    /// `small`: for models of 1 to 50 million parameters trained from nothing. `paper`: the settings of
    /// the X-ELM paper, for branching from a large pretrained model.
    #[arg(long, value_enum, default_value = "small")]
    pub(crate) preset: PresetArg,
    /// Peak learning rate, instead of the preset's.
    #[arg(long, value_name = "RATE")]
    pub(crate) lr: Option<f32>,
    /// Steps of warm-up, instead of the preset's.
    #[arg(long, value_name = "N")]
    pub(crate) warmup: Option<u64>,
    /// Dropout, instead of the preset's.
    #[arg(long, value_name = "P")]
    pub(crate) dropout: Option<f32>,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1234, value_name = "N")]
    pub(crate) seed: u64,
    /// Steps between checkpoints.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) save_every: u64,
    /// Steps between losses of held-out text in the log; 0 for none. Its documents are always the same.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) valid_every: u64,
    /// Sequences computed at once, a divisor of the batch: more are faster on a GPU and take more memory.
    /// By default as many as take a gibibyte. The result changes by rounding alone.
    #[arg(long, value_name = "N")]
    pub(crate) micro_batch: Option<usize>,
    /// What the backward pass computes again to save memory: `activations` a third of it for a few per
    /// cent of time, `layers` nearly all for a third of time. The result is the same.
    #[arg(long, value_enum, default_value = "none")]
    pub(crate) recompute: RecomputeArg,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Only compute a few batches on the device: says what memory, time and disk the job would take.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Presets as flags.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum PresetArg {
    Small,
    Paper,
}

/// [`Recompute`] as a flag.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum RecomputeArg {
    None,
    Activations,
    Layers,
}

impl TrainArgs {
    pub(crate) fn settings(&self, batch: usize, n_ctx: usize) -> TrainSettings {
        let preset = match self.preset {
            PresetArg::Small => Preset::Small,
            PresetArg::Paper => Preset::Paper,
        };
        let base = TrainSettings::preset(preset, self.steps, batch, n_ctx);
        TrainSettings {
            lr: self.lr.unwrap_or(base.lr),
            warmup: self.warmup.unwrap_or(base.warmup),
            dropout: self.dropout.unwrap_or(base.dropout),
            seed: self.seed,
            micro_batch: self.micro_batch.unwrap_or(0),
            recompute: match self.recompute {
                RecomputeArg::None => Recompute::None,
                RecomputeArg::Activations => Recompute::Activations,
                RecomputeArg::Layers => Recompute::Layers,
            },
            ..base
        }
    }

    pub(crate) fn cadence(&self) -> Cadence {
        Cadence { save_every: self.save_every, valid_every: self.valid_every }
    }

    pub(crate) fn print(&self, name: &str, result: &JobResult) -> Result<()> {
        let JobResult { steps, new_steps, loss } = *result;
        if self.json {
            print_line(json!({
                "name": name, "steps": steps, "new_steps": new_steps, "loss": loss
            }))
        } else {
            match loss {
                Some(loss) => {
                    print_line(format_args!("{name}: {steps} steps, last loss {loss:.4}"))
                }
                None => print_line(format_args!("{name}: {steps} steps, done before")),
            }
        }
    }

    pub(crate) fn print_rehearsal(&self, name: &str, rehearsal: &Rehearsal) -> Result<()> {
        let r = rehearsal;
        if self.json {
            return print_line(json!({
                "name": name, "parameters": r.n_params, "device_bytes": r.device_bytes,
                "checkpoint_bytes": r.checkpoint_bytes, "tokens": r.tokens,
                "step_seconds": r.step_seconds, "seconds": r.seconds,
            }));
        }
        let mib = |n: usize| n.div_ceil(1 << 20);
        print_line(format_args!(
            "{name}: {:.1}M parameters, {:.1}M tokens\n  device memory  {} MiB\n  checkpoint     {} MiB \
             (twice that while it is written)\n  time           {} ({:.3} s a step, {:.0} tokens/s)",
            r.n_params as f64 / 1e6,
            r.tokens as f64 / 1e6,
            mib(r.device_bytes),
            mib(r.checkpoint_bytes),
            duration(r.seconds),
            r.step_seconds,
            r.tokens as f64 / r.seconds,
        ))
    }
}

/// Hours, minutes and seconds.
fn duration(seconds: f64) -> String {
    let s = seconds.ceil() as u64;
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let model = self.model.settings(256);
        let settings = TrainSettings {
            schedule: Schedule::Constant,
            ..self.train.settings(self.batch, model.n_ctx)
        };
        let mut run = Run::open(&self.run)?;
        let backend = &mut *self.train.device.open()?;
        if self.train.dry_run {
            let rehearsal =
                run.rehearse_pretrain(model, settings, backend, &mut Progress::new())?;
            return self.train.print_rehearsal("seed", &rehearsal);
        }
        let result =
            run.pretrain(model, settings, self.train.cadence(), backend, &mut Progress::new())?;
        self.train.print("seed", &result)
    }
}
