//! The best path of pieces through a normalised text, as SentencePiece computes it: f32 path
//! scores, the earlier start winning ties, unknown characters merged into one token.

use super::Tokenizer;
use super::normalize::char_len;
use crate::arena::Arena;
use crate::error::{Error, Result};

/// Memory for one text: 25 bytes for each byte of normalised text.
#[derive(Debug)]
pub struct Scratch<'m> {
    text: &'m mut [u8],
    /// Best path that ends at each byte position.
    nodes: &'m mut [Node],
    ids: &'m mut [u32],
    ends: &'m mut [u32],
}

#[derive(Clone, Copy, Debug, bytemuck::NoUninit, bytemuck::AnyBitPattern)]
#[repr(C)]
struct Node {
    score: f32,
    /// Start of the last piece; [`UNREACHED`] where no path ends.
    start: u32,
    id: u32,
}

const UNREACHED: u32 = u32::MAX;

/// The tokens of a text.
#[derive(Clone, Copy, Debug)]
pub struct Encoding<'s> {
    /// Token ids, without the opening `</s>`.
    pub ids: &'s [u32],
    /// Where each token ends in the normalised text.
    pub ends: &'s [u32],
}

impl<'m> Scratch<'m> {
    /// Takes room for `capacity` bytes of normalised text from an arena.
    ///
    /// # Errors
    /// The arena is exhausted.
    pub fn carve(arena: &mut Arena<'m>, capacity: usize) -> Result<Self> {
        let n_nodes = capacity.saturating_add(1);
        Ok(Scratch {
            nodes: arena.take(n_nodes)?,
            ids: arena.take(capacity)?,
            ends: arena.take(capacity)?,
            text: arena.take(capacity)?,
        })
    }

    /// Bytes of normalised text that fit.
    pub fn capacity(&self) -> usize {
        self.text.len()
    }
}

impl Tokenizer<'_> {
    /// Tokenises `text` (any bytes; invalid UTF-8 becomes U+FFFD). The result lives in the scratch.
    ///
    /// # Errors
    /// [`Error::TextTooLong`] with the capacity that the scratch would have needed.
    pub fn encode<'s>(&self, text: &[u8], scratch: &'s mut Scratch<'_>) -> Result<Encoding<'s>> {
        let len = self.normalizer().normalize(text, scratch.text)?;
        let Scratch { text, nodes, ids, ends } = scratch;
        let text = text.get(..len).unwrap_or_default();
        let nodes = nodes.get_mut(..=len).ok_or(Error::TextTooLong { needed: len })?;
        self.best_paths(text, nodes);
        let n = self.backtrack(nodes, ids, ends);
        // Backtracking wrote the tokens from the last to the first.
        let (ids, ends) =
            (ids.get_mut(..n).unwrap_or_default(), ends.get_mut(..n).unwrap_or_default());
        ids.reverse();
        ends.reverse();
        Ok(Encoding { ids, ends })
    }

    /// Fills `nodes[i]` with the best path that ends at byte `i`.
    fn best_paths(&self, text: &[u8], nodes: &mut [Node]) {
        nodes.fill(Node { score: 0.0, start: UNREACHED, id: 0 });
        let Some(root) = self.trie.root() else { return };
        let mut start = 0usize;
        while let Some((&first, _)) = text.get(start..).and_then(<[u8]>::split_first) {
            let score_here = nodes.get(start).map_or(0.0, |node| node.score);
            let char_end = start.saturating_add(char_len(first)).min(text.len());
            let mut char_is_piece = false;
            let mut node = root;
            let mut end = start;
            for &byte in text.get(start..).unwrap_or_default() {
                let Some(next) = self.trie.step(node, byte) else { break };
                node = next;
                end = end.saturating_add(1);
                if let Some(id) = self.trie.value(node) {
                    let score = self.score(id) + score_here;
                    relax(nodes, end, Node { score, start: start as u32, id });
                    char_is_piece |= end == char_end;
                }
            }
            if !char_is_piece {
                let score = self.unk_score + score_here;
                relax(nodes, char_end, Node { score, start: start as u32, id: self.unk });
            }
            start = char_end;
        }
    }

    /// Writes ids and ends of the best path back to front, runs of unknown characters as one.
    fn backtrack(&self, nodes: &[Node], ids: &mut [u32], ends: &mut [u32]) -> usize {
        let mut n = 0usize;
        let mut end = nodes.len().saturating_sub(1);
        let mut previous = None;
        while let Some(node) = nodes.get(end).filter(|_| end > 0) {
            if !(node.id == self.unk && previous == Some(self.unk)) {
                if let (Some(id), Some(slot)) = (ids.get_mut(n), ends.get_mut(n)) {
                    *id = node.id;
                    *slot = end as u32;
                }
                n = n.saturating_add(1);
            }
            previous = Some(node.id);
            // A start before the end, always: `best_paths` sets no other, and none is unreached.
            end = (node.start as usize).min(end.saturating_sub(1));
        }
        n
    }
}

/// Takes the path `candidate` to `end` if it is the first one or strictly better.
#[inline(always)]
fn relax(nodes: &mut [Node], end: usize, candidate: Node) {
    if let Some(best) = nodes.get_mut(end)
        && (best.start == UNREACHED || candidate.score > best.score)
    {
        *best = candidate;
    }
}
