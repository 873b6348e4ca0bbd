//! The operations of a micro-batch on the CPU.

use super::gemm::{Mat, Start, par_gemm};
use super::{CHUNK, Cpu, attention, elementwise, head, norm};
use crate::Result;
use crate::backend::{Activation, AttentionShape, Dropout, Operations, Residual, Span};
use rayon::prelude::*;

impl Operations for Cpu {
    fn dropout_key(&mut self, key: u64) {
        self.dropout_key = key;
    }

    fn zero(&mut self, x: Span) {
        let [x] = self.spans([x]);
        x.par_chunks_mut(CHUNK).for_each(|x| x.fill(0.0));
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
}

impl Cpu {
    fn finish_head(&mut self, loss: head::Loss, targets: Vec<u32>, scratch: Vec<f32>) {
        self.loss_sum += loss.sum;
        self.n_targets += loss.n_targets;
        self.targets = targets;
        self.scratch = scratch;
    }
}
