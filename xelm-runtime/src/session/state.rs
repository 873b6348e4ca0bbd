//! Saving a session's state to the caller's memory, and restoring it.
//!
//! ```text
//! "XELMSTAT"  version:u32  kv:u32 (0 f32, 1 f16, 2 q8_0)  fingerprint:[u8; 32]
//! n_past:u64  fixed_at:u64 (2⁶⁴−1: weights are not fixed)  n_active:u32  n_slots:u32
//! n_active × (expert:u32  weight:f32)
//! n_past   × token:u32
//! n_slots  × (expert:u32  n_cached:u32  keys and values of n_cached positions,
//!             [n_layer, 2, n_head, n_cached, head_dim])
//! ```
//!
//! Little endian. The length of the contexts is no part of it: a state fits every session that has
//! room for its tokens.

use super::Session;
use crate::cache::{Kv, layer_of, layer_of_mut};
use crate::config::Config;
use crate::ensemble::Active;
use crate::error::{Error, Result};
use crate::kernels::KvElement;

const MAGIC: [u8; 8] = *b"XELMSTAT";
const VERSION: u32 = 1;
/// Bytes before the list of active experts.
const HEADER: usize = 72;
const NOT_FIXED: u64 = u64::MAX;

impl Session<'_> {
    /// Bytes that [`Session::save`] writes now.
    pub fn state_size(&self) -> usize {
        let slots = self.saved_slots().map(|(_, _, n_cached)| 8 + self.slot_bytes(n_cached));
        HEADER + 8 * self.saved_active().len() + 4 * self.n_past + slots.sum::<usize>()
    }

    /// Writes the session's state to `out` and returns the bytes written.
    ///
    /// # Errors
    /// [`Error::BufferTooSmall`] where `out` is shorter than [`Session::state_size`]; a device's.
    pub fn save(&self, out: &mut [u8]) -> Result<usize> {
        let needed = self.state_size();
        let mut out = Sink(out.get_mut(..needed).ok_or(Error::BufferTooSmall { needed })?);
        out.put(&MAGIC);
        out.put(&VERSION.to_le_bytes());
        out.put(&self.options.kv.id().to_le_bytes());
        out.put(&self.ensemble.fingerprint());
        out.put(&(self.n_past as u64).to_le_bytes());
        let fixed_at = self.parts.mixture.fixed_at().map_or(NOT_FIXED, |at| at as u64);
        out.put(&fixed_at.to_le_bytes());
        out.put(&(self.saved_active().len() as u32).to_le_bytes());
        out.put(&(self.saved_slots().count() as u32).to_le_bytes());
        for active in self.saved_active() {
            out.put(&active.expert.to_le_bytes());
            out.put(&active.weight.to_le_bytes());
        }
        for token in self.tokens() {
            out.put(&token.to_le_bytes());
        }
        for (slot, expert, n_cached) in self.saved_slots() {
            out.put(&expert.to_le_bytes());
            out.put(&(n_cached as u32).to_le_bytes());
            match (&self.device, &self.parts.cache.kv) {
                (Some(device), _) => {
                    device.save(slot as u32, n_cached, out.room(self.slot_bytes(n_cached)))?
                }
                (None, Kv::F32(kv)) => self.save_slot(kv, slot, n_cached, &mut out),
                (None, Kv::F16(kv)) => self.save_slot(kv, slot, n_cached, &mut out),
                (None, Kv::Q8_0(kv)) => self.save_slot(kv, slot, n_cached, &mut out),
            }
        }
        Ok(needed)
    }

    /// Takes the state that a session with the same experts and storage of keys and values saved, and
    /// forgets its own. What follows is bit for bit what would have followed there, on this processor or on a
    /// device as it was there.
    ///
    /// # Errors
    /// [`Error::ForeignState`] where the state is of something else or damaged, and
    /// [`Error::ContextFull`] where it is too long: the session is then empty.
    pub fn restore(&mut self, state: &[u8]) -> Result<()> {
        self.reset();
        self.parts.cache.clear();
        let result = self.read_state(&mut Source(state));
        if result.is_err() {
            self.reset();
            self.parts.cache.clear();
        }
        result
    }

    fn read_state(&mut self, state: &mut Source<'_>) -> Result<()> {
        let foreign = |what| Error::ForeignState { what };
        if state.take::<8>()? != MAGIC {
            return Err(foreign("magic number"));
        }
        if state.u32()? != VERSION {
            return Err(foreign("version"));
        }
        if state.u32()? != self.options.kv.id() {
            return Err(foreign("type of keys and values"));
        }
        if state.take::<32>()? != self.ensemble.fingerprint() {
            return Err(foreign("model"));
        }
        let n_past = usize::try_from(state.u64()?).unwrap_or(usize::MAX);
        if n_past > self.n_ctx() {
            return Err(Error::ContextFull { n_ctx: self.n_ctx() });
        }
        let fixed_at = match state.u64()? {
            NOT_FIXED => None,
            at if at <= n_past as u64 => Some(at as usize),
            _ => return Err(foreign("position of its weights")),
        };
        let (n_active, n_slots) = (state.u32()? as usize, state.u32()?);
        let max_active = self.parts.lanes.len();
        if n_active > max_active || fixed_at.is_some() != (n_active > 0) {
            return Err(foreign("number of experts"));
        }
        let is_present = |i: u32| self.ensemble.get(i as usize).is_some();
        for slot in 0..n_active {
            let active = Active { expert: state.u32()?, weight: f32::from_bits(state.u32()?) };
            let is_weight = active.weight > 0.0 && active.weight <= 1.0;
            if !(is_weight && is_present(active.expert)) {
                return Err(foreign("choice of experts"));
            }
            self.parts.steps[slot] = active;
        }
        for i in 0..n_past {
            let token = state.u32()?;
            if token as usize >= self.ensemble.config().n_vocab {
                return Err(Error::BadToken { token });
            }
            self.parts.tokens[i] = token;
        }
        for _ in 0..n_slots {
            let (expert, n_cached) = (state.u32()?, state.u32()? as usize);
            let is_new = self.parts.cache.slots().iter().all(|slot| slot.expert != expert);
            if self.ensemble.get(expert as usize).is_none() || n_cached > n_past || !is_new {
                return Err(foreign("choice of experts"));
            }
            // Where fewer experts can be resident, the ones used last stay: they come last.
            let slot = self.parts.cache.admit(expert);
            let shape = self.cache_shape();
            let n_bytes = self.slot_bytes(n_cached);
            match (&mut self.device, &mut self.parts.cache.kv) {
                (Some(device), _) => device.restore(slot, n_cached, state.bytes(n_bytes)?)?,
                (None, Kv::F32(kv)) => restore_slot(kv, slot as usize, n_cached, shape, state)?,
                (None, Kv::F16(kv)) => restore_slot(kv, slot as usize, n_cached, shape, state)?,
                (None, Kv::Q8_0(kv)) => restore_slot(kv, slot as usize, n_cached, shape, state)?,
            }
            self.parts.cache.set_cached(slot, n_cached);
        }
        if !state.0.is_empty() {
            return Err(foreign("length"));
        }
        self.n_past = n_past;
        self.parts.mixture.restore(fixed_at, &self.parts.steps[..n_active]);
        Ok(())
    }

    /// The experts that stay, where they are chosen once.
    fn saved_active(&self) -> &[Active] {
        if self.parts.mixture.fixed_at().is_some() { self.active() } else { &[] }
    }

    /// (slot, expert, positions) of the slots that hold something, the one used last at the end.
    fn saved_slots(&self) -> impl Iterator<Item = (usize, u32, usize)> {
        self.parts.cache.by_use().map(|(i, slot)| (i, slot.expert, slot.n_cached as usize))
    }

    /// Bytes of the keys and values of as many positions of an expert.
    fn slot_bytes(&self, n_cached: usize) -> usize {
        let Config { n_layer, n_embd, .. } = *self.ensemble.config();
        self.options.kv.bytes(n_cached * 2 * n_layer * n_embd)
    }

    fn cache_shape(&self) -> Shape {
        let Config { n_layer, n_embd, n_head, .. } = *self.ensemble.config();
        Shape { n_layer, n_ctx: self.options.n_ctx, n_embd, head_dim: n_embd / n_head }
    }

    fn save_slot<E: KvElement>(&self, kv: &[E], slot: usize, n_cached: usize, out: &mut Sink<'_>) {
        let shape = self.cache_shape();
        for layer in 0..shape.n_layer {
            let (keys, values) = layer_of(kv, slot, layer, shape.cache());
            for head in
                [keys, values].into_iter().flat_map(|half| half.chunks_exact(shape.head::<E>()))
            {
                out.put(bytemuck::cast_slice(&head[..n_cached * shape.head_dim / E::LEN]));
            }
        }
    }
}

fn restore_slot<E: KvElement>(
    kv: &mut [E],
    slot: usize,
    n_cached: usize,
    shape: Shape,
    state: &mut Source<'_>,
) -> Result<()> {
    for layer in 0..shape.n_layer {
        let (keys, values) = layer_of_mut(kv, slot, layer, shape.cache());
        for half in [keys, values] {
            for head in half.chunks_exact_mut(shape.head::<E>()) {
                let numbers: &mut [u8] =
                    bytemuck::cast_slice_mut(&mut head[..n_cached * shape.head_dim / E::LEN]);
                numbers.copy_from_slice(state.bytes(numbers.len())?);
            }
        }
    }
    Ok(())
}

/// Dimensions of a cache.
#[derive(Clone, Copy)]
struct Shape {
    n_layer: usize,
    n_ctx: usize,
    n_embd: usize,
    head_dim: usize,
}

impl Shape {
    /// As `layer_of` takes them.
    fn cache(self) -> (usize, usize, usize) {
        (self.n_layer, self.n_ctx, self.n_embd)
    }

    /// Elements of one head.
    fn head<E: KvElement>(self) -> usize {
        self.n_ctx * self.head_dim / E::LEN
    }
}

/// Memory being written; its size has been checked.
struct Sink<'a>(&'a mut [u8]);

impl<'a> Sink<'a> {
    /// The next `n` bytes.
    fn room(&mut self, n: usize) -> &'a mut [u8] {
        let (head, rest) = core::mem::take(&mut self.0).split_at_mut(n);
        self.0 = rest;
        head
    }

    fn put(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
    }
}

/// Untrusted bytes being read.
struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, rest) =
            self.0.split_at_checked(n).ok_or(Error::ForeignState { what: "length" })?;
        self.0 = rest;
        Ok(head)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.bytes(N)?);
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.take().map(u64::from_le_bytes)
    }
}
