//! GGUF version 3, the one container of all files: experts, sets, checkpoints, token shards.
//!
//! ```text
//! "GGUF"  version:u32  n_tensors:u64  n_kv:u64
//! n_kv ×      key:string  type:u32  value          (string = length:u64, bytes)
//! n_tensors × name:string  n_dims:u32  dims:u64…  type:u32  offset:u64
//! padding to `general.alignment`, then the tensors, each padded to it
//! ```
//!
//! Little endian throughout. `dims[0]` is the length of a row; offsets count from the start of the
//! tensor data and follow each other without gaps.

mod read;
#[cfg(feature = "std")]
mod write;

pub use read::{Array, Gguf, Strings, Tensor, Value};
#[cfg(feature = "std")]
pub use write::{AtomicFile, Body, Writer};

/// First four bytes of every file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// The version that is written.
pub const VERSION: u32 = 3;
/// Version of what this project adds to GGUF, in `xelm.format_version`.
pub const FORMAT_VERSION: u32 = 1;
/// Alignment of tensors in files that we write, and what a mapped file's base must have at least.
pub const ALIGNMENT: usize = 64;
/// Alignment where a file does not state one (GGUF's default).
pub const DEFAULT_ALIGNMENT: usize = 32;

/// GGUF's numbers for the types of metadata values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// The type with GGUF's number `number`.
    pub const fn from_gguf(number: u32) -> Option<Self> {
        use ValueType::*;
        const ALL: [ValueType; 13] =
            [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64];
        if (number as usize) < ALL.len() { Some(ALL[number as usize]) } else { None }
    }

    /// Bytes of one value, `None` for strings and arrays.
    pub const fn size(self) -> Option<usize> {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            String | Array => None,
        }
    }
}

/// Metadata keys, each written and read under one name.
pub mod keys {
    #![allow(missing_docs, reason = "the values are the documentation; docs/formats.md explains")]
    pub const ARCHITECTURE: &str = "general.architecture";
    pub const ALIGNMENT: &str = "general.alignment";
    pub const TYPE: &str = "general.type";
    pub const NAME: &str = "general.name";
    pub const FILE_TYPE: &str = "general.file_type";
    pub const QUANTIZATION_VERSION: &str = "general.quantization_version";

    pub const CONTEXT_LENGTH: &str = "gpt2.context_length";
    pub const EMBEDDING_LENGTH: &str = "gpt2.embedding_length";
    pub const BLOCK_COUNT: &str = "gpt2.block_count";
    pub const FEED_FORWARD_LENGTH: &str = "gpt2.feed_forward_length";
    pub const HEAD_COUNT: &str = "gpt2.attention.head_count";
    pub const LAYER_NORM_EPSILON: &str = "gpt2.attention.layer_norm_epsilon";

    pub const TOKENIZER_MODEL: &str = "tokenizer.ggml.model";
    pub const TOKENS: &str = "tokenizer.ggml.tokens";
    pub const SCORES: &str = "tokenizer.ggml.scores";
    pub const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
    pub const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
    pub const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
    pub const REMOVE_EXTRA_WHITESPACES: &str = "tokenizer.ggml.remove_extra_whitespaces";
    pub const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
    pub const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
    pub const BOS: &str = "tokenizer.ggml.bos_token_id";
    pub const EOS: &str = "tokenizer.ggml.eos_token_id";
    pub const UNK: &str = "tokenizer.ggml.unknown_token_id";
    pub const PAD: &str = "tokenizer.ggml.padding_token_id";

    pub const FORMAT_VERSION: &str = "xelm.format_version";
    pub const ACTIVATION: &str = "xelm.activation";
    pub const PACKED_LAYOUT: &str = "xelm.packed.layout";
    pub const PACKED_TYPES: &str = "xelm.packed.types";
    pub const PACKED_ARCHITECTURE: &str = "xelm.packed.architecture";
    pub const EXPERT_ID: &str = "xelm.expert.id";
    pub const EXPERT_LANGUAGES: &str = "xelm.expert.languages";
    pub const EXPERT_PARENT: &str = "xelm.expert.parent";
    pub const EXPERT_ROUND: &str = "xelm.expert.round";
    pub const EXPERT_TRAINED_TOKENS: &str = "xelm.expert.trained_tokens";
    pub const SHORTLIST: &str = "xelm.vocab.shortlist";
    pub const VOCAB_PARENT: &str = "xelm.vocab.parent";
    pub const VOCAB_IDS: &str = "xelm.vocab.ids";
    pub const TOKENIZER_HASH: &str = "xelm.tokenizer.hash";
    pub const TOKENIZER_TRIE: &str = "xelm.tokenizer.trie";
    pub const TOKENIZER_OFFSETS: &str = "xelm.tokenizer.offsets";
}
