//! What becomes of the models beyond their own languages: forgetting, adaptation, tasks, small files.

use super::html::{Cell, Section, escape, figure, paragraph, table};
use super::plots::{Plot, Scale, Series, Style, short};
use super::read::{Forgetting, RunData};
use super::results::{REFERENCE, cell};
use super::study::{Arm, Stat, Study, label, rank};
use crate::Result;
use crate::run::{DENSE, LAPT, SET};
use std::fs;
use std::path::Path;

/// A heading for a run where there are several.
fn heading(study: &Study, name: &str) -> String {
    if study.arms.len() > 1 { format!("<h3>{}</h3>\n", escape(name)) } else { String::new() }
}

/// The first run of every arm, and its name.
fn first_runs(study: &Study) -> impl Iterator<Item = (&str, &RunData)> {
    study.arms.iter().filter_map(|arm| Some((arm.name.as_str(), &arm.runs.first()?.1)))
}

/// Every expert on every language, against the seed.
pub(super) fn forgetting(study: &Study) -> Section {
    let mut body = String::new();
    for (name, run) in first_runs(study) {
        if let Some(forgetting) = run.chain().find_map(|run| run.forgetting.as_ref()) {
            let map = heat_map(forgetting, run.languages());
            if !map.is_empty() {
                body += &(heading(study, name) + &map);
            }
        }
    }
    if !body.is_empty() {
        body += &paragraph(
            "Change of bits per byte against the seed in per cent: blue is better, red is worse than \
             before; an expert's own languages are framed. Of arms with several seeds the first is shown.",
        );
    }
    let without = "no forgetting.json: `xelm eval forgetting` makes it.";
    Section::new("forgetting", "Forgetting", body, without)
}

/// In `order`, then other languages.
fn heat_map(forgetting: &Forgetting, order: &[String]) -> String {
    let Forgetting { models, own, scores, .. } = forgetting;
    let mut languages = forgetting.languages.clone();
    languages.sort_by_key(|l| order.iter().position(|known| known == l).unwrap_or(usize::MAX));
    let bpb = |model: &str, language: &str| scores.get(model)?.get(language)?.bpb;
    let mut rows = Vec::new();
    for model in models.iter().filter(|model| *model != REFERENCE) {
        let mut row = vec![Cell::text(model)];
        for language in &languages {
            let (Some(seed), Some(now)) = (bpb(REFERENCE, language), bpb(model, language)) else {
                row.push(Cell::none());
                continue;
            };
            let change = 100.0 * (now / seed - 1.0);
            let is_own = own.get(model).is_some_and(|own| own.contains(language));
            let cell = Cell::number(format!("{change:+.1}")).tint(change / 20.0);
            row.push(if is_own { cell.class("own") } else { cell });
        }
        rows.push(row);
    }
    if rows.is_empty() || languages.is_empty() {
        return String::new();
    }
    let mut head = vec![String::new()];
    head.extend(languages.iter().cloned());
    let percent = |x: Option<f64>| x.map_or("–".to_owned(), |x| format!("{:.1} %", 100.0 * x));
    table(&head, &rows, 0)
        + &paragraph(&format!(
            "{} of all cells are worse than the seed, {} of those \
             outside the experts' own languages.",
            percent(forgetting.share_worse),
            percent(forgetting.share_worse_off_language)
        ))
}

/// New languages: experts adapted from a donor against the adapted dense model.
pub(super) fn adaptation(study: &Study) -> Section {
    let mut body = String::new();
    let columns = [REFERENCE, DENSE, LAPT, "expert"];
    for arm in &study.arms {
        let Some((_, run)) = arm.runs.first().filter(|(_, run)| !run.adapted.is_empty()) else {
            continue;
        };
        body += &heading(study, &arm.name);
        let mut rows = Vec::new();
        for adapted in &run.adapted {
            let stats = columns.map(|column| over_seeds(arm, &adapted.target, column));
            let adapted_means = stats[2..].iter().flatten().map(|stat| stat.mean);
            let best = adapted_means.fold(f64::INFINITY, f64::min);
            let from = format!("{}, of {}", adapted.donor, adapted.parent);
            let round = Cell::number(adapted.round.to_string());
            let mut row = vec![Cell::text(&adapted.target), Cell::text(&from), round];
            row.extend(stats.iter().enumerate().map(|(i, stat)| match stat {
                Some(s) if i >= 2 && s.mean <= best => cell(*stat, 3).class("best"),
                _ => cell(*stat, 3),
            }));
            row.push(Cell::text(&format!("{} ({})", adapted.id, adapted.languages.join(", "))));
            rows.push(row);
        }
        let head = [
            "new language",
            "donor, parent",
            "round",
            "seed",
            "dense",
            "dense LAPT",
            "adapted expert",
            "its id",
        ];
        body += &table(&head.map(str::to_owned), &rows, 0);
        body += &old_languages(arm, run);
    }
    if !body.is_empty() {
        body += &paragraph(
            "Bits per byte. An adapted expert begins as the expert of its donor, the typologically nearest \
             language; dense LAPT is the dense model trained on with all new languages. Parents stay as they \
             are.",
        );
    }
    Section::new("adaptation", "New languages", body, "no adapted.json: `xelm adapt` begins it.")
}

/// Bits per byte of a column on a language under all seeds of an arm.
fn over_seeds(arm: &Arm, language: &str, column: &str) -> Option<Stat> {
    let values: Vec<f64> =
        arm.runs.iter().filter_map(|(_, run)| run.bpb(language, column)).collect();
    Stat::of(&values)
}

/// What adaptation did to the languages that were there before.
fn old_languages(arm: &Arm, run: &RunData) -> String {
    let mut rows = Vec::new();
    for language in run.evaluated() {
        let of = |column| over_seeds(arm, &language, column);
        let (before, after) = (of(DENSE), of(LAPT));
        let (Some(dense), Some(lapt)) = (before, after) else { continue };
        let change = 100.0 * (lapt.mean / dense.mean - 1.0);
        rows.push(vec![
            Cell::text(&language),
            cell(before, 3),
            cell(after, 3),
            Cell::number(format!("{change:+.1} %")).tint(change / 20.0),
            cell(of("expert"), 3),
        ]);
    }
    if rows.is_empty() {
        return String::new();
    }
    let head = ["old language", "dense", "dense LAPT", "change", "expert of the set"];
    table(&head.map(str::to_owned), &rows, 0)
}

/// Accuracy on tasks.
pub(super) fn tasks(study: &Study) -> Section {
    let mut body = String::new();
    for (name, run) in first_runs(study) {
        let icl = run.chain().map(|run| &run.icl).find(|icl| !icl.is_empty());
        for (task, results) in icl.into_iter().flatten() {
            let mut models: Vec<&String> = results.mean.keys().collect();
            models.extend(results.languages.values().flat_map(|row| row.keys()));
            models.sort_unstable_by_key(|model| (rank(model), *model));
            models.dedup();
            let percent = |x: Option<f64>| {
                x.map_or_else(Cell::none, |x| Cell::number(format!("{:.1}", 100.0 * x)))
            };
            let mut rows = Vec::new();
            for (language, row) in &results.languages {
                let best =
                    row.values().filter_map(|a| a.accuracy).fold(f64::NEG_INFINITY, f64::max);
                let mut cells = vec![Cell::text(language)];
                cells.extend(models.iter().map(|model| {
                    let Some(found) = row.get(*model) else { return Cell::none() };
                    let error = found.stderr.map(|e| format!("± {:.1}", 100.0 * e));
                    let cell = percent(found.accuracy).with_range(error);
                    if found.accuracy.is_some_and(|a| a >= best) {
                        cell.class("best")
                    } else {
                        cell
                    }
                }));
                cells.push(percent(results.majority.get(language).copied().flatten()));
                let examples = row.values().filter_map(|a| a.examples).reduce(f64::max);
                cells.push(examples.map_or_else(Cell::none, |n| Cell::number(format!("{n}"))));
                rows.push(cells);
            }
            for (what, values) in [("mean", &results.mean), ("win rate", &results.win_rate)] {
                let of = |model: &&String| percent(values.get(*model).copied().flatten());
                let mut cells = vec![Cell::text(what)];
                cells.extend(models.iter().map(of));
                cells.extend([Cell::text(""), Cell::text("")]);
                rows.push(cells);
            }
            let mut head = vec![String::new()];
            head.extend(models.iter().map(|model| label(model)));
            head.extend(["always the same answer", "examples"].map(str::to_owned));
            let several = study.arms.len() > 1;
            let title = if several { format!("{name}: {task}") } else { task.clone() };
            body += &format!("<h3>{}</h3>\n{}", escape(&title), table(&head, &rows, 2));
        }
    }
    if !body.is_empty() {
        body += &paragraph(
            "Accuracy in per cent, with its standard error; the number behind a task's name is that of \
             demonstrations. Of arms with several seeds the first is shown. Win rate: share of the languages in which the model is the best, ties included.",
        );
    }
    Section::new("tasks", "Tasks in context", body, "no icl.json: `xelm eval icl` makes it.")
}

/// Size against quality of the sets.
///
/// # Errors
/// As [`Plot::draw`].
pub(super) fn quantised(study: &Study) -> Result<Section> {
    let mut body = String::new();
    for (name, run) in first_runs(study) {
        let mut sets: Vec<(u64, f64, String)> = Vec::new();
        for column in run.columns().into_iter().filter(|c| c.starts_with("expert")) {
            let kind = column.strip_prefix("expert_");
            let folder = kind.map_or(SET.to_owned(), |kind| format!("{SET}-{kind}"));
            let bytes = run.find(&folder).map(|folder| gguf_bytes(&folder)).filter(|n| *n > 0);
            if let (Some(bytes), Some(bpb)) = (bytes, mean_of(run, column)) {
                sets.push((bytes, bpb, kind.unwrap_or("f32").to_owned()));
            }
        }
        if sets.len() < 2 {
            continue;
        }
        sets.sort_by_key(|(bytes, ..)| std::cmp::Reverse(*bytes));
        let (_, largest, _) = sets[0];
        let row = |(bytes, bpb, kind): &(u64, f64, String)| {
            let change = 100.0 * (bpb / largest - 1.0);
            let (size, bpb) = (short(*bytes as f64), format!("{bpb:.4}"));
            let numbers = [format!("{size}B"), bpb, format!("{change:+.3} %")];
            std::iter::once(Cell::text(kind)).chain(numbers.map(Cell::number)).collect()
        };
        let rows: Vec<Vec<Cell>> = sets.iter().map(row).collect();
        let head = ["weights", "size of the set", "mean bits per byte", "change"];
        body += &(heading(study, name) + &table(&head.map(str::to_owned), &rows, 0));
        let points = sets.iter().map(|(bytes, bpb, _)| (*bytes as f64, *bpb)).collect();
        let label = |(bytes, bpb, kind): (u64, f64, String)| (bytes as f64, bpb, kind);
        let plot = Plot {
            about: "mean bits per byte against the size of the set",
            x: "bytes of all files of the set",
            y: "mean bits per byte",
            scale: Scale::Linear,
            series: vec![Series { colour: 0, style: Style::Points, points }],
            labels: sets.into_iter().map(label).collect(),
        };
        body += &figure(&plot.draw()?, &[], "Quality of the set against its size.");
    }
    let without = "fewer than two evaluated sets are at hand.";
    Ok(Section::new("quantised", "Size and quality", body, without))
}

fn mean_of(run: &RunData, column: &str) -> Option<f64> {
    let values: Option<Vec<f64>> = run.evaluated().iter().map(|l| run.bpb(l, column)).collect();
    let values = values.filter(|values| !values.is_empty())?;
    Some(values.iter().sum::<f64>() / values.len() as f64)
}

/// Bytes of the model files in a folder.
fn gguf_bytes(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let models = files.filter(|file| file.path().extension().is_some_and(|e| e == "gguf"));
    models.filter_map(|file| file.metadata().ok()).map(|data| data.len()).sum()
}
