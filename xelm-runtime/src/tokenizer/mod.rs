//! The tokenizer: text to ids and back, id for id as SentencePiece's unigram model.
//!
//! It works on the mapped file as it is: no set-up, no memory but the caller's scratch. Text is
//! normalised by the file's character map (`normalize.rs`), split by the best path through the
//! vocabulary's trie (`viterbi.rs`), and each sequence opens with `</s>`, as XGLM's does.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

#[cfg(feature = "std")]
mod build;
mod decode;
mod normalize;
mod viterbi;

#[cfg(feature = "std")]
pub use build::{Vocabulary, hex};
pub use decode::TextStream;
pub use normalize::{Normalizer, SPACE};
pub use viterbi::{Encoding, Scratch};

use crate::error::{Error, Result};
use crate::format::{Array, Gguf, ValueType, keys};
use crate::trie::Trie;
use sha2::{Digest, Sha256};

/// GGUF's token types that are told apart.
pub mod token_type {
    #![allow(missing_docs, reason = "the names are GGUF's")]
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
}

/// SentencePiece's distance of the unknown token's score below the worst piece.
const UNK_PENALTY: f32 = 10.0;

/// A view of the tokenizer tables of a GGUF file.
#[derive(Clone, Copy, Debug)]
pub struct Tokenizer<'a> {
    normalizer: Normalizer<'a>,
    trie: Trie<'a>,
    /// Length-prefixed token strings.
    tokens: Array<'a>,
    /// Where each token's string begins in `tokens`.
    offsets: Array<'a>,
    scores: Array<'a>,
    types: Array<'a>,
    n_vocab: usize,
    unk_score: f32,
    bos: u32,
    eos: u32,
    unk: u32,
    hash: [u8; 32],
}

impl<'a> Tokenizer<'a> {
    /// Reads and checks the tables, in time linear in their size.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`] where the file has none of ours; otherwise the rule that is broken.
    pub fn open(gguf: &Gguf<'a>) -> Result<Self> {
        let mut tables = Tables::default();
        for (key, value) in gguf.metadata() {
            use ValueType as T;
            match key {
                keys::TOKENS => tables.tokens = Some(value.array(&[T::String], keys::TOKENS)?),
                keys::SCORES => tables.scores = Some(value.array(&[T::F32], keys::SCORES)?),
                keys::TOKEN_TYPE => tables.types = Some(value.array(&[T::I32], keys::TOKEN_TYPE)?),
                keys::CHARSMAP => {
                    tables.charsmap = value.array(&[T::U8, T::I8], keys::CHARSMAP)?.bytes;
                }
                keys::TOKENIZER_TRIE => {
                    tables.trie = Some(value.array(&[T::U32], keys::TOKENIZER_TRIE)?);
                }
                keys::TOKENIZER_OFFSETS => {
                    tables.offsets = Some(value.array(&[T::U32], keys::TOKENIZER_OFFSETS)?);
                }
                keys::TOKENIZER_HASH => tables.hash = value.str(keys::TOKENIZER_HASH)?,
                keys::ADD_SPACE_PREFIX => {
                    tables.space_prefix = value.bool(keys::ADD_SPACE_PREFIX)?
                }
                keys::REMOVE_EXTRA_WHITESPACES => {
                    tables.collapse = value.bool(keys::REMOVE_EXTRA_WHITESPACES)?;
                }
                keys::BOS => tables.bos = value.u32(keys::BOS)?,
                keys::EOS => tables.eos = value.u32(keys::EOS)?,
                keys::UNK => tables.unk = value.u32(keys::UNK)?,
                _ => {}
            }
        }
        tables.check()
    }

    /// Number of tokens.
    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// The token that opens every sequence (`</s>`).
    pub fn bos(&self) -> u32 {
        self.bos
    }

    /// The token that ends a document (`</s>`).
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// The token for characters outside the vocabulary.
    pub fn unk(&self) -> u32 {
        self.unk
    }

    /// SHA-256 over tokens, scores, types, character map and flags, as the file states it: the
    /// identity of the vocabulary. [`Tokenizer::computed_hash`] checks it.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The text normaliser.
    pub fn normalizer(&self) -> &Normalizer<'a> {
        &self.normalizer
    }

    /// The string of a token; empty for ids outside the vocabulary.
    pub fn piece(&self, id: u32) -> &'a str {
        let id = id as usize;
        if id >= self.n_vocab {
            return "";
        }
        let start = self.offsets.bits32(id) as usize;
        let len_bytes = start.checked_sub(8).and_then(|at| self.tokens.bytes.get(at..start));
        let len = len_bytes.map_or(0, |b| Array { of: ValueType::U64, len: 1, bytes: b }.bits64(0));
        let bytes = usize::try_from(len)
            .ok()
            .and_then(|len| start.checked_add(len))
            .and_then(|end| self.tokens.bytes.get(start..end));
        core::str::from_utf8(bytes.unwrap_or_default()).unwrap_or("")
    }

    /// The score (log probability) of a token; 0 outside the vocabulary.
    #[inline]
    pub fn score(&self, id: u32) -> f32 {
        f32::from_bits(self.scores.bits32(id as usize))
    }

    /// The GGUF type of a token; 0 outside the vocabulary.
    #[inline]
    pub fn token_type(&self, id: u32) -> i32 {
        self.types.bits32(id as usize) as i32
    }

    /// The id of the normal piece that is exactly `piece`.
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.trie.get(piece.as_bytes())
    }

    /// The hash that [`Tokenizer::hash`] should be, computed from the tables.
    pub fn computed_hash(&self) -> [u8; 32] {
        let mut sha = Sha256::new();
        // Each table is preceded by its length, so that no two tables can trade bytes.
        for bytes in
            [self.tokens.bytes, self.scores.bytes, self.types.bytes, self.normalizer.charsmap()]
        {
            sha.update((bytes.len() as u64).to_le_bytes());
            sha.update(bytes);
        }
        let (space_prefix, collapse) = self.normalizer.flags();
        sha.update([u8::from(space_prefix), u8::from(collapse)]);
        for id in [self.bos, self.eos, self.unk] {
            sha.update(id.to_le_bytes());
        }
        sha.finalize().into()
    }

    /// Whether hash, trie and offsets agree with the tokens: the part of `verify` that opening a
    /// file leaves out.
    ///
    /// # Errors
    /// The table that does not.
    pub fn verify(&self) -> Result<()> {
        if self.computed_hash() != self.hash {
            return Err(Error::OutOfRange { what: keys::TOKENIZER_HASH });
        }
        for (id, token) in (0u32..).zip(self.tokens.strings()) {
            if self.piece(id) != token {
                return Err(Error::OutOfRange { what: keys::TOKENIZER_OFFSETS });
            }
            // A trie that gives each normal piece its own id also shows that pieces are distinct.
            let expected = (self.token_type(id) == token_type::NORMAL).then_some(id);
            if expected.is_some() && self.id(token) != expected {
                return Err(Error::OutOfRange { what: keys::TOKENIZER_TRIE });
            }
        }
        Ok(())
    }
}

/// The tables as they are met in the file.
struct Tables<'a> {
    tokens: Option<Array<'a>>,
    scores: Option<Array<'a>>,
    types: Option<Array<'a>>,
    charsmap: &'a [u8],
    trie: Option<Array<'a>>,
    offsets: Option<Array<'a>>,
    hash: &'a str,
    space_prefix: bool,
    collapse: bool,
    bos: u32,
    eos: u32,
    unk: u32,
}

impl Default for Tables<'_> {
    fn default() -> Self {
        Tables {
            tokens: None,
            scores: None,
            types: None,
            charsmap: &[],
            trie: None,
            offsets: None,
            hash: "",
            space_prefix: true,
            collapse: true,
            bos: 2,
            eos: 2,
            unk: 3,
        }
    }
}

impl<'a> Tables<'a> {
    fn check(self) -> Result<Tokenizer<'a>> {
        let (Some(trie), Some(offsets)) = (self.trie, self.offsets) else {
            return Err(Error::NoTokenizer);
        };
        let tokens = self.tokens.ok_or(Error::MissingKey { key: keys::TOKENS })?;
        let scores = self.scores.ok_or(Error::MissingKey { key: keys::SCORES })?;
        let types = self.types.ok_or(Error::MissingKey { key: keys::TOKEN_TYPE })?;
        let n_vocab = tokens.len;
        for (len, what) in [
            (scores.len, keys::SCORES),
            (types.len, keys::TOKEN_TYPE),
            (offsets.len, keys::TOKENIZER_OFFSETS),
        ] {
            if len != n_vocab {
                return Err(Error::OutOfRange { what });
            }
        }
        for (id, what) in [(self.bos, keys::BOS), (self.eos, keys::EOS), (self.unk, keys::UNK)] {
            if id as usize >= n_vocab {
                return Err(Error::OutOfRange { what });
            }
        }
        let trie = Trie::new(trie.bytes);
        if !trie.is_in_bounds() {
            return Err(Error::OutOfRange { what: keys::TOKENIZER_TRIE });
        }
        let mut min_score = f32::INFINITY;
        for id in 0..n_vocab {
            let score = f32::from_bits(scores.bits32(id));
            if !score.is_finite() {
                return Err(Error::OutOfRange { what: keys::SCORES });
            }
            if types.bits32(id) as i32 == token_type::NORMAL {
                min_score = min_score.min(score);
            }
        }
        Ok(Tokenizer {
            normalizer: Normalizer::new(self.charsmap, self.space_prefix, self.collapse)?,
            trie,
            tokens,
            offsets,
            scores,
            types,
            n_vocab,
            unk_score: if min_score.is_finite() { min_score } else { 0.0 } - UNK_PENALTY,
            bos: self.bos,
            eos: self.eos,
            unk: self.unk,
            hash: parse_hash(self.hash).ok_or(Error::OutOfRange { what: keys::TOKENIZER_HASH })?,
        })
    }
}

/// The bytes of a SHA-256 in 64 hexadecimal digits.
pub(crate) fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != hash.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(pairs) {
        // `from_str_radix` also takes a sign.
        if !pair.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        *byte = u8::from_str_radix(core::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}
