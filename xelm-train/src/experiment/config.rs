//! What an experiment consists of: a TOML file.

use crate::settings::{ModelSettings, Preset, Schedule, TrainSettings};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

/// An experiment. Every arm branches from one seed model, and sees as many tokens as every other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What the report is headed with.
    pub title: String,
    /// Seeds of everything random; the whole experiment is done once with each.
    pub seeds: Vec<u64>,
    /// Languages that all arms are trained on.
    pub languages: Vec<String>,
    /// The vocabulary that all models share.
    pub vocabulary: Vocabulary,
    /// The models' dimensions.
    pub model: ModelSettings,
    /// How they are trained.
    pub train: Training,
    /// The ways of dividing the corpus.
    #[serde(rename = "arm")]
    pub arms: Vec<Arm>,
    /// Languages that are added afterwards.
    pub adapt: Option<Adaptation>,
    /// What is measured.
    #[serde(default)]
    pub evaluate: Evaluation,
}

/// How the vocabulary is learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vocabulary {
    /// Tokens.
    pub size: usize,
    /// Share of all characters that get tokens of their own.
    pub character_coverage: f64,
}

/// How the models are trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// What the other numbers start from.
    pub preset: Preset,
    /// Sequences per update of an arm; an expert's are these divided by the arm's experts.
    pub batch: usize,
    /// Updates of the seed model.
    pub seed_steps: u64,
    /// Updates of each model that branches from it.
    pub branch_steps: u64,
    /// Peak learning rate, instead of the preset's.
    pub lr: Option<f32>,
}

/// A way of dividing the corpus among experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// How.
    pub kind: Kind,
    /// Number of experts.
    pub k: usize,
    /// Whether every expert is scored on every language.
    #[serde(default)]
    pub forgetting: bool,
    /// Whether its set gets a router, and mixtures of its experts are scored.
    #[serde(default)]
    pub ensemble: bool,
    /// Whether its set is quantised, and scored so, too.
    #[serde(default)]
    pub quantise: bool,
}

/// What divides a corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The kinship of languages.
    Typology,
    /// The words of documents.
    Tfidf,
    /// Chance.
    Random,
}

/// Languages that join the experts of an arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adaptation {
    /// The arm's name.
    pub arm: String,
    /// The languages.
    pub languages: Vec<String>,
    /// Updates of each expert, and of the dense baseline.
    pub steps: u64,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluation {
    /// Held-out documents of a language that are scored at most.
    pub max_documents: usize,
    /// Experts that are mixed, for arms with mixtures; 0 for all.
    pub ensembles: Vec<usize>,
}

impl Default for Evaluation {
    fn default() -> Self {
        let max_documents = crate::evaluate::MAX_DOCUMENTS;
        Evaluation { max_documents, ensembles: vec![1, 2, 4, 0] }
    }
}

impl Arm {
    /// The arm's name and folder.
    pub fn name(&self) -> String {
        let kind = match self.kind {
            Kind::Typology => "typology",
            Kind::Tfidf => "tfidf",
            Kind::Random => "random",
        };
        format!("{kind}-{}", self.k)
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// It cannot be read, or asks for something that cannot be.
    pub fn open(path: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let wrong = |what: String| Error::usage(format!("{}: {what}", path.display()));
        let config: Config = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        config.check().map_err(wrong)?;
        Ok(config)
    }

    fn check(&self) -> std::result::Result<(), String> {
        let distinct = |names: Vec<String>, what: &str| {
            let n = names.len();
            let distinct: BTreeSet<String> = names.into_iter().collect();
            if distinct.len() == n { Ok(()) } else { Err(format!("{what} are named twice")) }
        };
        if self.seeds.is_empty() || self.arms.is_empty() {
            return Err("at least one of `seeds` and one [[arm]] are needed".into());
        }
        let added = self.adapt.iter().flat_map(|a| a.languages.clone());
        distinct(self.languages.iter().cloned().chain(added).collect(), "languages")?;
        distinct(self.arms.iter().map(Arm::name).collect(), "arms")?;
        distinct(self.seeds.iter().map(u64::to_string).collect(), "seeds")?;
        for arm in &self.arms {
            if arm.k == 0 || !self.train.batch.is_multiple_of(arm.k) {
                let (batch, k) = (self.train.batch, arm.k);
                return Err(format!("a batch of {batch} cannot be divided among {k} experts"));
            }
        }
        if let Some(adapt) = &self.adapt {
            if !self.arms.iter().any(|arm| arm.name() == adapt.arm) {
                return Err(format!("[adapt] names an arm {:?} that there is not", adapt.arm));
            }
            if adapt.languages.is_empty() || !self.train.batch.is_multiple_of(adapt.languages.len())
            {
                return Err("the batch cannot be divided among the languages of [adapt]".into());
            }
        }
        Ok(())
    }

    fn settings(&self, steps: u64, seed: u64) -> TrainSettings {
        let Training { preset, batch, lr, .. } = self.train;
        let base = TrainSettings::preset(preset, steps, batch, self.model.n_ctx);
        TrainSettings { lr: lr.unwrap_or(base.lr), seed, ..base }
    }

    /// The settings of the seed model.
    pub fn seed_settings(&self, seed: u64) -> TrainSettings {
        let settings = self.settings(self.train.seed_steps, seed);
        TrainSettings { schedule: Schedule::Constant, ..settings }
    }

    /// The settings of what branches from it. The rate goes on from where it was.
    pub fn branch_settings(&self, steps: u64, seed: u64) -> TrainSettings {
        TrainSettings { warmup: 0, ..self.settings(steps, seed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"
title = "Example"
seeds = [1, 2]
languages = ["de", "en", "ru", "bg"]
[vocabulary]
size = 2000
character_coverage = 0.998
[model]
n_layer = 2
n_embd = 64
n_head = 2
n_ff = 256
n_ctx = 64
[train]
preset = "small"
batch = 8
seed_steps = 10
branch_steps = 20
[[arm]]
kind = "typology"
k = 2
[[arm]]
kind = "tfidf"
k = 4
ensemble = true
[adapt]
arm = "typology-2"
languages = ["pl"]
steps = 5
"#;

    fn parse(text: &str) -> std::result::Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|e| e.to_string())?;
        config.check().map(|()| config)
    }

    #[test]
    fn what_can_be_and_what_cannot() {
        let config = parse(EXAMPLE).unwrap();
        assert_eq!(config.arms[1].name(), "tfidf-4");
        assert_eq!(config.evaluate, Evaluation::default());
        assert_eq!(config.seed_settings(7).schedule, Schedule::Constant);
        for (from, to) in [
            ("k = 4", "k = 3"),
            ("k = 4", "k = 0"),
            ("\"tfidf\"\nk = 4", "\"typology\"\nk = 2"),
            ("typology-2", "typology-3"),
            ("[1, 2]", "[]"),
            ("[1, 2]", "[3, 3]"),
            ("\"pl\"", "\"de\""),
            ("\"pl\"", "\"pl\", \"az\", \"sv\""),
            ("n_ff = 256", "n_ff = 256\nn_what = 1"),
            ("\"tfidf\"", "\"astrology\""),
        ] {
            assert!(EXAMPLE.contains(from), "{from}");
            assert!(parse(&EXAMPLE.replace(from, to)).is_err(), "{from} -> {to}");
        }
    }
}
