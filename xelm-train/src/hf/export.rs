//! Writing a folder that `transformers` reads.

use super::{config, json, safetensors, tokenizer};
use crate::weights::Weights;
use crate::{Error, Result};
use std::path::Path;
use xelm_runtime::tokenizer::Tokenizer;

/// Writes weights and their vocabulary as a folder for `XGLMForCausalLM.from_pretrained` and
/// `AutoTokenizer.from_pretrained`: numbers in F32. The weights come last, so that a folder that has them is
/// whole.
///
/// # Errors
/// The vocabulary has another size than the model or is not in XGLM's order, XGLM has no such model, or a
/// file cannot be written.
pub fn export(weights: &dyn Weights, tokenizer: &Tokenizer<'_>, folder: &Path) -> Result<()> {
    let dimensions = weights.config();
    if tokenizer.n_vocab() != dimensions.n_vocab {
        return Err(Error::usage(format!(
            "the vocabulary has {} tokens, the model {}",
            tokenizer.n_vocab(),
            dimensions.n_vocab
        )));
    }
    let description = config::to_json(dimensions)?;
    tokenizer::write(tokenizer, dimensions.n_ctx, folder)?;
    json::write(&folder.join(config::FILE), &description)?;
    safetensors::write(weights, &folder.join(safetensors::FILE))
}
