//! Keys and values of the experts that are resident: one slot for each, the least recently used one
//! giving way.

use crate::arena::Arena;
use crate::error::Result;
use crate::kernels::KvElement;
use crate::quant::{BLOCK, BlockQ8_0};
use bytemuck::{AnyBitPattern, NoUninit};

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// Single precision.
    F32,
    /// Half precision: half the memory, the default.
    F16,
    /// 8 bits a number, and a scale for every 32: a little more than a quarter. Heads must have a multiple of 32
    /// numbers.
    Q8_0,
}

impl KvType {
    /// Bytes of `n` numbers, which are whole heads.
    pub const fn bytes(self, n: usize) -> usize {
        match self {
            KvType::F32 => n.saturating_mul(4),
            KvType::F16 => n.saturating_mul(2),
            KvType::Q8_0 => (n / BLOCK).saturating_mul(size_of::<BlockQ8_0>()),
        }
    }

    /// The number by which a saved state knows it.
    pub(crate) const fn id(self) -> u32 {
        match self {
            KvType::F32 => 0,
            KvType::F16 => 1,
            KvType::Q8_0 => 2,
        }
    }

    /// Whether heads of so many numbers can be stored.
    pub(crate) const fn takes(self, head_dim: usize) -> bool {
        !matches!(self, KvType::Q8_0) || head_dim.is_multiple_of(BLOCK)
    }
}

/// The numbers of all slots, `[n_slots, n_layer, 2, n_head, n_ctx, head_dim]`.
#[derive(Debug)]
pub(crate) enum Kv<'m> {
    F32(&'m mut [f32]),
    F16(&'m mut [u16]),
    Q8_0(&'m mut [BlockQ8_0]),
}

/// Who is in a slot, and how far it has read.
#[derive(Clone, Copy, Debug, NoUninit, AnyBitPattern)]
#[repr(C)]
pub(crate) struct Slot {
    /// Index of the expert; [`NOBODY`] where the slot is free.
    pub(crate) expert: u32,
    /// Positions whose keys and values are there.
    pub(crate) n_cached: u32,
    last_used: u64,
}

/// No expert.
const NOBODY: u32 = u32::MAX;

const FREE: Slot = Slot { expert: NOBODY, n_cached: 0, last_used: 0 };

/// Slots and what is in them.
#[derive(Debug)]
pub(crate) struct Cache<'m> {
    pub(crate) kv: Kv<'m>,
    slots: &'m mut [Slot],
    clock: u64,
}

impl<'m> Cache<'m> {
    /// Takes `n_slots` slots of `slot_len` numbers.
    pub(crate) fn carve(
        arena: &mut Arena<'m>,
        kv: KvType,
        slot_len: usize,
        n_slots: usize,
    ) -> Result<Self> {
        // A size that overflows is refused by the arena.
        let len = slot_len.saturating_mul(n_slots);
        let kv = match kv {
            KvType::F32 => Kv::F32(arena.take(len)?),
            KvType::F16 => Kv::F16(arena.take(len)?),
            KvType::Q8_0 => Kv::Q8_0(arena.take(len / BLOCK)?),
        };
        let slots = arena.take(n_slots)?;
        slots.fill(FREE);
        Ok(Cache { kv, slots, clock: 0 })
    }

    /// The slots.
    pub(crate) fn slots(&self) -> &[Slot] {
        self.slots
    }

    /// The slots that hold something with their indices, the one used last at the end.
    pub(crate) fn by_use(&self) -> impl Iterator<Item = (usize, &Slot)> {
        let used = |slot: &&Slot| slot.expert != NOBODY && slot.n_cached > 0;
        let mut after = 0;
        core::iter::from_fn(move || {
            let later = self.slots.iter().filter(used).filter(|slot| slot.last_used > after);
            let next = later.min_by_key(|slot| slot.last_used)?;
            after = next.last_used;
            let index = self.slots.iter().position(|slot| slot.last_used == after)?;
            Some((index, next))
        })
    }

    /// Positions that are cached in a slot.
    pub(crate) fn n_cached(&self, slot: u32) -> usize {
        self.slots[slot as usize].n_cached as usize
    }

    /// Notes that the positions before `n` are cached in a slot.
    pub(crate) fn set_cached(&mut self, slot: u32, n: usize) {
        self.slots[slot as usize].n_cached = n as u32;
    }

    /// The slot of an expert that has one, which counts as used now.
    pub(crate) fn touch(&mut self, expert: u32) -> Option<u32> {
        let slot = self.slots.iter().position(|slot| slot.expert == expert)?;
        self.clock += 1;
        self.slots[slot].last_used = self.clock;
        Some(slot as u32)
    }

    /// A slot for an expert that has none: the one that nobody has used for longest. Experts that are
    /// needed together are touched first, so that they do not turn each other out.
    pub(crate) fn admit(&mut self, expert: u32) -> u32 {
        let oldest = (0..self.slots.len()).min_by_key(|&i| self.slots[i].last_used).unwrap_or(0);
        self.clock += 1;
        self.slots[oldest] = Slot { expert, n_cached: 0, last_used: self.clock };
        oldest as u32
    }

    /// Forgets all positions from `n_past` on.
    pub(crate) fn rewind(&mut self, n_past: usize) {
        for slot in self.slots.iter_mut() {
            slot.n_cached = slot.n_cached.min(n_past as u32);
        }
    }

    /// Forgets everything, also who is where.
    pub(crate) fn clear(&mut self) {
        self.slots.fill(FREE);
    }
}

/// Keys and values `[n_head, n_ctx, head_dim]` of one layer of one slot, the sizes being those of a
/// cache with room for `n_ctx` positions of width `n_embd` in `n_layer` layers.
pub(crate) fn layer_of<E: KvElement>(
    kv: &[E],
    slot: usize,
    layer: usize,
    (n_layer, n_ctx, n_embd): (usize, usize, usize),
) -> (&[E], &[E]) {
    let half = n_ctx * n_embd / E::LEN;
    kv[(slot * n_layer + layer) * 2 * half..][..2 * half].split_at(half)
}

/// As [`layer_of`], to be written.
pub(crate) fn layer_of_mut<E: KvElement>(
    kv: &mut [E],
    slot: usize,
    layer: usize,
    (n_layer, n_ctx, n_embd): (usize, usize, usize),
) -> (&mut [E], &mut [E]) {
    let half = n_ctx * n_embd / E::LEN;
    kv[(slot * n_layer + layer) * 2 * half..][..2 * half].split_at_mut(half)
}
