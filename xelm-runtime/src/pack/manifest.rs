//! `set.json`: what `set.gguf` says of its files, for those who host and fetch them.

use crate::error::Result;
use crate::format::{AtomicFile, Gguf};
use crate::mmap::MappedFile;
use crate::set::{Row, SET_FILE, Set};
use crate::tokenizer::hex;
use core::fmt::Write;
use sha2::{Digest, Sha256};
use std::format;
use std::path::Path;
use std::string::String;
use std::vec::Vec;

/// Name of the manifest in the set's folder.
pub const MANIFEST: &str = "set.json";

/// Writes the manifest of the set in a folder: whoever writes `set.gguf` does so afterwards.
///
/// # Errors
/// There is no sound `set.gguf`, or the manifest cannot be written.
pub fn write_manifest(folder: &Path) -> Result<()> {
    let file = MappedFile::open(&folder.join(SET_FILE))?;
    let text = manifest(file.bytes())?;
    Ok(AtomicFile::write(&folder.join(MANIFEST), text.as_bytes())?)
}

/// The manifest of a `set.gguf`. It follows from the bytes, so a stale one is found by comparing.
pub(super) fn manifest(set_file: &[u8]) -> Result<String> {
    let set = Set::open(&Gguf::open(set_file)?)?;
    let experts: Vec<String> = Row::read(&set)
        .iter()
        .map(|row| {
            let languages: Vec<_> = row.languages.iter().map(|tag| quoted(tag)).collect();
            format!(
                "    {{\"id\": {}, \"languages\": [{}], \"parent\": {}, {}}}",
                quoted(&row.id),
                languages.join(", "),
                quoted(&row.parent),
                identity(&row.file, row.size, &row.sha256)
            )
        })
        .collect();
    let sha256 = hex(&Sha256::digest(set_file));
    Ok(format!(
        "{{\n  \"format\": 1,\n  \"set\": {{{}}},\n  \"tokenizer_hash\": {},\n  \"experts\": [\n{}\n  ]\n}}\n",
        identity(SET_FILE, set_file.len() as u64, &sha256),
        quoted(set.tokenizer_hash()),
        experts.join(",\n")
    ))
}

fn identity(file: &str, size: u64, sha256: &str) -> String {
    format!("\"file\": {}, \"size\": {size}, \"sha256\": {}", quoted(file), quoted(sha256))
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
