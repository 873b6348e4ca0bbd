//! `xelm import`

use crate::tokenizer::BadInputArg;
use crate::{Result, print_line};
use serde_json::json;
use std::path::PathBuf;
use xelm_train::hf::Folder;
use xelm_train::run::{Branches, Run};
use xelm_train::weights::Weights;

/// Takes over a pretrained XGLM from a folder of Hugging Face's transformers: as an expert file (--out), as the
/// seed of a new run (--run), or both.
///
/// The folder is what save_pretrained leaves and the hub has: config.json of an XGLMForCausalLM,
/// model.safetensors or its parts with model.safetensors.index.json in F32, F16 or BF16, and
/// sentencepiece.bpe.model or tokenizer.json. The weights are read and written in pieces: a model larger than
/// the memory can be imported.
///
/// With --run, everything that branches from a seed follows as usual: `xelm cluster`, `xelm train`, `xelm pack`.
/// Pass `--preset paper` to `xelm train`, since the rates of the other preset are made for small models. The
/// imported seed has no state of Adam; its branches begin with a fresh one.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of the model.
    #[arg(long, value_name = "DIR")]
    hf: PathBuf,
    /// Expert file to write, all numbers in F32; `xelm quantize` makes it smaller.
    #[arg(long, value_name = "FILE", required_unless_present = "run")]
    out: Option<PathBuf>,
    /// Name of the expert in the file; the default is the folder's.
    #[arg(long, value_name = "NAME", requires = "out")]
    id: Option<String>,
    /// Run directory to begin, with the model as its seed.
    #[arg(long, value_name = "DIR", requires = "corpus")]
    run: Option<PathBuf>,
    /// Folder of the run's corpus.
    #[arg(long, value_name = "DIR", requires = "run")]
    corpus: Option<PathBuf>,
    /// Languages of the expert and of the run, separated by commas; a run's default is all of its corpus.
    #[arg(long, value_delimiter = ',', value_name = "TAGS")]
    languages: Vec<String>,
    /// Sequences per update of the dense model; the models that branch take it over.
    #[arg(long, default_value_t = 32, value_name = "N", requires = "run")]
    batch: usize,
    /// Tokens per sequence of the models that branch; the default is the model's context.
    #[arg(long, value_name = "N", requires = "run")]
    n_ctx: Option<usize>,
    #[command(flatten)]
    bad_input: BadInputArg,
    /// Print what was made as JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let folder = Folder::open(&self.hf)?;
        if let Some(out) = &self.out {
            let id = self.id.clone().unwrap_or_else(|| folder.name());
            folder.write_expert(&id, &self.languages, out)?;
        }
        if let (Some(root), Some(corpus)) = (&self.run, &self.corpus) {
            let mut run = Run::create(root, corpus, &self.languages, self.bad_input.into())?;
            run.import_seed(&folder, &Branches { batch: self.batch, n_ctx: self.n_ctx })?;
        }
        let n_params = folder.config().n_params();
        if self.json {
            return print_line(json!({"file": self.out, "run": self.run, "parameters": n_params}));
        }
        for path in self.out.iter().chain(&self.run) {
            let millions = n_params as f64 / 1e6;
            print_line(format_args!("{}\t{millions:.1}M parameters", path.display()))?;
        }
        Ok(())
    }
}
