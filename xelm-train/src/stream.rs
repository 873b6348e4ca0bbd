//! The order in which documents are trained on, as in the X-ELM paper: documents, each with `</s>` on
//! both sides, laid end to end and cut into non-overlapping blocks of T + 1 tokens; attention crosses
//! documents.
//!
//! The order of an epoch is a permutation drawn from (seed, epoch) alone, so the whole state of a
//! reader is one number: the index of the next block.

use crate::tokens::TokenShard;
use crate::{Error, Result};
use xelm_runtime::rng::Rng;

/// Distinguishes the permutations from other uses of a seed.
const STREAM_EPOCHS: u64 = 0x6570_6f63_6873 << 16;

/// Tokens around each document.
const MARKS: u64 = 2;

/// Documents of some shards as an endless sequence of blocks.
#[derive(Debug)]
pub struct Stream<'a> {
    shards: &'a [TokenShard],
    /// (shard, document), in shard order.
    documents: Vec<(u32, u32)>,
    eos: u32,
    seed: u64,
    block_len: usize,
    /// The epoch whose order is laid out.
    epoch: u64,
    /// Where each document of the epoch's order begins in its stream; one more for the end.
    starts: Vec<u64>,
    order: Vec<u32>,
    blocks_per_epoch: u64,
}

impl<'a> Stream<'a> {
    /// All documents of `shards` for which `keep(shard, document)` holds, in blocks of `n_ctx` + 1.
    ///
    /// # Errors
    /// They hold fewer tokens than one block.
    pub fn new(
        shards: &'a [TokenShard],
        keep: impl Fn(usize, usize) -> bool,
        eos: u32,
        seed: u64,
        n_ctx: usize,
    ) -> Result<Self> {
        let mut documents = Vec::new();
        let mut n_tokens = 0;
        for (s, shard) in shards.iter().enumerate() {
            for d in (0..shard.n_documents()).filter(|&d| keep(s, d)) {
                documents.push((s as u32, d as u32));
                n_tokens += shard.document(d).len() as u64 + MARKS;
            }
        }
        let block_len = n_ctx + 1;
        let blocks_per_epoch = n_tokens / block_len as u64;
        if blocks_per_epoch == 0 {
            return Err(Error::usage(format!(
                "the corpus has only {n_tokens} tokens, less than one sequence of {block_len}: \
                 add text, or lower --n-ctx"
            )));
        }
        let mut stream = Stream {
            shards,
            documents,
            eos,
            seed,
            block_len,
            epoch: u64::MAX,
            starts: Vec::new(),
            order: Vec::new(),
            blocks_per_epoch,
        };
        stream.lay_out(0);
        Ok(stream)
    }

    /// Blocks in one pass over the documents; the last partial block is dropped.
    pub fn blocks_per_epoch(&self) -> u64 {
        self.blocks_per_epoch
    }

    fn lay_out(&mut self, epoch: u64) {
        if epoch == self.epoch {
            return;
        }
        self.order = (0..self.documents.len() as u32).collect();
        Rng::new(self.seed, STREAM_EPOCHS | epoch).shuffle(&mut self.order);
        self.starts.clear();
        let mut start = 0;
        for &i in &self.order {
            self.starts.push(start);
            let (shard, document) = self.documents[i as usize];
            start += self.shards[shard as usize].document(document as usize).len() as u64 + MARKS;
        }
        self.starts.push(start);
        self.epoch = epoch;
    }

    /// The documents that blocks hold, whole or in part, as (shard, document), each once.
    pub fn documents_of(&mut self, blocks: std::ops::Range<u64>) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for index in blocks {
            self.lay_out(index / self.blocks_per_epoch);
            let first = index % self.blocks_per_epoch * self.block_len as u64;
            let end = first + self.block_len as u64;
            let at = self.starts.partition_point(|&start| start <= first) - 1;
            let n = self.starts[at..].partition_point(|&start| start < end);
            for &document in &self.order[at..(at + n).min(self.order.len())] {
                let (shard, document) = self.documents[document as usize];
                found.push((shard as usize, document as usize));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Appends block `index` to a batch: its first T tokens to `inputs`, its last T to `targets`.
    pub fn read(&mut self, index: u64, inputs: &mut Vec<u32>, targets: &mut Vec<u32>) {
        self.lay_out(index / self.blocks_per_epoch);
        let first = index % self.blocks_per_epoch * self.block_len as u64;
        let mut at = self.starts.partition_point(|&start| start <= first) - 1;
        let mut skip = (first - self.starts[at]) as usize;
        let mut n = 0;
        while n < self.block_len {
            let (shard, document) = self.documents[self.order[at] as usize];
            let ids = self.shards[shard as usize].document(document as usize);
            let marked =
                std::iter::once(&self.eos).chain(ids).chain(std::iter::once(&self.eos)).skip(skip);
            for &token in marked.take(self.block_len - n) {
                if n < self.block_len - 1 {
                    inputs.push(token);
                }
                if n > 0 {
                    targets.push(token);
                }
                n += 1;
            }
            skip = 0;
            at += 1;
        }
    }
}
