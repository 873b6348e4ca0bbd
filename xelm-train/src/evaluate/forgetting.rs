//! What experts have forgotten: every one of them on every language, beside the seed that it came from.

use super::cells::{Cell, Score, score_cells};
use super::models::{Model, ModelFile, SetModels, baseline_files};
use super::texts::held_out;
use crate::report::Report;
use crate::run::{RANDOM, Run, SEED, SET};
use crate::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;

/// Every model on every language (X-ELM paper, appendix B.3).
#[derive(Clone, Debug, Default, Serialize)]
pub struct Forgetting {
    /// The models: the baselines, then the experts in the set's order.
    pub models: Vec<String>,
    /// The languages.
    pub languages: Vec<String>,
    /// Expert → the languages that it speaks.
    pub own: BTreeMap<String, Vec<String>>,
    /// Model → language → score.
    pub scores: BTreeMap<String, BTreeMap<String, Score>>,
    /// Share of the cells, expert × language, in which the expert is worse than the seed.
    pub share_worse: f64,
    /// The same of languages that the expert does not speak; none where there is no such cell.
    pub share_worse_off_language: Option<f64>,
}

impl Forgetting {
    /// Fills in the shares.
    fn summarise(mut self) -> Forgetting {
        let seed = self.scores.get(SEED);
        let (mut all, mut off) = ((0, 0), (0, 0));
        for (expert, own) in &self.own {
            for (language, score) in self.scores.get(expert).into_iter().flatten() {
                let of_seed = seed.and_then(|row| row.get(language));
                let worse = of_seed.is_some_and(|seed| score.bpb > seed.bpb);
                all = (all.0 + usize::from(worse), all.1 + 1);
                if !own.contains(language) {
                    off = (off.0 + usize::from(worse), off.1 + 1);
                }
            }
        }
        let share = |(worse, all): (usize, usize)| (all > 0).then(|| worse as f64 / all as f64);
        self.share_worse = share(all).unwrap_or(0.0);
        self.share_worse_off_language = share(off);
        self
    }
}

/// Scores the held-out documents of every language under the seed, the baselines and every expert of a run's
/// set. `languages` as in [`super::PplSettings::languages`].
///
/// # Errors
/// The seed or the set is not packed; texts cannot be read.
pub fn evaluate_forgetting(
    run: &Run,
    languages: &[String],
    max_documents: usize,
    report: &mut (dyn Report + Send),
) -> Result<Forgetting> {
    let mut files = Vec::new();
    for (name, path) in baseline_files(run) {
        if name != RANDOM {
            files.push((name, ModelFile::open(&path)?));
        }
    }
    if !files.iter().any(|(name, _)| name == SEED) {
        return Err(Error::usage("the run has no packed seed yet: `xelm pack` makes it"));
    }
    let set = SetModels::open(&run.path(SET))?;
    let members = set.members()?;
    let texts = held_out(run, languages, set.languages()?.into_iter(), max_documents)?;
    let baselines = files.iter().map(|(name, file)| (name, file));
    let models: Vec<(&String, &ModelFile)> =
        baselines.chain(members.iter().map(|(id, _, file)| (id, *file))).collect();
    let mut cells = Vec::new();
    for &(name, file) in &models {
        let of_model = |texts| Cell { name: name.clone(), model: Model::One(file), texts };
        cells.extend(texts.iter().map(of_model));
    }
    let mut found = Forgetting {
        models: models.iter().map(|(name, _)| (*name).clone()).collect(),
        languages: texts.iter().map(|texts| texts.language.clone()).collect(),
        own: members.iter().map(|(id, own, _)| (id.clone(), own.clone())).collect(),
        ..Forgetting::default()
    };
    for (cell, score) in cells.iter().zip(score_cells(run, &cells, report)?) {
        let row = found.scores.entry(cell.name.clone()).or_default();
        row.insert(cell.texts.language.clone(), score);
    }
    let found = found.summarise();
    crate::job::write_json(&run.path("forgetting.json"), &found)?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_count_cells() {
        let row = |bpb: [f64; 3]| {
            let score = |bpb| Score { bpb, ..Score::default() };
            ["ar", "de", "ja"].into_iter().map(String::from).zip(bpb.map(score)).collect()
        };
        let own = |languages: &[&str]| languages.iter().map(|&l| l.to_owned()).collect();
        let mut found = Forgetting::default();
        found.scores.insert(SEED.into(), row([5.0, 5.0, 5.0]));
        found.scores.insert("dense".into(), row([9.0, 9.0, 9.0]));
        found.scores.insert("ar-de".into(), row([4.0, 5.5, 6.0]));
        found.scores.insert("ja".into(), row([5.0, 5.5, 4.0]));
        found.own.insert("ar-de".into(), own(&["ar", "de"]));
        found.own.insert("ja".into(), own(&["ja"]));
        let found = found.summarise();
        // Equal is not worse, and the dense model does not count.
        assert_eq!(found.share_worse, 3.0 / 6.0);
        assert_eq!(found.share_worse_off_language, Some(2.0 / 3.0));
        let mut one = Forgetting::default();
        one.scores.insert(SEED.into(), row([5.0; 3]));
        one.scores.insert("all".into(), row([4.0; 3]));
        one.own.insert("all".into(), own(&["ar", "de", "ja"]));
        let one = one.summarise();
        assert_eq!((one.share_worse, one.share_worse_off_language), (0.0, None));
    }
}
