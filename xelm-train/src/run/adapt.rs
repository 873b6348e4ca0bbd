//! Languages that join a run after its experts were trained: hierarchical multi-round training (X-ELM
//! paper, section 4). Each gets an expert of its own, which branches from that of a related language, the
//! donor, and is trained on both. Nothing that exists changes.

use super::{Branch, Run};
use crate::corpus::Corpus;
use crate::job::write_json;
use crate::report::Report;
use crate::typology::donor;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

const ADAPTED: &str = "adapted.json";

/// An expert for a language that was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapted {
    /// The expert's name: target and donor joined by `-`.
    pub id: String,
    /// What it is trained on: target and donor.
    pub languages: Vec<String>,
    /// The language that it is for.
    pub target: String,
    /// The language that it was found by.
    pub donor: String,
    /// The expert that it branches from.
    pub parent: String,
    /// Branches between the seed and it; an expert that branched from the seed is of round 1.
    pub round: u32,
    /// Languages that were added in the same call: they share the tokens of an update, so that all of
    /// them together see as many as the baseline.
    pub together: usize,
    /// Where the target's text is, if not in the run's corpus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corpus: Option<PathBuf>,
}

/// A language to add, and what the user has decided about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Donor {
    /// The language.
    pub target: String,
    /// The related language; by default the nearest by typology that has an expert.
    pub donor: Option<String>,
    /// The expert to branch from; by default the donor's.
    pub parent: Option<String>,
}

impl Run {
    /// The experts that were added, in the order of their addition.
    ///
    /// # Errors
    /// Their file cannot be read.
    pub fn adapted(&self) -> Result<Vec<Adapted>> {
        let path = self.path(ADAPTED);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        serde_json::from_str(&text).map_err(|e| Error::usage(format!("{}: {e}", path.display())))
    }

    /// Decides donors and parents of languages to add and records them; those that were added before are
    /// found as they are. Returns the experts in the order of `wanted`. `batch` is the number of sequences in
    /// an update of all of them together.
    ///
    /// # Errors
    /// A language has an expert already, is unknown to typology and has no donor named, or has no text; a
    /// donor without expert; an unknown parent; a batch that cannot be divided.
    pub fn plan_adaptation(
        &self,
        wanted: &[Donor],
        corpus: Option<&Path>,
        batch: usize,
        report: &mut dyn Report,
    ) -> Result<Vec<Adapted>> {
        if wanted.is_empty() || !batch.is_multiple_of(wanted.len()) {
            return Err(Error::usage(format!(
                "a batch of {batch} sequences cannot be divided among {} languages",
                wanted.len()
            )));
        }
        // What was never begun may be decided anew.
        let mut all = self.adapted()?;
        all.retain(|a| {
            let is_wanted = wanted.iter().any(|wish| wish.target == a.target);
            !is_wanted || self.job_folder(&a.id).exists()
        });
        let before = all.clone();
        let corpus =
            corpus.map(|path| path.canonicalize().map_err(Error::io("find", path))).transpose()?;
        let mut planned = Vec::new();
        for wish in wanted {
            let expert = match before.iter().find(|old| old.target == wish.target) {
                Some(old) => repeated(old, wish, wanted.len(), corpus.as_ref())?,
                None => self.new_expert(wish, wanted.len(), corpus.clone(), &before, report)?,
            };
            planned.push(expert);
        }
        all.extend(planned.iter().filter(|a| !before.contains(a)).cloned());
        if all != before {
            write_json(&self.path(ADAPTED), &all)?;
        }
        let languages: Vec<String> = planned.iter().flat_map(|a| a.languages.clone()).collect();
        self.tokenize_languages(&languages, report)?;
        Ok(planned)
    }

    fn new_expert(
        &self,
        wish: &Donor,
        together: usize,
        corpus: Option<PathBuf>,
        before: &[Adapted],
        report: &mut dyn Report,
    ) -> Result<Adapted> {
        let target = &wish.target;
        if self.languages().contains(target) {
            return Err(Error::usage(format!("the run's experts speak {target:?} already")));
        }
        let clusters = self.clusters()?;
        let speaks = |language: &str| {
            let added = before.iter().find(|a| a.target == language);
            let cluster = || clusters.iter().find(|c| c.languages.iter().any(|l| l == language));
            added.map(|a| (a.id.clone(), a.round)).or_else(|| cluster().map(|c| (c.id.clone(), 1)))
        };
        let donor = match &wish.donor {
            Some(donor) => donor.clone(),
            None => {
                let known = before.iter().map(|a| &a.target).chain(self.languages());
                let known: Vec<String> = known.cloned().collect();
                let (donor, distance) = self.nearest(target, &known)?;
                report.note(&format!("{target}: the nearest language is {donor} ({distance:.4})"));
                donor
            }
        };
        let of_donor = speaks(&donor).ok_or_else(|| {
            Error::usage(format!("no expert of the run speaks the donor {donor:?} of {target:?}"))
        })?;
        let (parent, round) = match &wish.parent {
            Some(id) => {
                let added = before.iter().find(|a| a.id == *id).map(|a| a.round);
                let round = added.or(clusters.iter().any(|c| c.id == *id).then_some(1));
                let round = round.ok_or_else(|| Error::usage(format!("no expert {id:?}")))?;
                (id.clone(), round)
            }
            None => of_donor,
        };
        // Text that is missing must not be found missing after the language is recorded.
        match &corpus {
            Some(folder) => Corpus::find(folder)?.only(std::slice::from_ref(target))?,
            None => self.corpus_of(std::slice::from_ref(target))?,
        };
        Ok(Adapted {
            id: format!("{target}-{donor}"),
            languages: vec![target.clone(), donor.clone()],
            target: target.clone(),
            donor,
            parent,
            round: round + 1,
            together,
            corpus,
        })
    }

    /// The language among `known` that is nearest to `target` by typology, and its distance.
    fn nearest(&self, target: &str, known: &[String]) -> Result<(String, f64)> {
        let nearest = donor(&self.distances()?, target, known);
        nearest.map(|(donor, distance)| (donor.to_owned(), distance)).ok_or_else(|| {
            Error::usage(format!(
                "no typological features of the language {target:?}: name its donor with --donor \
                 {target}=LANGUAGE, or give its features to `xelm cluster typology --features FILE \
                 --also {target}`"
            ))
        })
    }

    /// What branches to train for these experts, and, where `dense`, their baseline.
    pub fn adaptation_branches(planned: &[Adapted], dense: bool) -> Vec<Branch> {
        let experts = planned.iter().map(|a| Branch::Expert(a.id.clone()));
        experts.chain(dense.then_some(Branch::Lapt)).collect()
    }
}

/// An expert that was begun before, where it is what is wanted now.
fn repeated(
    old: &Adapted,
    wish: &Donor,
    together: usize,
    corpus: Option<&PathBuf>,
) -> Result<Adapted> {
    let same = wish.donor.as_ref().is_none_or(|donor| *donor == old.donor)
        && wish.parent.as_ref().is_none_or(|parent| *parent == old.parent)
        && corpus.is_none_or(|corpus| Some(corpus) == old.corpus.as_ref())
        && together == old.together;
    if same {
        return Ok(old.clone());
    }
    Err(Error::usage(format!(
        "{} was added before as {}, from {}, one of {} languages: repeat that, or begin another run",
        old.target, old.id, old.parent, old.together
    )))
}
