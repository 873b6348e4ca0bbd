//! In-context learning: which continuation of an example a model finds most probable (X-ELM paper, appendix
//! A.2).
//!
//! `read.rs` reads the tests' files, `prompt.rs` makes tokens of examples, `score.rs` scores candidates, `cells.rs`
//! does so for the models of `subjects.rs` and keeps what is done, `table.rs` adds up.

mod cells;
mod prompt;
mod read;
mod score;
mod subjects;
mod table;

pub use read::{Examples, read_examples};
pub use subjects::Subjects;
pub use table::{Accuracy, IclTable, evaluate_icl};

use serde::Serialize;
use std::path::PathBuf;
use xelm_runtime::router::RouteOptions;

/// A test that multilingual models are measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Does the second sentence follow from the first, or contradict it? (Conneau et al., EMNLP 2018)
    Xnli,
    /// Which of two sentences ends a story? (Lin et al., EMNLP 2022)
    XStoryCloze,
    /// Do two sentences say the same? (Yang et al., EMNLP 2019)
    PawsX,
}

impl Task {
    /// The name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Task::Xnli => "xnli",
            Task::XStoryCloze => "xstorycloze",
            Task::PawsX => "pawsx",
        }
    }
}

/// What a candidate's score is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalise {
    /// The mean negative log likelihood of its tokens, as in the paper.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

/// What stands between demonstrations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Newline {
    /// What the tokenizer makes of a newline, which is a space, as in the paper.
    #[default]
    Space,
    /// `</s>`.
    Eos,
}

/// What of several experts is mixed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mix {
    /// Their probabilities, as the paper says.
    #[default]
    Probabilities,
    /// Their logits, as its program does.
    Logits,
}

/// How examples become scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Scoring {
    /// A candidate's score.
    pub normalise: Normalise,
    /// Between demonstrations.
    pub newline: Newline,
    /// Of mixtures.
    pub mix: Mix,
}

/// What is measured, on what.
#[derive(Clone, Debug)]
pub struct IclSettings {
    /// The test.
    pub task: Task,
    /// Files with the examples.
    pub data: Vec<PathBuf>,
    /// Files with English demonstrations; needed where `shots` is not 0.
    pub demonstrations: Vec<PathBuf>,
    /// Languages; empty for all that the files have.
    pub languages: Vec<String>,
    /// Demonstrations before each example.
    pub shots: usize,
    /// Draws of demonstrations over which accuracies are averaged; without demonstrations there is one run.
    pub runs: usize,
    /// Examples of a language at most.
    pub max_examples: usize,
    /// How examples become scores.
    pub scoring: Scoring,
    /// Mixtures of the set's experts: how many take part, 0 for all.
    pub ensembles: Vec<usize>,
    /// How mixtures weigh their experts.
    pub route: RouteOptions,
    /// File for every example's scores.
    pub examples: Option<PathBuf>,
}

/// An example: its texts, and which candidate is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The line of its file, from 1.
    pub line: usize,
    /// What stands before every candidate, without a space at its end.
    pub shared: String,
    /// The candidates.
    pub candidates: Vec<String>,
    /// The right one.
    pub gold: usize,
    /// What mixtures weigh their experts by.
    pub routing: String,
}

impl Example {
    /// The example as a demonstration.
    fn solved(&self) -> String {
        format!("{} {}", self.shared, self.candidates[self.gold])
    }
}
