//! What a page is about: arms of an experiment, each trained once or with several seeds of randomness, and
//! the numbers of their evaluations side by side.

use super::read::{RunData, json};
use crate::run::{DENSE, LAPT, RANDOM, SEED};
use crate::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What makes the clusters of an arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Typology,
    Tfidf,
    Random,
    #[default]
    #[serde(other)]
    Other,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Kind::Typology => "typology",
            Kind::Tfidf => "TF-IDF",
            Kind::Random => "random split",
            Kind::Other => "experts",
        }
    }
}

/// `experiment.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Experiment {
    title: String,
    command: Value,
    machine: Value,
    date: Value,
    config: Value,
    seeds: Vec<SeedArms>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SeedArms {
    seed: Option<u64>,
    arms: Vec<ArmEntry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ArmEntry {
    name: String,
    kind: Kind,
    k: usize,
    run: PathBuf,
}

/// One way to make experts.
#[derive(Debug)]
pub(super) struct Arm {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) k: usize,
    /// By seed of randomness.
    pub(super) runs: Vec<(Option<u64>, RunData)>,
}

/// All that a page shows.
#[derive(Debug, Default)]
pub(super) struct Study {
    pub(super) title: String,
    /// What was said of the whole, as terms and text.
    pub(super) facts: Vec<(String, String)>,
    pub(super) config: Value,
    pub(super) arms: Vec<Arm>,
    pub(super) problems: Vec<String>,
}

/// A column of a table of results.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) label: String,
    /// The arm it belongs to; none for the models that all arms share.
    pub(super) arm: Option<usize>,
    /// Its name in `eval.json`.
    pub(super) name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    Bpb,
    Ppl,
}

/// A number by its values under several seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stat {
    pub(super) mean: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) n: usize,
}

impl Stat {
    pub(super) fn of(values: &[f64]) -> Option<Stat> {
        let fold = |f: fn(f64, f64) -> f64| values.iter().copied().reduce(f);
        let (min, max, sum) = (fold(f64::min)?, fold(f64::max)?, fold(|a, b| a + b)?);
        Some(Stat { mean: sum / values.len() as f64, min, max, n: values.len() })
    }
}

impl Study {
    /// Puts runs side by side.
    ///
    /// # Errors
    /// One of them is no run.
    pub(super) fn of_runs(roots: &[PathBuf]) -> Result<Study> {
        let mut study = Study::default();
        let mut names = Vec::new();
        for root in roots {
            let run = RunData::open(root)?;
            let kind = match run.clusters.first() {
                None => Kind::Other,
                Some(cluster) if cluster.id.starts_with("random-") => Kind::Random,
                Some(cluster) if cluster.documents.is_some() => Kind::Tfidf,
                Some(_) => Kind::Typology,
            };
            names.push(folder_name(root));
            let seed = run.job(SEED).and_then(|job| job.settings.seed);
            study.add(String::new(), kind, run.clusters.len(), seed, run);
        }
        study.title = format!("Expert language models: {}", names.join(", "));
        Ok(study)
    }

    /// Reads an experiment.
    ///
    /// # Errors
    /// There is no `experiment.json`, it cannot be understood, or names something that is no run.
    pub(super) fn of_experiment(folder: &Path) -> Result<Study> {
        let path = folder.join("experiment.json");
        let mut problems = Vec::new();
        let experiment: Experiment = json(&path, &mut problems).ok_or_else(|| {
            Error::usage(problems.pop().unwrap_or_else(|| {
                format!("{} has no experiment.json: give a run with --run", folder.display())
            }))
        })?;
        let title = match experiment.title.as_str() {
            "" => format!("Experiment {}", folder_name(folder)),
            title => title.to_owned(),
        };
        let said = [
            ("date", plain(&experiment.date)),
            ("machine", plain(&experiment.machine)),
            ("command", plain(&experiment.command)),
        ];
        let facts = said.into_iter().filter(|(_, text)| !text.is_empty());
        let mut study = Study {
            title,
            facts: facts.map(|(term, text)| (term.to_owned(), text)).collect(),
            config: experiment.config,
            ..Study::default()
        };
        for SeedArms { seed, arms } in experiment.seeds {
            for arm in arms {
                let run = RunData::open(&folder.join(&arm.run))?;
                study.add(arm.name, arm.kind, arm.k, seed, run);
            }
        }
        Ok(study)
    }

    /// Adds a run to the arm it belongs to: of its name, or else of its kind and size.
    fn add(&mut self, name: String, kind: Kind, k: usize, seed: Option<u64>, run: RunData) {
        self.problems.extend(run.chain().flat_map(|run| run.problems.clone()));
        let mut label = match k {
            _ if !name.is_empty() => name,
            0 => folder_name(&run.root),
            _ => format!("{}, k = {k}", kind.name()),
        };
        let has_seed = |arm: &Arm| arm.runs.iter().any(|(known, _)| *known == seed);
        if self.arms.iter().any(|arm| arm.name == label && has_seed(arm)) {
            label = format!("{label} ({})", folder_name(&run.root));
        }
        match self.arms.iter_mut().find(|arm| arm.name == label) {
            Some(arm) => arm.runs.push((seed, run)),
            None => self.arms.push(Arm { name: label, kind, k, runs: vec![(seed, run)] }),
        }
    }

    /// All runs, arm by arm.
    pub(super) fn runs(&self) -> impl Iterator<Item = &RunData> {
        self.arms.iter().flat_map(|arm| arm.runs.iter().map(|(_, run)| run))
    }

    /// The run of the first arm and seed, for what all have in common.
    pub(super) fn first(&self) -> Option<&RunData> {
        self.runs().next()
    }

    /// Seeds of randomness, in order of appearance.
    pub(super) fn seeds(&self) -> Vec<Option<u64>> {
        let mut seeds = Vec::new();
        for (seed, _) in self.arms.iter().flat_map(|arm| &arm.runs) {
            if !seeds.contains(seed) {
                seeds.push(*seed);
            }
        }
        seeds
    }

    /// The languages that were evaluated, in the runs' order. Those that were added to a run later are not
    /// among them.
    pub(super) fn languages(&self) -> Vec<String> {
        let mut languages: Vec<String> = Vec::new();
        for language in self.runs().flat_map(RunData::evaluated) {
            if !languages.contains(&language) {
                languages.push(language);
            }
        }
        languages
    }

    /// The columns that have numbers: shared models, then each arm's experts and ensembles; of quantised
    /// sets none.
    pub(super) fn columns(&self) -> Vec<Column> {
        let mut columns = Vec::new();
        for name in [SEED, DENSE, RANDOM, LAPT] {
            // The random split of an arm of its own is that arm's.
            let mut others =
                self.arms.iter().filter(|arm| arm.kind != Kind::Random || name != RANDOM);
            if others.any(|arm| arm.runs.iter().any(|(_, run)| run.columns().contains(&name))) {
                columns.push(Column { label: label(name), arm: None, name: name.to_owned() });
            }
        }
        for (i, arm) in self.arms.iter().enumerate() {
            let mut add = |label: String, name: &str| {
                if arm.runs.iter().any(|(_, run)| run.columns().contains(&name)) {
                    columns.push(Column { label, arm: Some(i), name: name.to_owned() });
                }
            };
            let prefix =
                if self.arms.len() > 1 { format!("{}: ", arm.name) } else { String::new() };
            // The control of a run of its own, or of a run with experts.
            if arm.kind == Kind::Random {
                let is_own = arm.runs.iter().any(|(_, run)| run.columns().contains(&"expert"));
                add(arm.name.clone(), if is_own { "expert" } else { RANDOM });
                continue;
            }
            for name in ["expert", "ensemble_1", "ensemble_2", "ensemble_4", "ensemble_all"] {
                add(format!("{prefix}{}", label(name)), name);
            }
        }
        columns
    }

    /// A column's number on a language.
    pub(super) fn value(&self, column: &Column, language: &str, measure: Measure) -> Option<Stat> {
        let languages = [language.to_owned()];
        Stat::of(&self.by_seed(column, |run| mean(run, &languages, &column.name, measure)))
    }

    /// A column's unweighted mean over languages; none where one is missing.
    pub(super) fn mean(
        &self,
        column: &Column,
        languages: &[String],
        measure: Measure,
    ) -> Option<Stat> {
        Stat::of(&self.by_seed(column, |run| mean(run, languages, &column.name, measure)))
    }

    /// Languages in which a column is better than the dense model.
    pub(super) fn wins(&self, column: &Column, languages: &[String]) -> Option<Stat> {
        let wins = |run: &RunData| {
            let better = |language: &String| {
                Some(run.bpb(language, &column.name)? < run.bpb(language, DENSE)?)
            };
            let known: Vec<bool> = languages.iter().filter_map(better).collect();
            (!known.is_empty()).then(|| known.iter().filter(|better| **better).count() as f64)
        };
        Stat::of(&self.by_seed(column, wins))
    }

    /// A number for each seed: of the column's arm, or of the first run that has it.
    fn by_seed(&self, column: &Column, of: impl Fn(&RunData) -> Option<f64>) -> Vec<f64> {
        let arms = match column.arm {
            Some(arm) => &self.arms[arm..=arm],
            None => &self.arms[..],
        };
        let of_seed = |seed| {
            let mut runs = arms.iter().flat_map(|arm| &arm.runs).filter(|(s, _)| *s == seed);
            runs.find_map(|(_, run)| of(run))
        };
        self.seeds().into_iter().filter_map(of_seed).collect()
    }
}

fn mean(run: &RunData, languages: &[String], column: &str, measure: Measure) -> Option<f64> {
    let one = |language: &String| match measure {
        Measure::Bpb => run.bpb(language, column),
        Measure::Ppl => run.ppl(language, column),
    };
    let values: Option<Vec<f64>> = languages.iter().map(one).collect();
    Stat::of(&values?).map(|stat| stat.mean)
}

/// A column's name for people.
pub(super) fn label(column: &str) -> String {
    match column {
        "lapt" => "dense LAPT".to_owned(),
        "expert" => "expert, top-1".to_owned(),
        "ensemble_all" => "ensemble of all".to_owned(),
        other => match other.strip_prefix("ensemble_") {
            Some(m) => format!("ensemble, m = {m}"),
            None => other.to_owned(),
        },
    }
}

/// The place of a column in tables: baselines, experts, their mixtures, others.
pub(super) fn rank(column: &str) -> usize {
    let order = [SEED, DENSE, RANDOM, LAPT, "expert", "ensemble_1", "ensemble_2", "ensemble_4"];
    order.iter().position(|known| *known == column).unwrap_or(order.len())
}

/// A JSON value as a person would write it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| format!("{name} = {}", plain(value));
            fields.iter().map(field).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

fn folder_name(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    absolute.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into())
}
