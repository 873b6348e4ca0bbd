//! `xelm verify`

use crate::{Result, print_line};
use serde_json::json;
use std::path::{Path, PathBuf};
use xelm_runtime::expert::Expert;
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::pack::{Checked, State, verify};

/// Checks a set's folder, or one expert file: sizes and SHA-256 as the set records them, the structure of
/// every file, the tokenizer's tables, and that each expert has the set's vocabulary and width.
///
/// Prints a line per file. Experts that are absent are no fault: a device holds those that it needs. Files
/// that the set does not name are listed too. The exit code is 1 if a file is bad.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Expert file to check.
    #[arg(long, value_name = "FILE", required_unless_present = "set", conflicts_with = "set")]
    expert: Option<PathBuf>,
    /// Folder of the set to check.
    #[arg(long, value_name = "DIR")]
    set: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let files = match (&self.expert, &self.set) {
            (Some(path), _) => vec![verify_expert(path)],
            (None, set) => verify(set.as_deref().unwrap_or(Path::new(".")))?,
        };
        let n_bad = files.iter().filter(|file| is_bad(file.state)).count();
        if self.json {
            let list: Vec<_> = files
                .iter()
                .map(|file| {
                    let (state, why) = describe(file.state);
                    json!({"file": file.file, "state": state, "error": why})
                })
                .collect();
            print_line(json!({"files": list, "bad": n_bad}))?;
        } else {
            for file in &files {
                let (state, why) = describe(file.state);
                let why = why.map_or(String::new(), |why| format!("\t{why}"));
                print_line(format_args!("{}\t{state}{why}", file.file))?;
            }
        }
        match n_bad {
            0 => Ok(()),
            n => Err(format!("{n} of {} files bad", files.len()).into()),
        }
    }
}

fn verify_expert(path: &Path) -> Checked {
    let check = || -> xelm_runtime::Result<()> {
        let file = MappedFile::open(path)?;
        Expert::verify(&file.gguf()?).map(drop)
    };
    Checked {
        file: path.display().to_string(),
        state: check().map_or_else(State::Bad, |()| State::Good),
    }
}

fn is_bad(state: State) -> bool {
    matches!(state, State::Bad(_) | State::Stale)
}

/// The name of a state, and what is wrong.
fn describe(state: State) -> (&'static str, Option<String>) {
    match state {
        State::Good => ("good", None),
        State::Absent => ("absent", None),
        State::Unlisted => ("unlisted", None),
        State::Stale => {
            ("stale", Some("not that of set.gguf: `xelm set manifest` writes it anew".into()))
        }
        State::Bad(error) => ("bad", Some(error.to_string())),
    }
}
