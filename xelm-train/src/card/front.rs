//! The front matter: YAML between two lines of dashes.

use super::{Members, Words};
use xelm_runtime::lang::Tag;

pub(super) fn front(words: &Words, members: &Members) -> String {
    let mut out = String::from("---\n");
    let mut list = |key: &str, items: &[String]| {
        out += &format!("{key}:\n");
        for item in items {
            out += &format!("- {}\n", quoted(item));
        }
    };
    list("language", &codes(&members.languages()));
    list("tags", &["xelm", "gguf", "x-elm", "cross-lingual-expert"].map(str::to_owned));
    for (key, value) in [
        ("library_name", "xelm"),
        ("pipeline_tag", "text-generation"),
        ("pretty_name", words.title.as_deref().unwrap_or_default()),
        ("base_model", words.base_model.as_deref().unwrap_or_default()),
    ] {
        if !value.is_empty() {
            out += &format!("{key}: {}\n", quoted(value));
        }
    }
    // A hub knows licences by their identifiers; all else is "other" with a name.
    let licence = words.licence.as_deref().unwrap_or_default();
    out += &match licence {
        "" => "license: other\nlicense_name: unknown\n".to_owned(),
        id if is_identifier(id) => format!("license: {}\n", quoted(&id.to_lowercase())),
        name => format!("license: other\nlicense_name: {}\n", quoted(name)),
    };
    out + "---\n\n"
}

/// The languages by their codes of two or three letters, which is all that hubs take.
fn codes(tags: &[String]) -> Vec<String> {
    let code = |tag: &String| {
        let code = Tag::new(tag).ok()?.language().to_lowercase();
        let is_code = code.len() <= 3 && code.bytes().all(|b| b.is_ascii_lowercase());
        is_code.then_some(code)
    };
    let mut codes: Vec<String> = tags.iter().filter_map(code).collect();
    codes.sort_unstable();
    codes.dedup();
    if codes.is_empty() { vec!["multilingual".to_owned()] } else { codes }
}

/// Whether a licence is one word, as `apache-2.0` or `CC-BY-SA-4.0`.
fn is_identifier(licence: &str) -> bool {
    licence.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.+".contains(&b))
}

/// A string that YAML takes for nothing else: `no` is a language here, not a truth value.
fn quoted(text: &str) -> String {
    serde_json::to_string(&super::text::plain(text)).unwrap_or_default()
}
