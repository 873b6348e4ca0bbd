//! `xelm export`

use crate::open::map;
use crate::{Result, print_line};
use std::path::{Path, PathBuf};
use xelm_runtime::quant::DType;
use xelm_runtime::tokenizer::{Tokenizer, hex};
use xelm_train::checkpoint::Checkpoint;
use xelm_train::hf;
use xelm_train::run::TOKENIZER;
use xelm_train::weights::ExpertWeights;

/// Writes a model as a folder for Hugging Face's transformers: XGLMForCausalLM.from_pretrained and
/// AutoTokenizer.from_pretrained read it.
///
/// The numbers are F32. From a checkpoint they are exact. An expert file has XGLM's input scale folded in:
/// undoing that rounds the embedding and the last norm, unless the width is a power of 4. What was quantised
/// stays as coarse as it was. The folder also has sentencepiece.bpe.model. Note that transformers takes special
/// tokens inside a text, such as </s>, as tokens; to xelm and to SentencePiece they are text.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder to write.
    #[arg(long, value_name = "DIR")]
    hf: PathBuf,
    /// Expert file.
    #[arg(long, value_name = "FILE", required_unless_present = "checkpoint")]
    expert: Option<PathBuf>,
    /// Checkpoint of a training job.
    #[arg(long, value_name = "FILE", conflicts_with = "expert")]
    checkpoint: Option<PathBuf>,
    /// Vocabulary of the checkpoint; the default is that of the run in which the checkpoint is.
    #[arg(long, value_name = "FILE", requires = "checkpoint")]
    vocab: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        match (&self.checkpoint, &self.expert) {
            (Some(path), _) => self.checkpoint(path)?,
            (None, Some(path)) => self.expert(path)?,
            (None, None) => {}
        }
        print_line(self.hf.display())
    }

    fn checkpoint(&self, path: &Path) -> Result<()> {
        let checkpoint = Checkpoint::open(path)?;
        let vocabulary = match &self.vocab {
            Some(path) => path.clone(),
            None => of_run(path).ok_or_else(|| {
                format!("{} is in no run: name its vocabulary with --vocab", path.display())
            })?,
        };
        let file = map(&vocabulary)?;
        let tokenizer = file.gguf().and_then(|gguf| Tokenizer::open(&gguf));
        let tokenizer = tokenizer.map_err(|e| format!("{}: {e}", vocabulary.display()))?;
        if hex(&tokenizer.hash()) != checkpoint.info.vocabulary {
            let (path, vocabulary) = (path.display(), vocabulary.display());
            return Err(
                format!("{path} was trained with another vocabulary than {vocabulary}").into()
            );
        }
        Ok(hf::export(&checkpoint, &tokenizer, &self.hf)?)
    }

    fn expert(&self, path: &Path) -> Result<()> {
        let file = map(path)?;
        let gguf = file.gguf().map_err(|e| format!("{}: {e}", path.display()))?;
        let weights = ExpertWeights::open(&gguf).map_err(|e| format!("{}: {e}", path.display()))?;
        if weights.dtype != DType::F32 {
            let (path, dtype) = (path.display(), weights.dtype.name());
            eprintln!(
                "{path} is quantised ({dtype}): the exported numbers are the dequantised ones"
            );
        }
        let tokenizer = Tokenizer::open(&gguf).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(hf::export(&weights, &tokenizer, &self.hf)?)
    }
}

/// The vocabulary of the run in which a checkpoint is: RUN/seed/, RUN/experts/ID/.
fn of_run(checkpoint: &Path) -> Option<PathBuf> {
    let folder = checkpoint.canonicalize().ok()?;
    let found = folder.ancestors().skip(2).take(2).map(|folder| folder.join(TOKENIZER));
    { found }.find(|path| path.exists())
}
