//! The head of the page: what was run, on what, and how the numbers were taken.

use super::html::{Cell, Section, facts, paragraph, table};
use super::plots::short;
use super::read::RunData;
use super::study::{Study, plain};
use crate::run::{DENSE, LAPT, RANDOM, SEED};
use serde_json::Value;

/// The lines below the title. `command` is how the page was made.
pub(super) fn head(study: &Study, command: &str) -> String {
    let mut lines = study.facts.clone();
    let mut add = |term: &str, what: String| {
        if !what.is_empty() {
            lines.push((term.to_owned(), what));
        }
    };
    if let Some(run) = study.first() {
        let languages = run.languages();
        add("languages", format!("{}: {}", languages.len(), languages.join(", ")));
        add("model", model(run));
    }
    let seeds: Vec<String> = study.seeds().into_iter().flatten().map(|s| s.to_string()).collect();
    add("seeds of randomness", seeds.join(", "));
    // An experiment names its runs by their arms.
    if study.config.is_null() {
        let runs: Vec<String> = study.runs().map(|run| run.root.display().to_string()).collect();
        add("run directories", runs.join(", "));
    }
    add("page made by", command.to_owned());
    let mut out = facts(&lines);
    if let Value::Object(fields) = &study.config {
        let fields: Vec<_> = fields.iter().map(|(name, v)| (name.clone(), plain(v))).collect();
        out += &format!("<details><summary>settings</summary>\n{}</details>\n", facts(&fields));
    }
    if !study.problems.is_empty() {
        let lines: String = study.problems.iter().map(|p| paragraph(p)).collect();
        out +=
            &format!("<div class=\"without\">\n<b>Files that cannot be read</b>\n{lines}</div>\n");
    }
    out
}

fn model(run: &RunData) -> String {
    let Some(model) = run.model() else { return String::new() };
    let config = run.n_vocab().and_then(|n| model.config(n).ok());
    let size = config.map_or_else(String::new, |config| {
        let (n, vocab) = (short(config.n_params() as f64), config.n_vocab);
        format!("{n} parameters, vocabulary of {vocab}, ")
    });
    format!(
        "{size}{} layers of width {}, {} heads, feed-forward {}, context {}",
        model.n_layer, model.n_embd, model.n_head, model.n_ff, model.n_ctx
    )
}

/// How long and on how much each model was trained.
pub(super) fn training(study: &Study) -> Section {
    let mut rows = Vec::new();
    let head =
        ["model", "jobs", "steps", "sequences a step", "context", "peak rate", "tokens in all"];
    let mut row = |name: &str, run: &RunData, jobs: &[String]| {
        let found: Vec<_> = jobs.iter().filter_map(|job| run.job(job)).collect();
        let Some(one) = found.first() else { return };
        let settings = &one.settings;
        let tokens = found.iter().fold(0u64, |sum, job| sum.saturating_add(job.settings.tokens()));
        let number = |n: u64| Cell::number(n.to_string());
        rows.push(vec![
            Cell::text(name),
            number(found.len() as u64),
            number(settings.steps),
            number(settings.batch),
            number(settings.n_ctx),
            Cell::number(format!("{:e}", settings.lr as f32)),
            Cell::number(short(tokens as f64)),
        ]);
    };
    for name in [SEED, DENSE, RANDOM, LAPT] {
        if let Some(run) = study.runs().find(|run| run.job(name).is_some()) {
            row(name, run, &[name.to_owned()]);
        }
    }
    for arm in &study.arms {
        if let Some((_, run)) = arm.runs.first() {
            let ids: Vec<String> = run.clusters.iter().map(|c| c.id.clone()).collect();
            row(&format!("{}: experts", arm.name), run, &ids);
            let ids: Vec<String> = run.adapted.iter().map(|a| a.id.clone()).collect();
            row(&format!("{}: adapted experts", arm.name), run, &ids);
        }
    }
    let mut body = String::new();
    if !rows.is_empty() {
        body = table(&head.map(str::to_owned), &rows, 0)
            + &paragraph("Steps, sequences and rate are those of the first job of each kind.");
    }
    Section::new("training", "Training", body, "no job has begun.")
}

/// How the numbers were taken: the evaluations' protocols, each field with all values that it has.
pub(super) fn protocol(study: &Study) -> Section {
    let mut fields: Vec<(String, Vec<String>)> = Vec::new();
    let mut add = |name: &str, value: &Value| {
        let value = plain(value);
        match fields.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) if values.contains(&value) => {}
            Some((_, values)) => values.push(value),
            None => fields.push((name.to_owned(), vec![value])),
        }
    };
    for run in study.runs().flat_map(RunData::chain) {
        match &run.eval.protocol {
            Value::Null => {}
            Value::Object(protocol) => protocol.iter().for_each(|(name, value)| add(name, value)),
            other => add("protocol", other),
        }
    }
    let lines: Vec<_> = fields.into_iter().map(|(name, all)| (name, all.join("; "))).collect();
    let mut body = String::new();
    if !lines.is_empty() {
        body = facts(&lines)
            + &paragraph(
                "Bits per byte are total nats / ln 2 / UTF-8 bytes of the scored text and can be compared \
                 between vocabularies; perplexity is per token and cannot.",
            );
    }
    Section::new("protocol", "How the numbers were taken", body, "eval.json states no protocol.")
}
