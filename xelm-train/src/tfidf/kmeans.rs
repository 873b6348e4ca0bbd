//! Balanced k-means: clusters of equal size while the centroids are fitted, nearest centroid afterwards.

use super::balanced::assign;
use crate::{Error, Result};
use rayon::prelude::*;
use xelm_runtime::rng::Rng;

/// Vectors that are assigned together.
const BATCH: usize = 50_000;
/// Rounds in each batch.
const MAX_ROUNDS: usize = 20;
/// A batch is done when the square of the centroids' summed movements is below this.
const TOLERANCE: f64 = 1e-3;

/// Distinguishes the draw from other uses of a seed.
const STREAM: u64 = 0x6b6d_6561_6e73;

/// Fits `k` centroids, `[k, n_dims]`, to vectors, `[n, n_dims]`, as the X-ELM paper's code does: the
/// vectors in random order, in batches of about 50,000; centroids from k of the first batch; in each batch,
/// balanced assignment and means in turn. So the last batch decides, with the others having led there. The
/// assignment is the cheapest balanced one, where that code approximates it by an auction.
///
/// # Errors
/// There are fewer vectors than clusters, or no clusters.
pub fn fit(vectors: &[f32], n_dims: usize, k: usize, seed: u64) -> Result<Vec<f32>> {
    let n = vectors.len().checked_div(n_dims).unwrap_or(0);
    if k == 0 || n < k {
        return Err(Error::usage(format!(
            "{n} documents with words that count cannot be divided into {k} clusters"
        )));
    }
    let mut order: Vec<usize> = (0..n).collect();
    Rng::new(seed, STREAM).shuffle(&mut order);
    let row = |i: usize| &vectors[i * n_dims..][..n_dims];
    let mut centroids: Vec<f32> = order[..k].iter().flat_map(|&i| row(i).iter().copied()).collect();
    let n_batches = (n / BATCH).max(1);
    for batch in 0..n_batches {
        let members = &order[batch * n / n_batches..(batch + 1) * n / n_batches];
        for _ in 0..MAX_ROUNDS {
            let costs = distances(members, &row, &centroids, n_dims);
            let groups = assign(&costs, k);
            let means = means(members, &groups, &row, n_dims, k);
            let moved: f64 = means
                .chunks(n_dims)
                .zip(centroids.chunks(n_dims))
                .map(|(a, b)| f64::from(squared_distance(a, b)).sqrt())
                .sum();
            centroids = means;
            if moved * moved < TOLERANCE {
                break;
            }
        }
    }
    Ok(centroids)
}

/// Squared distances of vectors to all centroids, `[members, k]`.
fn distances<'v>(
    members: &[usize],
    row: &(impl Fn(usize) -> &'v [f32] + Sync),
    centroids: &[f32],
    n_dims: usize,
) -> Vec<f32> {
    members
        .par_iter()
        .flat_map_iter(|&i| centroids.chunks(n_dims).map(move |c| squared_distance(row(i), c)))
        .collect()
}

fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}

/// The mean of each group's vectors. With as many vectors as groups at least, none is empty.
fn means<'v>(
    members: &[usize],
    groups: &[u32],
    row: &impl Fn(usize) -> &'v [f32],
    n_dims: usize,
    k: usize,
) -> Vec<f32> {
    let mut sums = vec![0.0f64; k * n_dims];
    let mut sizes = vec![0u32; k];
    for (&i, &group) in members.iter().zip(groups) {
        sizes[group as usize] += 1;
        let sums = &mut sums[group as usize * n_dims..][..n_dims];
        sums.iter_mut().zip(row(i)).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let sizes = sizes.iter().flat_map(|&size| std::iter::repeat_n(f64::from(size.max(1)), n_dims));
    sums.iter().zip(sizes).map(|(sum, size)| (sum / size) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points around `k` corners of a cube, in turn.
    fn around_corners(n: usize, k: usize, spread: f32) -> Vec<f32> {
        let mut rng = Rng::new(5, 0);
        (0..n)
            .flat_map(|i| (0..3).map(move |d| ((i % k) >> d & 1) as f32).collect::<Vec<_>>())
            .map(|x| x + spread * rng.next_normal())
            .collect()
    }

    #[test]
    fn finds_groups_that_are_there() {
        let points = around_corners(400, 4, 0.05);
        let centroids = fit(&points, 3, 4, 1).unwrap();
        for corner in [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]] {
            assert!(
                centroids.chunks(3).any(|c| squared_distance(c, &corner) < 0.01),
                "{centroids:?}"
            );
        }
        assert_eq!(fit(&points, 3, 4, 1).unwrap(), centroids);
    }

    #[test]
    fn any_number_of_vectors_and_clusters() {
        for (n, k) in [(1, 1), (5, 5), (17, 4), (803, 8)] {
            let centroids = fit(&around_corners(n, 8, 0.3), 3, k, 7).unwrap();
            assert_eq!(centroids.len(), 3 * k);
            assert!(centroids.iter().all(|x| x.is_finite()));
        }
        // All the same vector: every centroid is that vector.
        let same = [0.5; 30];
        assert_eq!(fit(&same, 3, 4, 0).unwrap(), [0.5; 12]);
        assert!(fit(&same, 3, 11, 0).is_err() && fit(&same, 3, 0, 0).is_err());
        assert!(fit(&[], 3, 1, 0).is_err());
    }

    /// More vectors than one batch holds, and a number that no batch size divides.
    #[test]
    fn several_batches() {
        let points = around_corners(101_003, 2, 0.1);
        let centroids = fit(&points, 3, 2, 3).unwrap();
        let mut first: Vec<f32> = centroids.chunks(3).map(|c| c[0]).collect();
        first.sort_by(f32::total_cmp);
        assert!(first[0].abs() < 0.01 && (first[1] - 1.0).abs() < 0.01, "{centroids:?}");
    }
}
