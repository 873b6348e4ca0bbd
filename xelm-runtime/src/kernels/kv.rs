//! Keys and values as the cache stores them.

#[cfg(all(target_arch = "x86_64", feature = "std"))]
use super::avx2::Avx2 as Halves;
#[cfg(target_arch = "aarch64")]
use super::neon::Neon as Halves;
use super::quants::to_bytes;
use crate::isa::{Isa, Vectorised};
use crate::quant::{BLOCK, BlockQ8_0, f16_to_f32, f32_to_f16};
use bytemuck::{AnyBitPattern, NoUninit};

/// The dimensions of an attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionShape {
    pub(crate) n_head: usize,
    pub(crate) head_dim: usize,
    pub(crate) n_ctx: usize,
    pub(crate) past: usize,
}

/// Neighbouring numbers of a head, stored together.
pub trait KvElement: NoUninit + AnyBitPattern + Send + Sync {
    /// How many.
    const LEN: usize;
    /// Stores numbers, LEN to an element.
    fn store(isa: Isa, x: &[f32], out: &mut [Self]);
    /// Numbers in single precision, converted into the beginning of `room` where they are not.
    fn singles<'a>(isa: Isa, stored: &'a [Self], room: &'a mut [f32]) -> &'a [f32];
}

impl KvElement for f32 {
    const LEN: usize = 1;
    #[inline(always)]
    fn store(_: Isa, x: &[f32], out: &mut [Self]) {
        out.copy_from_slice(x);
    }
    #[inline(always)]
    fn singles<'a>(_: Isa, stored: &'a [Self], _: &'a mut [f32]) -> &'a [f32] {
        stored
    }
}

/// Half precision bits.
impl KvElement for u16 {
    const LEN: usize = 1;
    #[inline(always)]
    fn store(isa: Isa, x: &[f32], out: &mut [Self]) {
        let n = narrow_to_halves(isa, x, out);
        for (out, &x) in out[n..].iter_mut().zip(&x[n..]) {
            *out = f32_to_f16(x);
        }
    }
    #[inline(always)]
    fn singles<'a>(isa: Isa, stored: &'a [Self], room: &'a mut [f32]) -> &'a [f32] {
        let room = &mut room[..stored.len()];
        let n = widen_halves(isa, stored, room);
        for (x, &stored) in room[n..].iter_mut().zip(&stored[n..]) {
            *x = f16_to_f32(stored);
        }
        room
    }
}

#[cfg(any(target_arch = "aarch64", all(target_arch = "x86_64", feature = "std")))]
#[inline(always)]
fn narrow_to_halves(isa: Isa, x: &[f32], out: &mut [u16]) -> usize {
    Halves::of(isa).map_or(0, |s| s.narrow_to_halves(x, out))
}

#[cfg(any(target_arch = "aarch64", all(target_arch = "x86_64", feature = "std")))]
#[inline(always)]
fn widen_halves(isa: Isa, halves: &[u16], out: &mut [f32]) -> usize {
    Halves::of(isa).map_or(0, |s| s.widen_halves(halves, out))
}

/// No instructions: one number after the other.
#[cfg(not(any(target_arch = "aarch64", all(target_arch = "x86_64", feature = "std"))))]
fn narrow_to_halves(_: Isa, _: &[f32], _: &mut [u16]) -> usize {
    0
}

/// No instructions: one number after the other.
#[cfg(not(any(target_arch = "aarch64", all(target_arch = "x86_64", feature = "std"))))]
fn widen_halves(_: Isa, _: &[u16], _: &mut [f32]) -> usize {
    0
}

/// 8 bits a number, and a scale for every 32.
impl KvElement for BlockQ8_0 {
    const LEN: usize = BLOCK;
    #[inline(always)]
    fn store(_: Isa, x: &[f32], out: &mut [Self]) {
        for (out, x) in out.iter_mut().zip(x.as_chunks().0) {
            let (qs, scale) = to_bytes(x);
            *out = BlockQ8_0 { d: f32_to_f16(scale), qs };
        }
    }
    #[inline(always)]
    fn singles<'a>(_: Isa, stored: &'a [Self], room: &'a mut [f32]) -> &'a [f32] {
        let room = &mut room[..BLOCK * stored.len()];
        for (x, block) in room.as_chunks_mut::<BLOCK>().0.iter_mut().zip(stored) {
            *x = block.dequantize();
        }
        room
    }
}

/// Writes the keys or values of one position, `[C]`, into a cache `[n_head, n_ctx, head_dim]`.
pub(super) struct Store<'a, E> {
    pub(super) isa: Isa,
    pub(super) cache: &'a mut [E],
    pub(super) row: &'a [f32],
    pub(super) position: usize,
    pub(super) shape: AttentionShape,
}

impl<E: KvElement> Vectorised for Store<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let AttentionShape { head_dim, n_ctx, .. } = self.shape;
        let len = head_dim / E::LEN;
        for (head, row) in self.row.chunks_exact(head_dim).enumerate() {
            let at = (head * n_ctx + self.position) * len;
            E::store(self.isa, row, &mut self.cache[at..at + len]);
        }
    }
}
