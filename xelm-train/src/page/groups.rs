//! What the experts' clusters are made of.

use super::html::{Section, escape, paragraph};
use super::plots::short;
use super::read::RunData;
use super::study::Study;
use crate::assignment::Assignment;
use crate::run::ASSIGNMENT;

/// Shares of the languages in each cluster, as stacked bars.
pub(super) fn shares(study: &Study) -> Section {
    let mut body = String::new();
    // A language has the same colour in all arms.
    let order = study.first().map_or(&[][..], RunData::languages);
    for arm in &study.arms {
        let Some((_, run)) = arm.runs.first() else { continue };
        let Some(Parts { unit, languages, sizes }) = parts(run) else { continue };
        body += &format!("<h3>{} ({unit})</h3>\n<div class=\"bars\">\n", escape(&arm.name));
        for (cluster, parts) in run.clusters.iter().zip(&sizes) {
            body += &bar(&cluster.id, &languages, parts, order);
        }
        body += "</div>\n";
    }
    if !body.is_empty() {
        body += &paragraph(
            "Each bar is one cluster; its parts are the languages' shares of what its expert is trained on, \
             and the number is the whole. Of arms with several seeds the first is shown.",
        );
    }
    Section::new("clusters", "Languages of the clusters", body, "no clusters with known sizes.")
}

/// What the clusters of a run consist of.
struct Parts {
    /// What is counted.
    unit: &'static str,
    languages: Vec<String>,
    /// By cluster, then by language.
    sizes: Vec<Vec<u64>>,
}

fn parts(run: &RunData) -> Option<Parts> {
    let clusters = &run.clusters;
    if clusters.iter().any(|c| c.documents.is_some()) {
        let path = run.find(ASSIGNMENT)?;
        let assignment = Assignment::open(&path, clusters.len()).ok()?;
        let languages = assignment.languages.keys().cloned().collect();
        let sizes: Vec<Vec<usize>> =
            assignment.languages.values().map(|l| l.sizes(clusters.len())).collect();
        let of = |cluster: usize| sizes.iter().map(|sizes| sizes[cluster] as u64).collect();
        let sizes = (0..clusters.len()).map(of).collect();
        return Some(Parts { unit: "documents", languages, sizes });
    }
    let languages: Vec<String> = clusters.iter().flat_map(|c| c.languages.clone()).collect();
    let tokens: Option<Vec<u64>> = languages.iter().map(|l| run.tokens(l)).collect();
    let tokens = tokens.filter(|tokens| !tokens.is_empty())?;
    let table = clusters.iter().map(|cluster| {
        let of = |(language, n): (&String, &u64)| {
            if cluster.languages.contains(language) { *n } else { 0 }
        };
        languages.iter().zip(&tokens).map(of).collect()
    });
    let sizes = table.collect();
    Some(Parts { unit: "tokens", languages, sizes })
}

fn bar(id: &str, languages: &[String], parts: &[u64], order: &[String]) -> String {
    let all: u64 = parts.iter().sum();
    let mut out =
        format!("<b>{} <small>{}</small></b><div class=\"bar\">", escape(id), short(all as f64));
    for (i, (language, &part)) in languages.iter().zip(parts).enumerate() {
        if part == 0 {
            continue;
        }
        let percent = 100.0 * part as f64 / all as f64;
        // Neighbours in the list are far apart in hue; white is readable on all of them.
        let place = order.iter().position(|known| known == language).unwrap_or(i);
        let hue = (place * 137 + 210) % 360;
        let name = if percent >= 5.0 { escape(language) } else { String::new() };
        out += &format!(
            "<span style=\"width:{percent:.2}%;background:hsl({hue} 50% 36%)\" title=\"{} {percent:.1} %\">{name}</span>",
            escape(language)
        );
    }
    out + "</div>\n"
}
