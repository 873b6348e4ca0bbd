//! Tables and plots of perplexity and bits per byte: by language and model, by number of experts, by how
//! many experts are mixed, by how much a language has.

use super::html::{Cell, Section, figure, paragraph, table};
use super::plots::{Plot, Scale, Series, Style, css_colour};
use super::study::{Column, Kind, Measure, Stat, Study};
use crate::Result;
use crate::run::{DENSE, SEED};

/// The cell of a number: its mean, and where its values lie if there are several.
pub(super) fn cell(stat: Option<Stat>, decimals: usize) -> Cell {
    let Some(stat) = stat else { return Cell::none() };
    // Five digits are enough to compare by; perplexities may be large.
    let digits = stat.max.abs().max(1.0).log10() as usize;
    let decimals = decimals.min(4usize.saturating_sub(digits));
    let [mean, min, max] = [stat.mean, stat.min, stat.max].map(|x| format!("{x:.decimals$}"));
    let range = (stat.n > 1 && min != max).then(|| format!("{min}–{max}"));
    Cell::number(mean).with_range(range)
}

/// A row of numbers with the least marked.
fn row(name: &str, stats: &[Option<Stat>], decimals: usize) -> Vec<Cell> {
    let least = stats.iter().flatten().map(|s| s.mean).fold(f64::INFINITY, f64::min);
    let mut cells = vec![Cell::text(name)];
    cells.extend(stats.iter().map(|stat| match stat {
        Some(s) if s.mean <= least && stats.len() > 1 => cell(*stat, decimals).class("best"),
        _ => cell(*stat, decimals),
    }));
    cells
}

/// Perplexity and bits per byte of every language under every model.
pub(super) fn languages(study: &Study) -> Section {
    let languages = study.languages();
    let mut columns = study.columns();
    if study.arms.len() > 1 {
        // Of many arms the best-known way each: by language, and of clusters of documents also all together.
        columns.retain(|column| {
            let of_words = column.arm.is_some_and(|arm| study.arms[arm].kind == Kind::Tfidf);
            let shown = column.name == "expert" || of_words && column.name == "ensemble_all";
            column.arm.is_none() || shown || !column.name.starts_with("ensemble")
        });
    }
    let mut head = vec![String::new()];
    head.extend(columns.iter().map(|column| column.label.clone()));
    let mut body = String::new();
    for (measure, title, decimals) in
        [(Measure::Bpb, "Bits per byte", 3), (Measure::Ppl, "Perplexity per token", 2)]
    {
        let mut rows: Vec<Vec<Cell>> = Vec::new();
        for language in &languages {
            let stats: Vec<_> =
                columns.iter().map(|column| study.value(column, language, measure)).collect();
            if stats.iter().any(Option::is_some) {
                rows.push(row(language, &stats, decimals));
            }
        }
        if rows.is_empty() {
            continue;
        }
        let means: Vec<_> =
            columns.iter().map(|column| study.mean(column, &languages, measure)).collect();
        rows.push(row("mean", &means, decimals));
        let mut summary = 1;
        if measure == Measure::Bpb && columns.iter().any(|c| c.name == DENSE) {
            let wins = |column: &Column| match column.name.as_str() {
                DENSE => Cell::none(),
                _ => wins(study.wins(column, &languages)),
            };
            rows.push(
                std::iter::once(Cell::text("better than dense"))
                    .chain(columns.iter().map(wins))
                    .collect(),
            );
            summary = 2;
        }
        body += &format!("<h3>{title}</h3>\n{}", table(&head, &rows, summary));
    }
    if !body.is_empty() {
        body += &paragraph(&format!(
            "Lower is better; the best of a row is marked. Means are unweighted over {} languages.{}",
            languages.len(),
            if study.seeds().len() > 1 {
                " Below a mean over seeds: its least and greatest value."
            } else {
                ""
            }
        ));
    }
    Section::new(
        "languages",
        "Every language under every model",
        body,
        "no eval.json: `xelm eval ppl` makes it.",
    )
}

fn wins(stat: Option<Stat>) -> Cell {
    cell(stat, usize::from(stat.is_some_and(|stat| stat.mean.fract() != 0.0)))
}

/// The arms beside each other: mean bits per byte, and that against the number of experts.
///
/// # Errors
/// As [`Plot::draw`].
pub(super) fn arms(study: &Study) -> Result<Section> {
    let languages = study.languages();
    let columns = study.columns();
    let dense = columns.iter().find(|c| c.name == DENSE && c.arm.is_none());
    let dense = dense.and_then(|column| study.mean(column, &languages, Measure::Bpb));
    let mut rows = Vec::new();
    for column in &columns {
        let Some(bpb) = study.mean(column, &languages, Measure::Bpb) else { continue };
        let other = column.name != DENSE;
        let gain = dense.filter(|_| other).map(|dense| 100.0 * (1.0 - bpb.mean / dense.mean));
        rows.push(vec![
            Cell::text(&column.label),
            cell(Some(bpb), 4),
            cell(study.mean(column, &languages, Measure::Ppl), 2),
            gain.map_or_else(Cell::none, |gain| Cell::number(format!("{gain:+.2} %"))),
            wins(study.wins(column, &languages).filter(|_| other)),
        ]);
    }
    let mut body = String::new();
    if !rows.is_empty() {
        let head = [
            "",
            "mean bits per byte",
            "mean perplexity",
            "gain over dense",
            "languages better than dense",
        ];
        body = table(&head.map(str::to_owned), &rows, 0) + &by_k(study, &columns, dense)?;
    }
    Ok(Section::new(
        "arms",
        "The arms beside each other",
        body,
        "no eval.json with every language.",
    ))
}

/// Mean bits per byte against the number of experts, where there are several numbers.
fn by_k(study: &Study, columns: &[Column], dense: Option<Stat>) -> Result<String> {
    let languages = study.languages();
    let kinds = [
        (Kind::Typology, "expert", "typology, expert of the language"),
        (Kind::Tfidf, "expert", "TF-IDF, expert of the language"),
        (Kind::Tfidf, "ensemble_all", "TF-IDF, ensemble of all"),
        (Kind::Typology, "ensemble_all", "typology, ensemble of all"),
        (Kind::Random, "expert", "random split"),
    ];
    let mut series = Vec::new();
    let mut legend = Vec::new();
    let mut ks = Vec::new();
    for (colour, (kind, name, label)) in kinds.into_iter().enumerate() {
        let mut points = Vec::new();
        for column in columns.iter().filter(|column| column.name == name) {
            let arm = column.arm.map(|arm| &study.arms[arm]).filter(|a| a.kind == kind && a.k > 0);
            if let (Some(arm), Some(bpb)) = (arm, study.mean(column, &languages, Measure::Bpb)) {
                points.push(((arm.k as f64).log2(), bpb.mean));
            }
        }
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        ks.extend(points.iter().map(|p| p.0));
        if !points.is_empty() {
            series.push(Series { colour, style: Style::Marked, points });
            legend.push((css_colour(colour), label.to_owned()));
        }
    }
    ks.sort_by(f64::total_cmp);
    ks.dedup();
    let (Some(&low), Some(&high)) = (ks.first(), ks.last()) else { return Ok(String::new()) };
    if ks.len() < 2 {
        return Ok(String::new());
    }
    if let Some(dense) = dense {
        let points = vec![(low, dense.mean), (high, dense.mean)];
        series.push(Series { colour: 7, style: Style::Dashed, points });
        legend.push((css_colour(7), "dense".to_owned()));
    }
    let plot = Plot {
        about: "mean bits per byte against the number of experts",
        x: "number of experts k",
        y: "mean bits per byte",
        scale: Scale::Log2,
        series,
        labels: Vec::new(),
    };
    Ok(figure(&plot.draw()?, &legend, "Mean bits per byte against the number of experts."))
}

/// Gain over the dense model against how much a language has to train on.
///
/// # Errors
/// As [`Plot::draw`].
pub(super) fn sizes(study: &Study) -> Result<Section> {
    let columns = study.columns();
    let dense = columns.iter().find(|c| c.name == DENSE && c.arm.is_none());
    let mut series = Vec::new();
    let mut legend = Vec::new();
    let mut labels: Vec<(f64, f64, String)> = Vec::new();
    let experts = columns.iter().filter(|c| c.name == "expert");
    for (colour, column) in experts.enumerate() {
        let mut points = Vec::new();
        for language in study.languages() {
            let tokens = study.runs().find_map(|run| run.tokens(&language)).filter(|n| *n > 0);
            let bpb = |column| study.value(column, &language, Measure::Bpb);
            let (Some(tokens), Some(dense)) = (tokens, dense.and_then(bpb)) else { continue };
            let Some(expert) = bpb(column) else { continue };
            let point = ((tokens as f64).log10(), dense.mean - expert.mean);
            points.push(point);
            match labels.iter_mut().find(|label| label.2 == language) {
                Some(label) if label.1 < point.1 => *label = (point.0, point.1, language),
                Some(_) => {}
                None => labels.push((point.0, point.1, language)),
            }
        }
        if !points.is_empty() {
            series.push(Series { colour, style: Style::Points, points });
            let arm = column.arm.map_or(String::new(), |arm| study.arms[arm].name.clone());
            legend.push((css_colour(colour), arm));
        }
    }
    let plot = Plot {
        about: "gain over the dense model against training tokens of the language",
        x: "training tokens of the language",
        y: "bits per byte below dense",
        scale: Scale::Log10,
        series,
        labels,
    };
    let caption = "Bits per byte that the expert of a language saves over the dense model, against the \
                   language's training tokens (logarithmic). Above 0 the expert is better.";
    let drawing = plot.draw()?;
    let body = if drawing.is_empty() { drawing } else { figure(&drawing, &legend, caption) };
    let without = "needs eval.json with expert and dense, and token shards.";
    Ok(Section::new("sizes", "Gain by size of the language", body, without))
}

/// What mixing several experts brings.
pub(super) fn mixing(study: &Study) -> Section {
    let languages = study.languages();
    let columns = study.columns();
    let mut rows = Vec::new();
    for (i, arm) in study.arms.iter().enumerate() {
        let of = |name: &str| columns.iter().find(|c| c.arm == Some(i) && c.name == name);
        let names = ["expert", "ensemble_1", "ensemble_2", "ensemble_4", "ensemble_all"];
        if names[1..].iter().all(|name| of(name).is_none()) {
            continue;
        }
        for (measure, what, decimals) in
            [(Measure::Bpb, "bits per byte", 4), (Measure::Ppl, "perplexity", 2)]
        {
            let stats = names.map(|name| of(name).and_then(|c| study.mean(c, &languages, measure)));
            if stats.iter().any(Option::is_some) {
                rows.push(row(&format!("{}, {what}", arm.name), &stats, decimals));
            }
        }
    }
    let head = ["", "expert of the language", "m = 1", "m = 2", "m = 4", "m = k"];
    let mut body = String::new();
    if !rows.is_empty() {
        body = table(&head.map(str::to_owned), &rows, 0)
            + &paragraph(
                "Means over the languages. The m experts nearest to the text by the router are mixed by \
                 their probabilities; computing m experts costs m times as much as one.",
            );
    }
    let without = "eval.json has no ensembles.";
    Section::new("mixing", "Mixing several experts", body, without)
}

/// The name of the seed's column, for other parts of the page.
pub(super) const REFERENCE: &str = SEED;
