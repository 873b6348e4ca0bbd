//! An NVIDIA card as a session's device.
//!
//! A card holds the weights of all experts that are present, in the formats of their files, and one session's keys,
//! values and buffers, in memory that is taken when it is opened; nothing is allocated afterwards, here or
//! there. Products of quantised weights take activations in 8 bits and sum up exact integers
//! in single precision, as this processor does, in another order. A token that is decoded is one graph of kernels
//! whose arguments lie in the card's memory; logits come back to be mixed and sampled.
//!
//! Results are the same bits every run, and do not depend on how tokens are divided into passes.
//!
//! Floors: `driver`, `formats` → `plan` → `forward` → [`Cuda`]. The kernels are in `kernels/`, and as PTX in
//! `ptx/`.

mod driver;
mod formats;
mod forward;
mod plan;

use crate::config::Config;
use crate::device::{Device, Lane, Needs};
use crate::ensemble::Ensemble;
use crate::error::{Error, Result};
use crate::expert::Matrix;
use crate::layout::Layout;
use core::ops::Range;
use driver::{Driver, Rows};
use formats::{body, gather};
use forward::{Extent, Forward};
use plan::{Placed, Places, SITE};
use std::vec;
use std::vec::Vec;

pub use driver::{Card, cards};
pub use plan::{Plan, plan};

/// Warps of every block.
const WARPS: usize = 8;
/// Keys that one warp attends to.
const CHUNK: usize = 64;
/// The largest head that the attention takes.
const MAX_HEAD_DIM: usize = 256;
/// Bytes of weights that are arranged at a time.
const STAGE: usize = 8 << 20;

/// A card that holds experts and computes the passes of one session.
#[derive(Debug)]
pub struct Cuda {
    driver: Driver,
    forward: Forward,
    needs: Needs,
    fingerprint: [u8; 32],
    config: Config,
    kv: driver::Ptr,
    logits: driver::Ptr,
    input: driver::Ptr,
    /// What goes there: the first position, a word of no meaning, lanes, tokens.
    words: Vec<u32>,
    n_out: usize,
    plan: Plan,
    /// By number of lanes less 1: the graphs of a token's layers and of its logits.
    graphs: Vec<[usize; 2]>,
}

impl Cuda {
    /// Opens the card with a number, for sessions with such needs, one at a time, and copies the experts' weights
    /// to it.
    ///
    /// # Errors
    /// [`crate::Error::Device`]: no driver, no such card, a card or driver that is too old, a model that the kernels
    /// do not compute. [`crate::Error::DeviceFull`]: it has less memory left than [`plan`] says.
    pub fn open<'e>(index: usize, experts: impl Into<Ensemble<'e>>, needs: &Needs) -> Result<Self> {
        let ensemble = experts.into();
        let layout = Places::new(&ensemble, needs)?;
        let mut driver = Driver::open(index, layout.plan.staging)?;
        let needed = layout.plan.total;
        let mut take = |n| {
            driver.allocate(n).map_err(|error| match error {
                // What all of it takes is what must be free.
                Error::DeviceFull { .. } => Error::DeviceFull { needed },
                other => other,
            })
        };
        // Apart, so that tools see who reads beyond the end of one.
        let (weights, kv) = (take(layout.plan.weights)?, take(layout.plan.kv)?);
        let buffers = layout.buffers.try_map(take)?;
        upload(&driver, &layout, weights)?;
        let (config, n_experts) = (*ensemble.config(), ensemble.len());
        let places = layout.sites.len() / n_experts;
        let formats = (0..places).map(|place| layout.formats(n_experts, place)).collect();
        let forward = Forward::new(
            &driver,
            config,
            n_experts,
            needs.n_ctx,
            layout.n_out,
            needs.kv,
            needs.n_lanes,
            formats,
            (weights.offset(layout.table), kv, buffers),
        )?;
        let mut cuda = Cuda {
            driver,
            forward,
            needs: *needs,
            fingerprint: ensemble.fingerprint(),
            config,
            kv,
            logits: buffers.logits,
            input: buffers.input,
            words: vec![0; 2 + 2 * needs.n_lanes + needs.n_batch],
            n_out: layout.n_out,
            plan: layout.plan,
            graphs: Vec::new(),
        };
        for n_lanes in 1..=needs.n_lanes {
            let (of, forward) = (Extent { n_lanes, n: 1 }, &cuda.forward);
            // A graph serves every position: its attention covers all of them.
            let end = needs.n_ctx;
            let layers = |driver: &Driver| forward.layers(driver, of, end, &|| false);
            let layers = cuda.driver.record(layers)?;
            let head = cuda.driver.record(|driver| forward.head(driver, of, 0..1))?;
            cuda.graphs.push([layers, head]);
        }
        cuda.driver.finish()?;
        Ok(cuda)
    }

    /// The memory that it has taken.
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// The keys and values of a slot's first `n` positions.
    fn slot_rows(&self, slot: u32, n: usize) -> Rows {
        let Config { n_layer, n_embd, n_head, .. } = self.config;
        let Needs { n_ctx, kv, .. } = self.needs;
        let slot_bytes = kv.bytes(n_layer * 2 * n_ctx * n_embd);
        let number = kv.bytes(n_embd / n_head);
        Rows {
            at: self.kv.offset(slot as usize * slot_bytes),
            pitch: n_ctx * number,
            row_bytes: n * number,
            n_rows: n_layer * 2 * n_head,
        }
    }
}

impl Device for Cuda {
    fn needs(&self) -> Needs {
        self.needs
    }

    fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    fn forward(
        &mut self,
        lanes: &[Lane],
        tokens: &[u32],
        past: usize,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<()> {
        self.driver.enter()?;
        let of = Extent { n_lanes: lanes.len(), n: tokens.len() };
        self.words[0] = past as u32;
        let (place, rest) = self.words[2..].split_at_mut(2 * self.needs.n_lanes);
        place[..2 * lanes.len()].copy_from_slice(bytemuck::cast_slice(lanes));
        rest[..tokens.len()].copy_from_slice(tokens);
        let n_words = 2 + 2 * self.needs.n_lanes + tokens.len();
        self.driver.send(self.input, bytemuck::cast_slice(&self.words[..n_words]))?;
        if of.n == 1 {
            return self.driver.replay(self.graphs[of.n_lanes - 1][0]);
        }
        self.forward.layers(&self.driver, of, past + of.n, cancelled)
    }

    fn head(
        &mut self,
        lanes: &[Lane],
        n: usize,
        rows: Range<usize>,
        logits: &mut [f32],
    ) -> Result<()> {
        self.driver.enter()?;
        let of = Extent { n_lanes: lanes.len(), n };
        debug_assert_eq!(logits.len(), lanes.len() * rows.len() * self.n_out);
        if n == 1 {
            self.driver.replay(self.graphs[of.n_lanes - 1][1])?;
        } else {
            self.forward.head(&self.driver, of, rows)?;
        }
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(logits);
        bytes.copy_from_slice(self.driver.receive(self.logits, bytes.len())?);
        Ok(())
    }

    fn save(&self, slot: u32, n: usize, out: &mut [u8]) -> Result<()> {
        self.driver.save(self.slot_rows(slot, n), out)
    }

    fn restore(&mut self, slot: u32, n: usize, from: &[u8]) -> Result<()> {
        self.driver.restore(self.slot_rows(slot, n), from)
    }
}

/// Copies weights to the card, and the table by which the kernels find them.
fn upload(driver: &Driver, layout: &Places<'_>, weights: driver::Ptr) -> Result<()> {
    let address = |offset| weights.offset(offset);
    let mut table = vec![0u8; layout.sites.len() * SITE];
    for (site, entry) in layout.sites.iter().zip(table.chunks_exact_mut(SITE)) {
        let Some(Placed { matrix, bias, body, rest, bias_at, is_shared }) = *site else { continue };
        if !is_shared {
            upload_rows(driver, &matrix, address(body), address(rest))?;
        }
        let bias_at = if bias.is_empty() { driver::Ptr::NULL } else { address(bias_at) };
        driver.upload(bias_at, bytemuck::cast_slice(bias))?;
        let addresses = [address(body), address(rest), bias_at].map(|p| p.0);
        entry[..24].copy_from_slice(bytemuck::cast_slice(&addresses));
        let numbers = [matrix.n_rows as u32, matrix.dtype as u32];
        entry[24..].copy_from_slice(bytemuck::cast_slice(&numbers));
    }
    driver.upload(address(layout.table), &table)
}

/// Copies a matrix as the card holds it, some rows at a time.
fn upload_rows(
    driver: &Driver,
    matrix: &Matrix<'_>,
    bodies: driver::Ptr,
    rests: driver::Ptr,
) -> Result<()> {
    let (len, n_body) = (matrix.dtype.block_bytes(), body(matrix.dtype).len());
    if n_body == len && matrix.layout == Layout::Standard {
        return driver.upload(bodies, matrix.bytes);
    }
    let row_len = matrix.bytes.len() / matrix.n_rows;
    let n_rows = (STAGE / row_len).max(1);
    let mut rows = vec![0u8; n_rows * row_len];
    let mut part = vec![0u8; rows.len()];
    for first in (0..matrix.n_rows).step_by(n_rows) {
        let n = n_rows.min(matrix.n_rows - first);
        let rows = &mut rows[..n * row_len];
        for (i, row) in rows.chunks_exact_mut(row_len).enumerate() {
            matrix.standard_row(first + i, row);
        }
        let n_blocks = row_len / len;
        for (is_body, n_bytes, to) in [(true, n_body, bodies), (false, len - n_body, rests)] {
            if n_bytes > 0 {
                let part = &mut part[..n * n_blocks * n_bytes];
                gather(matrix.dtype, rows, is_body, part);
                driver.upload(to.offset(first * n_blocks * n_bytes), part)?;
            }
        }
    }
    Ok(())
}
