//! Writing the tokenizer tables of a file.

#![allow(clippy::arithmetic_side_effects, reason = "offline, on our own data")]

use super::{Tokenizer, token_type};
use crate::error::Result;
use crate::format::{Gguf, Value, Writer, keys};
use crate::trie;
use core::fmt::Write as _;
use std::string::String;
use std::vec::Vec;

/// A vocabulary as it is made offline, before it is written.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// Token strings by id, all distinct.
    pub tokens: Vec<String>,
    /// Log probabilities; 0 for special tokens.
    pub scores: Vec<f32>,
    /// GGUF token types.
    pub types: Vec<i32>,
    /// Precompiled character map; empty for none.
    pub charsmap: Vec<u8>,
}

/// Ids of the special tokens, XGLM's.
const SPECIAL: [(&str, i32); 4] = [
    ("<s>", token_type::CONTROL),
    ("<pad>", token_type::CONTROL),
    ("</s>", token_type::CONTROL),
    ("<unk>", token_type::UNKNOWN),
];

impl Vocabulary {
    /// XGLM's four special tokens followed by `pieces`.
    pub fn new(pieces: impl IntoIterator<Item = (String, f32)>, charsmap: Vec<u8>) -> Self {
        let mut vocabulary = Vocabulary { charsmap, ..Vocabulary::default() };
        let special = SPECIAL.map(|(token, kind)| (String::from(token), 0.0, kind));
        let pieces = pieces.into_iter().map(|(piece, score)| (piece, score, token_type::NORMAL));
        for (token, score, kind) in special.into_iter().chain(pieces) {
            vocabulary.tokens.push(token);
            vocabulary.scores.push(score);
            vocabulary.types.push(kind);
        }
        vocabulary
    }

    /// Adds every tokenizer key of an expert file to `writer`: `docs/formats.md` lists them.
    ///
    /// # Errors
    /// Pieces are empty, repeated or contain a zero byte.
    pub fn write(&self, writer: &mut Writer) -> Result<()> {
        let mut keyed: Vec<(&[u8], u32)> = (0u32..)
            .zip(&self.tokens)
            .filter(|(id, _)| self.types.get(*id as usize) == Some(&token_type::NORMAL))
            .map(|(id, token)| (token.as_bytes(), id))
            .collect();
        keyed.sort_unstable();
        let mut position = 0usize;
        let mut offsets = Vec::with_capacity(self.tokens.len());
        for token in &self.tokens {
            offsets.push((position + 8) as u32);
            position += 8 + token.len();
        }
        writer.string(keys::TOKENIZER_MODEL, "t5");
        writer.strings(keys::TOKENS, &self.tokens);
        writer.f32s(keys::SCORES, &self.scores);
        writer.i32s(keys::TOKEN_TYPE, &self.types);
        if !self.charsmap.is_empty() {
            writer.bytes(keys::CHARSMAP, &self.charsmap);
        }
        writer.bool(keys::ADD_SPACE_PREFIX, true);
        writer.bool(keys::REMOVE_EXTRA_WHITESPACES, true);
        writer.bool(keys::ADD_BOS, true);
        writer.bool(keys::ADD_EOS, false);
        writer.u32(keys::BOS, 2);
        writer.u32(keys::EOS, 2);
        writer.u32(keys::UNK, 3);
        writer.u32(keys::PAD, 1);
        writer.u32s(keys::TOKENIZER_TRIE, &trie::build(&keyed)?);
        writer.u32s(keys::TOKENIZER_OFFSETS, &offsets);
        writer.string(keys::TOKENIZER_HASH, &hex(&self.hash()));
        Ok(())
    }

    /// The vocabulary's identity, as [`Tokenizer::computed_hash`] finds it in the written file.
    pub fn hash(&self) -> [u8; 32] {
        use sha2::{Digest, Sha256};
        let mut tokens = Vec::new();
        for token in &self.tokens {
            tokens.extend_from_slice(&(token.len() as u64).to_le_bytes());
            tokens.extend_from_slice(token.as_bytes());
        }
        let scores: Vec<u8> = self.scores.iter().flat_map(|x| x.to_le_bytes()).collect();
        let types: Vec<u8> = self.types.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut sha = Sha256::new();
        for bytes in [&tokens, &scores, &types, &self.charsmap] {
            sha.update((bytes.len() as u64).to_le_bytes());
            sha.update(bytes);
        }
        sha.update([1, 1]);
        for id in [2u32, 2, 3] {
            sha.update(id.to_le_bytes());
        }
        sha.finalize().into()
    }
}

impl Tokenizer<'_> {
    /// Copies the tokenizer keys of `from` to `writer` unchanged.
    pub fn copy_keys(from: &Gguf<'_>, writer: &mut Writer) {
        let entries: Vec<(&str, Value<'_>)> = from.metadata().collect();
        for (key, value) in entries {
            if key.starts_with("tokenizer.") || key.starts_with("xelm.tokenizer.") {
                writer.copy(key, value);
            }
        }
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}
