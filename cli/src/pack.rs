//! `xelm pack`

use crate::card::WordsArgs;
use crate::progress::Progress;
use crate::{Result, print_line};
use serde_json::{Value, json};
use std::path::PathBuf;
use xelm_train::pack::{PackOptions, pack};
use xelm_train::run::Run;
use xelm_train::tfidf::{Agreement, DeviceSize, SetRouter, Settings};

/// Packs a run's trained experts into RUN/set: one GGUF file per expert, and set.gguf that says which
/// languages each speaks. Seed and baselines go to RUN/models.
///
/// With the run's corpus at hand, set.gguf also gets a router, which chooses experts by the words of a text:
/// the clusters' own where documents were clustered, otherwise one that is fitted here. In full it is
/// RUN/router.gguf; the set's has fewer words, one byte per number.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run directory with trained experts.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Words of the set's router at most.
    #[arg(long, default_value_t = DeviceSize::default().max_terms, value_name = "N")]
    router_terms: usize,
    /// Bytes of the set's router at most.
    #[arg(long, default_value_t = DeviceSize::default().max_bytes, value_name = "N")]
    router_bytes: usize,
    #[command(flatten)]
    words: WordsArgs,
    /// Print the files as JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let size = DeviceSize { max_terms: self.router_terms, max_bytes: self.router_bytes };
        let options = PackOptions { router: Some((size, Settings::default())) };
        let run = Run::open(&self.run)?;
        self.words.words().record(&run)?;
        let packed = pack(&run, &options, &mut Progress::new())?;
        if self.json {
            let files: Vec<_> = packed
                .files
                .iter()
                .map(|(path, size)| json!({"file": path, "bytes": size}))
                .collect();
            let router = packed.router.as_ref().map(router_json);
            return print_line(json!({"set": packed.folder, "files": files, "router": router}));
        }
        for (path, size) in packed.files {
            print_line(format_args!("{}\t{size} bytes", path.display()))?;
        }
        packed.router.as_ref().map_or(Ok(()), |router| print_line(router_line(router)))
    }
}

fn router_json(router: &SetRouter) -> Value {
    let mut object = json!({
        "terms": router.n_terms,
        "full_terms": router.n_full_terms,
        "bytes": router.tensors.n_bytes(),
    });
    if let Some(Agreement { documents, same, own_language }) = router.held_out {
        object["held_out"] =
            json!({"documents": documents, "same": same, "own_language": own_language});
    }
    object
}

/// What the set's router is, and how it does on held-out documents.
pub(crate) fn router_line(router: &SetRouter) -> String {
    let SetRouter { tensors, n_terms, n_full_terms, held_out } = router;
    let mut line =
        format!("router: {n_terms} of {n_full_terms} words, {} bytes", tensors.n_bytes());
    if let Some(Agreement { documents, same, own_language }) = *held_out {
        let percent = |n: usize| 100.0 * n as f64 / documents.max(1) as f64;
        line += &format!(
            "; of {documents} held-out documents {:.1} % go where the full router sends them, {:.1} % to \
             the expert of their language",
            percent(same),
            percent(own_language)
        );
    }
    line
}
