//! The CUDA backend: which kernels compute an operation, over which grid.
//!
//! Master weights, gradients and moments are f32; in [`Precision::Bf16`] the weights have a bf16 copy
//! for the products, and activations are bf16. A step waits for the device only at its end. No kernel
//! adds floats atomically, so every run has the same bits.

mod attention;
mod backend;
mod batch;
mod cards;
mod clock;
mod cublaslt;
mod device;
mod driver;
mod errors;
mod graphs;
mod head;
mod nccl;
mod norm;
mod operations;
mod plan;
mod queue;
mod replicas;
mod staging;

use super::{Dropout, Region, Sizes, Span};
use crate::{Error, Result};
use batch::Batch;
pub use cards::{Card, cards, has_cublaslt};
pub use device::{Arg, Device, Layout, Precision, Product, Ptr};
pub use driver::Driver;
pub use nccl::has_nccl;
pub use replicas::Replicas;

/// Threads per block that most kernels are written for.
const BLOCK: u32 = 256;
const WARP: usize = 32;
/// Blocks of a loop over numbers; also the number of partial sums of the gradients' norm.
const LOOP_BLOCKS: u64 = 1024;
/// Runs of rows that are summed apart, at most.
const MAX_RUNS: usize = 64;
/// Rows of a product's tile: f32 and bf16.
const TILE: [usize; 2] = [64, 128];
/// The largest grid in its second dimension, CUDA's limit.
const MAX_GRID_Y: usize = 65_535;

/// A CUDA device as a training device.
#[derive(Debug)]
pub struct Cuda<D: Device> {
    device: D,
    /// Where each region begins.
    base: [Ptr; Region::ALL.len()],
    /// The weights as the products read them: the master's bf16 copy, or the master.
    weights: Ptr,
    memory: Buffer,
    batch: Batch,
    scratch: Buffer,
    /// What a step gathers, in f64: loss, gradient norm. After them the key of dropout.
    stats: Buffer,
    n_targets: u64,
    /// The first failure to get memory within a step.
    failed: Option<Error>,
}

/// Memory that is replaced when it becomes too small.
#[derive(Clone, Copy, Debug, Default)]
struct Buffer {
    at: Ptr,
    n_bytes: usize,
}

impl<D: Device> Cuda<D> {
    /// A backend on a device.
    pub fn new(device: D) -> Self {
        Cuda {
            device,
            base: Default::default(),
            weights: Ptr::NULL,
            memory: Buffer::default(),
            batch: Batch::default(),
            scratch: Buffer::default(),
            stats: Buffer::default(),
            n_targets: 0,
            failed: None,
        }
    }

    fn precision(&self) -> Precision {
        self.device.precision()
    }

    /// The address of a span's numbers.
    fn at(&self, span: Span) -> Arg {
        Arg::Ptr(self.address(span))
    }

    fn address(&self, span: Span) -> Ptr {
        let n_bytes = number_bytes(span.region, self.precision());
        self.base[span.region as usize].offset(span.start * n_bytes)
    }

    /// The address of a parameter as the products read it.
    fn weight(&self, span: Span) -> Ptr {
        debug_assert_eq!(span.region, Region::Params);
        self.weights.offset(span.start * self.precision().n_bytes())
    }

    /// Where the key of dropout lies.
    fn key(&self) -> Ptr {
        self.stats.at.offset(2 * 8)
    }

    fn dropout_args(&self, dropout: Dropout) -> [Arg; 4] {
        let keep = 1.0 / (1.0 - dropout.p);
        [Arg::F32(dropout.p), Arg::F32(keep), Arg::Ptr(self.key()), Arg::U64(dropout.key)]
    }

    /// Runs a kernel of blocks of [`BLOCK`] threads.
    fn launch(&mut self, kernel: &'static str, grid: [usize; 3], args: &[Arg]) {
        self.launch_blocks(kernel, grid, BLOCK, args);
    }

    fn launch_blocks(&mut self, kernel: &'static str, grid: [usize; 3], block: u32, args: &[Arg]) {
        if grid[1] > MAX_GRID_Y {
            self.refuse(format!(
                "{kernel} over {} blocks: choose a smaller --micro-batch",
                grid[1]
            ));
        }
        if self.failed.is_none() && !grid.contains(&0) {
            self.device.launch(kernel, grid.map(|n| n as u32), block, args);
        }
    }

    /// Fails the step: no kernel computes what is asked.
    fn refuse(&mut self, what: String) {
        self.failed.get_or_insert(Error::Device(format!("no CUDA kernel computes {what}")));
    }

    /// Runs a kernel that loops over `n` items, one per thread and turn.
    fn launch_loop(&mut self, kernel: &'static str, n: u64, args: &[Arg]) {
        let blocks = n.div_ceil(u64::from(BLOCK)).min(LOOP_BLOCKS);
        self.launch(kernel, [blocks as usize, 1, 1], args);
    }

    /// Packs of 16 bytes that hold a span of activations; they may reach into its padding.
    fn packs(&self, span: Span) -> u64 {
        debug_assert_eq!(span.region, Region::Activations);
        (span.len * self.precision().n_bytes()).div_ceil(16) as u64
    }

    fn multiply(&mut self, product: &Product) {
        if self.failed.is_some() || self.device.multiply(product) {
            return;
        }
        let kernel = match (product.layout, product.wide, self.precision()) {
            (Layout::NT, true, Precision::Bf16) => "gemm_nt_f32",
            (Layout::NT, ..) => "gemm_nt",
            (Layout::NN, ..) => "gemm_nn",
            (Layout::TN, ..) => "gemm_tn",
        };
        let tile = TILE[usize::from(self.precision() == Precision::Bf16)];
        let grid = [product.n.div_ceil(tile), product.m.div_ceil(tile), 1];
        let args = [
            Arg::Ptr(product.out),
            Arg::Ptr(product.a),
            Arg::Ptr(product.b),
            Arg::Ptr(product.bias),
            Arg::U32(product.m as u32),
            Arg::U32(product.n as u32),
            Arg::U32(product.k as u32),
            Arg::U32(product.accumulate.into()),
        ];
        self.launch(kernel, grid, &args);
    }

    /// The first failure of this step that the device does not know of.
    fn check(&mut self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Work memory of at least `n_bytes`. It grows in the first step and then stays.
    fn scratch(&mut self, n_bytes: usize) -> Ptr {
        if self.failed.is_none()
            && let Err(error) = grow(&mut self.device, &mut self.scratch, n_bytes)
        {
            self.failed = Some(error);
        }
        self.scratch.at
    }

    /// Adds the column sums of `partial` `[n_runs, stride]` to `out`.
    fn add_partial_sums(&mut self, out: Ptr, partial: Ptr, n_runs: usize, stride: usize, n: usize) {
        let args = [
            Arg::Ptr(out),
            Arg::Ptr(partial),
            Arg::U32(n_runs as u32),
            Arg::U32(stride as u32),
            Arg::U32(n as u32),
        ];
        self.launch("add_partial_sums", [n.div_ceil(BLOCK as usize), 1, 1], &args);
    }

    /// Rounds f32 to bf16.
    fn narrow(&mut self, out: Ptr, x: Ptr, n: usize) {
        self.launch_loop("narrow", n as u64, &[Arg::Ptr(out), Arg::Ptr(x), Arg::U64(n as u64)]);
    }
}

/// The grid of a kernel with one warp per item.
fn warps(n: usize) -> [usize; 3] {
    [n.div_ceil(BLOCK as usize / WARP), 1, 1]
}

/// The runs that `n_rows` rows are summed in, and the rows of each.
fn runs(n_rows: usize) -> (usize, usize) {
    let rows = n_rows.div_ceil(MAX_RUNS).next_multiple_of(8);
    (n_rows.div_ceil(rows), rows)
}

/// Bytes of a number of a region.
fn number_bytes(region: Region, precision: Precision) -> usize {
    if region == Region::Activations { precision.n_bytes() } else { 4 }
}

fn region_bytes(sizes: &Sizes, region: Region, precision: Precision) -> usize {
    (sizes.0[region as usize] * number_bytes(region, precision)).next_multiple_of(256)
}

/// Bytes of all regions and of the weights' copy.
fn memory_bytes(sizes: &Sizes, precision: Precision) -> usize {
    let regions: usize = Region::ALL.iter().map(|&r| region_bytes(sizes, r, precision)).sum();
    regions + copy_bytes(sizes, precision)
}

/// Bytes of the weights' copy.
fn copy_bytes(sizes: &Sizes, precision: Precision) -> usize {
    match precision {
        Precision::F32 => 0,
        Precision::Bf16 => (sizes.0[Region::Params as usize] * 2).next_multiple_of(256),
    }
}

fn grow(device: &mut impl Device, buffer: &mut Buffer, n_bytes: usize) -> Result<()> {
    if buffer.n_bytes < n_bytes {
        if buffer.at != Ptr::NULL {
            device.free(std::mem::take(buffer).at);
        }
        *buffer = Buffer { at: device.allocate(n_bytes)?, n_bytes };
    }
    Ok(())
}
