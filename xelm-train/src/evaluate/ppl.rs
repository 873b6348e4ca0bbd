//! Perplexity and bits per byte of every model of a run on every language.

use super::cells::{Cell, Score, score_cells};
use super::models::{Model, ModelFile, SetModels, baseline_files, set_folders};
use super::texts::{MAX_DOCUMENTS, held_out};
use crate::report::Report;
use crate::run::{DENSE, Run, SET};
use crate::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use xelm_runtime::router::{Power, RouteOptions};
use xelm_runtime::session::{Mixing, Routing};
use xelm_runtime::set::SET_FILE;

/// What is measured.
#[derive(Clone, Debug)]
pub struct PplSettings {
    /// Languages; empty for the run's and those that its set speaks beyond them.
    pub languages: Vec<String>,
    /// Mixtures of the set's experts: how many of them take part in a step, 0 for all.
    pub ensembles: Vec<usize>,
    /// Documents of a language at most.
    pub max_documents: usize,
    /// How the mixtures weigh their experts.
    pub route: RouteOptions,
}

impl Default for PplSettings {
    fn default() -> Self {
        PplSettings {
            languages: Vec::new(),
            ensembles: Vec::new(),
            max_documents: MAX_DOCUMENTS,
            route: RouteOptions::default(),
        }
    }
}

/// Perplexities and bits per byte by language and model.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Table {
    /// Language → column → bits per byte. Columns are `seed`, `dense`, `random`, `lapt`, `expert`,
    /// `expert_<type>` for quantised sets, and `ensemble_<m>`.
    pub languages: BTreeMap<String, BTreeMap<String, f64>>,
    /// Unweighted means of the bits per byte over the languages.
    pub mean: BTreeMap<String, f64>,
    /// Languages in which the expert is better than the dense model.
    pub wins: usize,
    /// Language → column → the score in full.
    pub scores: BTreeMap<String, BTreeMap<String, Score>>,
    /// Unweighted means of the perplexities over the languages.
    pub mean_ppl: BTreeMap<String, f64>,
    /// How the numbers were measured.
    pub protocol: Protocol,
}

/// How a table's numbers were measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Protocol {
    /// What of a document is scored.
    pub text: &'static str,
    /// Documents of a language at most.
    pub max_documents: usize,
    /// Column → positions after which documents are cut off.
    pub n_ctx: BTreeMap<String, usize>,
    /// Of mixtures: when experts are chosen.
    pub routing: &'static str,
    /// Of mixtures: p in the weights exp(−d²ᵖ / T).
    pub route_power: u8,
    /// Of mixtures: T in the weights.
    pub route_temperature: f32,
}

impl Table {
    fn new(scores: BTreeMap<String, BTreeMap<String, Score>>, protocol: Protocol) -> Table {
        let mut table = Table { protocol, ..Table::default() };
        let n = scores.len() as f64;
        for (language, row) in &scores {
            let bpb: BTreeMap<_, _> = row.iter().map(|(c, s)| (c.clone(), s.bpb)).collect();
            for (column, score) in row {
                *table.mean.entry(column.clone()).or_default() += score.bpb / n;
                *table.mean_ppl.entry(column.clone()).or_default() += score.ppl / n;
            }
            if let (Some(expert), Some(dense)) = (row.get("expert"), row.get(DENSE)) {
                table.wins += usize::from(expert.bpb < dense.bpb);
            }
            table.languages.insert(language.clone(), bpb);
        }
        Table { scores, ..table }
    }
}

/// Scores the held-out documents of every language under every model of a run.
///
/// # Errors
/// Missing files, or texts that cannot be read.
pub fn evaluate_run(
    run: &Run,
    settings: &PplSettings,
    report: &mut (dyn Report + Send),
) -> Result<Table> {
    let mut files = Vec::new();
    for (column, path) in baseline_files(run) {
        files.push((column, ModelFile::open(&path)?));
    }
    let mut sets = Vec::new();
    for (column, folder) in set_folders(run)? {
        sets.push((column, SetModels::open(&folder)?));
    }
    if files.is_empty() && sets.is_empty() {
        return Err(Error::usage("the run has no packed models yet: `xelm pack` makes them"));
    }
    let set = sets.iter().find(|(column, _)| column == "expert").map(|(_, set)| set);
    let mut mixtures = Vec::new();
    for &top_m in &settings.ensembles {
        let set = set.ok_or_else(|| no_set(run))?;
        set.check_router()?;
        let mixing =
            Mixing { top_m, routing: Routing::Token, route: settings.route, ..Mixing::default() };
        let name = if top_m == 0 { "all".to_owned() } else { top_m.to_string() };
        mixtures.push((format!("ensemble_{name}"), Model::Mixture(set, mixing)));
    }
    let speaks = set.map_or(Ok(Vec::new()), SetModels::languages)?;
    let texts = held_out(run, &settings.languages, speaks.into_iter(), settings.max_documents)?;

    let mut cells = Vec::new();
    let mut n_ctx = BTreeMap::new();
    for texts in &texts {
        let mut row: Vec<(&str, Model<'_>)> =
            files.iter().map(|(column, file)| (column.as_str(), Model::One(file))).collect();
        for (column, set) in &sets {
            row.push((column, Model::One(set.expert(&texts.language)?)));
        }
        row.extend(mixtures.iter().map(|(column, model)| (column.as_str(), *model)));
        for (name, model) in row {
            n_ctx.insert(name.to_owned(), model.n_ctx());
            cells.push(Cell { name: name.to_owned(), model, texts });
        }
    }
    let mut scores: BTreeMap<String, BTreeMap<String, Score>> = BTreeMap::new();
    for (cell, score) in cells.iter().zip(score_cells(run, &cells, report)?) {
        scores.entry(cell.texts.language.clone()).or_default().insert(cell.name.clone(), score);
    }
    let protocol = Protocol {
        text: "each document alone: </s>, its tokens, </s>, cut on the right at the context; every \
               token but the first is scored",
        max_documents: settings.max_documents,
        n_ctx,
        routing: "token",
        route_power: if settings.route.power == Power::Release { 2 } else { 1 },
        route_temperature: settings.route.temperature,
    };
    let table = Table::new(scores, protocol);
    crate::job::write_json(&run.path("eval.json"), &table)?;
    Ok(table)
}

fn no_set(run: &Run) -> Error {
    let path = run.path(SET).join(SET_FILE);
    Error::usage(format!("{} is missing: `xelm pack` writes it", path.display()))
}
