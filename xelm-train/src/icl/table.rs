//! Accuracies of models by language.

use super::cells::{Cell, Entry, measure};
use super::read::read_examples;
use super::subjects::{DEMONSTRATIONS, Opened, Subjects};
use super::{Example, IclSettings, Scoring, Task};
use crate::report::Report;
use crate::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use xelm_runtime::rng::Rng;

/// Seed of the examples' order; demonstrations of run r are drawn with this and r. The numbers are the
/// paper's, the generator is not: it takes other examples from the same data.
const SEED: u64 = 42;

/// How often a model is right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Accuracy {
    /// Share of examples whose right candidate has the lowest score, the mean of all runs.
    pub accuracy: f64,
    /// Examples.
    pub examples: usize,
    /// √(p (1 − p) / n) of the accuracy p and n examples.
    pub stderr: f64,
    /// Examples, in the mean of all runs, of which something did not fit the context and was left out.
    pub cut: f64,
}

/// Accuracies by language and model.
#[derive(Clone, Debug, Default, Serialize)]
pub struct IclTable {
    /// Language → model → accuracy. Models are the baselines, `expert` (of the language), `expert_en` (of
    /// English), `ensemble_<m>`, or an expert's name.
    pub languages: BTreeMap<String, BTreeMap<String, Accuracy>>,
    /// Unweighted means of the accuracies.
    pub mean: BTreeMap<String, f64>,
    /// Share of the languages in which a model is best; of several that are equal each.
    pub win_rate: BTreeMap<String, f64>,
    /// Language → share of the most frequent answer.
    pub majority: BTreeMap<String, f64>,
    /// Demonstrations before an example.
    pub shots: usize,
    /// Runs that were averaged.
    pub runs: usize,
    /// How candidates were scored.
    pub scoring: Option<Scoring>,
}

impl IclTable {
    /// Fills in the summary.
    fn summarise(mut self) -> IclTable {
        let n = self.languages.len() as f64;
        for row in self.languages.values() {
            let best = row.values().map(|a| a.accuracy).fold(f64::NEG_INFINITY, f64::max);
            for (model, Accuracy { accuracy, .. }) in row {
                *self.mean.entry(model.clone()).or_default() += accuracy / n;
                let win = if *accuracy == best { 1.0 } else { 0.0 };
                *self.win_rate.entry(model.clone()).or_default() += win / n;
            }
        }
        self
    }
}

/// Measures the accuracies of models on a test. With [`IclSettings::examples`] everything is measured, else only
/// what a run's `icl.jsonl` lacks.
///
/// # Errors
/// Data or models cannot be read; there are too few demonstrations.
pub fn evaluate_icl(
    subjects: &Subjects<'_>,
    settings: &IclSettings,
    report: &mut (dyn Report + Send),
) -> Result<IclTable> {
    let IclSettings { task, shots, scoring, .. } = settings;
    let examples = examples(settings, report)?;
    let draws = demonstrations(settings)?;
    let opened = Opened::new(subjects)?;
    let mut cells = Vec::new();
    for (language, examples) in &examples {
        for (name, model) in opened.of(language, settings)? {
            cells.extend(draws.iter().enumerate().map(|(run, demonstrations)| {
                let name = name.clone();
                Cell { name, model, language, examples, run, demonstrations }
            }));
        }
    }
    let entries = measure(subjects, settings, &cells, report)?;

    let n_runs = draws.len();
    let mut table =
        IclTable { shots: *shots, runs: n_runs, scoring: Some(*scoring), ..IclTable::default() };
    for (language, examples) in &examples {
        table.majority.insert(language.clone(), majority(examples));
    }
    for (cells, entries) in cells.chunks(n_runs).zip(entries.chunks(n_runs)) {
        let n = cells[0].examples.len();
        let sum = |of: fn(&Entry) -> usize| entries.iter().map(of).sum::<usize>() as f64;
        let accuracy = sum(|entry| entry.correct) / (n * n_runs) as f64;
        let stderr = (accuracy * (1.0 - accuracy) / n as f64).sqrt();
        let cut = sum(|entry| entry.cut) / n_runs as f64;
        let row = table.languages.entry(cells[0].language.to_owned()).or_default();
        row.insert(cells[0].name.clone(), Accuracy { accuracy, examples: n, stderr, cut });
    }
    let table = table.summarise();
    if let Subjects::Run(run) = subjects {
        save(&run.path("icl.json"), *task, &table)?;
    }
    Ok(table)
}

/// The examples of each language that is wanted, shuffled and no more than wanted.
fn examples(
    settings: &IclSettings,
    report: &mut (dyn Report + Send),
) -> Result<BTreeMap<String, Vec<Example>>> {
    let mut found = read_examples(settings.task, &settings.data)?;
    if found.left_out > 0 {
        report.note(&format!("left out {} rows with an untranslated sentence", found.left_out));
    }
    for language in &settings.languages {
        if !found.languages.contains_key(language) {
            let known: Vec<_> = found.languages.keys().map(String::as_str).collect();
            return Err(Error::usage(format!(
                "there are no examples of the language {language:?}; there are some of {}",
                known.join(", ")
            )));
        }
    }
    if !settings.languages.is_empty() {
        found.languages.retain(|language, _| settings.languages.contains(language));
    }
    for examples in found.languages.values_mut() {
        Rng::new(SEED, 0).shuffle(examples);
        examples.truncate(settings.max_examples.max(1));
    }
    Ok(found.languages)
}

/// The demonstrations of each run; without any there is one run.
fn demonstrations(settings: &IclSettings) -> Result<Vec<Vec<String>>> {
    if settings.shots == 0 {
        return Ok(vec![Vec::new()]);
    }
    let mut found = read_examples(settings.task, &settings.demonstrations)?;
    let examples = found.languages.remove(DEMONSTRATIONS).unwrap_or_default();
    if examples.len() < settings.shots {
        return Err(Error::usage(format!(
            "{} demonstrations are wanted, and there are {} English ones",
            settings.shots,
            examples.len()
        )));
    }
    let draw = |run: usize| {
        let mut order: Vec<&Example> = examples.iter().collect();
        Rng::new(SEED + run as u64, 0).shuffle(&mut order);
        order.into_iter().take(settings.shots).map(Example::solved).collect()
    };
    Ok((0..settings.runs.max(1)).map(draw).collect())
}

/// Share of the most frequent answer.
fn majority(examples: &[Example]) -> f64 {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    examples.iter().for_each(|example| *counts.entry(example.gold).or_default() += 1);
    counts.values().max().copied().unwrap_or(0) as f64 / examples.len().max(1) as f64
}

/// Puts a test's table beside those of others.
fn save(path: &Path, task: Task, table: &IclTable) -> Result<()> {
    let fail = |e| Error::usage(format!("{}: {e}; remove the file", path.display()));
    let mut all: BTreeMap<String, serde_json::Value> = match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).map_err(fail)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
        Err(e) => return Err(Error::io("read", path)(e)),
    };
    let name = format!("{}-{}", task.name(), table.shots);
    all.insert(name, serde_json::to_value(table).map_err(fail)?);
    crate::job::write_json(path, &all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_win_for_both() {
        let row = |accuracies: [f64; 3]| {
            let of = |accuracy| Accuracy { accuracy, ..Accuracy::default() };
            ["a", "b", "c"].into_iter().map(String::from).zip(accuracies.map(of)).collect()
        };
        let mut table = IclTable::default();
        table.languages.insert("de".into(), row([0.5, 0.5, 0.25]));
        table.languages.insert("en".into(), row([0.5, 0.75, 0.25]));
        let table = table.summarise();
        assert_eq!(table.win_rate["a"], 0.5);
        assert_eq!(table.win_rate["b"], 1.0);
        assert_eq!(table.win_rate["c"], 0.0);
        assert_eq!(table.mean["a"], 0.5);
        assert_eq!(table.mean["b"], 0.625);
    }

    #[test]
    fn the_majority_is_counted() {
        let example = |gold| Example {
            line: 1,
            shared: String::new(),
            candidates: Vec::new(),
            gold,
            routing: String::new(),
        };
        assert_eq!(majority(&[2, 0, 2, 1].map(example)), 0.5);
        assert_eq!(majority(&[]), 0.0);
    }
}
