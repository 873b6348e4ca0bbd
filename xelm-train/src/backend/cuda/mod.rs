//! The CUDA backend: which kernels compute an operation, over which grid.
//!
//! Master weights, gradients and moments are f32; in [`Precision::Bf16`] the weights have a bf16 copy
//! for the products, and activations are bf16. A step waits for the device only at its end. No kernel
//! adds floats atomically, so every run has the same bits.

mod cards;
mod clock;
mod cublaslt;
mod device;
mod driver;
mod errors;
mod graphs;
mod norm;
mod operations;
mod plan;
mod queue;
mod staging;

use super::{AttentionShape, Dropout, Region, Sizes, Span};
use crate::{Error, Result};
pub use cards::{Card, cards, has_cublaslt};
pub use device::{Arg, Device, Layout, Precision, Product, Ptr};
pub use driver::Driver;

/// Threads per block that most kernels are written for.
const BLOCK: u32 = 256;
const WARP: usize = 32;
/// Blocks of a loop over numbers; also the number of partial sums of the gradients' norm.
const LOOP_BLOCKS: u64 = 1024;
/// Runs of rows that are summed apart, at most.
const MAX_RUNS: usize = 64;
/// Logits computed at a time, at most: 1.5 GiB with their gradients. Fewer would reread the head's weights
/// and gradients more often.
const CHUNK_LOGITS: usize = 256 << 20;
/// Rows of a product's tile: f32 and bf16.
const TILE: [usize; 2] = [64, 128];
/// Queries or keys per block of the tensor-core attention, and its threads.
const ATTENTION_ROWS: usize = 64;
const ATTENTION_BLOCK: u32 = 128;
/// The largest head that the plain attention takes.
const MAX_HEAD_DIM: usize = 256;
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

/// The micro-batch on the device: runs of u32 in one buffer, each at the same place for every micro-batch of as
/// many tokens.
#[derive(Clone, Debug, Default)]
struct Batch {
    buffer: Buffer,
    n_tokens: usize,
    /// Targets that are scored.
    n_targets: u64,
    inputs: Ptr,
    targets: Ptr,
    /// The different tokens and their number; where each one's places begin; the places, in ascending order for
    /// each.
    unique: Ptr,
    n_unique: Ptr,
    starts: Ptr,
    places: Ptr,
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

    /// Logits of a chunk after another, their losses, and with `gradients` (d_x, d_table, scale) what
    /// follows from them.
    fn head(&mut self, x: Span, table: Span, gradients: Option<(Span, Span, f32)>) {
        let n = self.batch.n_tokens;
        let c = x.len / n;
        let v = table.len / c;
        let n_rows = (CHUNK_LOGITS / v).clamp(64, 4096).min(n);
        let n_bytes = self.precision().n_bytes();
        let logits_bytes = (n_rows * v * 4).next_multiple_of(256);
        let d_logits_bytes =
            if n_bytes == 4 { 0 } else { (n_rows * v * n_bytes).next_multiple_of(256) };
        let logits = self.scratch(logits_bytes + d_logits_bytes + n * 4);
        // In f32 the gradients replace the logits.
        let d_logits = if n_bytes == 4 { logits } else { logits.offset(logits_bytes) };
        let losses = logits.offset(logits_bytes + d_logits_bytes);
        let scale = gradients.map_or(0.0, |(.., scale)| scale);
        for start in (0..n).step_by(n_rows) {
            let rows = n_rows.min(n - start);
            let x = self.address(x).offset(start * c * n_bytes);
            let table = self.weight(table);
            let chunk = Product {
                layout: Layout::NT,
                out: logits,
                wide: true,
                accumulate: false,
                a: x,
                b: table,
                bias: Ptr::NULL,
                m: rows,
                n: v,
                k: c,
            };
            self.multiply(&chunk);
            let args = [
                Arg::Ptr(losses.offset(start * 4)),
                Arg::Ptr(d_logits),
                Arg::Ptr(logits),
                Arg::Ptr(self.batch.targets.offset(start * 4)),
                Arg::U32(v as u32),
                Arg::F32(scale),
            ];
            self.launch("cross_entropy", [rows, 1, 1], &args);
            if let Some((d_x, d_table, _)) = gradients {
                let d_x = self.address(d_x).offset(start * c * n_bytes);
                self.multiply(&Product {
                    layout: Layout::NN,
                    out: d_x,
                    wide: false,
                    a: d_logits,
                    n: c,
                    k: v,
                    ..chunk
                });
                self.multiply(&Product {
                    layout: Layout::TN,
                    out: self.address(d_table),
                    accumulate: true,
                    a: d_logits,
                    b: x,
                    m: v,
                    n: c,
                    k: rows,
                    ..chunk
                });
            }
        }
        let args = [Arg::Ptr(self.stats.at), Arg::Ptr(losses), Arg::U32(n as u32)];
        self.launch("add_losses", [1, 1, 1], &args);
        self.n_targets += self.batch.n_targets;
    }

    /// The kernel for heads of a size: its name, and whether it runs on tensor cores.
    fn attention_kernel(
        &self,
        s: AttentionShape,
        kernels: [&'static str; 4],
    ) -> (&'static str, bool) {
        let fits = self.precision() == Precision::Bf16 && s.head_dim.is_multiple_of(8);
        match s.head_dim {
            ..=32 if fits => (kernels[1], true),
            33..=64 if fits => (kernels[2], true),
            65..=128 if fits => (kernels[3], true),
            _ => (kernels[0], false),
        }
    }

    fn launch_attention(
        &mut self,
        kernels: [&'static str; 4],
        mut args: Vec<Arg>,
        s: AttentionShape,
        dropout: Dropout,
    ) {
        let (kernel, tensor_cores) = self.attention_kernel(s, kernels);
        let AttentionShape { n_batch, n_ctx, n_head, head_dim } = s;
        if !tensor_cores {
            args.push(Arg::U32(n_batch as u32));
        }
        args.extend([n_ctx, n_head, head_dim].map(|n| Arg::U32(n as u32)));
        args.push(Arg::F32(1.0 / xelm_runtime::math::sqrt(head_dim as f32)));
        args.extend(self.dropout_args(dropout));
        if head_dim > MAX_HEAD_DIM {
            self.refuse(format!(
                "heads of {head_dim} numbers, only up to {MAX_HEAD_DIM}: use more"
            ));
        } else if tensor_cores {
            let grid = [n_ctx.div_ceil(ATTENTION_ROWS), n_batch * n_head, 1];
            self.launch_blocks(kernel, grid, ATTENTION_BLOCK, &args);
        } else {
            self.launch(kernel, warps(n_batch * n_head * n_ctx), &args);
        }
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
