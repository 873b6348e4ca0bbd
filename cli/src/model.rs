//! Choosing what generates and scores: one expert, or a mixture of a set's experts.

use crate::Result;
use crate::open::{ExpertArgs, match_name, open_expert};
use clap::ValueEnum;
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};
use xelm_runtime::ensemble::{Active, Ensemble};
use xelm_runtime::expert::Expert;
use xelm_runtime::mmap::ExpertFile;
use xelm_runtime::pack::SetFolder;
use xelm_runtime::router::{Power, RouteOptions};
use xelm_runtime::session::{Mixing, Routing};
use xelm_runtime::set::Match;

/// Which model: an expert file, the expert of a set that speaks a language, or a mixture of a set's
/// experts that the text itself chooses.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// Expert file.
    #[arg(long, value_name = "FILE", required_unless_present = "set", conflicts_with = "set")]
    expert: Option<PathBuf>,
    /// Folder of a set. With --lang the expert that speaks the language runs; without it the text
    /// chooses by its words.
    #[arg(long, value_name = "DIR")]
    set: Option<PathBuf>,
    /// Language tag (BCP 47), such as de or zh-Hant-TW.
    #[arg(long, value_name = "TAG", requires = "set")]
    lang: Option<String>,
    /// Mix the M experts of the set that suit the text best; 0 for all that are present.
    #[arg(
        long,
        visible_alias = "top-m",
        value_name = "M",
        requires = "set",
        conflicts_with = "lang"
    )]
    ensemble: Option<usize>,
    /// When the text chooses: at every token, or once from the prompt (a text that is scored: from the
    /// whole of it). The default is token with --ensemble, otherwise prompt.
    #[arg(long, value_name = "WHEN", conflicts_with = "lang")]
    route: Option<Route>,
    /// Weights fall with exp(−d²ᵖ / T), d being a text's distance to an expert: 1 as the X-ELM paper
    /// prints it, 2 as its program computes it.
    #[arg(long, default_value_t = 1, value_name = "P", value_parser = clap::value_parser!(u8).range(1..=2))]
    route_power: u8,
    /// T of the weights; lower prefers the nearest expert more.
    #[arg(long, default_value_t = 0.1, value_name = "T")]
    route_temperature: f32,
    /// Leave the last token out of a step's weights, as the paper's program does.
    #[arg(long)]
    route_parity: bool,
    /// Bytes for keys and values: experts that no longer fit read the text again when they are needed.
    /// 0 for all.
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    kv_budget: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Route {
    Prompt,
    Token,
}

/// Open files, and how their experts are mixed.
#[derive(Debug)]
pub(crate) struct Model {
    /// By index in the set; one where there is no set.
    files: Vec<Option<ExpertFile>>,
    ids: Vec<String>,
    /// The set, where its router chooses.
    set: Option<SetFolder>,
    /// Language and reason, where a set was asked for a language.
    choice: Option<(String, Match)>,
    pub(crate) mixing: Mixing,
}

impl ModelArgs {
    pub(crate) fn open(&self) -> Result<Model> {
        let power = if self.route_power == 2 { Power::Release } else { Power::Paper };
        let routing = match (self.route, self.ensemble) {
            (Some(Route::Token), _) | (None, Some(_)) => Routing::Token,
            (Some(Route::Prompt), _) | (None, None) => Routing::Prompt,
        };
        let mixing = Mixing {
            top_m: self.ensemble.unwrap_or(1),
            routing,
            route: RouteOptions { power, temperature: self.route_temperature },
            lag: self.route_parity,
            kv_budget: self.kv_budget,
        };
        match &self.set {
            Some(folder) if self.lang.is_none() => open_set(folder, mixing),
            _ => {
                let (expert, set, lang) =
                    (self.expert.clone(), self.set.clone(), self.lang.clone());
                let opened = ExpertArgs { expert, set, lang }.open()?;
                let ids = vec![opened.file.expert().id().to_owned()];
                let files = vec![Some(opened.file)];
                Ok(Model { files, ids, set: None, choice: opened.choice, mixing })
            }
        }
    }
}

/// Opens every expert of a set that is present.
fn open_set(path: &Path, mixing: Mixing) -> Result<Model> {
    let folder = SetFolder::open(path)?;
    let (mut files, mut ids) = (Vec::new(), Vec::new());
    for (i, entry) in folder.set()?.entries().enumerate() {
        let path = folder.expert(i).filter(|path| path.exists());
        files.push(path.map(|path| open_expert(&path)).transpose()?);
        ids.push(entry.id.to_owned());
    }
    Ok(Model { files, ids, set: Some(folder), choice: None, mixing })
}

impl Model {
    /// An expert file, or every expert of a set's folder that is present.
    pub(crate) fn open(path: &Path, mixing: Mixing) -> Result<Model> {
        if path.is_dir() {
            return open_set(path, mixing);
        }
        let file = open_expert(path)?;
        let ids = vec![file.expert().id().to_owned()];
        Ok(Model { files: vec![Some(file)], ids, set: None, choice: None, mixing })
    }

    /// Calls `work` with the experts.
    pub(crate) fn with<T>(&self, work: impl FnOnce(Ensemble<'_>) -> Result<T>) -> Result<T> {
        let experts: Vec<Option<&Expert<'_>>> =
            self.files.iter().map(|file| file.as_ref().map(ExpertFile::expert)).collect();
        let Some(folder) = &self.set else {
            return work(Ensemble::new(&experts, None)?);
        };
        let describe = |e: xelm_runtime::Error| format!("{}: {e}", folder.path().display());
        let router = folder.router()?;
        work(Ensemble::new(&experts, router).map_err(describe)?)
    }

    /// The names and weights of experts, the largest first.
    pub(crate) fn weights(&self, active: &[Active]) -> Vec<(&str, f32)> {
        let name = |a: &Active| self.ids.get(a.expert as usize).map_or("", String::as_str);
        let mut weights: Vec<_> = active.iter().map(|a| (name(a), a.weight)).collect();
        weights.sort_by(|a, b| b.1.total_cmp(&a.1));
        weights
    }

    /// The weights as a JSON object.
    pub(crate) fn weights_json(&self, active: &[Active]) -> Json {
        self.weights(active)
            .into_iter()
            .map(|(id, weight)| (id.to_owned(), json!(weight)))
            .collect()
    }

    /// Language and reason of the choice, for JSON.
    pub(crate) fn choice(&self) -> (Option<&str>, Option<&'static str>) {
        self.choice.as_ref().map(|(language, how)| (language.as_str(), match_name(*how))).unzip()
    }
}
