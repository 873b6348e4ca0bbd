//! Assigning items to groups of equal size at the least total cost.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Assigns each of the `n` items of `costs`, `[n, k]` row-major and finite, to one of `k` groups, so that
/// the groups have ⌊n / k⌋ or ⌈n / k⌉ items and no other such assignment costs less.
///
/// Items come one by one. Each goes where it is cheapest, all moves of earlier items considered that make
/// room for it: the shortest path in a graph of the groups, in which going from a to b costs what the
/// cheapest item of a loses by moving to b. (Successive shortest paths, which keep the assignment optimal
/// for the items so far.) O(n k² log n) and, for the paths, O(n k³) at worst.
pub fn assign(costs: &[f32], k: usize) -> Vec<u32> {
    let n = costs.len().checked_div(k).unwrap_or(0);
    // In whole numbers no sum is rounded, so that no cycle of moves ever seems to gain.
    let largest = costs.iter().fold(f32::MIN_POSITIVE, |max, cost| max.max(cost.abs()));
    let scale = RESOLUTION / f64::from(largest);
    let mut groups = Groups {
        costs: costs.iter().map(|&cost| (f64::from(cost) * scale).round() as i64).collect(),
        k,
        floor: n / k.max(1),
        extra: n % k.max(1),
        group_of: vec![0; n],
        sizes: vec![0; k],
        moves: vec![BinaryHeap::new(); k * k],
    };
    for item in 0..n {
        groups.insert(item);
    }
    groups.group_of
}

/// The largest cost as a whole number.
const RESOLUTION: f64 = (1u64 << 40) as f64;

struct Groups {
    costs: Vec<i64>,
    k: usize,
    /// Items that every group holds in the end.
    floor: usize,
    /// Groups that may still hold one item more.
    extra: usize,
    group_of: Vec<u32>,
    sizes: Vec<usize>,
    /// For each pair (a, b), the items of a by what they lose by moving to b, least first. An item that has
    /// left a is removed when it is met.
    moves: Vec<BinaryHeap<Reverse<(i64, u32)>>>,
}

/// How the shortest path reaches a group.
#[derive(Clone, Copy)]
enum Step {
    /// The new item goes there.
    Direct,
    /// An item of `from` moves there.
    Move { from: usize, item: u32 },
    /// `from` takes over the right to one item more, so that this group must give an item away.
    Right { from: usize },
}

impl Groups {
    fn cost(&self, item: usize, group: usize) -> i64 {
        self.costs[item * self.k + group]
    }

    fn has_room(&self, group: usize) -> bool {
        self.sizes[group] < self.floor || (self.sizes[group] == self.floor && self.extra > 0)
    }

    fn insert(&mut self, item: usize) {
        let mut lengths: Vec<i64> = (0..self.k).map(|group| self.cost(item, group)).collect();
        let mut steps = vec![Step::Direct; self.k];
        // No move of others pays for a dearer group.
        let cheapest = (0..self.k).min_by_key(|&group| lengths[group]);
        if !cheapest.is_some_and(|group| self.has_room(group)) {
            self.find_paths(&mut lengths, &mut steps);
        }
        let ends = (0..self.k).filter(|&group| self.has_room(group));
        // There is room until all n items are in.
        let Some(end) = ends.min_by_key(|&group| lengths[group]) else { return };
        if self.sizes[end] == self.floor {
            self.extra -= 1;
        }
        self.sizes[end] += 1;
        let mut group = end;
        loop {
            match steps[group] {
                Step::Direct => return self.put(item, group),
                Step::Move { from, item } => {
                    self.put(item as usize, group);
                    group = from;
                }
                Step::Right { from } => {
                    self.sizes[group] -= 1;
                    self.sizes[from] += 1;
                    group = from;
                }
            }
        }
    }

    /// Shortens `lengths`, those of going straight to each group, to the shortest paths', and notes their
    /// last steps (Bellman and Ford: what an item gains by moving is negative, but no cycle is, since the
    /// assignment so far is optimal).
    fn find_paths(&mut self, lengths: &mut [i64], steps: &mut [Step]) {
        let k = self.k;
        let cheapest: Vec<Option<(i64, u32)>> =
            (0..k * k).map(|pair| self.cheapest_move(pair / k, pair % k)).collect();
        for _ in 0..k {
            let mut changed = false;
            for from in 0..k {
                // Where there is room, the path ends.
                if self.has_room(from) {
                    continue;
                }
                for to in (0..k).filter(|&to| to != from) {
                    if let Some((loss, item)) = cheapest[from * k + to]
                        && lengths[from] + loss < lengths[to]
                    {
                        lengths[to] = lengths[from] + loss;
                        steps[to] = Step::Move { from, item };
                        changed = true;
                    }
                    let gives_right = self.sizes[from] == self.floor && self.sizes[to] > self.floor;
                    if gives_right && lengths[from] < lengths[to] {
                        lengths[to] = lengths[from];
                        steps[to] = Step::Right { from };
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
    }

    fn cheapest_move(&mut self, from: usize, to: usize) -> Option<(i64, u32)> {
        let heap = &mut self.moves[from * self.k + to];
        while let Some(&Reverse((loss, item))) = heap.peek() {
            if self.group_of[item as usize] as usize == from {
                return Some((loss, item));
            }
            heap.pop();
        }
        None
    }

    fn put(&mut self, item: usize, group: usize) {
        self.group_of[item] = group as u32;
        for to in (0..self.k).filter(|&to| to != group) {
            let loss = self.cost(item, to) - self.cost(item, group);
            self.moves[group * self.k + to].push(Reverse((loss, item as u32)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xelm_runtime::rng::Rng;

    fn cost(costs: &[f32], k: usize, groups: &[u32]) -> f64 {
        groups.iter().enumerate().map(|(i, &g)| f64::from(costs[i * k + g as usize])).sum()
    }

    fn sizes(k: usize, groups: &[u32]) -> Vec<usize> {
        let mut sizes = vec![0; k];
        groups.iter().for_each(|&g| sizes[g as usize] += 1);
        sizes
    }

    /// The least cost by trying everything.
    fn least(costs: &[f32], k: usize) -> f64 {
        let n = costs.len() / k;
        let mut groups = vec![0u32; n];
        let mut least = f64::INFINITY;
        loop {
            let sizes = sizes(k, &groups);
            if sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1 {
                least = least.min(cost(costs, k, &groups));
            }
            let Some(i) = groups.iter().position(|&g| g as usize + 1 < k) else { return least };
            groups[i] += 1;
            groups[..i].fill(0);
        }
    }

    #[test]
    fn costs_as_little_as_possible() {
        let mut rng = Rng::new(2, 0);
        for (n, k) in
            [(1, 1), (3, 1), (4, 4), (8, 2), (9, 2), (8, 3), (7, 3), (6, 4), (7, 5), (9, 4)]
        {
            for _ in 0..40 {
                // Few distinct costs, so that many are equal; and an item that all would rather be rid of.
                let mut costs: Vec<f32> = (0..n * k).map(|_| rng.below(7) as f32 - 2.0).collect();
                costs[0] += 100.0;
                let groups = assign(&costs, k);
                let (got, least) = (cost(&costs, k, &groups), least(&costs, k));
                assert!((got - least).abs() < 1e-6, "n = {n}, k = {k}: {got}, not {least}");
            }
        }
    }

    #[test]
    fn always_balanced() {
        let mut rng = Rng::new(3, 0);
        for (n, k) in [(0, 3), (2, 3), (803, 8), (1000, 7), (64, 64), (500, 33)] {
            // Most items prefer the same group.
            let costs: Vec<f32> =
                (0..n * k).map(|i| rng.next_f32() + if i % k == 0 { 0.0 } else { 0.5 }).collect();
            let groups = assign(&costs, k);
            assert_eq!(groups.len(), n);
            let mut sizes = sizes(k, &groups);
            sizes.sort_unstable();
            let expected: Vec<usize> =
                (0..k).map(|g| n / k + usize::from(g >= k - n % k)).collect();
            assert_eq!(sizes, expected, "n = {n}, k = {k}");
            assert_eq!(assign(&costs, k), groups);
        }
        assert!(assign(&[], 0).is_empty());
    }
}
