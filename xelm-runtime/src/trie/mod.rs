//! Double-array tries in the unit format of Darts-clone, read in place.
//!
//! The same structure holds a vocabulary's pieces and a normaliser's rules; SentencePiece and
//! llama.cpp read the latter, so the format is theirs. A unit is 32 bits:
//!
//! | bits  | inner unit | leaf |
//! |-------|------------|------|
//! | 31    | 0          | 1    |
//! | 10–30 | offset     | value (bits 0–30) |
//! | 9     | offset is in units of 256 |  |
//! | 8     | a key ends here: its leaf is child 0 |  |
//! | 0–7   | label      |      |
//!
//! The child of unit `n` for byte `c` is unit `n ^ offset ^ c`, if its label is `c`.

#[cfg(feature = "std")]
mod build;
#[cfg(feature = "std")]
pub use build::{build, keys};

/// A double array over the bytes of a file; any bytes are safe to walk.
#[derive(Clone, Copy, Debug)]
pub struct Trie<'a> {
    units: &'a [[u8; 4]],
}

/// A position in a [`Trie`] while a key is being matched.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    index: usize,
    unit: u32,
}

impl<'a> Trie<'a> {
    /// Reads little-endian units from `bytes`; an incomplete last one is ignored.
    pub fn new(bytes: &'a [u8]) -> Self {
        Trie { units: bytes.as_chunks::<4>().0 }
    }

    /// Number of units.
    pub fn len(&self) -> usize {
        self.units.len()
    }

    /// Whether there are no units at all.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Whether every inner unit's children lie inside the array, in time linear in its length.
    pub fn is_in_bounds(&self) -> bool {
        (0..self.units.len()).all(|index| {
            let Some(unit) = self.unit(index) else { return false };
            // Children differ from `index ^ offset` in the low eight bits only.
            is_leaf(unit) || ((index ^ offset(unit)) | 0xff) < self.units.len() || offset(unit) == 0
        })
    }

    /// Whether every value that a key can lead to is below `n`, in time linear in the array's length.
    pub fn has_values_below(&self, n: usize) -> bool {
        (0..self.units.len()).all(|index| {
            let Some(unit) = self.unit(index) else { return false };
            let value = if is_leaf(unit) { None } else { self.value(Node { index, unit }) };
            value.is_none_or(|value| (value as usize) < n)
        })
    }

    fn unit(&self, index: usize) -> Option<u32> {
        self.units.get(index).map(|b| u32::from_le_bytes(*b))
    }

    /// The empty prefix; `None` for an empty trie.
    #[inline]
    pub fn root(&self) -> Option<Node> {
        Some(Node { index: 0, unit: self.unit(0)? })
    }

    /// The node reached by byte `byte`. No key contains a zero byte.
    #[inline]
    pub fn step(&self, node: Node, byte: u8) -> Option<Node> {
        let index = node.index ^ offset(node.unit) ^ usize::from(byte);
        let unit = self.unit(index)?;
        // A leaf has bit 31 set and so never carries a label.
        (unit & 0x8000_00ff == u32::from(byte) && byte != 0).then_some(Node { index, unit })
    }

    /// The value of the key that ends here, if one does.
    #[inline]
    pub fn value(&self, node: Node) -> Option<u32> {
        if node.unit & 0x100 == 0 {
            return None;
        }
        self.unit(node.index ^ offset(node.unit)).map(|leaf| leaf & 0x7fff_ffff)
    }

    /// The longest key that is a prefix of `text`, as (bytes, value).
    pub fn longest_prefix(&self, text: &[u8]) -> Option<(usize, u32)> {
        let mut node = self.root()?;
        let mut longest = None;
        for (i, &byte) in text.iter().enumerate() {
            let Some(next) = self.step(node, byte) else { break };
            node = next;
            if let Some(value) = self.value(node) {
                longest = Some((i + 1, value));
            }
        }
        longest
    }

    /// The value of exactly `key`.
    pub fn get(&self, key: &[u8]) -> Option<u32> {
        let root = self.root()?;
        let node = key.iter().try_fold(root, |node, &byte| self.step(node, byte))?;
        self.value(node)
    }
}

const fn is_leaf(unit: u32) -> bool {
    unit & 0x8000_0000 != 0
}

const fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 0x200) >> 6)) as usize
}
