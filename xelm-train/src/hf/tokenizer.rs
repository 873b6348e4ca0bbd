//! A folder's vocabulary: SentencePiece's model where there is one, otherwise `tokenizer.json`; and both
//! written.
//!
//! The ids are XGLM's: `<s> <pad> </s> <unk>`, the pieces, and words made up to fill the vocabulary to a
//! multiple of eight.

use super::{read_text, wrong};
use crate::{Error, Result, vocab::sentencepiece};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;
use xelm_runtime::format::AtomicFile;
use xelm_runtime::tokenizer::{Normalizer, SPACE, Tokenizer, Vocabulary, token_type};

/// The files that may hold the vocabulary; SentencePiece's own form says most.
const SENTENCEPIECE: [&str; 2] = ["sentencepiece.bpe.model", "spm.model"];
const JSON: &str = "tokenizer.json";

/// The made-up words that XGLM's vocabularies end with; SentencePiece's model does not have them.
const N_MADE_UP: usize = 7;
const MADE_UP: &str = "<madeupword";

const SPECIAL: [&str; 4] = ["<s>", "<pad>", "</s>", "<unk>"];

/// Reads a folder's vocabulary of `n_vocab` tokens.
///
/// # Errors
/// There is none, it is of another size, or the runtime cannot follow it.
pub(super) fn read(folder: &Path, n_vocab: usize) -> Result<Vocabulary> {
    let found = SENTENCEPIECE.iter().chain([&JSON]).map(|name| folder.join(name));
    let path = { found }.find(|path| path.exists()).ok_or_else(|| {
        let names = [SENTENCEPIECE[0], SENTENCEPIECE[1], JSON].join(", ");
        wrong(folder, format_args!("there is no vocabulary: it needs one of {names}"))
    })?;
    let mut vocabulary = if path.ends_with(JSON) {
        parse(&read_text(&path)?).map_err(|what| wrong(&path, what))?
    } else {
        sentencepiece::read(&path)?
    };
    if vocabulary.tokens.len() + N_MADE_UP == n_vocab && !path.ends_with(JSON) {
        for i in 0..N_MADE_UP {
            push(&mut vocabulary, format!("{MADE_UP}{i}>"), 0.0, token_type::CONTROL);
        }
    }
    let n = vocabulary.tokens.len();
    if n != n_vocab {
        return Err(wrong(&path, format_args!("{n} tokens; config.json has vocab_size {n_vocab}")));
    }
    if vocabulary.scores.iter().any(|score| !score.is_finite()) {
        return Err(wrong(&path, "a score is not finite"));
    }
    Normalizer::new(&vocabulary.charsmap, true, true).map_err(Error::file(&path))?;
    Ok(vocabulary)
}

fn push(vocabulary: &mut Vocabulary, token: String, score: f32, kind: i32) {
    vocabulary.tokens.push(token);
    vocabulary.scores.push(score);
    vocabulary.types.push(kind);
}

/// What of `tokenizer.json` decides ids.
#[derive(Deserialize)]
struct Json {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Value,
    pre_tokenizer: Value,
    model: Unigram,
}

#[derive(Deserialize)]
struct Added {
    id: usize,
    content: String,
}

#[derive(Deserialize, Serialize)]
struct Unigram {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    unk_id: Option<usize>,
    #[serde(default)]
    vocab: Vec<(String, f64)>,
    #[serde(default)]
    byte_fallback: bool,
}

fn parse(text: &str) -> std::result::Result<Vocabulary, String> {
    let json: Json = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let Json { added_tokens, normalizer, pre_tokenizer, model } = json;
    if model.kind != "Unigram" || model.byte_fallback {
        return Err(format!("a model of type {:?}; XGLM's is Unigram without bytes", model.kind));
    }
    let names = model.vocab.iter().map(|(token, _)| token.as_str());
    if model.unk_id != Some(3) || !names.take(SPECIAL.len()).eq(SPECIAL) {
        return Err(format!("its first tokens are not XGLM's {}", SPECIAL.join(" ")));
    }
    if !steps(&pre_tokenizer, "pretokenizers").any(|step| step["type"] == "Metaspace") {
        return Err("its words are not marked with \u{2581} (Metaspace), as XGLM's are".into());
    }
    let charsmap = read_charsmap(&normalizer)?;
    let mut vocabulary = Vocabulary { charsmap, ..Vocabulary::default() };
    for (id, (token, score)) in model.vocab.into_iter().enumerate() {
        let kind = if id == 3 { token_type::UNKNOWN } else { token_type::NORMAL };
        push(&mut vocabulary, token, score as f32, kind);
    }
    // Special tokens are no pieces of text; those that a user added follow the others.
    for Added { id, content } in added_tokens {
        match vocabulary.tokens.get(id) {
            None if id == vocabulary.tokens.len() => {
                push(&mut vocabulary, content, 0.0, token_type::CONTROL);
            }
            Some(token) if *token == content => {
                if id != 3 {
                    vocabulary.types[id] = token_type::CONTROL;
                }
            }
            _ => return Err(format!("the added token {content:?} does not follow the others")),
        }
    }
    for (token, kind) in vocabulary.tokens.iter().zip(&mut vocabulary.types) {
        if *kind == token_type::NORMAL && token.starts_with(MADE_UP) {
            *kind = token_type::CONTROL;
        }
    }
    for id in 0..3 {
        vocabulary.types[id] = token_type::CONTROL;
    }
    Ok(vocabulary)
}

/// A stage of the tokenizer as the list of what it does.
fn steps<'a>(stage: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    let one = stage[list].is_null().then_some(stage);
    stage[list].as_array().into_iter().flatten().chain(one)
}

/// The character map of the normaliser, beside which only spaces may be changed.
fn read_charsmap(normalizer: &Value) -> std::result::Result<Vec<u8>, String> {
    let mut charsmap = Vec::new();
    for step in steps(normalizer, "normalizers").filter(|step| !step.is_null()) {
        match step["type"].as_str().unwrap_or("none") {
            "Precompiled" => {
                let text = step["precompiled_charsmap"].as_str().unwrap_or_default();
                charsmap = base64::decode(text).map_err(|e| format!("the character map: {e}"))?;
            }
            "Replace" | "Strip" => {}
            other => {
                return Err(format!(
                    "its normaliser is {other}, not SentencePiece's character map: put {} into the folder",
                    SENTENCEPIECE[0]
                ));
            }
        }
    }
    Ok(charsmap)
}

/// Writes a vocabulary for `transformers` and for SentencePiece.
///
/// # Errors
/// The vocabulary is not in XGLM's order or keeps spaces as they are, or a file cannot be written.
pub(super) fn write(tokenizer: &Tokenizer<'_>, n_ctx: usize, folder: &Path) -> Result<()> {
    if tokenizer.normalizer().flags() != (true, true) {
        return Err(Error::usage("the vocabulary keeps spaces as they are; XGLM's collapse them"));
    }
    let ids = 0..tokenizer.n_vocab() as u32;
    let vocabulary = Vocabulary {
        tokens: ids.clone().map(|id| tokenizer.piece(id).to_owned()).collect(),
        scores: ids.clone().map(|id| tokenizer.score(id)).collect(),
        types: ids.map(|id| tokenizer.token_type(id)).collect(),
        charsmap: tokenizer.normalizer().charsmap().to_vec(),
    };
    let path = folder.join(SENTENCEPIECE[0]);
    let model = sentencepiece::write(&vocabulary)?;
    AtomicFile::write(&path, &model).map_err(Error::io("write", &path))?;
    let special = json!({
        "bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "unk_token": "<unk>",
        "pad_token": "<pad>",
    });
    let mut config = special.clone();
    // The class that takes tokenizer.json as it is: what XGLM's own class does with it differs between the
    // versions of transformers.
    config["tokenizer_class"] = "PreTrainedTokenizerFast".into();
    config["model_max_length"] = n_ctx.into();
    config["clean_up_tokenization_spaces"] = false.into();
    for (name, json) in [
        (JSON, to_json(&vocabulary)?),
        ("tokenizer_config.json", config),
        ("special_tokens_map.json", special),
    ] {
        super::json::write(&folder.join(name), &json)?;
    }
    Ok(())
}

/// `tokenizer.json`. It drops leading and trailing spaces and collapses the others, as SentencePiece does.
fn to_json(vocabulary: &Vocabulary) -> Result<Value> {
    let added: Vec<Value> = vocabulary
        .tokens
        .iter()
        .zip(&vocabulary.types)
        .enumerate()
        .filter(|(_, (_, kind))| **kind != token_type::NORMAL)
        .map(|(id, (token, _))| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            })
        })
        .collect();
    let mut normalizers = vec![
        json!({"type": "Strip", "strip_left": true, "strip_right": true}),
        json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}),
    ];
    if !vocabulary.charsmap.is_empty() {
        let charsmap = base64::encode(&vocabulary.charsmap);
        normalizers.insert(0, json!({"type": "Precompiled", "precompiled_charsmap": charsmap}));
    }
    let scores = vocabulary.scores.iter().map(|score| f64::from(*score));
    let model = Unigram {
        kind: "Unigram".into(),
        unk_id: Some(3),
        vocab: vocabulary.tokens.iter().cloned().zip(scores).collect(),
        byte_fallback: false,
    };
    let model = serde_json::to_value(model).map_err(|e| Error::usage(e.to_string()))?;
    let spaces = json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": true});
    let token = json!({"SpecialToken": {"id": "</s>", "type_id": 0}});
    let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": spaces, "decoder": spaces, "model": model,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token, text("A")],
            "pair": [token, text("A"), token, token, text("B")],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}},
        },
    }))
}
