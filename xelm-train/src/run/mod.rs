//! A run directory: everything that one set of experts was made from, and its stages.
//!
//! ```text
//! run.json          corpus, languages, model dimensions
//! README.md         what is what, in words
//! tokenizer.gguf    the vocabulary
//! tokens/           <lang>.<split>.gguf token shards
//! clusters.json     which languages, or documents, share an expert
//! clusters.gguf     the cluster of every document, where documents are clustered
//! typology.tsv      distances between languages, where they are the run's own
//! router.gguf       the router in full
//! seed/ dense/ random/ experts/<id>/   one folder per training job
//! adapted.json      experts for languages that were added later, and what they branched from
//! lapt/             the baseline of those: the dense model, trained on all added languages
//! models/           seed, dense and random-split model as expert files
//! set/ set-q8_0/ …  the experts, packed and quantised
//! eval.json         the last evaluation
//! eval.jsonl        every score that was ever measured
//! forgetting.json   every expert on every language
//! icl.json icl.jsonl   accuracies of in-context learning, and every one that was measured
//! ```
//!
//! A *derived* run divides the same corpus in another way: vocabulary, tokens, seed and dense model, and
//! scores once measured (`eval.jsonl`) are those of its base, which its `run.json` names; all else is its
//! own.

mod adapt;
mod branch;
mod clusters;
mod folder;
mod import;
mod seed;
mod text;

pub use adapt::{Adapted, Donor};
pub use branch::Branch;
pub use import::Branches;
pub use text::report_skipped;

use crate::corpus::BadInput;
use crate::settings::ModelSettings;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

const MANIFEST: &str = "run.json";
/// The clusters of documents, where it is documents that are clustered.
pub const ASSIGNMENT: &str = "clusters.gguf";
/// The router in full.
pub const ROUTER: &str = "router.gguf";
/// The vocabulary's file.
pub const TOKENIZER: &str = "tokenizer.gguf";
/// The folder of the models beside the experts.
const MODELS: &str = "models";
/// The folder of the token shards.
const TOKENS: &str = "tokens";
/// The folder of the packed f32 set.
pub const SET: &str = "set";

/// What `run.json` records.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    /// The corpus folder; relative to the run directory where it lies inside.
    corpus: PathBuf,
    languages: Vec<String>,
    skip_bad_input: bool,
    model: Option<ModelSettings>,
}

/// What `run.json` of a derived run records.
#[derive(Serialize, Deserialize)]
struct Derived {
    format: u32,
    /// The run that it derives from, relative to the run directory.
    base: PathBuf,
}

/// An open run directory.
#[derive(Debug)]
pub struct Run {
    root: PathBuf,
    /// The folder that has vocabulary, tokens, seed and dense model: `root`, or its base.
    base: PathBuf,
    manifest: Manifest,
}

/// The baselines' names.
pub const DENSE: &str = "dense";
/// See [`DENSE`].
pub const RANDOM: &str = "random";
/// The baseline of added languages: the dense model, trained on all of them (language-adaptive
/// pretraining).
pub const LAPT: &str = "lapt";
/// The seed model's name.
pub const SEED: &str = "seed";

impl Run {
    /// A path inside the run directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The path of something that derived runs share with their base.
    pub fn shared_path(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    /// The expert file of a model beside the experts: seed or baseline.
    pub fn model_path(&self, name: &str) -> PathBuf {
        let file = format!("{name}.gguf");
        match name {
            SEED | DENSE => self.shared_path(MODELS).join(file),
            _ => self.path(MODELS).join(file),
        }
    }

    /// The run's vocabulary.
    pub fn tokenizer_path(&self) -> PathBuf {
        self.shared_path(TOKENIZER)
    }

    /// The run's languages.
    pub fn languages(&self) -> &[String] {
        &self.manifest.languages
    }

    /// What to do with bad lines of the corpus.
    pub fn bad_input(&self) -> BadInput {
        if self.manifest.skip_bad_input { BadInput::Skip } else { BadInput::Stop }
    }

    /// The folder of a job by the name of its model.
    pub fn job_folder(&self, name: &str) -> PathBuf {
        match name {
            SEED | DENSE => self.shared_path(name),
            RANDOM | LAPT => self.path(name),
            id => self.path("experts").join(id),
        }
    }
}
