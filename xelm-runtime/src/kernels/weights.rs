//! The quantised formats over the vectors of [`Simd`]: several rows' blocks at a time, unpacked in registers.
//! The sums are those of `blocks`, in the same order.

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
    /// A group's numbers and scales.
    type Group;
    /// Reads what the groups of the blocks share.
    fn shared<R: Rows<S>>(s: S, rows: R) -> Self::Shared;
    /// Reads a part of them.
    fn part<R: Rows<S>>(s: S, rows: R, of: &Self::Shared, part: usize) -> Self::Part;
    /// Unpacks group `g` of a part.
    fn unpack(s: S, of: &Self::Shared, part: usize, bytes: &Self::Part, g: usize) -> Self::Group;
    /// Adds the products with 32 activations.
    fn add(s: S, sum: S::Floats, w: &Self::Group, x: &Quants) -> S::Floats;
    /// Adds the products of a part with one token's activations, `x` being those of its groups.
    #[inline(always)]
    fn add_part<R: Rows<S>>(
        s: S,
        sum: S::Floats,
        rows: R,
        of: &Self::Shared,
        part: usize,
        x: &[Quants],
    ) -> S::Floats {
        add_unpacked::<S, Self, R>(s, sum, rows, of, part, x)
    }
}

/// [`Weights::add_part`], group by group.
#[inline(always)]
fn add_unpacked<S: Simd, W: Weights<S>, R: Rows<S>>(
    s: S,
    sum: S::Floats,
    rows: R,
    of: &W::Shared,
    part: usize,
    x: &[Quants],
) -> S::Floats {
    let mut sum = sum;
    let bytes = W::part(s, rows, of, part);
    each_group!(G < W::PART, {
        sum = W::add(s, sum, &W::unpack(s, of, part, &bytes, G), &x[G]);
    });
    sum
}

/// sum + dot · (d · scale).
#[inline(always)]
pub(super) fn add_scaled<S: Simd>(
    s: S,
    sum: S::Floats,
    dot: S::Ints,
    d: S::Floats,
    x: &Quants,
) -> S::Floats {
    s.add(sum, s.mul(s.floats(dot), s.mul(d, s.splat_float(x.scale))))
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
    type Shared = ();
    type Part = (Bytes<S>, S::Floats);
    type Group = (Bytes<S>, S::Floats);
    #[inline(always)]
    fn shared<R: Rows<S>>(_: S, _: R) {}
    #[inline(always)]
    fn part<R: Rows<S>>(s: S, rows: R, (): &(), _: usize) -> Self::Part {
        let d = rows.load2(s, offset_of!(Self, d));
        (load32(s, rows, offset_of!(Self, qs)), d)
    }
    #[inline(always)]
    fn unpack(_: S, (): &(), _: usize, part: &Self::Part, _: usize) -> Self::Group {
        *part
    }
    #[inline(always)]
    fn add(s: S, sum: S::Floats, (w, d): &Self::Group, x: &Quants) -> S::Floats {
        add_scaled(s, sum, s.dot_signed(w, x), *d, x)
    }
}

impl<S: Simd> Weights<S> for BlockQ4_0 {
    const PART: usize = 1;
    type Shared = ();
    type Part = (Bytes<S>, S::Floats);
    type Group = (Bytes<S>, S::Floats);
    #[inline(always)]
    fn shared<R: Rows<S>>(_: S, _: R) {}
    #[inline(always)]
    fn part<R: Rows<S>>(s: S, rows: R, (): &(), _: usize) -> Self::Part {
        let d = rows.load2(s, offset_of!(Self, d));
        (load_nibbles(s, rows, offset_of!(Self, qs)), d)
    }
    #[inline(always)]
    fn unpack(_: S, (): &(), _: usize, part: &Self::Part, _: usize) -> Self::Group {
        *part
    }
    #[inline(always)]
    fn add(s: S, sum: S::Floats, (w, d): &Self::Group, x: &Quants) -> S::Floats {
        // Σ (q − 8) · x
        let dot = s.sub_ints(s.dot::<4>(w, &x.q, None), s.splat(x.eight_sums));
        add_scaled(s, sum, dot, *d, x)
    }
}

impl<S: Simd> Weights<S> for BlockQ4_1 {
    const PART: usize = 1;
    type Shared = ();
    type Part = (Bytes<S>, [S::Floats; 2]);
    type Group = (Bytes<S>, [S::Floats; 2]);
    #[inline(always)]
    fn shared<R: Rows<S>>(_: S, _: R) {}
    #[inline(always)]
    fn part<R: Rows<S>>(s: S, rows: R, (): &(), _: usize) -> Self::Part {
        let d_and_m = s.halves(rows.load4(s, offset_of!(Self, d)));
        (load_nibbles(s, rows, offset_of!(Self, qs)), d_and_m)
    }
    #[inline(always)]
    fn unpack(_: S, (): &(), _: usize, part: &Self::Part, _: usize) -> Self::Group {
        *part
    }
    #[inline(always)]
    fn add(s: S, sum: S::Floats, (w, [d, m]): &Self::Group, x: &Quants) -> S::Floats {
        let sum = add_scaled(s, sum, s.dot::<4>(w, &x.q, None), *d, x);
        s.add(sum, s.mul(*m, s.splat_float(x.scaled_sum)))
    }
}

/// Scales and minima of a super-block and of its groups.
pub(super) struct GroupScales<S: Simd> {
    pub(super) d: S::Floats,
    dmin: S::Floats,
    /// A byte for each of four groups.
    scales: [S::Ints; 2],
    minima: [S::Ints; 2],
}

impl<S: Simd> GroupScales<S> {
    /// Reads `d`, `dmin` and `crate::quant::GroupScales`, with which a block of Q4_K or Q5_K begins.
    #[inline(always)]
    pub(super) fn load<R: Rows<S>>(s: S, rows: R) -> Self {
        let [d_and_dmin, a, b, c] = rows.load16(s, 0);
        let [d, dmin] = s.halves(d_and_dmin);
        let six = bytes(s, 0x3f);
        GroupScales {
            d,
            dmin,
            scales: [s.and(a, six), s.or(nibble(s, c, 0), to_bit_4(s, a, 6, 3))],
            minima: [s.and(b, six), s.or(nibble(s, c, 1), to_bit_4(s, b, 6, 3))],
        }
    }

    /// Scales and minima of a group.
    #[inline(always)]
    pub(super) fn get(&self, s: S, g: usize) -> (S::Ints, S::Floats) {
        let (i, shift) = (g / 4, g % 4 * 8);
        let scale = s.and(s.shr(self.scales[i], shift), s.splat(0xff));
        let min = s.and(s.shr(self.minima[i], shift), s.splat(0xff));
        (scale, s.mul(self.dmin, s.floats(min)))
    }
}

/// A group of Q4_K or Q5_K.
pub(super) struct GroupWithMin<S: Simd> {
    w: Bytes<S>,
    scale: S::Ints,
    d: S::Floats,
    min: S::Floats,
}

impl<S: Simd> GroupWithMin<S> {
    #[inline(always)]
    fn new(s: S, w: Bytes<S>, of: &GroupScales<S>, g: usize) -> Self {
        let (scale, min) = of.get(s, g);
        GroupWithMin { w, scale: s.factors(scale), d: of.d, min }
    }

    #[inline(always)]
    fn add<const BITS: u32>(&self, s: S, sum: S::Floats, x: &Quants) -> S::Floats {
        let dot = s.dot::<BITS>(&self.w, &x.q, Some(self.scale));
        let sum = add_scaled(s, sum, dot, self.d, x);
        s.sub(sum, s.mul(self.min, s.splat_float(x.scaled_sum)))
    }
}

impl<S: Simd> Weights<S> for BlockQ4K {
    const PART: usize = 2;
    type Shared = GroupScales<S>;
    type Part = Bytes<S>;
    type Group = GroupWithMin<S>;
    #[inline(always)]
    fn shared<R: Rows<S>>(s: S, rows: R) -> Self::Shared {
        GroupScales::load(s, rows)
    }
    #[inline(always)]
    fn part<R: Rows<S>>(s: S, rows: R, _: &Self::Shared, part: usize) -> Self::Part {
        load32(s, rows, offset_of!(Self, qs) + 32 * part)
    }
    #[inline(always)]
    fn unpack(s: S, of: &Self::Shared, part: usize, bytes: &Self::Part, g: usize) -> Self::Group {
        let mut w = *bytes;
        for w in &mut w {
            *w = nibble(s, *w, g);
        }
        GroupWithMin::new(s, w, of, 2 * part + g)
    }
    #[inline(always)]
    fn add(s: S, sum: S::Floats, w: &Self::Group, x: &Quants) -> S::Floats {
        w.add::<4>(s, sum, x)
    }
}

impl<S: Simd> Weights<S> for BlockQ5K {
    const PART: usize = 2;
    /// The fifth bits of all groups too.
    type Shared = (GroupScales<S>, Bytes<S>);
    /// The lower four bits, and the fifth ones of the part's groups at the bottom of their bytes.
    type Part = (Bytes<S>, Bytes<S>);
    type Group = GroupWithMin<S>;
    #[inline(always)]
    fn shared<R: Rows<S>>(s: S, rows: R) -> Self::Shared {
        (GroupScales::load(s, rows), load32(s, rows, offset_of!(Self, qh)))
    }
    #[inline(always)]
    fn part<R: Rows<S>>(s: S, rows: R, of: &Self::Shared, part: usize) -> Self::Part {
        let mut fifth = of.1;
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
        GroupWithMin::new(s, w, &of.0, 2 * part + g)
    }
    #[inline(always)]
    fn add(s: S, sum: S::Floats, w: &Self::Group, x: &Quants) -> S::Floats {
        w.add::<5>(s, sum, x)
    }
}

/// A group of Q6_K.
pub(super) struct GroupQ6K<S: Simd> {
    w: Bytes<S>,
    d: S::Floats,
    scales: HalfScales<S>,
}

/// The scales of a group's halves.
struct HalfScales<S: Simd> {
    factors: [S::Ints; 2],
    /// Both of them.
    pair: S::Ints,
}

impl<S: Simd> HalfScales<S> {
    /// Of group `g` of a part, from a byte for each of sixteen halves.
    #[inline(always)]
    fn of(s: S, scales: &[S::Ints; 4], part: usize, g: usize) -> Self {
        let four = scales[2 * part + g / 2];
        let scale = |byte| s.shr_signed(s.shl(four, 24 - 8 * byte), 24);
        let (a, b) = (scale(g % 2 * 2), scale(g % 2 * 2 + 1));
        HalfScales { factors: [s.factors(a), s.factors(b)], pair: s.pairs(a, b) }
    }
}

/// Σ s · (q − 32) · x, of the sum Σ s · q · x and the scales of both halves.
#[inline(always)]
fn centred<S: Simd>(s: S, dot: S::Ints, pair: S::Ints, x: &Quants) -> S::Ints {
    s.sub_ints(dot, s.shl(s.dot_pairs(pair, x.halves), 5))
}

/// Four numbers of every row, of group `g` of a part of Q6_K.
#[inline(always)]
pub(super) fn six_bits<S: Simd>(s: S, low: S::Ints, high: S::Ints, g: usize) -> S::Ints {
    s.or(nibble(s, low, g / 2), to_bit_4(s, high, 2 * g, 3))
}

impl<S: Simd> Weights<S> for BlockQ6K {
    const PART: usize = 4;
    /// The scale, and a byte for each of sixteen half groups.
    type Shared = (S::Floats, [S::Ints; 4]);
    /// The lower four bits, those of groups 0 and 2 before those of 1 and 3, and the upper two.
    type Part = ([Bytes<S>; 2], Bytes<S>);
    type Group = GroupQ6K<S>;
    #[inline(always)]
    fn shared<R: Rows<S>>(s: S, rows: R) -> Self::Shared {
        let scales = rows.load16(s, offset_of!(Self, scales));
        (rows.load2(s, offset_of!(Self, d)), scales)
    }
    #[inline(always)]
    fn part<R: Rows<S>>(s: S, rows: R, _: &Self::Shared, part: usize) -> Self::Part {
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
        let (d, scales) = of;
        GroupQ6K { w, d: *d, scales: HalfScales::of(s, scales, part, g) }
    }
    #[inline(always)]
    fn add(s: S, sum: S::Floats, group: &Self::Group, x: &Quants) -> S::Floats {
        let GroupQ6K { w, d, scales } = group;
        let low = s.dot::<6>(&w[..4], &x.q[..4], Some(scales.factors[0]));
        let high = s.dot::<6>(&w[4..], &x.q[4..], Some(scales.factors[1]));
        add_scaled(s, sum, centred(s, s.add_ints(low, high), scales.pair, x), *d, x)
    }
    /// A part is 24 vectors, more than there are registers: all groups go together, half of each at a time.
    #[inline(always)]
    fn add_part<R: Rows<S>>(
        s: S,
        sum: S::Floats,
        rows: R,
        of: &Self::Shared,
        part: usize,
        x: &[Quants],
    ) -> S::Floats {
        let x: &[Quants; 4] = x.first_chunk().expect("as many groups as a part has");
        let (d, scales) = of;
        let (mut dots, mut pairs, mut factors) =
            ([s.splat(0); 4], [s.splat(0); 4], [[s.splat(0); 4]; 2]);
        each_group!(G < 4, {
            let scales = HalfScales::of(s, scales, part, G);
            (pairs[G], [factors[0][G], factors[1][G]]) = (scales.pair, scales.factors);
        });
        for half in 0..2 {
            let factors = &factors[half];
            let low = offset_of!(Self, ql) + 64 * part + 16 * half;
            let high = offset_of!(Self, qh) + 32 * part + 16 * half;
            let low = [rows.load16(s, low), rows.load16(s, low + 32)];
            let high = rows.load16(s, high);
            each_group!(G < 4, {
                let mut w = low[G % 2];
                for j in 0..4 {
                    w[j] = six_bits(s, w[j], high[j], G);
                }
                let q: &[[i8; 4]; 4] = &x[G].q.as_chunks().0[half];
                let dot = s.dot::<6>(&w, q, Some(factors[G]));
                dots[G] = s.add_ints(dots[G], dot);
            });
        }
        let mut sum = sum;
        each_group!(G < 4, {
            sum = add_scaled(s, sum, centred(s, dots[G], pairs[G], &x[G]), *d, &x[G]);
        });
        sum
    }
}
