//! `config.json`: the dimensions of an XGLM, and everything in which a model may differ from one.

use super::{read_text, wrong};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;
use xelm_runtime::config::{Activation, Config};

/// The file's name.
pub(super) const FILE: &str = "config.json";

/// torch's ε of a layer norm, which XGLM's configurations do not mention.
const NORM_EPS: f32 = 1e-5;

/// The names of `transformers` for what an XGLM computes; `xelm` writes the first of each.
const ACTIVATIONS: [(&str, Activation); 6] = [
    ("gelu", Activation::GeluErf),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_accurate", Activation::GeluTanh),
    ("relu", Activation::Relu),
];

/// What decides an XGLM's computation, with the defaults of `transformers`.
#[derive(Deserialize, Serialize)]
struct Xglm {
    vocab_size: usize,
    max_position_embeddings: usize,
    d_model: usize,
    ffn_dim: usize,
    num_layers: usize,
    attention_heads: usize,
    #[serde(default = "gelu")]
    activation_function: String,
    #[serde(default = "yes")]
    scale_embedding: bool,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
    #[serde(default)]
    add_cross_attention: bool,
}

fn gelu() -> String {
    ACTIVATIONS[0].0.to_owned()
}

fn yes() -> bool {
    true
}

/// Reads a folder's configuration.
///
/// # Errors
/// It cannot be read, or describes something else than an XGLM.
pub(super) fn read(folder: &Path) -> Result<Config> {
    let path = folder.join(FILE);
    parse(&read_text(&path)?).map_err(|what| wrong(&path, what))
}

fn parse(text: &str) -> std::result::Result<Config, String> {
    let json: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    // Another model's file is told by its name before a field is missed.
    let model_type = json["model_type"].as_str().unwrap_or("none");
    let architecture = json["architectures"][0].as_str();
    let is_xglm = architecture.is_none_or(|a| ["XGLMForCausalLM", "XGLMModel"].contains(&a));
    if model_type != "xglm" || !is_xglm {
        return Err(format!(
            "only XGLM can be imported (model_type xglm, architecture XGLMForCausalLM); this is model_type \
             {model_type}, architecture {}",
            architecture.unwrap_or("none")
        ));
    }
    let found: Xglm = serde_json::from_value(json).map_err(|e| e.to_string())?;
    let name = found.activation_function.as_str();
    let activation = ACTIVATIONS.iter().find(|(known, _)| *known == name).map(|(_, a)| *a);
    let activation = activation.ok_or_else(|| {
        let known: Vec<_> = ACTIVATIONS.iter().map(|(name, _)| *name).collect();
        format!("activation_function {name:?} is not known; those that are: {}", known.join(", "))
    })?;
    for (holds, what) in [
        (found.scale_embedding, "scale_embedding must be true"),
        (
            found.tie_word_embeddings,
            "tie_word_embeddings must be true: there is no untied output layer",
        ),
        (!found.add_cross_attention, "add_cross_attention must be false"),
    ] {
        if !holds {
            return Err(what.to_owned());
        }
    }
    let config = Config {
        n_vocab: found.vocab_size,
        n_ctx: found.max_position_embeddings,
        n_embd: found.d_model,
        n_layer: found.num_layers,
        n_head: found.attention_heads,
        n_ff: found.ffn_dim,
        activation,
        norm_eps: NORM_EPS,
    };
    config.validate().map_err(|e| format!("the model's dimensions: {e}"))
}

/// The configuration as `transformers` reads it.
///
/// # Errors
/// XGLM has no such model.
pub(super) fn to_json(config: &Config) -> Result<Value> {
    if config.norm_eps != NORM_EPS {
        return Err(Error::usage(format!(
            "the model's layer norms have an epsilon of {:e}; XGLM's have {NORM_EPS:e}",
            config.norm_eps
        )));
    }
    let activation = ACTIVATIONS.iter().find(|(_, a)| *a == config.activation);
    let described = Xglm {
        vocab_size: config.n_vocab,
        max_position_embeddings: config.n_ctx,
        d_model: config.n_embd,
        ffn_dim: config.n_ff,
        num_layers: config.n_layer,
        attention_heads: config.n_head,
        activation_function: activation.map_or_else(gelu, |(name, _)| (*name).to_owned()),
        scale_embedding: true,
        tie_word_embeddings: true,
        add_cross_attention: false,
    };
    // What does not decide the computation of logits is as in the configurations of Facebook's models.
    let mut json = serde_json::json!({
        "architectures": ["XGLMForCausalLM"], "model_type": "xglm", "torch_dtype": "float32",
        "dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.0, "layerdrop": 0.0,
        "init_std": 0.02, "use_cache": true,
        "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
    });
    let described = serde_json::to_value(described).map_err(|e| Error::usage(e.to_string()))?;
    if let (Value::Object(all), Value::Object(described)) = (&mut json, described) {
        all.extend(described);
    }
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config() -> Config {
        Config {
            n_vocab: 40,
            n_ctx: 9,
            n_embd: 12,
            n_layer: 2,
            n_head: 3,
            n_ff: 20,
            activation: Activation::Relu,
            norm_eps: NORM_EPS,
        }
    }

    #[test]
    fn configurations_round_trip() {
        for activation in [Activation::GeluErf, Activation::GeluTanh, Activation::Relu] {
            let config = Config { activation, ..config() };
            assert_eq!(parse(&to_json(&config).unwrap().to_string()), Ok(config));
        }
        assert!(to_json(&Config { norm_eps: 1e-6, ..config() }).is_err());
    }

    #[test]
    fn what_is_no_xglm_is_named() {
        let with = |changes: Value| {
            let mut json = to_json(&config()).unwrap();
            for (key, value) in changes.as_object().unwrap() {
                json[key] = value.clone();
            }
            parse(&json.to_string()).unwrap_err()
        };
        let gpt2 = with(json!({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}));
        assert!(gpt2.contains("gpt2") && gpt2.contains("GPT2LMHeadModel"), "{gpt2}");
        assert!(
            with(json!({"architectures": ["XGLMForSequenceClassification"]})).contains("Sequence")
        );
        assert!(with(json!({"scale_embedding": false})).contains("scale_embedding"));
        assert!(with(json!({"tie_word_embeddings": false})).contains("tie_word_embeddings"));
        assert!(with(json!({"add_cross_attention": true})).contains("add_cross_attention"));
        assert!(with(json!({"activation_function": "silu"})).contains("silu"));
        assert!(with(json!({"num_layers": null})).contains("invalid type"));
        assert!(with(json!({"attention_heads": 5})).contains("dimensions"));
        assert!(parse("{}").unwrap_err().contains("model_type none"));
        assert!(parse("{").unwrap_err().contains("not JSON"));
        let old = json!({"model_type": "xglm", "decoder_layers": 2});
        assert!(parse(&old.to_string()).unwrap_err().contains("missing field"));
    }
}
