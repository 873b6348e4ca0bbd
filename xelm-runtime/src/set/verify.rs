//! Whether a file is the expert that a set means, on bytes in memory.

use super::Set;
use crate::error::{Error, Result};
use crate::expert::Expert;
use crate::format::Gguf;
use crate::tokenizer::parse_hash;
use sha2::{Digest, Sha256};

impl Set<'_> {
    /// Checks that `bytes` are the whole and undamaged file of expert `index`: its size and SHA-256,
    /// then as [`Set::admit`]. The bytes must be aligned to 32.
    ///
    /// # Errors
    /// [`Error::HashMismatch`] where the file is another; otherwise as [`Set::admit`].
    pub fn verify(&self, index: usize, bytes: &[u8]) -> Result<()> {
        let entry = self.entry(index).ok_or(Error::OutOfRange { what: "the index" })?;
        if bytes.len() as u64 != entry.size {
            return Err(Error::HashMismatch { what: "the size" });
        }
        let sha256: [u8; 32] = Sha256::digest(bytes).into();
        if parse_hash(entry.sha256) != Some(sha256) {
            return Err(Error::HashMismatch { what: "the SHA-256" });
        }
        self.admit(&Gguf::open(bytes)?)
    }

    /// Checks that a file is a sound model ([`Expert::verify`]) which fits the set: the same
    /// vocabulary, the same width.
    ///
    /// # Errors
    /// The rule that the file breaks; [`Error::NoTokenizer`]; [`Error::ExpertsDiffer`].
    pub fn admit(&self, gguf: &Gguf<'_>) -> Result<()> {
        let (config, tokenizer) = Expert::verify(gguf)?;
        let hash = tokenizer.ok_or(Error::NoTokenizer)?.hash();
        if parse_hash(self.tokenizer_hash) != Some(hash) {
            return Err(Error::ExpertsDiffer { what: "vocabulary" });
        }
        if self.n_embd.is_some_and(|n| n as usize != config.n_embd) {
            return Err(Error::ExpertsDiffer { what: "width" });
        }
        Ok(())
    }
}
