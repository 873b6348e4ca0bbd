//! Weights fetched before they are needed.

use crate::isa::prefetch;

/// Bytes that are needed after those in work.
#[derive(Clone, Copy)]
pub(super) struct Ahead<'a> {
    /// Where they are, or what they come after.
    pub(super) from: &'a [u8],
    /// Index of the first: after the end of `from`, it may be nowhere.
    pub(super) first: usize,
    pub(super) len: usize,
}

impl Ahead<'_> {
    /// Fetches one of several equal shares. In between there is to be work: a core has few requests to memory on the way, and
    /// reads nothing else while one more waits.
    #[inline(always)]
    pub(super) fn fetch(self, share: usize, n_shares: usize) {
        let n_lines = self.len.div_ceil(64).div_ceil(n_shares);
        for line in 0..n_lines {
            prefetch(self.from, self.first + 64 * (share * n_lines + line));
        }
    }
}
