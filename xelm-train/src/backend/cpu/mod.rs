//! The CPU backend: f32 throughout, threads by rayon.
//!
//! Every result is the same, bit for bit, for any number of threads: work is divided by shapes
//! alone, and every sum has one fixed order.

mod attention;
mod elementwise;
mod gemm;
mod head;
mod norm;
mod operations;

use super::{AdamW, Backend, Operations, Region, Sizes, Span, StepStats};
use crate::{Error, Result};
use gemm::{Kernel, Mat, Start, par_gemm};
use rayon::prelude::*;
use std::ops::Range;
use xelm_runtime::isa::Isa;

/// Numbers that one task of an elementwise operation handles.
const CHUNK: usize = 16 << 10;

/// The CPU as a training device.
#[derive(Debug)]
pub struct Cpu {
    isa: Isa,
    /// Of linear layers and the output layer; attention computes in f32.
    kernel: Kernel,
    /// All regions, one behind the other.
    arena: Vec<Line>,
    base: [usize; Region::ALL.len()],
    inputs: Vec<u32>,
    targets: Vec<u32>,
    dropout_key: u64,
    /// Work memory of attention and head, grown at first use.
    scratch: Vec<f32>,
    loss_sum: f64,
    n_targets: u64,
    grad_norm: f64,
}

/// A cache line, so that the arena begins on one.
#[derive(Clone, Copy, Debug, bytemuck::NoUninit, bytemuck::AnyBitPattern)]
#[repr(C, align(64))]
struct Line([f32; 16]);

impl Cpu {
    /// A backend that computes in f32 with the best instruction set of this CPU, on rayon's current pool.
    pub fn new() -> Self {
        let isa = Isa::detect();
        Cpu {
            isa,
            kernel: Kernel::f32(isa),
            arena: Vec::new(),
            base: Default::default(),
            inputs: Vec::new(),
            targets: Vec::new(),
            dropout_key: 0,
            scratch: Vec::new(),
            loss_sum: 0.0,
            n_targets: 0,
            grad_norm: 0.0,
        }
    }

    /// A backend whose linear and output layers multiply numbers rounded to bf16 and sum in f32, forward and backward;
    /// all that is kept is f32. Faster only where [`Cpu::has_bf16`].
    pub fn bf16() -> Self {
        let cpu = Cpu::new();
        Cpu { kernel: Kernel::bf16(cpu.isa), ..cpu }
    }

    /// Whether this CPU multiplies bf16 (AVX512-BF16).
    pub fn has_bf16() -> bool {
        Kernel::has_bf16(Isa::detect())
    }

    fn range(&self, span: Span) -> Range<usize> {
        let start = self.base[span.region as usize] + span.start;
        start..start + span.len
    }

    fn floats(&self) -> &[f32] {
        bytemuck::cast_slice(&self.arena)
    }

    /// Several spans at once. Overlapping ones are a bug in the model's list of calls.
    fn spans<const N: usize>(&mut self, spans: [Span; N]) -> [&mut [f32]; N] {
        let ranges = spans.map(|span| self.range(span));
        let floats: &mut [f32] = bytemuck::cast_slice_mut(&mut self.arena);
        floats.get_disjoint_mut(ranges).expect("the spans of an operation overlap")
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Cpu::new()
    }
}

impl Backend for Cpu {
    fn allocate(&mut self, sizes: Sizes) -> Result<()> {
        let mut end = 0;
        for (base, size) in self.base.iter_mut().zip(sizes.0) {
            *base = end;
            end += size.next_multiple_of(16);
        }
        let mut arena = Vec::new();
        arena.try_reserve_exact(end / 16).map_err(|_| {
            Error::usage(format!(
                "training needs {} MiB of memory, more than there is: choose a smaller model, \
                 --n-ctx or --micro-batch",
                end >> 18
            ))
        })?;
        arena.resize(end / 16, Line([0.0; 16]));
        self.arena = arena;
        Ok(())
    }

    fn n_bytes(&self) -> usize {
        size_of_val(&self.arena[..]) + size_of_val(&self.scratch[..])
    }

    fn write(&mut self, to: Span, values: &[f32]) {
        let [to] = self.spans([to]);
        to.copy_from_slice(values);
    }

    fn read(&mut self, from: Span, values: &mut [f32]) -> Result<()> {
        values.copy_from_slice(&self.floats()[self.range(from)]);
        Ok(())
    }

    fn begin_step(&mut self, grads: Span) {
        self.zero(grads);
    }

    fn load_batch(&mut self, inputs: &[u32], targets: &[u32]) {
        self.inputs.clear();
        self.inputs.extend_from_slice(inputs);
        self.targets.clear();
        self.targets.extend_from_slice(targets);
    }

    fn operations(&mut self) -> &mut dyn Operations {
        self
    }

    fn grad_norm(&mut self, grads: Span) {
        let range = self.range(grads);
        self.grad_norm = elementwise::square_sum(self.isa, &self.floats()[range]).sqrt();
    }

    fn adamw(&mut self, params: Span, settings: AdamW) {
        if !self.grad_norm.is_finite() {
            return;
        }
        let clip = if settings.max_norm > 0.0 && self.grad_norm > f64::from(settings.max_norm) {
            (f64::from(settings.max_norm) / self.grad_norm) as f32
        } else {
            1.0
        };
        let isa = self.isa;
        let [p, g, m, v] = self.spans([
            params,
            params.of(Region::Grads),
            params.of(Region::Moment1),
            params.of(Region::Moment2),
        ]);
        let chunks = p.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK));
        let chunks = chunks.zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)));
        chunks.for_each(|((p, g), (m, v))| {
            isa.run(elementwise::AdamWStep { p, g, m, v, clip, settings });
        });
    }

    fn finish_step(&mut self) -> Result<StepStats> {
        let loss = self.loss_sum / self.n_targets as f64;
        let stats = StepStats { loss, grad_norm: self.grad_norm };
        (self.loss_sum, self.n_targets, self.grad_norm) = (0.0, 0, 0.0);
        Ok(stats)
    }

    fn first_non_finite(&mut self, spans: &[Span]) -> Result<Option<usize>> {
        let finite = |&span: &Span| self.floats()[self.range(span)].iter().all(|x| x.is_finite());
        Ok(spans.iter().position(|span| !finite(span)))
    }
}

/// The first `len` numbers of a work vector, grown where needed; their values are arbitrary.
fn grown(scratch: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    &mut scratch[..len]
}

/// out = a · b with rows of `n_inner` and as many columns as `b`'s rows imply, on all threads: the rate
/// that training speed is compared with.
pub fn matmul(out: &mut [f32], a: &[f32], b: &[f32], n_inner: usize) {
    let (a, b) = (Mat::rows(a, n_inner), Mat::rows(b, b.len() / n_inner));
    par_gemm(Kernel::f32(Isa::detect()), out, a, b, Start::Zero, &mut Vec::new());
}
