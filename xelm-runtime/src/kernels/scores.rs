//! Scores of keys: scale · query · key.
//!
//! Two ways give the same bits. For a few queries each dot product runs along its key and ends with a sum across a vector.
//! For several the keys are transposed once, so that a vector's lanes are keys and nothing is summed across.

use super::lanes::{F32x8, Lanes, WIDTH, ZERO};
use super::portable::{TILE, dots};

/// Queries from which on transposing the keys is worth it.
const SEVERAL: usize = 8;

/// Whether keys of `head_dim` numbers, `n_keys` at a time, are to be transposed for so many queries.
#[inline(always)]
pub(super) fn worth_transposing(n_queries: usize, n_keys: usize, head_dim: usize) -> bool {
    n_queries >= SEVERAL && n_keys >= WIDTH && head_dim.is_multiple_of(WIDTH)
}

/// out[k] = scale · query · keys[k].
#[inline(always)]
pub(super) fn score(query: &[f32], keys: &[f32], scale: f32, out: &mut [f32]) {
    let head_dim = query.len();
    let mut tiles = keys.chunks_exact(TILE * head_dim);
    let mut n = 0;
    for tile in &mut tiles {
        let dots: [f32; TILE] = dots(query, tile);
        for dot in dots {
            out[n] = dot * scale;
            n += 1;
        }
    }
    for key in tiles.remainder().chunks_exact(head_dim) {
        let [dot] = dots(query, key);
        out[n] = dot * scale;
        n += 1;
    }
}

/// Transposes keys, `[n, head_dim]`: of sixteen at a time, the lanes for each dimension.
#[inline(always)]
pub(super) fn transpose(keys: &[f32], head_dim: usize, transposed: &mut [Lanes]) {
    let transposed = transposed.chunks_exact_mut(head_dim);
    for (keys, transposed) in keys.chunks(WIDTH * head_dim).zip(transposed) {
        for (k, key) in keys.chunks_exact(head_dim).enumerate() {
            for (lanes, &x) in transposed.iter_mut().zip(key) {
                lanes[k / 8].0[k % 8] = x;
            }
        }
    }
}

/// As [`score`], with the first keys of those that are transposed.
#[inline(always)]
pub(super) fn score_transposed(query: &[f32], transposed: &[Lanes], scale: f32, out: &mut [f32]) {
    for (out, transposed) in out.chunks_mut(WIDTH).zip(transposed.chunks_exact(query.len())) {
        let scores = dots_transposed(query, transposed).map(|x| x.scaled(scale).0);
        out.copy_from_slice(&scores.as_flattened()[..out.len()]);
    }
}

/// The products of a query with sixteen keys, added up in the order of [`dots`] and of its fold.
#[inline(always)]
fn dots_transposed(query: &[f32], transposed: &[Lanes]) -> Lanes {
    let (query, transposed) = (query.as_chunks::<WIDTH>().0, transposed.as_chunks::<WIDTH>().0);
    // A macro rather than a function: the index is a constant of the instructions.
    macro_rules! lanes {
        ($l:literal) => {{
            let (mut a, mut b) = (ZERO, ZERO);
            for (q, k) in query.iter().zip(transposed) {
                a = add_product(a, q[$l], k[$l]);
                b = add_product(b, q[$l + 8], k[$l + 8]);
            }
            plus(a, b)
        }};
    }
    let even = plus(plus(lanes!(0), lanes!(4)), plus(lanes!(2), lanes!(6)));
    plus(even, plus(plus(lanes!(1), lanes!(5)), plus(lanes!(3), lanes!(7))))
}

#[inline(always)]
fn add_product(sums: Lanes, x: f32, keys: Lanes) -> Lanes {
    let x = F32x8::splat(x);
    [sums[0].add_product(x, keys[0]), sums[1].add_product(x, keys[1])]
}

#[inline(always)]
fn plus(a: Lanes, b: Lanes) -> Lanes {
    [a[0].plus(b[0]), a[1].plus(b[1])]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, Vectorised};
    use crate::rng::Rng;
    use std::vec;
    use std::vec::Vec;

    struct Both<'a>(&'a [f32], &'a [f32], &'a mut [Vec<f32>; 2]);

    impl Vectorised for Both<'_> {
        type Output = ();
        #[inline(always)]
        fn run(self) {
            let Both(query, keys, [by_key, transposed]) = self;
            score(query, keys, 0.3, by_key);
            let mut lanes = vec![ZERO; query.len() * by_key.len().div_ceil(WIDTH)];
            transpose(keys, query.len(), &mut lanes);
            score_transposed(query, &lanes, 0.3, transposed);
        }
    }

    #[test]
    fn transposed_keys_give_the_same_bits() {
        let mut rng = Rng::new(15, 0);
        for isa in Isa::supported().into_iter().flatten() {
            for head_dim in [16, 32, 64, 128] {
                for n_keys in 0..40 {
                    let mut random = |n| (0..n).map(|_| rng.next_normal()).collect::<Vec<f32>>();
                    let (query, keys) = (random(head_dim), random(n_keys * head_dim));
                    let mut out = [vec![0.0; n_keys], vec![1.0; n_keys]];
                    isa.run(Both(&query, &keys, &mut out));
                    let [by_key, transposed] = out.map(|out| out.into_iter().map(f32::to_bits));
                    assert!(by_key.eq(transposed), "{}, {head_dim} × {n_keys}", isa.name());
                }
            }
        }
    }
}
