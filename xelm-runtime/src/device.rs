//! The seam to a device that computes a session's passes in place of this processor.
//!
//! A session chooses experts, gives them slots, counts positions, mixes and samples; the device holds the
//! experts' weights, the keys and values of the slots, and the buffers of a pass. What it computes is what
//! `forward` does, up to rounding, with the same invariance: a position's numbers do not depend on how
//! tokens were divided into passes, nor on the other lanes.

use crate::cache::KvType;
use crate::error::Result;
use bytemuck::{AnyBitPattern, NoUninit};
use core::ops::Range;

/// An expert in a pass, and the slot of its keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Lane {
    /// Index in the ensemble.
    pub expert: u32,
    /// Index of the slot.
    pub slot: u32,
}

/// What a session needs of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Positions.
    pub n_ctx: usize,
    /// Tokens of a pass at most.
    pub n_batch: usize,
    /// Experts of a pass at most.
    pub n_lanes: usize,
    /// Slots for keys and values.
    pub n_slots: usize,
    /// Rows of logits at a time, those of all lanes together.
    pub n_logits: usize,
    /// Storage of keys and values.
    pub kv: KvType,
    /// Whether every token has a logit also where all experts have shortlists.
    pub full_output: bool,
}

/// A device that was opened for one session. Nothing is allocated after it was opened, here or there.
pub trait Device: Send + Sync {
    /// What it was opened for.
    fn needs(&self) -> Needs;

    /// [`crate::ensemble::Ensemble::fingerprint`] of the experts whose weights it holds.
    fn fingerprint(&self) -> [u8; 32];

    /// Runs `tokens` at positions `past..` through all layers of every lane's expert: fills the slots' keys and
    /// values, keeps the residual streams for [`Device::head`].
    ///
    /// # Errors
    /// The device failed; [`crate::Error::Cancelled`], which is asked for between layers while the work is
    /// handed over.
    fn forward(
        &mut self,
        lanes: &[Lane],
        tokens: &[u32],
        past: usize,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<()>;

    /// Logits of the given rows of every lane's residual stream after a pass over `n` tokens:
    /// `[n_lanes, rows.len(), n_out]`. A lane whose output layer has fewer rows than `n_out` has its logits at
    /// the beginning of its part.
    ///
    /// # Errors
    /// The device failed.
    fn head(
        &mut self,
        lanes: &[Lane],
        n: usize,
        rows: Range<usize>,
        logits: &mut [f32],
    ) -> Result<()>;

    /// Copies the keys and values of a slot's first `n` positions, `[n_layer, 2, n_head, n, head_dim]`.
    ///
    /// # Errors
    /// The device failed.
    fn save(&self, slot: u32, n: usize, out: &mut [u8]) -> Result<()>;

    /// Takes what [`Device::save`] gave.
    ///
    /// # Errors
    /// The device failed.
    fn restore(&mut self, slot: u32, n: usize, from: &[u8]) -> Result<()>;
}
