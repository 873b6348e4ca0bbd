//! The tasks of a phase, a share for each thread. Neighbouring tasks read neighbouring weights, which a thread fetches
//! ahead: it begins with those of its own share, one after the other, and then takes from the ends of others'.

use super::Line;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Shares at most; more threads have them in common.
const MAX_SHARES: usize = 16;
/// Half the bits of a word.
const HALF: u32 = usize::BITS / 2;
/// Tasks of a phase at most.
pub(super) const MAX_TASKS: usize = (1 << HALF) - 1;

/// Who runs what. Nothing is promised to a thread but that nobody else gets a task that it claimed.
#[derive(Debug)]
pub(super) struct Shares {
    /// Of each, the first task in the upper half of the word and the end in the lower.
    shares: [Line<AtomicUsize>; MAX_SHARES],
}

impl Shares {
    /// No tasks.
    pub(super) fn new() -> Self {
        Shares { shares: [const { Line(AtomicUsize::new(0)) }; MAX_SHARES] }
    }

    /// Divides the tasks 0 .. `n_tasks`, [`MAX_TASKS`] at most, among `n_threads` threads; returns the number of shares. No
    /// thread may be claiming.
    pub(super) fn divide(&self, n_tasks: usize, n_threads: usize) -> usize {
        let n = n_threads.clamp(1, MAX_SHARES);
        for (i, share) in self.shares[..n].iter().enumerate() {
            let (first, end) = (i * n_tasks / n, (i + 1) * n_tasks / n);
            share.0.store(first << HALF | end, Ordering::Relaxed);
        }
        n
    }

    /// The next tasks of a thread, of `n` shares, the `own`-th being its own; none when none is left.
    pub(super) fn claim(&self, own: usize, n: usize) -> Option<Range<usize>> {
        take(&self.shares[own % n].0, first)
            .or_else(|| (1..n).find_map(|i| take(&self.shares[(own + i) % n].0, last_quarter)))
    }
}

/// Takes a part of a share, as `part` divides what is left of it: into what is taken, and what stays.
fn take(
    share: &AtomicUsize,
    part: impl Fn(Range<usize>) -> (Range<usize>, Range<usize>),
) -> Option<Range<usize>> {
    let divide = |share: usize| {
        let left = share >> HALF..share & MAX_TASKS;
        (!left.is_empty()).then(|| part(left))
    };
    let stays = |share| divide(share).map(|(_, stays)| stays.start << HALF | stays.end);
    let before = share.fetch_update(Ordering::Relaxed, Ordering::Relaxed, stays).ok()?;
    divide(before).map(|(taken, _)| taken)
}

/// The first task, and the others.
fn first(left: Range<usize>) -> (Range<usize>, Range<usize>) {
    let second = left.start + 1;
    (left.start..second, second..left.end)
}

/// The last quarter, and the others: the fewer are left, the shorter, so that all threads end together.
fn last_quarter(left: Range<usize>) -> (Range<usize>, Range<usize>) {
    let middle = left.end - left.len().div_ceil(4);
    (middle..left.end, left.start..middle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn every_task_once_whoever_comes() {
        for n_tasks in [0, 1, 2, 7, 64, 1000] {
            for n_threads in [1, 2, 3, 16, 40] {
                let shares = Shares::new();
                let n = shares.divide(n_tasks, n_threads);
                let mut runs = vec![0; n_tasks];
                // Thread 0 comes twice as often as thread 1, and no other comes.
                for turn in 0.. {
                    let Some(tasks) = shares.claim(usize::from(turn % 3 == 0), n) else { break };
                    assert!(!tasks.is_empty());
                    tasks.for_each(|i| runs[i] += 1);
                }
                assert!(runs.iter().all(|&n| n == 1), "{n_tasks} tasks, {n_threads} threads");
            }
        }
    }

    #[test]
    fn a_thread_begins_with_neighbours() {
        let shares = Shares::new();
        assert_eq!(shares.divide(10, 2), 2);
        assert_eq!(
            [0, 1, 0, 1].map(|own| shares.claim(own, 2)),
            [Some(0..1), Some(5..6), Some(1..2), Some(6..7)]
        );
        (2..5).for_each(|i| assert_eq!(shares.claim(0, 2), Some(i..i + 1)));
        // What thread 1 would come to last.
        assert_eq!(shares.claim(0, 2), Some(9..10));
        assert_eq!(shares.claim(1, 2), Some(7..8));
    }
}
