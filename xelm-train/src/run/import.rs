//! A run whose seed was trained elsewhere.

use super::{MANIFEST, Run, SEED};
use crate::checkpoint::{CheckpointInfo, save_weights};
use crate::hf::Folder;
use crate::job::{CHECKPOINT, JobSpec, SPEC, to_json, write_json};
use crate::settings::{ModelSettings, Preset, TrainSettings};
use crate::weights::Weights;
use crate::{Error, Result, vocab};
use xelm_runtime::tokenizer::hex;

/// What models that branch from an imported seed take over from it, as they would from a trained one.
#[derive(Clone, Copy, Debug)]
pub struct Branches {
    /// Sequences per update of the dense model.
    pub batch: usize,
    /// Tokens per sequence; the model's context where there is none.
    pub n_ctx: Option<usize>,
}

impl Run {
    /// Makes a model of `transformers` the run's seed, its vocabulary the run's. The seed's checkpoint, which
    /// has no moments of Adam, comes last: an import that was interrupted can be done again.
    ///
    /// # Errors
    /// The run has a seed or another vocabulary, a setting is out of range, or a file cannot be written.
    pub fn import_seed(&mut self, folder: &Folder, branches: &Branches) -> Result<()> {
        let checkpoint = self.job_folder(SEED).join(CHECKPOINT);
        if checkpoint.exists() {
            let root = self.root.display();
            return Err(Error::usage(format!("{root} has a seed model: choose another folder")));
        }
        let config = folder.config();
        let n_ctx = branches.n_ctx.unwrap_or(config.n_ctx);
        if branches.batch == 0 || n_ctx == 0 || n_ctx > config.n_ctx {
            return Err(Error::usage(format!(
                "--batch must be at least 1 and --n-ctx between 1 and the model's {}",
                config.n_ctx
            )));
        }
        let vocabulary = self.import_vocabulary(folder)?;
        self.manifest.model = Some(ModelSettings {
            n_layer: config.n_layer,
            n_embd: config.n_embd,
            n_head: config.n_head,
            n_ff: config.n_ff,
            n_ctx: config.n_ctx,
        });
        write_json(&self.shared_path(MANIFEST), &self.manifest)?;
        let spec = JobSpec {
            name: SEED.to_owned(),
            languages: self.languages().to_vec(),
            parent: String::new(),
            round: 0,
            // Nothing is left to train.
            settings: TrainSettings::preset(Preset::Paper, 0, branches.batch, n_ctx),
        };
        write_json(&self.job_folder(SEED).join(SPEC), &spec)?;
        let info = CheckpointInfo {
            config: *config,
            step: 0,
            tokens: 0,
            adam_steps: 0,
            parent: String::new(),
            job: to_json(&spec)?,
            vocabulary,
        };
        save_weights(&checkpoint, &info, folder)
    }

    /// Writes the run's vocabulary, or checks that it is the same; returns its identity.
    fn import_vocabulary(&self, folder: &Folder) -> Result<String> {
        let path = self.tokenizer_path();
        let identity = hex(&folder.vocabulary().hash());
        if path.exists() {
            let (_, found, _) = self.vocabulary()?;
            if found != identity {
                let path = path.display();
                return Err(Error::usage(format!("{path} is another vocabulary than the model's")));
            }
        } else {
            vocab::save(folder.vocabulary(), &path)?;
        }
        Ok(identity)
    }
}
