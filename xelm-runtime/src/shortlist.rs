//! Which tokens have logits: all of the vocabulary, or those on the experts' shortlists.
//!
//! A shortlist leaves out the tokens that a language never writes, and with them most of the work of the
//! output layer, which for a large vocabulary is a third of a small model's. Texts are read with the whole
//! vocabulary all the same.

use crate::arena::Arena;
use crate::error::{Error, Result};
use crate::format::{Array, Gguf, ValueType, keys};

/// Token ids in strictly ascending order: what the rows of an expert's own output layer stand for.
#[derive(Clone, Copy, Debug)]
pub struct Shortlist<'a>(Array<'a>);

impl<'a> Shortlist<'a> {
    /// The shortlist of a file with `n_vocab` tokens, where it has one; checked in time linear in its
    /// length.
    ///
    /// # Errors
    /// It is of another type, empty, not strictly ascending, or has an id outside the vocabulary.
    pub fn read(gguf: &Gguf<'a>, n_vocab: usize) -> Result<Option<Self>> {
        let key = keys::SHORTLIST;
        let Some(value) = gguf.get(key) else { return Ok(None) };
        let list = Shortlist(value.array(&[ValueType::U32, ValueType::I32], key)?);
        let mut next = 0;
        for id in list.ids() {
            if id < next || id as usize >= n_vocab {
                return Err(Error::OutOfRange { what: key });
            }
            next = id.saturating_add(1);
        }
        if list.is_empty() { Err(Error::OutOfRange { what: key }) } else { Ok(Some(list)) }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether there are no tokens (never true of a file's shortlist).
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The token of row `row`; 0 past the end.
    #[inline]
    pub fn id(&self, row: usize) -> u32 {
        self.0.bits32(row)
    }

    /// The tokens in order.
    pub fn ids(&self) -> impl Iterator<Item = u32> + use<'a> {
        let list = *self;
        (0..list.len()).map(move |row| list.id(row))
    }

    /// The tokens from `first` on.
    fn ids_from(&self, first: u32) -> impl Iterator<Item = u32> + use<'a> {
        let list = *self;
        let (mut low, mut high) = (0, list.len());
        while low < high {
            let middle = low.midpoint(high);
            if list.id(middle) < first {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        (low..list.len()).map(move |row| list.id(row))
    }
}

/// Calls `each` with every token that is on any of the lists, in ascending order.
fn union<'a>(
    lists: impl Iterator<Item = Shortlist<'a>> + Clone,
    n_vocab: usize,
    mut each: impl FnMut(u32),
) {
    // A window of the vocabulary at a time: there is no memory for a bit for each of its tokens.
    const WINDOW: usize = 1 << 14;
    for start in (0..n_vocab).step_by(WINDOW) {
        let mut seen = [0u64; WINDOW / 64];
        for list in lists.clone() {
            let ids = list.ids_from(start as u32).map(|id| id as usize - start);
            for at in ids.take_while(|&at| at < WINDOW) {
                seen[at / 64] |= 1 << (at % 64);
            }
        }
        for (i, mut word) in seen.into_iter().enumerate() {
            while word != 0 {
                each((start + i * 64) as u32 + word.trailing_zeros());
                word &= word - 1;
            }
        }
    }
}

/// The tokens that have logits in a session, in ascending order.
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'a> {
    n_vocab: usize,
    /// `None` for the whole vocabulary.
    ids: Option<&'a [u32]>,
}

impl<'a> Outputs<'a> {
    /// All tokens.
    pub const fn all(n_vocab: usize) -> Self {
        Outputs { n_vocab, ids: None }
    }

    /// The tokens that are on any of the lists, and their number: an arena that only measures has no room
    /// for them.
    pub(crate) fn carve<'e>(
        arena: &mut Arena<'a>,
        lists: impl Iterator<Item = Shortlist<'e>> + Clone,
        n_vocab: usize,
    ) -> Result<(Self, usize)> {
        let mut n = 0;
        union(lists.clone(), n_vocab, |_| n += 1);
        let ids: &'a mut [u32] = arena.take(n)?;
        let mut slots = ids.iter_mut();
        union(lists, n_vocab, |id| {
            if let Some(slot) = slots.next() {
                *slot = id;
            }
        });
        Ok((Outputs { n_vocab, ids: Some(ids) }, n))
    }

    /// Number of logits.
    pub fn len(&self) -> usize {
        self.ids.map_or(self.n_vocab, <[u32]>::len)
    }

    /// Whether there are no logits (never true in a session).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens; `None` where all have logits, so that a token's id is the index of its logit.
    pub fn ids(&self) -> Option<&'a [u32]> {
        self.ids
    }

    /// The token of logit `index`.
    #[inline]
    pub fn id(&self, index: usize) -> u32 {
        match self.ids {
            None => index as u32,
            Some(ids) => ids.get(index).copied().unwrap_or(0),
        }
    }

    /// The index of a token's logit; `None` where it has none.
    #[inline]
    pub fn index(&self, id: u32) -> Option<usize> {
        match self.ids {
            None => Some(id as usize).filter(|&index| index < self.n_vocab),
            Some(ids) => ids.binary_search(&id).ok(),
        }
    }

    /// Moves rows of logits in place, `[n, list.len()]` at the beginning of `logits`, to where their tokens
    /// stand among these, `[n, self.len()]`; the others get −∞. All of the list's tokens are among these.
    pub(crate) fn spread(&self, logits: &mut [f32], list: Shortlist<'_>) {
        let Some(ids) = self.ids else { return };
        // From the end, so that nothing is overwritten before it was moved.
        for row in (0..logits.len() / ids.len()).rev() {
            let mut left = list.len();
            for (i, &id) in ids.iter().enumerate().rev() {
                let is_here = left > 0 && list.id(left - 1) == id;
                left -= usize::from(is_here);
                let from = row * list.len() + left;
                logits[row * ids.len() + i] =
                    if is_here { logits[from] } else { f32::NEG_INFINITY };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Writer;
    use std::vec::Vec;

    fn file(ids: &[u32]) -> Vec<u8> {
        let mut writer = Writer::new("xelm");
        writer.u32s(keys::SHORTLIST, ids);
        writer.begin(Vec::new()).unwrap().finish().unwrap()
    }

    #[repr(align(64))]
    struct Block([u8; 8192]);

    /// Calls `work` with the list of a file that holds it.
    fn with<T>(
        ids: &[u32],
        n_vocab: usize,
        work: impl FnOnce(Result<Option<Shortlist<'_>>>) -> T,
    ) -> T {
        let bytes = file(ids);
        let mut block = Block([0; 8192]);
        block.0[..bytes.len()].copy_from_slice(&bytes);
        let gguf = Gguf::open(&block.0[..bytes.len()]).unwrap();
        work(Shortlist::read(&gguf, n_vocab))
    }

    #[test]
    fn only_ascending_ids_of_the_vocabulary() {
        let bad = Error::OutOfRange { what: keys::SHORTLIST };
        for ids in [&[][..], &[1, 1], &[2, 1], &[0, 9, 3], &[10], &[0, u32::MAX], &[u32::MAX; 2]] {
            with(ids, 10, |list| assert_eq!(list.unwrap_err(), bad, "{ids:?}"));
        }
        for ids in [&[0][..], &[9], &[0, 1, 2, 9]] {
            with(ids, 10, |list| {
                assert_eq!(list.unwrap().unwrap().ids().collect::<Vec<_>>(), ids);
            });
        }
    }

    #[test]
    fn union_is_sorted_and_whole() {
        // Over several windows, at their edges too.
        let n_vocab = 40_000;
        let a: Vec<u32> = (0..400).map(|i| i * 97).collect();
        let b: Vec<u32> = [0, 5, 16_383, 16_384, 16_385, 32_767, 32_768, 39_999].into();
        let mut expected: Vec<u32> = a.iter().chain(&b).copied().collect();
        expected.sort_unstable();
        expected.dedup();
        with(&a, n_vocab, |first| {
            with(&b, n_vocab, |second| {
                let lists = [first.unwrap().unwrap(), second.unwrap().unwrap()];
                let mut block = Block([0; 8192]);
                let mut arena = Arena::new(&mut block.0).unwrap();
                let (outputs, n) = Outputs::carve(&mut arena, lists.into_iter(), n_vocab).unwrap();
                assert_eq!((outputs.ids(), n), (Some(&expected[..]), expected.len()));
                for (i, &id) in expected.iter().enumerate() {
                    assert_eq!((outputs.id(i), outputs.index(id)), (id, Some(i)));
                }
                assert_eq!((outputs.index(1), outputs.index(u32::MAX)), (None, None));
            });
        });
        let all = Outputs::all(3);
        assert_eq!((all.len(), all.id(2), all.index(2), all.index(3)), (3, 2, Some(2), None));
    }

    #[test]
    fn rows_are_spread_in_place() {
        const NONE: f32 = f32::NEG_INFINITY;
        let ids = [1, 2, 4, 7, 8];
        let outputs = Outputs { n_vocab: 9, ids: Some(&ids) };
        let spread = |list: &[u32], narrow: &[f32]| {
            let mut logits = narrow.to_vec();
            logits.resize(10, 0.5);
            with(list, 9, |list| outputs.spread(&mut logits, list.unwrap().unwrap()));
            logits
        };
        let two = spread(&[2, 7], &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(two, [NONE, 1.0, NONE, 2.0, NONE, NONE, 3.0, NONE, 4.0, NONE]);
        let ends = spread(&[1, 8], &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(ends, [1.0, NONE, NONE, NONE, 2.0, 3.0, NONE, NONE, NONE, 4.0]);
        let all: Vec<f32> = (0..10).map(|i| i as f32).collect();
        assert_eq!(spread(&ids, &all), all);
    }
}
