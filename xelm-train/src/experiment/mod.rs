//! A whole experiment: several ways of dividing one corpus, side by side from the same seed model, with the
//! same number of tokens; done again with other seeds of randomness.
//!
//! ```text
//! experiment.json   what was run, for the report
//! seed-<n>/base/    a run: vocabulary, tokens, seed and dense model
//! seed-<n>/<arm>/   runs that derive from it
//! ```
//!
//! Every stage finds what was done before: interrupted and started again, an experiment goes on.

mod config;

pub use config::{Adaptation, Arm, Config, Evaluation, Kind, Training, Vocabulary};

use crate::backend::Backend;
use crate::corpus::BadInput;
use crate::evaluate::{PplSettings, evaluate_forgetting, evaluate_run};
use crate::job::{Cadence, write_json};
use crate::pack::{PackOptions, pack};
use crate::report::Report;
use crate::run::{Branch, Donor, Run, TOKENIZER};
use crate::tfidf;
use crate::vocab::VocabSettings;
use crate::workers::{Task, run_all};
use crate::{Error, Result};
use serde_json::{Value as Json, json};
use std::fs;
use std::path::{Path, PathBuf};

/// The description of an experiment, in its folder.
pub const EXPERIMENT: &str = "experiment.json";

/// Opens a device to train on; every worker has its own.
pub type OpenBackend<'a> = &'a (dyn Fn() -> Result<Box<dyn Backend>> + Sync);
/// Makes a listener; every worker has its own.
pub type Listener<'a> = &'a (dyn Fn() -> Box<dyn Report + Send> + Sync);

/// An experiment in its folder.
#[derive(Debug)]
pub struct Experiment {
    root: PathBuf,
    corpus: PathBuf,
    /// What it consists of.
    pub config: Config,
}

/// The runs of one seed of randomness.
#[derive(Debug)]
pub struct Repetition {
    /// The seed of everything random.
    pub seed: u64,
    /// What the arms derive from.
    pub base: Run,
    /// In the order of the configuration.
    pub arms: Vec<(Arm, Run)>,
}

impl Experiment {
    /// Begins an experiment in `root`, or goes on with one that was begun with the same configuration.
    ///
    /// # Errors
    /// The folder holds another experiment, or cannot be written.
    pub fn create(root: &Path, corpus: &Path, config: Config) -> Result<Experiment> {
        fs::create_dir_all(root).map_err(Error::io("create", root))?;
        let path = root.join("config.json");
        if path.exists() {
            let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
            let begun: Config = serde_json::from_str(&text)
                .map_err(|e| Error::usage(format!("{}: {e}", path.display())))?;
            // What is measured may change; what is trained may not.
            let trained = |config: &Config| Config {
                evaluate: Evaluation::default(),
                title: String::new(),
                ..config.clone()
            };
            if trained(&begun) != trained(&config) {
                return Err(Error::usage(format!(
                    "{} was begun with another configuration: choose another folder",
                    root.display()
                )));
            }
        }
        write_json(&path, &config)?;
        let corpus = corpus.canonicalize().map_err(Error::io("find", corpus))?;
        Ok(Experiment { root: root.to_owned(), corpus, config })
    }

    /// Trains everything that is not trained yet, `jobs` models at once, and packs it.
    ///
    /// # Errors
    /// As the stages'.
    pub fn train(
        &self,
        jobs: usize,
        open: OpenBackend<'_>,
        listener: Listener<'_>,
    ) -> Result<Vec<Repetition>> {
        let report = &mut *listener();
        let mut repetitions = Vec::new();
        for &seed in &self.config.seeds {
            let repetition = self.prepare(seed, open, report)?;
            let train = |branches: Vec<(&Run, Branch)>, steps| {
                let settings = self.config.branch_settings(steps, seed);
                let tasks = branches.iter().map(|(run, branch)| Task { run, branch }).collect();
                run_all(tasks, jobs, listener, &|Task { run, branch }, report| {
                    run.train(branch, settings.clone(), Cadence::default(), &mut *open()?, report)
                })
            };
            train(repetition.branches()?, self.config.train.branch_steps)?;
            if let Some(adapt) = &self.config.adapt {
                train(self.adaptation(adapt, &repetition, report)?, adapt.steps)?;
            }
            for (arm, run) in &repetition.arms {
                let router = arm.ensemble.then(Default::default);
                report.note(&format!("seed {seed}: packing {}", arm.name()));
                pack(run, &PackOptions { router }, report)?;
            }
            repetitions.push(repetition);
        }
        Ok(repetitions)
    }

    /// Vocabulary, tokens, seed model and clusters.
    fn prepare(
        &self,
        seed: u64,
        open: OpenBackend<'_>,
        report: &mut dyn Report,
    ) -> Result<Repetition> {
        let config = &self.config;
        let folder = self.root.join(format!("seed-{seed}"));
        let root = folder.join("base");
        let mut base = Run::create(&root, &self.corpus, &config.languages, BadInput::Stop)?;
        let settings = VocabSettings {
            n_vocab: config.vocabulary.size,
            character_coverage: config.vocabulary.character_coverage,
            ..VocabSettings::default()
        };
        self.share_vocabulary(&root)?;
        let later = config.adapt.as_ref().map_or(&[][..], |adapt| &adapt.languages);
        base.train_vocabulary(&settings, later)?;
        base.tokenize(report)?;
        let cadence = Cadence::default();
        base.pretrain(config.model, config.seed_settings(seed), cadence, &mut *open()?, report)?;
        let mut arms = Vec::new();
        for arm in &config.arms {
            let run = Run::derive(&folder.join(arm.name()), &root)?;
            if run.clusters().is_err() {
                report.note(&format!("seed {seed}: clusters of {}", arm.name()));
                match arm.kind {
                    Kind::Typology => drop(run.cluster_typology(arm.k, report)?),
                    Kind::Random => drop(run.cluster_random(arm.k, seed, report)?),
                    Kind::Tfidf => {
                        let settings = tfidf::Settings { seed, ..Default::default() };
                        drop(tfidf::cluster(&run, arm.k, &settings, report)?);
                    }
                }
            }
            arms.push((*arm, run));
        }
        Ok(Repetition { seed, base, arms })
    }

    /// The vocabulary follows from the corpus alone: all repetitions have the first one's.
    fn share_vocabulary(&self, root: &Path) -> Result<()> {
        let first = self.root.join(format!("seed-{}/base", self.config.seeds[0])).join(TOKENIZER);
        let own = root.join(TOKENIZER);
        if own.exists() || !first.exists() {
            return Ok(());
        }
        let bytes = fs::read(&first).map_err(Error::io("read", &first))?;
        xelm_runtime::format::AtomicFile::write(&own, &bytes).map_err(Error::io("write", &own))
    }

    /// What is trained for added languages.
    fn adaptation<'a>(
        &self,
        adapt: &Adaptation,
        repetition: &'a Repetition,
        report: &mut dyn Report,
    ) -> Result<Vec<(&'a Run, Branch)>> {
        let (_, run) = repetition
            .arms
            .iter()
            .find(|(arm, _)| arm.name() == adapt.arm)
            .ok_or_else(|| Error::usage(format!("no arm {:?}", adapt.arm)))?;
        let target = |target: &String| Donor { target: target.clone(), ..Donor::default() };
        let wanted: Vec<Donor> = adapt.languages.iter().map(target).collect();
        let planned = run.plan_adaptation(&wanted, None, self.config.train.batch, report)?;
        // The baseline takes longest: it begins first.
        let mut branches = Run::adaptation_branches(&planned, true);
        branches.rotate_right(1);
        Ok(branches.into_iter().map(|branch| (run, branch)).collect())
    }

    /// Scores every arm, as far as it is not scored yet.
    ///
    /// # Errors
    /// Missing files, or texts that cannot be read.
    pub fn evaluate(
        &self,
        repetitions: &[Repetition],
        report: &mut (dyn Report + Send),
    ) -> Result<()> {
        let Evaluation { max_documents, ensembles } = &self.config.evaluate;
        for repetition in repetitions {
            for (arm, run) in &repetition.arms {
                report.note(&format!("seed {}: scoring {}", repetition.seed, arm.name()));
                let ensembles = if arm.ensemble { ensembles.clone() } else { Vec::new() };
                let settings =
                    PplSettings { ensembles, max_documents: *max_documents, ..Default::default() };
                evaluate_run(run, &settings, report)?;
                if arm.forgetting {
                    evaluate_forgetting(run, &[], *max_documents, report)?;
                }
            }
        }
        Ok(())
    }

    /// Writes what was run, for the report.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn describe(&self, repetitions: &[Repetition], about: &Json) -> Result<PathBuf> {
        let relative = |run: &Run| -> String {
            let path = run.path("");
            path.strip_prefix(&self.root).unwrap_or(&path).display().to_string()
        };
        let seeds: Vec<Json> = repetitions
            .iter()
            .map(|r| {
                let arms: Vec<Json> = { r.arms.iter() }
                    .map(|(arm, run)| {
                        let (name, run) = (arm.name(), relative(run));
                        json!({"name": name, "kind": arm.kind, "k": arm.k, "run": run})
                    })
                    .collect();
                json!({"seed": r.seed, "base": relative(&r.base), "arms": arms})
            })
            .collect();
        let mut description = json!({
            "title": self.config.title, "config": self.config, "seeds": seeds,
        });
        if let (Json::Object(all), Json::Object(about)) = (&mut description, about) {
            all.extend(about.clone());
        }
        let path = self.root.join(EXPERIMENT);
        write_json(&path, &description)?;
        Ok(path)
    }
}

impl Repetition {
    /// What is trained of all arms.
    fn branches(&self) -> Result<Vec<(&Run, Branch)>> {
        // The dense model takes longest: it begins first.
        let mut branches = vec![(&self.base, Branch::Dense)];
        for (_, run) in &self.arms {
            branches.extend(run.clusters()?.into_iter().map(|c| (run, Branch::Expert(c.id))));
        }
        Ok(branches)
    }
}
