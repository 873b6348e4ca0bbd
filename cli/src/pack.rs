//! `xelm pack`

use crate::{Result, print_line};
use serde_json::json;
use std::path::PathBuf;
use xelm_train::pack::pack;
use xelm_train::run::Run;

/// Packs a run's trained experts into RUN/set: one GGUF file per expert, and set.gguf that says which
/// languages each speaks. Seed and baselines go to RUN/models.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run directory with trained experts.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Print the files as JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let packed = pack(&Run::open(&self.run)?)?;
        if self.json {
            let files: Vec<_> = packed
                .files
                .iter()
                .map(|(path, size)| json!({"file": path, "bytes": size}))
                .collect();
            return print_line(json!({"set": packed.folder, "files": files}));
        }
        for (path, size) in packed.files {
            print_line(format_args!("{}\t{size} bytes", path.display()))?;
        }
        Ok(())
    }
}
