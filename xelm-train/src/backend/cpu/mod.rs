//! The CPU backend: f32 throughout, threads by rayon.
//!
//! Every result is the same, bit for bit, for any number of threads: work is divided by shapes
//! alone, and every sum has one fixed order.

mod attention;
mod elementwise;
mod gemm;
mod head;
mod norm;

use super::{
    Activation, AdamW, AttentionShape, Backend, Dropout, Region, Residual, Sizes, Span, StepStats,
};
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

    fn zero(&mut self, x: Span) {
        let [x] = self.spans([x]);
        x.par_chunks_mut(CHUNK).for_each(|x| x.fill(0.0));
    }

    fn load_batch(&mut self, inputs: &[u32], targets: &[u32]) {
        self.inputs.clear();
        self.inputs.extend_from_slice(inputs);
        self.targets.clear();
        self.targets.extend_from_slice(targets);
    }

    fn dropout_key(&mut self, key: u64) {
        self.dropout_key = key;
    }

    fn embed(&mut self, out: Span, table: Span, positions: Span, scale: f32, n_ctx: usize) {
        let inputs = std::mem::take(&mut self.inputs);
        let c = out.len / inputs.len();
        let [out, table, positions] = self.spans([out, table, positions]);
        let rows = out.par_chunks_exact_mut(c).zip(&inputs).enumerate();
        rows.for_each(|(n, (out, &token))| {
            let row = &table[token as usize * c..][..c];
            let position = &positions[n % n_ctx * c..][..c];
            for i in 0..c {
                out[i] = scale * row[i] + position[i];
            }
        });
        self.inputs = inputs;
    }

    fn embed_backward(&mut self, d_table: Span, d_out: Span, scale: f32, n_embd: usize) {
        let inputs = std::mem::take(&mut self.inputs);
        let [d_table, d_out] = self.spans([d_table, d_out]);
        // One task owns a range of the vocabulary, so each row is summed in the order of n.
        let n_rows = (d_table.len() / n_embd).div_ceil(64);
        d_table.par_chunks_mut(n_rows * n_embd).enumerate().for_each(|(part, d_rows)| {
            for (&token, d_out) in inputs.iter().zip(d_out.chunks_exact(n_embd)) {
                let Some(row) = (token as usize).checked_sub(part * n_rows) else { continue };
                if let Some(d_row) = d_rows.get_mut(row * n_embd..(row + 1) * n_embd) {
                    for i in 0..n_embd {
                        d_row[i] += scale * d_out[i];
                    }
                }
            }
        });
        self.inputs = inputs;
    }

    fn layer_norm(&mut self, out: Span, stats: Span, x: Span, weight: Span, bias: Span, eps: f32) {
        let isa = self.isa;
        let [out, stats, x, weight, bias] = self.spans([out, stats, x, weight, bias]);
        norm::forward(isa, out, stats, x, weight, bias, eps);
    }

    fn residual_norm(
        &mut self,
        out: Span,
        stats: Span,
        stream: Span,
        residual: Residual,
        weight: Span,
        bias: Span,
        eps: f32,
    ) {
        let (isa, dropout) = (self.isa, residual.dropout.keyed(self.dropout_key));
        let [out, stats, stream, x, branch, weight, bias] =
            self.spans([out, stats, stream, residual.x, residual.branch, weight, bias]);
        norm::residual(isa, out, stats, stream, x, branch, dropout, weight, bias, eps);
    }

    fn layer_norm_backward(
        &mut self,
        d_x: Span,
        d_weight: Span,
        d_bias: Span,
        d_out: Span,
        x: Span,
        stats: Span,
        weight: Span,
    ) {
        let isa = self.isa;
        let [d_x, d_weight, d_bias, d_out, x, stats, weight] =
            self.spans([d_x, d_weight, d_bias, d_out, x, stats, weight]);
        norm::backward(isa, d_x, None, d_weight, d_bias, d_out, x, stats, weight);
    }

    fn residual_norm_backward(
        &mut self,
        d_stream: Span,
        d_branch: Span,
        dropout: Dropout,
        d_weight: Span,
        d_bias: Span,
        d_out: Span,
        stream: Span,
        stats: Span,
        weight: Span,
    ) {
        let (isa, dropout) = (self.isa, dropout.keyed(self.dropout_key));
        let [d_x, d_branch, d_weight, d_bias, d_out, x, stats, weight] =
            self.spans([d_stream, d_branch, d_weight, d_bias, d_out, stream, stats, weight]);
        let branch = Some((d_branch, dropout));
        norm::backward(isa, d_x, branch, d_weight, d_bias, d_out, x, stats, weight);
    }

    fn linear(&mut self, out: Span, x: Span, weight: Span, bias: Span) {
        let kernel = self.kernel;
        let mut scratch = std::mem::take(&mut self.scratch);
        let [out, x, weight, bias] = self.spans([out, x, weight, bias]);
        let n_in = weight.len() / bias.len();
        let (x, weight) = (Mat::rows(x, n_in), Mat::rows(weight, n_in));
        par_gemm(kernel, out, x, weight.transposed(), Start::Row(bias), &mut scratch);
        self.scratch = scratch;
    }

    fn linear_backward(
        &mut self,
        d_x: Span,
        d_weight: Span,
        d_bias: Span,
        d_out: Span,
        x: Span,
        weight: Span,
    ) {
        let (isa, kernel) = (self.isa, self.kernel);
        let mut scratch = std::mem::take(&mut self.scratch);
        let [d_x, d_weight, d_bias, d_out, x, weight] =
            self.spans([d_x, d_weight, d_bias, d_out, x, weight]);
        let (n_out, n_in) = (d_bias.len(), weight.len() / d_bias.len());
        let (d, x, weight) = (Mat::rows(d_out, n_out), Mat::rows(x, n_in), Mat::rows(weight, n_in));
        par_gemm(kernel, d_x, d, weight, Start::Zero, &mut scratch);
        par_gemm(kernel, d_weight, d.transposed(), x, Start::Output, &mut scratch);
        elementwise::column_sums(isa, d_bias, d_out, &mut scratch);
        self.scratch = scratch;
    }

    fn activation(&mut self, out: Span, x: Span, kind: Activation) {
        let isa = self.isa;
        let [out, x] = self.spans([out, x]);
        out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(out, x)| {
            isa.run(elementwise::Activate(out, x, kind));
        });
    }

    fn activation_backward(&mut self, d_x: Span, x: Span, kind: Activation) {
        let isa = self.isa;
        let [d_x, x] = self.spans([d_x, x]);
        d_x.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(d_x, x)| {
            isa.run(elementwise::ActivateBackward(d_x, x, kind));
        });
    }

    fn attention(&mut self, out: Span, lse: Span, qkv: Span, s: AttentionShape, dropout: Dropout) {
        let (isa, dropout) = (self.isa, dropout.keyed(self.dropout_key));
        let mut scratch = std::mem::take(&mut self.scratch);
        let [out, lse, qkv] = self.spans([out, lse, qkv]);
        attention::forward(isa, out, lse, qkv, s, dropout, &mut scratch);
        self.scratch = scratch;
    }

    fn attention_backward(
        &mut self,
        d_qkv: Span,
        d_out: Span,
        out: Span,
        lse: Span,
        qkv: Span,
        shape: AttentionShape,
        dropout: Dropout,
    ) {
        let (isa, dropout) = (self.isa, dropout.keyed(self.dropout_key));
        let mut scratch = std::mem::take(&mut self.scratch);
        let [d_qkv, d_out, out, lse, qkv] = self.spans([d_qkv, d_out, out, lse, qkv]);
        attention::backward(isa, d_qkv, d_out, out, lse, qkv, shape, dropout, &mut scratch);
        self.scratch = scratch;
    }

    fn head_loss(&mut self, d_x: Span, d_table: Span, x: Span, table: Span, scale: f32) {
        let (isa, kernel) = (self.isa, self.kernel);
        let targets = std::mem::take(&mut self.targets);
        let mut scratch = std::mem::take(&mut self.scratch);
        let [d_x, d_table, x, table] = self.spans([d_x, d_table, x, table]);
        let gradients = Some(head::Gradients { d_x, d_table, scale });
        let loss = head::loss(isa, kernel, x, table, &targets, gradients, &mut scratch);
        self.finish_head(loss, targets, scratch);
    }

    fn head_eval(&mut self, x: Span, table: Span) {
        let (isa, kernel) = (self.isa, self.kernel);
        let targets = std::mem::take(&mut self.targets);
        let mut scratch = std::mem::take(&mut self.scratch);
        let [x, table] = self.spans([x, table]);
        let loss = head::loss(isa, kernel, x, table, &targets, None, &mut scratch);
        self.finish_head(loss, targets, scratch);
    }

    fn head_logits(&mut self, logits: &mut [f32], x: Span, table: Span) -> Result<()> {
        let kernel = self.kernel;
        let [x, table] = self.spans([x, table]);
        // logits.len / n = V and x.len / n = C, so n · n = logits.len · x.len / table.len.
        let n = (logits.len() * x.len() / table.len()).isqrt();
        let c = x.len() / n;
        let (x, table) = (Mat::rows(x, c), Mat::rows(table, c));
        par_gemm(kernel, logits, x, table.transposed(), Start::Zero, &mut Vec::new());
        Ok(())
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

impl Cpu {
    fn finish_head(&mut self, loss: head::Loss, targets: Vec<u32>, scratch: Vec<f32>) {
        self.loss_sum += loss.sum;
        self.n_targets += loss.n_targets;
        self.targets = targets;
        self.scratch = scratch;
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
