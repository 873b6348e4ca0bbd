//! SentencePiece's text normaliser over a precompiled character map.
//!
//! The map is a blob: the size of a double array (u32), the array, then zero-terminated strings.
//! The array's values are positions of replacements among the strings. At each place the longest
//! rule wins; characters without a rule stay; a byte that is no valid UTF-8 becomes U+FFFD.

use crate::error::{Error, Result};
use crate::format::keys;
use crate::trie::Trie;

/// What a space becomes inside pieces (U+2581).
pub const SPACE: &str = "\u{2581}";

/// Turns text into the form in which pieces are looked up.
#[derive(Clone, Copy, Debug)]
pub struct Normalizer<'a> {
    charsmap: &'a [u8],
    rules: Trie<'a>,
    replacements: &'a [u8],
    add_space_prefix: bool,
    collapse_spaces: bool,
}

impl<'a> Normalizer<'a> {
    /// A normaliser over a precompiled character map; an empty one changes nothing but spaces.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] where the blob's parts do not fit into it.
    pub fn new(charsmap: &'a [u8], add_space_prefix: bool, collapse_spaces: bool) -> Result<Self> {
        let bad = Error::OutOfRange { what: keys::CHARSMAP };
        let (mut rules, mut replacements) = (Trie::new(&[]), &[][..]);
        if !charsmap.is_empty() {
            let (size, blob) = charsmap.split_first_chunk::<4>().ok_or(bad)?;
            let size = u32::from_le_bytes(*size) as usize;
            let (units, strings) = blob.split_at_checked(size).ok_or(bad)?;
            rules = Trie::new(units);
            replacements = strings;
            // The last string ends with its zero, so every string does.
            if !size.is_multiple_of(4) || !rules.is_in_bounds() || strings.last() != Some(&0) {
                return Err(bad);
            }
        }
        Ok(Normalizer { charsmap, rules, replacements, add_space_prefix, collapse_spaces })
    }

    /// The blob that the normaliser was made from.
    pub fn charsmap(&self) -> &'a [u8] {
        self.charsmap
    }

    /// (a space is put in front, runs of spaces are collapsed and trimmed)
    pub fn flags(&self) -> (bool, bool) {
        (self.add_space_prefix, self.collapse_spaces)
    }

    /// The replacement of the first characters of `text` and how many bytes it replaces.
    fn first<'t>(&'t self, text: &'t [u8]) -> (&'t [u8], usize) {
        if let Some((len, at)) = self.rules.longest_prefix(text) {
            let rest = self.replacements.get(at as usize..).unwrap_or_default();
            let end = rest.iter().position(|&b| b == 0).unwrap_or(rest.len());
            return (rest.get(..end).unwrap_or_default(), len);
        }
        match valid_char_len(text) {
            Some(len) => (text.get(..len).unwrap_or_default(), len),
            None => ("\u{fffd}".as_bytes(), 1),
        }
    }

    /// Feeds the normalised text to `emit(bytes, source)` in pieces, `source` being the bytes of
    /// `text` consumed so far, and returns the number of bytes after trimming trailing spaces: the
    /// text is that prefix of everything emitted.
    pub fn for_each(&self, text: &[u8], mut emit: impl FnMut(&[u8], usize)) -> usize {
        let mut len = 0usize; // emitted so far
        let mut trimmed = 0usize; // emitted up to the last byte that is not a trailing space
        let mut rest = text;
        let mut previous_space = self.collapse_spaces;
        let mut started = false;
        while !rest.is_empty() {
            let (mut new, used) = self.first(rest);
            rest = rest.get(used..).unwrap_or_default();
            // Leading space is skipped before the prefix is put in front; the reference compares
            // whole replacements, so a replacement of several spaces already counts as text.
            if !started {
                if self.collapse_spaces && new == b" " {
                    continue;
                }
                started = true;
                if self.add_space_prefix {
                    emit(SPACE.as_bytes(), 0);
                    len = len.saturating_add(SPACE.len());
                }
            }
            while let (true, Some((b' ', tail))) = (previous_space, new.split_first()) {
                new = tail;
            }
            let source = text.len().saturating_sub(rest.len());
            for run in new.chunk_by(|a, b| (*a == b' ') == (*b == b' ')) {
                if run.first() == Some(&b' ') {
                    for _ in run {
                        emit(SPACE.as_bytes(), source);
                        len = len.saturating_add(SPACE.len());
                    }
                } else {
                    emit(run, source);
                    len = len.saturating_add(run.len());
                    // A literal U+2581 at the end is trimmed like a space.
                    let mut kept = run;
                    while let Some(shorter) = kept.strip_suffix(SPACE.as_bytes()) {
                        kept = shorter;
                    }
                    if !kept.is_empty() {
                        trimmed = len.saturating_sub(run.len().saturating_sub(kept.len()));
                    }
                }
            }
            if !new.is_empty() {
                previous_space = new.last() == Some(&b' ') && self.collapse_spaces;
            }
        }
        if self.collapse_spaces { trimmed } else { len }
    }

    /// Normalises `text` into `out` and returns the bytes written.
    ///
    /// # Errors
    /// [`Error::TextTooLong`] where `out` is too small.
    pub fn normalize(&self, text: &[u8], out: &mut [u8]) -> Result<usize> {
        let mut needed = 0usize;
        let len = self.for_each(text, |bytes, _| {
            let end = needed.saturating_add(bytes.len());
            if let Some(slot) = out.get_mut(needed..end) {
                slot.copy_from_slice(bytes);
            }
            needed = end;
        });
        if needed > out.len() { Err(Error::TextTooLong { needed }) } else { Ok(len) }
    }

    /// Bytes that [`Normalizer::normalize`] needs room for.
    pub fn normalized_len(&self, text: &[u8]) -> usize {
        let mut needed = 0usize;
        self.for_each(text, |bytes, _| needed = needed.saturating_add(bytes.len()));
        needed
    }

    /// How many bytes of `text` its first `normalized` normalised bytes stand for.
    pub fn source_len(&self, text: &[u8], normalized: usize) -> usize {
        let (mut at, mut source_len) = (0usize, 0);
        self.for_each(text, |bytes, source| {
            if at < normalized {
                source_len = source;
            }
            at = at.saturating_add(bytes.len());
        });
        source_len
    }
}

/// Length of the UTF-8 character that `text` begins with, if it is a valid one.
fn valid_char_len(text: &[u8]) -> Option<usize> {
    let len = char_len(*text.first()?);
    core::str::from_utf8(text.get(..len)?).ok().map(|_| len)
}

/// Length of a UTF-8 character by its first byte (1 for bytes that cannot begin one).
#[inline]
pub(super) fn char_len(first: u8) -> usize {
    match first {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xff => 4,
        _ => 1,
    }
}
