//! Super-blocks of [`SUPER_BLOCK`] numbers: scales of their parts that are themselves quantised.
//!
//! A super-block is read in groups of [`BLOCK`] numbers, as the kernels take it.

use super::{BLOCK, f16_to_f32};
use bytemuck::{AnyBitPattern, NoUninit};

/// Numbers in one block of a K format.
pub const SUPER_BLOCK: usize = 256;

/// Groups of [`BLOCK`] numbers in a super-block.
pub const GROUPS: usize = SUPER_BLOCK / BLOCK;

/// Numbers of [`BlockQ6K`] that share a scale.
pub const Q6K_PART: usize = 16;

/// x = d · s · q − dmin · m, q in 0..16, with a scale s and a minimum m in 0..64 for every group of 32.
/// Byte l of the 32 bytes p of `qs` holds number l of group 2p in its low, of group 2p + 1 in its high half.
/// 4.5 bits per weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct BlockQ4K {
    /// Scale of the scales, half precision bits.
    pub d: u16,
    /// Scale of the minima, half precision bits.
    pub dmin: u16,
    /// Scales and minima of the groups.
    pub scales: GroupScales,
    /// Two numbers per byte.
    pub qs: [u8; SUPER_BLOCK / 2],
}
const _: () = assert!(size_of::<BlockQ4K>() == 144);

/// As [`BlockQ4K`], with q in 0..32: bit g of byte l of `qh` is the fifth bit of number l of group g.
/// 5.5 bits per weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct BlockQ5K {
    /// Scale of the scales, half precision bits.
    pub d: u16,
    /// Scale of the minima, half precision bits.
    pub dmin: u16,
    /// Scales and minima of the groups.
    pub scales: GroupScales,
    /// The fifth bits.
    pub qh: [u8; SUPER_BLOCK / 8],
    /// The lower four bits, two numbers per byte.
    pub qs: [u8; SUPER_BLOCK / 2],
}
const _: () = assert!(size_of::<BlockQ5K>() == 176);

/// x = d · s · (q − 32), q in 0..64, with a scale s in −128..=127 for every 16 numbers. Each half of the
/// super-block has 64 bytes of `ql` and 32 of `qh`; group g of the four in a half has its lower four bits
/// in the 32 bytes g mod 2 of `ql`, in the low halves for g < 2 and in the high ones else, and its upper two
/// in bits 2g and 2g + 1 of `qh`. 6.5625 bits per weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct BlockQ6K {
    /// The lower four bits.
    pub ql: [u8; SUPER_BLOCK / 2],
    /// The upper two bits.
    pub qh: [u8; SUPER_BLOCK / 4],
    /// One scale per 16 numbers.
    pub scales: [i8; SUPER_BLOCK / Q6K_PART],
    /// Scale of the scales, half precision bits.
    pub d: u16,
}
const _: () = assert!(size_of::<BlockQ6K>() == 210);

/// Scale and minimum of eight groups, six bits each. Of the groups 0 to 3, the lower six bits of byte g are
/// the scale, those of byte g + 4 the minimum. Of the groups 4 to 7, byte g + 4 holds the lower four bits of
/// the scale and, in its high half, of the minimum; the upper two are on top of bytes g − 4 and g.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(transparent)]
pub struct GroupScales(pub [u8; 12]);

impl GroupScales {
    /// Packs (scale, minimum) of every group, each below 64.
    pub fn pack(of: &[(u8, u8); GROUPS]) -> Self {
        let mut bytes = [0; 12];
        for g in 0..4 {
            let ((s, m), (upper_s, upper_m)) = (of[g], of[g + 4]);
            bytes[g] = s | ((upper_s >> 4) << 6);
            bytes[g + 4] = m | ((upper_m >> 4) << 6);
            bytes[g + 8] = (upper_s & 0x0f) | (upper_m << 4);
        }
        GroupScales(bytes)
    }

    /// (scale, minimum) of a group.
    #[inline(always)]
    pub fn get(&self, group: usize) -> (u8, u8) {
        let b = &self.0;
        if group < 4 {
            (b[group] & 63, b[group + 4] & 63)
        } else {
            let low = b[group + 4];
            ((low & 0x0f) | ((b[group - 4] >> 6) << 4), (low >> 4) | ((b[group] >> 6) << 4))
        }
    }

    /// (d · s, dmin · m) of a group.
    #[inline(always)]
    fn scaled(&self, d: u16, dmin: u16, group: usize) -> (f32, f32) {
        let (s, m) = self.get(group);
        (f16_to_f32(d) * f32::from(s), f16_to_f32(dmin) * f32::from(m))
    }
}

/// The lower four bits of group `group`, where each 32 bytes hold two groups.
#[inline(always)]
fn nibbles(qs: &[u8; SUPER_BLOCK / 2], group: usize) -> [u8; BLOCK] {
    let (rows, _) = qs.as_chunks::<BLOCK>();
    let mut q = rows[group / 2];
    for q in &mut q {
        *q = (*q >> (4 * (group % 2))) & 0x0f;
    }
    q
}

/// What [`nibbles`] takes apart.
fn pack_nibbles(q: &[[u8; BLOCK]; GROUPS]) -> [u8; SUPER_BLOCK / 2] {
    core::array::from_fn(|i| {
        let (pair, l) = (i / BLOCK, i % BLOCK);
        (q[2 * pair][l] & 0x0f) | (q[2 * pair + 1][l] << 4)
    })
}

/// Groups of d · q − m, one after the other.
#[inline(always)]
fn dequantize_groups(group: impl Fn(usize) -> ([i8; BLOCK], f32, f32)) -> [f32; SUPER_BLOCK] {
    let mut out = [0.0; SUPER_BLOCK];
    for (g, out) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        let (q, d, m) = group(g);
        for l in 0..BLOCK {
            out[l] = d * f32::from(q[l]) - m;
        }
    }
    out
}

impl BlockQ4K {
    /// The block of numbers below 16.
    pub fn pack(d: u16, dmin: u16, scales: GroupScales, q: &[[u8; BLOCK]; GROUPS]) -> Self {
        BlockQ4K { d, dmin, scales, qs: pack_nibbles(q) }
    }

    /// The numbers q of a group.
    #[inline(always)]
    pub fn numbers(&self, group: usize) -> [i8; BLOCK] {
        let low = nibbles(&self.qs, group);
        let mut numbers = [0; BLOCK];
        for l in 0..BLOCK {
            numbers[l] = low[l] as i8;
        }
        numbers
    }

    /// (d · s, dmin · m) of a group.
    #[inline(always)]
    pub fn scale_and_min(&self, group: usize) -> (f32, f32) {
        self.scales.scaled(self.d, self.dmin, group)
    }

    /// The super-block's numbers.
    pub fn dequantize(&self) -> [f32; SUPER_BLOCK] {
        dequantize_groups(|g| {
            let (d, m) = self.scale_and_min(g);
            (self.numbers(g), d, m)
        })
    }
}

impl BlockQ5K {
    /// The block of numbers below 32.
    pub fn pack(d: u16, dmin: u16, scales: GroupScales, q: &[[u8; BLOCK]; GROUPS]) -> Self {
        let fifth = |l: usize| (0..GROUPS).fold(0, |bits, g| bits | ((q[g][l] >> 4) << g));
        BlockQ5K { d, dmin, scales, qh: core::array::from_fn(fifth), qs: pack_nibbles(q) }
    }

    /// The numbers q of a group.
    #[inline(always)]
    pub fn numbers(&self, group: usize) -> [i8; BLOCK] {
        let low = nibbles(&self.qs, group);
        let mut numbers = [0; BLOCK];
        for l in 0..BLOCK {
            numbers[l] = (low[l] | (((self.qh[l] >> group) & 1) << 4)) as i8;
        }
        numbers
    }

    /// (d · s, dmin · m) of a group.
    #[inline(always)]
    pub fn scale_and_min(&self, group: usize) -> (f32, f32) {
        self.scales.scaled(self.d, self.dmin, group)
    }

    /// The super-block's numbers.
    pub fn dequantize(&self) -> [f32; SUPER_BLOCK] {
        dequantize_groups(|g| {
            let (d, m) = self.scale_and_min(g);
            (self.numbers(g), d, m)
        })
    }
}

impl BlockQ6K {
    /// The block of numbers below 64.
    pub fn pack(d: u16, scales: [i8; SUPER_BLOCK / Q6K_PART], q: &[[u8; BLOCK]; GROUPS]) -> Self {
        // Groups g and g + 2 of a half share bytes.
        let ql = core::array::from_fn(|i| {
            let (g, l) = (i / 64 * 4 + i / BLOCK % 2, i % BLOCK);
            (q[g][l] & 0x0f) | (q[g + 2][l] << 4)
        });
        let qh = core::array::from_fn(|i| {
            let (half, l) = (i / BLOCK * 4, i % BLOCK);
            (0..4).fold(0, |bits, g| bits | ((q[half + g][l] >> 4) << (2 * g)))
        });
        BlockQ6K { ql, qh, scales, d }
    }

    /// The numbers q − 32 of a group.
    #[inline(always)]
    pub fn numbers(&self, group: usize) -> [i8; BLOCK] {
        let (half, g) = (group / 4, group % 4);
        let low = self.ql.as_chunks::<BLOCK>().0[2 * half + g % 2];
        let high = self.qh.as_chunks::<BLOCK>().0[half];
        let mut numbers = [0; BLOCK];
        for l in 0..BLOCK {
            let upper = (high[l] >> (2 * g)) & 3;
            numbers[l] = (((low[l] >> (g / 2 * 4)) & 0x0f) | (upper << 4)) as i8 - 32;
        }
        numbers
    }

    /// d · s of the two halves of a group.
    #[inline(always)]
    pub fn scales(&self, group: usize) -> [f32; 2] {
        let d = f16_to_f32(self.d);
        [2 * group, 2 * group + 1].map(|part| d * f32::from(self.scales[part]))
    }

    /// The super-block's numbers.
    pub fn dequantize(&self) -> [f32; SUPER_BLOCK] {
        let mut out = [0.0; SUPER_BLOCK];
        for (g, out) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let (q, d) = (self.numbers(g), self.scales(g));
            for l in 0..BLOCK {
                out[l] = d[l / Q6K_PART] * f32::from(q[l]);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// Numbers below `end`, all bits in use.
    fn numbers(rng: &mut Rng, end: u32) -> [[u8; BLOCK]; GROUPS] {
        core::array::from_fn(|_| core::array::from_fn(|_| (rng.next_u32() % end) as u8))
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let mut rng = Rng::new(3, 0);
        for _ in 0..100 {
            let pairs: [(u8, u8); GROUPS] =
                core::array::from_fn(|_| (rng.next_u32() as u8 & 63, rng.next_u32() as u8 & 63));
            let scales = GroupScales::pack(&pairs);
            assert_eq!(core::array::from_fn(|g| scales.get(g)), pairs);

            let q = numbers(&mut rng, 16);
            let block = BlockQ4K::pack(0x3c00, 0x3c00, scales, &q);
            assert_eq!(core::array::from_fn(|g| block.numbers(g).map(|q| q as u8)), q);
            let q = numbers(&mut rng, 32);
            let block = BlockQ5K::pack(0x3c00, 0x3c00, scales, &q);
            assert_eq!(core::array::from_fn(|g| block.numbers(g).map(|q| q as u8)), q);
            let (d, m) = block.scale_and_min(5);
            assert_eq!((d, m), (f32::from(pairs[5].0), f32::from(pairs[5].1)));
            assert_eq!(block.dequantize()[5 * BLOCK + 7], d * f32::from(q[5][7]) - m);
            let q = numbers(&mut rng, 64);
            let block = BlockQ6K::pack(0x3c00, [-3; 16], &q);
            assert_eq!(core::array::from_fn(|g| block.numbers(g).map(|q| (q + 32) as u8)), q);
            assert_eq!(block.dequantize()[BLOCK], -3.0 * (f32::from(q[1][0]) - 32.0));
        }
    }
}
