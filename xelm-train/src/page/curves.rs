//! The course of training.

use super::html::{Section, figure, paragraph};
use super::plots::{Plot, Scale, Series, Style, css_colour};
use super::read::RunData;
use super::study::Study;
use crate::Result;
use crate::job::{LOG, LogLine, read_log};
use crate::run::{DENSE, LAPT, RANDOM, SEED};
use std::path::PathBuf;

/// Points of a curve at most; those between are averaged.
const MAX_POINTS: usize = 60;

/// Losses of all jobs: of the shared models, then arm by arm.
///
/// # Errors
/// As [`Plot::draw`].
pub(super) fn curves(study: &Study) -> Result<Section> {
    let is_shared = |name: &str| [SEED, DENSE, RANDOM, LAPT].contains(&name);
    let mut shared: Vec<(String, PathBuf)> = Vec::new();
    for (name, folder) in study.runs().flat_map(RunData::jobs).filter(|(name, _)| is_shared(name)) {
        if shared.iter().all(|(known, _)| *known != name) {
            shared.push((name, folder));
        }
    }
    let mut figures = drawing("Seed and baselines", &shared)?;
    for arm in &study.arms {
        if let Some((_, run)) = arm.runs.first() {
            let jobs = run.jobs().into_iter().filter(|(name, _)| !is_shared(name));
            figures += &drawing(&format!("Experts, {}", arm.name), &jobs.collect::<Vec<_>>())?;
        }
    }
    let mut body = String::new();
    if !figures.is_empty() {
        body = format!("<div class=\"pair\">\n{figures}</div>\n")
            + &paragraph(
                "Loss in nats per token on what is being trained on, averaged over neighbouring steps; dashed: \
                 on held-out text, where it was taken. Of arms with several seeds the first is shown.",
            );
    }
    Ok(Section::new("curves", "Course of training", body, "no job has logged a step."))
}

fn drawing(title: &str, jobs: &[(String, PathBuf)]) -> Result<String> {
    let mut series = Vec::new();
    let mut legend = Vec::new();
    for (colour, (name, folder)) in jobs.iter().enumerate() {
        let (mut losses, mut valid) = (Vec::new(), Vec::new());
        for line in read_log(&folder.join(LOG)).unwrap_or_default() {
            match line {
                LogLine::Step { step, loss, .. } => losses.push((step as f64, loss)),
                LogLine::Valid { step, valid_loss } => valid.push((step as f64, valid_loss)),
                LogLine::Spike { .. } => {}
            }
        }
        if losses.is_empty() && valid.is_empty() {
            continue;
        }
        legend.push((css_colour(colour), name.clone()));
        series.push(Series { colour, style: Style::Line, points: thinned(&losses) });
        if !valid.is_empty() {
            series.push(Series { colour, style: Style::Dashed, points: valid });
        }
    }
    let plot = Plot {
        about: &format!("loss against steps: {title}"),
        x: "step",
        y: "loss, nats per token",
        scale: Scale::Linear,
        series,
        labels: Vec::new(),
    };
    let drawing = plot.draw()?;
    Ok(if drawing.is_empty() { drawing } else { figure(&drawing, &legend, &format!("{title}.")) })
}

/// Means of runs of neighbouring points.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |part: &[(f64, f64)]| {
        let n = part.len() as f64;
        (part.iter().map(|p| p.0).sum::<f64>() / n, part.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(points.len().div_ceil(MAX_POINTS).max(1)).map(mean).collect()
}
