//! The quantised formats over the vectors of [`Simd`]: several rows' blocks at a time, unpacked in registers.
//! The sums are those of `blocks`: a block's are integers, which are exact in any order.

use super::ahead::Ahead;
use super::blocks::Block;
use super::quants::Quants;
use super::simd::{Rows, Simd};
use crate::quant::{BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5K, BlockQ6K, BlockQ8_0};
use core::mem::offset_of;

/// 32 bytes of every row, four neighbours in a lane.
type Bytes<S> = [<S as Simd>::Ints; 8];

/// Does something for the groups 0 .. n of a part, at most four, `$g` being a constant of its instructions.
macro_rules! each_group {
    ($g:ident < $n:expr, $body:block) => {{
        each_group!($g = 0, $n, $body);
        each_group!($g = 1, $n, $body);
        each_group!($g = 2, $n, $body);
        each_group!($g = 3, $n, $body);
    }};
    ($g:ident = $index:literal, $n:expr, $body:block) => {{
        const $g: usize = $index;
        if $g < $n $body
    }};
}
pub(super) use each_group;

/// A format: how to unpack blocks of all rows of a vector, and to multiply by them.
pub(super) trait Weights<S: Simd>: Block {
    /// Groups whose numbers share bytes, at most four: a part of a block.
    const PART: usize;
    /// What the groups of a block share.
    type Shared;
    /// The bytes of a part.
    type Part;
    /// A group's numbers, and its factors.
    type Group;
    /// Reads what the groups of the blocks share.
    fn shared<R: Rows<S>>(s: S, rows: R) -> Self::Shared;
    /// Reads a part of them.
    fn part<R: Rows<S>>(s: S, rows: R, part: usize) -> Self::Part;
    /// Unpacks group `g` of a part.
    fn unpack(s: S, of: &Self::Shared, part: usize, bytes: &Self::Part, g: usize) -> Self::Group;
    /// Adds a group's products with 32 activations.
    fn add(s: S, total: S::Ints, w: &Self::Group, x: &Quants) -> S::Ints;
    /// Adds the products of a part with one token's activations, `x` being those of its groups, and fetches the part's share
    /// of what is ahead.
    #[inline(always)]
    fn add_part<R: Rows<S>>(
        s: S,
        total: S::Ints,
        rows: R,
        of: &Self::Shared,
        part: usize,
        x: &[Quants],
        ahead: Ahead<'_>,
    ) -> S::Ints {
        let mut total = total;
        ahead.fetch(part, Self::GROUPS / Self::PART);
        let bytes = Self::part(s, rows, part);
        each_group!(G < Self::PART, {
            total = Self::add(s, total, &Self::unpack(s, of, part, &bytes, G), &x[G]);
        });
        total
    }
    /// Adds the products of blocks to dot products: `total` is the sum of all groups', x(g) what group `g` is multiplied by.
    fn finish<'x>(
        s: S,
        sum: S::Floats,
        total: S::Ints,
        of: &Self::Shared,
        x: impl Fn(usize) -> &'x Quants,
    ) -> S::Floats;
}

/// total · (d · scale).
#[inline(always)]
fn scaled<S: Simd>(s: S, total: S::Ints, d: S::Floats, x: &Quants) -> S::Floats {
    s.mul(s.floats(total), s.mul(d, s.splat_float(x.scale)))
}

/// `x` in every byte of every lane.
#[inline(always)]
fn bytes<S: Simd>(s: S, x: u8) -> S::Ints {
    s.splat(i32::from_ne_bytes([x; 4]))
}

/// The 32 bytes at offset `at`.
#[inline(always)]
fn load32<S: Simd, R: Rows<S>>(s: S, rows: R, at: usize) -> Bytes<S> {
    let ([a, b, c, d], [e, f, g, h]) = (rows.load16(s, at), rows.load16(s, at + 16));
    [a, b, c, d, e, f, g, h]
}

/// Half `half` of every byte.
#[inline(always)]
pub(super) fn nibble<S: Simd>(s: S, x: S::Ints, half: usize) -> S::Ints {
    s.and(s.shr(x, 4 * half), bytes(s, 0x0f))
}

/// The numbers in the 16 bytes at offset `at`: all lower halves before the upper ones.
#[inline(always)]
fn load_nibbles<S: Simd, R: Rows<S>>(s: S, rows: R, at: usize) -> Bytes<S> {
    let x = rows.load16(s, at);
    let mut q = [x[0]; 8];
    for j in 0..4 {
        (q[j], q[j + 4]) = (nibble(s, x[j], 0), nibble(s, x[j], 1));
    }
    q
}

/// Bits `at` of every byte, counted from the lowest, moved up to bits 4 and on.
#[inline(always)]
pub(super) fn to_bit_4<S: Simd>(s: S, x: S::Ints, at: usize, mask: u8) -> S::Ints {
    let moved = if at < 4 { s.shl(x, 4 - at) } else { s.shr(x, at - 4) };
    s.and(moved, bytes(s, mask << 4))
}

impl<S: Simd> Weights<S> for BlockQ8_0 {
    const PART: usize = 1;
    /// The scale.
    type Shared = S::Floats;
    type Part = Bytes<S>;
    type Group = Bytes<S>;
    #[inline(always)]
    fn shared<R: Rows<S>>(s: S, rows: R) -> Self::Shared {
        rows.load2(s, offset_of!(Self, d))
    }
    #[inline(always)]
    fn part<R: Rows<S>>(s: S, rows: R, _: usize) -> Self::Part {
        load32(s, rows, offset_of!(Self, qs))
    }
    #[inline(always)]
    fn unpack(_: S, _: &Self::Shared, _: usize, part: &Self::Part, _: usize) -> Self::Group {
        *part
    }
    #[inline(always)]
    fn add(s: S, total: S::Ints, w: &Self::Group, x: &Quants) -> S::Ints {
        s.dot_signed(total, w, x)
    }
    #[inline(always)]
    fn finish<'x>(
        s: S,
        sum: S::Floats,
        total: S::Ints,
        d: &Self::Shared,
        x: impl Fn(usize) -> &'x Quants,
    ) -> S::Floats {
        s.add(sum, scaled(s, total, *d, x(0)))
    }
}

impl<S: Simd> Weights<S> for BlockQ4_0 {
    const PART: usize = 1;
    /// The scale.
    type Shared = S::Floats;
    type Part = Bytes<S>;
    type Group = Bytes<S>;
    #[inline(always)]
    fn shared<R: Rows<S>>(s: S, rows: R) -> Self::Shared {
        rows.load2(s, offset_of!(Self, d))
    }
    #[inline(always)]
    fn part<R: Rows<S>>(s: S, rows: R, _: usize) -> Self::Part {
        load_nibbles(s, rows, offset_of!(Self, qs))
    }
    #[inline(always)]
    fn unpack(_: S, _: &Self::Shared, _: usize, part: &Self::Part, _: usize) -> Self::Group {
        *part
    }
    #[inline(always)]
    fn add(s: S, total: S::Ints, w: &Self::Group, x: &Quants) -> S::Ints {
        s.dot::<4>(total, w, &x.q, None)
    }
    #[inline(always)]
    fn finish<'x>(
        s: S,
        sum: S::Floats,
        total: S::Ints,
        d: &Self::Shared,
        x: impl Fn(usize) -> &'x Quants,
    ) -> S::Floats {
        // Σ (q − 8) · x
        let total = s.sub_ints(total, s.splat(x(0).eight_sums));
        s.add(sum, scaled(s, total, *d, x(0)))
    }
}

impl<S: Simd> Weights<S> for BlockQ4_1 {
    const PART: usize = 1;
    /// d and m.
    type Shared = [S::Floats; 2];
    type Part = Bytes<S>;
    type Group = Bytes<S>;
    #[inline(always)]
    fn shared<R: Rows<S>>(s: S, rows: R) -> Self::Shared {
        s.halves(rows.load4(s, offset_of!(Self, d)))
    }
    #[inline(always)]
    fn part<R: Rows<S>>(s: S, rows: R, _: usize) -> Self::Part {
        load_nibbles(s, rows, offset_of!(Self, qs))
    }
    #[inline(always)]
    fn unpack(_: S, _: &Self::Shared, _: usize, part: &Self::Part, _: usize) -> Self::Group {
        *part
    }
    #[inline(always)]
    fn add(s: S, total: S::Ints, w: &Self::Group, x: &Quants) -> S::Ints {
        s.dot::<4>(total, w, &x.q, None)
    }
    #[inline(always)]
    fn finish<'x>(
        s: S,
        sum: S::Floats,
        total: S::Ints,
        [d, m]: &Self::Shared,
        x: impl Fn(usize) -> &'x Quants,
    ) -> S::Floats {
        let sum = s.add(sum, scaled(s, total, *d, x(0)));
        s.add(sum, scaled(s, s.dot_pairs(s.splat(1), x(0).two_sums), *m, x(0)))
    }
}

/// Scales and minima of a super-block and of its groups.
pub(super) struct GroupScales<S: Simd> {
    d: S::Floats,
    dmin: S::Floats,
    /// Those of two groups in each.
    pub(super) scales: [S::Ints; 4],
    minima: [S::Ints; 4],
}

impl<S: Simd> GroupScales<S> {
    /// Reads `d`, `dmin` and `crate::quant::GroupScales`, with which a block of Q4_K or Q5_K begins.
    #[inline(always)]
    fn load<R: Rows<S>>(s: S, rows: R) -> Self {
        let [d_and_dmin, a, b, c] = rows.load16(s, 0);
        let [d, dmin] = s.halves(d_and_dmin);
        let six = bytes(s, 0x3f);
        let pairs = |low, high| {
            let ([a, b], [c, d]) = (s.pairs(low), s.pairs(high));
            [a, b, c, d]
        };
        GroupScales {
            d,
            dmin,
            scales: pairs(s.and(a, six), s.or(nibble(s, c, 0), to_bit_4(s, a, 6, 3))),
            minima: pairs(s.and(b, six), s.or(nibble(s, c, 1), to_bit_4(s, b, 6, 3))),
        }
    }

    /// The factor of group `g` of a part.
    #[inline(always)]
    fn factor(&self, s: S, part: usize, g: usize) -> S::Ints {
        if g == 0 { s.factors::<0>(self.scales[part]) } else { s.factors::<1>(self.scales[part]) }
    }

    #[inline(always)]
    fn finish<'x>(
        &self,
        s: S,
        sum: S::Floats,
        total: S::Ints,
        x: impl Fn(usize) -> &'x Quants,
    ) -> S::Floats {
        let mut minima = s.splat(0);
        for part in 0..4 {
            let products = s.dot_pairs(self.minima[part], x(2 * part).two_sums);
            minima = s.add_ints(minima, products);
        }
        let sum = s.add(sum, scaled(s, total, self.d, x(0)));
        s.sub(sum, scaled(s, minima, self.dmin, x(0)))
    }
}

impl<S: Simd> Weights<S> for BlockQ4K {
    const PART: usize = 2;
    type Shared = GroupScales<S>;
    type Part = Bytes<S>;
    type Group = (Bytes<S>, S::Ints);
    #[inline(always)]
    fn shared<R: Rows<S>>(s: S, rows: R) -> Self::Shared {
        GroupScales::load(s, rows)
    }
    #[inline(always)]
    fn part<R: Rows<S>>(s: S, rows: R, part: usize) -> Self::Part {
        load32(s, rows, offset_of!(Self, qs) + 32 * part)
    }
    #[inline(always)]
    fn unpack(s: S, of: &Self::Shared, part: usize, bytes: &Self::Part, g: usize) -> Self::Group {
        let mut w = *bytes;
        for w in &mut w {
            *w = nibble(s, *w, g);
        }
        (w, of.factor(s, part, g))
    }
    #[inline(always)]
    fn add(s: S, total: S::Ints, (w, factor): &Self::Group, x: &Quants) -> S::Ints {
        s.dot::<4>(total, w, &x.q, Some(*factor))
    }
    #[inline(always)]
    fn finish<'x>(
        s: S,
        sum: S::Floats,
        total: S::Ints,
        of: &Self::Shared,
        x: impl Fn(usize) -> &'x Quants,
    ) -> S::Floats {
        of.finish(s, sum, total, x)
    }
}

impl<S: Simd> Weights<S> for BlockQ5K {
    const PART: usize = 2;
    type Shared = GroupScales<S>;
    /// The lower four bits, and the fifth ones of the part's groups at the bottom of their bytes.
    type Part = (Bytes<S>, Bytes<S>);
    type Group = (Bytes<S>, S::Ints);
    #[inline(always)]
    fn shared<R: Rows<S>>(s: S, rows: R) -> Self::Shared {
        GroupScales::load(s, rows)
    }
    #[inline(always)]
    fn part<R: Rows<S>>(s: S, rows: R, part: usize) -> Self::Part {
        let mut fifth = load32(s, rows, offset_of!(Self, qh));
        for x in &mut fifth {
            *x = s.shr(*x, 2 * part);
        }
        (load32(s, rows, offset_of!(Self, qs) + 32 * part), fifth)
    }
    #[inline(always)]
    fn unpack(s: S, of: &Self::Shared, part: usize, bytes: &Self::Part, g: usize) -> Self::Group {
        let (mut w, fifth) = *bytes;
        for j in 0..8 {
            w[j] = s.or(nibble(s, w[j], g), to_bit_4(s, fifth[j], g, 1));
        }
        (w, of.factor(s, part, g))
    }
    #[inline(always)]
    fn add(s: S, total: S::Ints, (w, factor): &Self::Group, x: &Quants) -> S::Ints {
        s.dot::<5>(total, w, &x.q, Some(*factor))
    }
    #[inline(always)]
    fn finish<'x>(
        s: S,
        sum: S::Floats,
        total: S::Ints,
        of: &Self::Shared,
        x: impl Fn(usize) -> &'x Quants,
    ) -> S::Floats {
        of.finish(s, sum, total, x)
    }
}

/// Four numbers of every row, of group `g` of a part of Q6_K.
#[inline(always)]
pub(super) fn six_bits<S: Simd>(s: S, low: S::Ints, high: S::Ints, g: usize) -> S::Ints {
    s.or(nibble(s, low, g / 2), to_bit_4(s, high, 2 * g, 3))
}

impl<S: Simd> Weights<S> for BlockQ6K {
    const PART: usize = 4;
    /// The scale, and those of the halves of each group.
    type Shared = (S::Floats, [S::Ints; 8]);
    /// The lower four bits, those of groups 0 and 2 before those of 1 and 3, and the upper two.
    type Part = ([Bytes<S>; 2], Bytes<S>);
    /// The factors are those of its halves.
    type Group = (Bytes<S>, [S::Ints; 2]);
    #[inline(always)]
    fn shared<R: Rows<S>>(s: S, rows: R) -> Self::Shared {
        let scales = rows.load16(s, offset_of!(Self, scales));
        let mut pairs = [s.splat(0); 8];
        for i in 0..4 {
            [pairs[2 * i], pairs[2 * i + 1]] = s.pairs(scales[i]);
        }
        (rows.load2(s, offset_of!(Self, d)), pairs)
    }
    #[inline(always)]
    fn part<R: Rows<S>>(s: S, rows: R, part: usize) -> Self::Part {
        let low = offset_of!(Self, ql) + 64 * part;
        let high = load32(s, rows, offset_of!(Self, qh) + 32 * part);
        ([load32(s, rows, low), load32(s, rows, low + 32)], high)
    }
    #[inline(always)]
    fn unpack(s: S, of: &Self::Shared, part: usize, bytes: &Self::Part, g: usize) -> Self::Group {
        let (low, high) = bytes;
        let mut w = low[g % 2];
        for j in 0..8 {
            w[j] = six_bits(s, w[j], high[j], g);
        }
        let pair = of.1[4 * part + g];
        (w, [s.factors::<0>(pair), s.factors::<1>(pair)])
    }
    #[inline(always)]
    fn add(s: S, total: S::Ints, (w, factors): &Self::Group, x: &Quants) -> S::Ints {
        let total = s.dot::<6>(total, &w[..4], &x.q[..4], Some(factors[0]));
        s.dot::<6>(total, &w[4..], &x.q[4..], Some(factors[1]))
    }
    /// A part is 24 vectors, more than there are registers: all groups go together, half of each at a time.
    #[inline(always)]
    fn add_part<R: Rows<S>>(
        s: S,
        total: S::Ints,
        rows: R,
        (_, pairs): &Self::Shared,
        part: usize,
        x: &[Quants],
        ahead: Ahead<'_>,
    ) -> S::Ints {
        let x: &[Quants; 4] = x.first_chunk().expect("as many groups as a part has");
        let mut total = total;
        each_group!(HALF < 2, {
            ahead.fetch(2 * part + HALF, 4);
            let low = offset_of!(Self, ql) + 64 * part + 16 * HALF;
            let high = offset_of!(Self, qh) + 32 * part + 16 * HALF;
            let low = [rows.load16(s, low), rows.load16(s, low + 32)];
            let high = rows.load16(s, high);
            each_group!(G < 4, {
                let mut w = low[G % 2];
                for j in 0..4 {
                    w[j] = six_bits(s, w[j], high[j], G);
                }
                let q: &[[i8; 4]; 4] = &x[G].q.as_chunks().0[HALF];
                let factor = s.factors::<HALF>(pairs[4 * part + G]);
                total = s.dot::<6>(total, &w, q, Some(factor));
            });
        });
        total
    }
    #[inline(always)]
    fn finish<'x>(
        s: S,
        sum: S::Floats,
        total: S::Ints,
        (d, pairs): &Self::Shared,
        x: impl Fn(usize) -> &'x Quants,
    ) -> S::Floats {
        // Σ s · (q − 32) · x
        let mut offset = s.splat(0);
        for (g, &pair) in pairs.iter().enumerate() {
            offset = s.add_ints(offset, s.dot_pairs(pair, x(g).halves));
        }
        let total = s.sub_ints(total, s.shl(offset, 5));
        s.add(sum, scaled(s, total, *d, x(0)))
    }
}
