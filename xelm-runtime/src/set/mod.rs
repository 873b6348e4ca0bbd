//! A set of experts: the folder's `set.gguf`, the choice of an expert by language tag (`select.rs`),
//! whether a file is the expert that the set means (`verify.rs`), and the tables' writer (`write.rs`).

mod select;
mod verify;
#[cfg(feature = "std")]
mod write;

pub use select::{Match, Selection};
#[cfg(feature = "std")]
pub use write::Row;

use crate::error::{Error, Result};
use crate::format::{Array, Gguf, ValueType};
use crate::lang::Tag;

/// `general.architecture` of `set.gguf`.
pub const ARCH_SET: &str = "xelm-set";
/// Name of the set's own file in its folder.
pub const SET_FILE: &str = "set.gguf";

/// Most language tags in one table of a set. Choosing takes time in proportion to the product of two of
/// them, which a file must not make long; the world has some 7,000 languages, a set a few dozen.
pub const MAX_LANGUAGES: usize = 4096;

/// Metadata keys of `set.gguf`: flat arrays, one element per expert unless said otherwise.
pub mod keys {
    /// `str[]`: the experts' names.
    pub const IDS: &str = "xelm.set.ids";
    /// `str[]`: file names within the folder.
    pub const FILES: &str = "xelm.set.files";
    /// `u64[]`: file sizes in bytes.
    pub const SIZES: &str = "xelm.set.sizes";
    /// `str[]`: SHA-256 of each file, hexadecimal.
    pub const SHA256: &str = "xelm.set.sha256";
    /// `str[]`: the expert that each was branched from; `seed`, or another id.
    pub const PARENTS: &str = "xelm.set.parents";
    /// `u32[]` and `str[]` of equal length: pairs (expert index, language tag).
    pub const LANGUAGE_EXPERT: &str = "xelm.set.language.expert";
    /// See [`LANGUAGE_EXPERT`].
    pub const LANGUAGE_TAG: &str = "xelm.set.language.tag";
    /// `str[n]`: languages with known typological distances.
    pub const FALLBACK_TAGS: &str = "xelm.set.fallback.tags";
    /// `u32[n · n]`: row i lists the indices of all languages from the nearest to i to the farthest,
    /// beginning with i itself.
    pub const FALLBACK_ORDER: &str = "xelm.set.fallback.order";
    /// str: hash of the vocabulary that all experts share.
    pub const TOKENIZER_HASH: &str = "xelm.set.tokenizer_hash";
    /// u32: width of all experts; absent where it was not recorded.
    pub const EMBEDDING_LENGTH: &str = "xelm.set.embedding_length";
}

/// An open `set.gguf`.
#[derive(Clone, Copy, Debug)]
pub struct Set<'a> {
    ids: Array<'a>,
    files: Array<'a>,
    sizes: Array<'a>,
    sha256: Array<'a>,
    parents: Array<'a>,
    language_expert: Array<'a>,
    language_tag: Array<'a>,
    fallback_tags: Array<'a>,
    fallback_order: Array<'a>,
    tokenizer_hash: &'a str,
    n_embd: Option<u32>,
}

/// One expert of a set, as `set.gguf` describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Name within the set.
    pub id: &'a str,
    /// File name within the folder: no path separators.
    pub file: &'a str,
    /// File size in bytes.
    pub size: u64,
    /// SHA-256 of the file, 64 hexadecimal digits.
    pub sha256: &'a str,
    /// What it was branched from.
    pub parent: &'a str,
}

impl<'a> Set<'a> {
    /// Reads and checks a set's tables.
    ///
    /// # Errors
    /// The rule that the file breaks.
    pub fn open(gguf: &Gguf<'a>) -> Result<Self> {
        gguf.expect_architecture(ARCH_SET)?;
        gguf.expect_format_version()?;
        let array = |key: &'static str, of: ValueType| -> Result<Array<'a>> {
            gguf.get(key).ok_or(Error::MissingKey { key })?.array(&[of], key)
        };
        let set = Set {
            ids: array(keys::IDS, ValueType::String)?,
            files: array(keys::FILES, ValueType::String)?,
            sizes: array(keys::SIZES, ValueType::U64)?,
            sha256: array(keys::SHA256, ValueType::String)?,
            parents: array(keys::PARENTS, ValueType::String)?,
            language_expert: array(keys::LANGUAGE_EXPERT, ValueType::U32)?,
            language_tag: array(keys::LANGUAGE_TAG, ValueType::String)?,
            fallback_tags: array(keys::FALLBACK_TAGS, ValueType::String)?,
            fallback_order: array(keys::FALLBACK_ORDER, ValueType::U32)?,
            tokenizer_hash: gguf
                .get(keys::TOKENIZER_HASH)
                .ok_or(Error::MissingKey { key: keys::TOKENIZER_HASH })?
                .str(keys::TOKENIZER_HASH)?,
            n_embd: gguf
                .get(keys::EMBEDDING_LENGTH)
                .map(|n| n.u32(keys::EMBEDDING_LENGTH))
                .transpose()?,
        };
        set.check()?;
        Ok(set)
    }

    fn check(&self) -> Result<()> {
        let n = self.ids.len;
        for (len, what) in [
            (self.files.len, keys::FILES),
            (self.sizes.len, keys::SIZES),
            (self.sha256.len, keys::SHA256),
            (self.parents.len, keys::PARENTS),
        ] {
            if len != n || n == 0 {
                return Err(Error::OutOfRange { what });
            }
        }
        let known = |array: &Array<'_>, n| (0..array.len).all(|i| (array.bits32(i) as usize) < n);
        if self.language_expert.len != self.language_tag.len || !known(&self.language_expert, n) {
            return Err(Error::OutOfRange { what: keys::LANGUAGE_EXPERT });
        }
        if self.language_tag.len > MAX_LANGUAGES {
            return Err(Error::OutOfRange { what: keys::LANGUAGE_TAG });
        }
        let n_tags = self.fallback_tags.len;
        if n_tags > MAX_LANGUAGES {
            return Err(Error::OutOfRange { what: keys::FALLBACK_TAGS });
        }
        if n_tags.checked_mul(n_tags) != Some(self.fallback_order.len)
            || !known(&self.fallback_order, n_tags)
        {
            return Err(Error::OutOfRange { what: keys::FALLBACK_ORDER });
        }
        // A file name that leaves the folder is an attack.
        if !self.files.strings().all(is_file_name) {
            return Err(Error::OutOfRange { what: keys::FILES });
        }
        if self
            .language_tag
            .strings()
            .chain(self.fallback_tags.strings())
            .any(|t| Tag::new(t).is_err())
        {
            return Err(Error::BadLanguageTag);
        }
        Ok(())
    }

    /// Number of experts.
    pub fn len(&self) -> usize {
        self.ids.len
    }

    /// Whether there are no experts (never true for an open set).
    pub fn is_empty(&self) -> bool {
        self.ids.len == 0
    }

    /// Hash of the vocabulary that all experts share, hexadecimal.
    pub fn tokenizer_hash(&self) -> &'a str {
        self.tokenizer_hash
    }

    /// The experts in order.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let Set { ids, files, sizes, sha256, parents, .. } = *self;
        let strings =
            ids.strings().zip(files.strings()).zip(sha256.strings().zip(parents.strings()));
        strings.enumerate().map(move |(i, ((id, file), (sha256, parent)))| Entry {
            id,
            file,
            size: sizes.bits64(i),
            sha256,
            parent,
        })
    }

    /// Expert `index`.
    pub fn entry(&self, index: usize) -> Option<Entry<'a>> {
        self.entries().nth(index)
    }

    /// All (expert index, language) pairs.
    pub fn languages(&self) -> impl Iterator<Item = (usize, &'a str)> + use<'a> {
        let expert = self.language_expert;
        self.language_tag
            .strings()
            .enumerate()
            .map(move |(i, tag)| (expert.bits32(i) as usize, tag))
    }
}

/// Whether a name stays within its folder on every system.
pub(crate) fn is_file_name(name: &str) -> bool {
    !(name.is_empty() || name.contains(['/', '\\', ':', '\0']) || [".", ".."].contains(&name))
}

/// Size and SHA-256 (hexadecimal) of a file.
///
/// # Errors
/// It cannot be read.
#[cfg(feature = "std")]
pub fn file_identity(path: &std::path::Path) -> std::io::Result<(u64, std::string::String)> {
    use sha2::{Digest, Sha256};
    use std::io::Read;
    let mut file = std::fs::File::open(path)?;
    let mut sha = Sha256::new();
    let mut part = std::vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let n = file.read(&mut part)?;
        if n == 0 {
            return Ok((size, crate::tokenizer::hex(&sha.finalize())));
        }
        sha.update(&part[..n]);
        size += n as u64;
    }
}
