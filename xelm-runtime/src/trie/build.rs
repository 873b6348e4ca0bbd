//! Building a double array from sorted keys.

use super::{Node, Trie};
use crate::error::{Error, Result};
use std::vec;
use std::vec::Vec;

/// Free places looked at before a fresh block of 256 is opened for a node's children.
const MAX_TRIES: usize = 256;
/// A unit that no lookup can take for a child: bit 31 set, so its label matches no byte.
const UNUSED: u32 = 0x8000_0000;

/// Builds the units for `keys`, which must be sorted by bytes, distinct, non-empty and free of zero
/// bytes; values are below 2³¹. The result depends on the input alone.
///
/// # Errors
/// [`Error::OutOfRange`] for keys that break these rules.
pub fn build(keys: &[(&[u8], u32)]) -> Result<Vec<u32>> {
    let bad = Error::OutOfRange { what: "the keys of a trie" };
    let sorted = keys.windows(2).all(|pair| pair[0].0 < pair[1].0);
    let valid = keys.iter().all(|(k, v)| !k.is_empty() && !k.contains(&0) && *v < 1 << 31);
    if !sorted || !valid {
        return Err(bad);
    }
    let mut builder = Builder::default();
    builder.grow();
    builder.take(0);
    // The root's own label is never looked at, but must not look like a leaf, and SentencePiece takes
    // an array whose root has the offset 0 for a broken one.
    builder.units[0] = 0;
    builder.base_taken[0] = true;
    // Depth first, with an own stack: keys may be long.
    let mut stack = vec![(0usize, 0..keys.len(), 0usize)];
    if keys.is_empty() {
        stack.clear();
    }
    while let Some((node, range, depth)) = stack.pop() {
        let children = children(&keys[range.clone()], range.start, depth);
        let base = builder.place(node, &children);
        for (label, child_range) in children {
            let index = base ^ usize::from(label);
            if label == 0 {
                builder.units[index] = keys[child_range.start].1 | UNUSED;
                builder.units[node] |= 0x100;
            } else {
                builder.units[index] = u32::from(label);
                stack.push((index, child_range, depth + 1));
            }
        }
    }
    Ok(builder.units)
}

/// All keys of a trie with their values, sorted.
///
/// # Errors
/// [`Error::OutOfRange`] where a unit is the child of several others, which [`build`] makes none.
pub fn keys(trie: &Trie<'_>) -> Result<Vec<(Vec<u8>, u32)>> {
    let mut keys = Vec::new();
    let mut path = Vec::new();
    let mut left = trie.len();
    // Nodes to visit, with the bytes that lead to them from their parents and their depths.
    let mut stack: Vec<(Node, u8, usize)> =
        trie.root().map(|root| (root, 0, 0)).into_iter().collect();
    while let Some((node, label, depth)) = stack.pop() {
        left = left.checked_sub(1).ok_or(Error::OutOfRange { what: "a trie" })?;
        if depth > 0 {
            path.truncate(depth - 1);
            path.push(label);
        }
        if let Some(value) = trie.value(node) {
            keys.push((path.clone(), value));
        }
        let children =
            (1..=u8::MAX).rev().filter_map(|c| Some((trie.step(node, c)?, c, depth + 1)));
        stack.extend(children);
    }
    Ok(keys)
}

/// The distinct bytes at `depth` of a sorted run of keys with the ranges that share them; 0 stands
/// for a key that ends there.
fn children(
    keys: &[(&[u8], u32)],
    start: usize,
    depth: usize,
) -> Vec<(u8, core::ops::Range<usize>)> {
    let label = |key: &[u8]| key.get(depth).copied().unwrap_or(0);
    let mut children: Vec<(u8, core::ops::Range<usize>)> = Vec::new();
    for (i, (key, _)) in keys.iter().enumerate() {
        match children.last_mut() {
            Some((last, range)) if *last == label(key) => range.end = start + i + 1,
            _ => children.push((label(key), start + i..start + i + 1)),
        }
    }
    children
}

#[derive(Default)]
struct Builder {
    units: Vec<u32>,
    used: Vec<bool>,
    /// Whether some node's children already start from this base: two nodes with one base would
    /// see each other's children.
    base_taken: Vec<bool>,
    /// Places below this index are all used.
    first_free: usize,
}

impl Builder {
    fn grow(&mut self) {
        let len = self.units.len() + 256;
        self.units.resize(len, UNUSED);
        self.used.resize(len, false);
        self.base_taken.resize(len, false);
    }

    fn take(&mut self, index: usize) {
        self.used[index] = true;
        while self.used.get(self.first_free) == Some(&true) {
            self.first_free += 1;
        }
    }

    /// Finds a base for the children of `node`, reserves their places and links the node to it.
    fn place(&mut self, node: usize, children: &[(u8, core::ops::Range<usize>)]) -> usize {
        let first = usize::from(children[0].0);
        let mut tries = 0;
        let mut index = self.first_free;
        let base = loop {
            if index >= self.units.len() || tries == MAX_TRIES {
                index = self.units.len();
                self.grow();
            }
            // A whole block is free after growing, so the search ends.
            if !self.used[index] {
                tries += 1;
                let base = index ^ first;
                let free = |&(label, _): &(u8, _)| !self.used[base ^ usize::from(label)];
                let fits = base < self.units.len() && !self.base_taken[base];
                if fits && encode_offset(node ^ base).is_some() && children.iter().all(free) {
                    break base;
                }
            }
            index += 1;
        };
        self.base_taken[base] = true;
        for &(label, _) in children {
            self.take(base ^ usize::from(label));
        }
        self.units[node] |= encode_offset(node ^ base).unwrap_or(0);
        base
    }
}

/// The offset's bits in a unit: 21 bits as they are, or 29 of which the low eight are zero.
fn encode_offset(offset: usize) -> Option<u32> {
    if offset < 1 << 21 {
        Some((offset as u32) << 10)
    } else if offset < 1 << 29 && offset & 0xff == 0 {
        Some(((offset as u32) << 2) | 0x200)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use std::collections::BTreeMap;

    fn bytes(units: &[u32]) -> Vec<u8> {
        units.iter().flat_map(|u| u.to_le_bytes()).collect()
    }

    #[test]
    fn finds_exactly_the_keys() {
        let mut rng = Rng::new(5, 0);
        let mut map = BTreeMap::new();
        for value in 0..20_000u32 {
            let len = 1 + rng.below(7);
            let key: Vec<u8> = (0..len).map(|_| 1 + rng.below(9) as u8 * 28).collect();
            map.insert(key, value);
        }
        let keys: Vec<(&[u8], u32)> = map.iter().map(|(k, v)| (k.as_slice(), *v)).collect();
        let units = bytes(&build(&keys).unwrap());
        let trie = Trie::new(&units);
        assert!(trie.is_in_bounds());
        assert_ne!(&units[..4], [0; 4], "the root has an offset");
        for (key, value) in &keys {
            assert_eq!(trie.get(key), Some(*value));
        }
        assert_eq!(
            super::keys(&trie).unwrap(),
            map.iter().map(|(k, v)| (k.clone(), *v)).collect::<Vec<_>>()
        );
        for _ in 0..20_000 {
            let len = 1 + rng.below(8);
            let key: Vec<u8> = (0..len).map(|_| rng.below(256) as u8).collect();
            assert_eq!(trie.get(&key), map.get(&key).copied());
            let longest = (1..=key.len()).rev().find_map(|n| Some((n, *map.get(&key[..n])?)));
            assert_eq!(trie.longest_prefix(&key), longest);
        }
    }

    #[test]
    fn refuses_bad_keys() {
        assert!(build(&[(b"b", 0), (b"a", 1)]).is_err());
        assert!(build(&[(b"a", 0), (b"a", 1)]).is_err());
        assert!(build(&[(b"", 0)]).is_err());
        assert!(build(&[(b"a\0", 0)]).is_err());
        assert!(build(&[(b"a", u32::MAX)]).is_err());
    }

    #[test]
    fn any_bytes_are_safe_to_walk() {
        let mut rng = Rng::new(6, 0);
        for _ in 0..2000 {
            let len = rng.below(600);
            let noise: Vec<u8> = (0..len).map(|_| rng.next_u32() as u8).collect();
            let trie = Trie::new(&noise);
            let key: Vec<u8> = (0..8).map(|_| rng.next_u32() as u8).collect();
            let _ = (trie.get(&key), trie.longest_prefix(&key), trie.is_in_bounds(), keys(&trie));
        }
    }

    /// The empty list is a trie without keys, not an error.
    #[test]
    fn empty() {
        assert_eq!(Trie::new(&[]).get(b"a"), None);
        assert_eq!(Trie::new(&bytes(&build(&[]).unwrap())).get(b"a"), None);
    }
}
