//! A micro-batch on a card.

use super::{Buffer, Device, Ptr, grow};
use crate::Result;
use crate::backend::IGNORE;

/// The micro-batch on the device: runs of u32 in one buffer, each at the same place for every micro-batch of as
/// many tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    pub(super) buffer: Buffer,
    pub(super) n_tokens: usize,
    /// Targets that are scored.
    pub(super) n_targets: u64,
    pub(super) inputs: Ptr,
    pub(super) targets: Ptr,
    /// The different tokens and their number; where each one's places begin; the places, in ascending order for
    /// each.
    pub(super) unique: Ptr,
    pub(super) n_unique: Ptr,
    pub(super) starts: Ptr,
    pub(super) places: Ptr,
}

impl Batch {
    /// Replaces the micro-batch.
    ///
    /// # Errors
    /// There is not enough memory. The sizes are those of the new one all the same.
    pub(super) fn load(
        &mut self,
        device: &mut impl Device,
        inputs: &[u32],
        targets: &[u32],
    ) -> Result<()> {
        let n = inputs.len();
        // The inputs' places by token: the embedding's gradient has one writer per row.
        let mut places: Vec<u32> = (0..n as u32).collect();
        places.sort_by_key(|&i| inputs[i as usize]); // stable: ascending for each token
        let (mut unique, mut starts) = (Vec::new(), Vec::new());
        for (i, &place) in (0u32..).zip(&places) {
            let token = inputs[place as usize];
            if unique.last() != Some(&token) {
                unique.push(token);
                starts.push(i);
            }
        }
        starts.push(n as u32);
        let n_unique = [unique.len() as u32];
        let mut words = Vec::with_capacity(5 * n + 2);
        let mut part = |values: &[u32], len: usize| {
            let at = words.len();
            words.extend_from_slice(values);
            words.resize(at + len, 0);
            at * 4
        };
        let at = [
            part(inputs, n),
            part(targets, n),
            part(&unique, n),
            part(&n_unique, 1),
            part(&starts, n + 1),
            part(&places, n),
        ];
        let grown = grow(device, &mut self.buffer, words.len() * 4);
        if grown.is_ok() {
            device.upload(self.buffer.at, bytemuck::cast_slice(&words));
        }
        let n_targets = targets.iter().filter(|&&t| t != IGNORE).count() as u64;
        let at = at.map(|at| self.buffer.at.offset(at));
        let [inputs, targets, unique, n_unique, starts, places] = at;
        let buffer = self.buffer;
        *self = Batch {
            buffer,
            n_tokens: n,
            n_targets,
            inputs,
            targets,
            unique,
            n_unique,
            starts,
            places,
        };
        grown
    }
}
