//! A page about runs or an experiment: one HTML file that needs nothing else, no network and no scripts.

mod curves;
mod groups;
mod head;
mod html;
mod models;
mod plots;
mod read;
mod results;
mod study;

use crate::{Error, Result};
use std::path::{Path, PathBuf};
use study::Study;
use xelm_runtime::format::AtomicFile;

/// What a page is about.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Run directories, side by side.
    Runs(Vec<PathBuf>),
    /// A folder with `experiment.json`.
    Experiment(PathBuf),
}

/// The page as HTML. What has no data is named in a line. `command` says how the page was made.
///
/// # Errors
/// The subject is no run or experiment.
pub fn page(subject: &Subject, command: &str) -> Result<String> {
    let study = match subject {
        Subject::Runs(roots) => Study::of_runs(roots)?,
        Subject::Experiment(folder) => Study::of_experiment(folder)?,
    };
    let sections = [
        results::languages(&study),
        results::arms(&study)?,
        results::sizes(&study)?,
        groups::shares(&study),
        results::mixing(&study),
        models::forgetting(&study),
        models::adaptation(&study),
        models::tasks(&study),
        models::quantised(&study)?,
        head::training(&study),
        curves::curves(&study)?,
        head::protocol(&study),
    ];
    Ok(html::page(&study.title, &head::head(&study, command), &sections))
}

/// Writes the page to a file.
///
/// # Errors
/// As [`page`]; the file cannot be written.
pub fn write_page(subject: &Subject, command: &str, path: &Path) -> Result<()> {
    let text = page(subject, command)?;
    AtomicFile::write(path, text.as_bytes()).map_err(Error::io("write", path))
}

#[cfg(test)]
mod tests;
