//! The models whose accuracy is measured.

use super::IclSettings;
use crate::Result;
use crate::evaluate::models::{Model, ModelFile, SetModels, baseline_files};
use crate::run::{RANDOM, Run, SET};
use std::path::Path;
use xelm_runtime::session::{Mixing, Routing};

/// The language of demonstrations.
pub(super) const DEMONSTRATIONS: &str = "en";

/// Whose accuracy is measured.
#[derive(Debug)]
pub enum Subjects<'a> {
    /// A run's seed and baselines, and its set as below. Results are kept in `icl.jsonl` and `icl.json`.
    Run(&'a Run),
    /// The folder of a set: the expert of each language, the expert of English, and mixtures.
    Set(&'a Path),
    /// One expert's file.
    Expert(&'a Path),
}

/// The models, open.
pub(super) struct Opened {
    files: Vec<(String, ModelFile)>,
    set: Option<SetModels>,
}

impl Opened {
    pub(super) fn new(subjects: &Subjects<'_>) -> Result<Opened> {
        let mut files = Vec::new();
        let set = match subjects {
            Subjects::Run(run) => {
                for (name, path) in baseline_files(run) {
                    if name != RANDOM {
                        files.push((name, ModelFile::open(&path)?));
                    }
                }
                Some(SetModels::open(&run.path(SET))?)
            }
            Subjects::Set(folder) => Some(SetModels::open(folder)?),
            Subjects::Expert(path) => {
                let file = ModelFile::open(path)?;
                files.push((file.id().to_owned(), file));
                None
            }
        };
        Ok(Opened { files, set })
    }

    /// The models of a language, by name.
    pub(super) fn of(
        &self,
        language: &str,
        settings: &IclSettings,
    ) -> Result<Vec<(String, Model<'_>)>> {
        let mut models: Vec<(String, Model<'_>)> =
            self.files.iter().map(|(name, file)| (name.clone(), Model::One(file))).collect();
        let Some(set) = &self.set else { return Ok(models) };
        models.push(("expert".to_owned(), Model::One(set.expert(language)?)));
        if let Some(english) = set.speaker(DEMONSTRATIONS)? {
            models.push(("expert_en".to_owned(), Model::One(english)));
        }
        if !settings.ensembles.is_empty() {
            set.check_router()?;
        }
        for &top_m in &settings.ensembles {
            let (routing, route) = (Routing::Prompt, settings.route);
            let mixing = Mixing { top_m, routing, route, ..Mixing::default() };
            let name = if top_m == 0 { "all".to_owned() } else { top_m.to_string() };
            models.push((format!("ensemble_{name}"), Model::Mixture(set, mixing)));
        }
        Ok(models)
    }
}
