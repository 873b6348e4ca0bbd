//! The operations of the seam: one or a few launches each.

use super::{Arg, Cuda, Device, Layout, Product, Ptr, WARP, number_bytes, runs, warps};
use crate::Result;
use crate::backend::{Activation, AttentionShape, Dropout, Operations, Residual, Span};

impl<D: Device> Operations for Cuda<D> {
    fn dropout_key(&mut self, key: u64) {
        self.device.upload(self.key(), &key.to_le_bytes());
    }

    fn zero(&mut self, x: Span) {
        let n_bytes = x.len * number_bytes(x.region, self.precision());
        let address = self.address(x);
        self.device.clear(address, n_bytes);
    }

    fn embed(&mut self, out: Span, table: Span, positions: Span, scale: f32, n_ctx: usize) {
        let n_embd = out.len / self.batch.n_tokens;
        let args = [
            self.at(out),
            Arg::Ptr(self.weight(table)),
            self.at(positions),
            Arg::Ptr(self.batch.inputs),
            Arg::F32(scale),
            Arg::U64(out.len as u64),
            Arg::U32(n_embd as u32),
            Arg::U32(n_ctx as u32),
        ];
        self.launch_loop("embed", out.len as u64, &args);
    }

    fn embed_backward(&mut self, d_table: Span, d_out: Span, scale: f32, n_embd: usize) {
        let args = [
            self.at(d_table),
            self.at(d_out),
            Arg::Ptr(self.batch.unique),
            Arg::Ptr(self.batch.n_unique),
            Arg::Ptr(self.batch.starts),
            Arg::Ptr(self.batch.places),
            Arg::F32(scale),
            Arg::U32(n_embd as u32),
        ];
        self.launch("embed_backward", [self.batch.n_tokens, 1, 1], &args);
    }

    fn layer_norm(&mut self, out: Span, stats: Span, x: Span, weight: Span, bias: Span, eps: f32) {
        self.norm(out, stats, x, None, weight, bias, eps);
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
        self.norm(out, stats, stream, Some(residual), weight, bias, eps);
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
        self.norm_backward(d_x, None, d_weight, d_bias, d_out, x, stats, weight);
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
        let branch = Some((d_branch, dropout));
        self.norm_backward(d_stream, branch, d_weight, d_bias, d_out, stream, stats, weight);
    }

    fn linear(&mut self, out: Span, x: Span, weight: Span, bias: Span) {
        let (n_out, n_in) = (bias.len, weight.len / bias.len);
        self.multiply(&Product {
            layout: Layout::NT,
            out: self.address(out),
            wide: false,
            accumulate: false,
            a: self.address(x),
            b: self.weight(weight),
            bias: self.weight(bias),
            m: x.len / n_in,
            n: n_out,
            k: n_in,
        });
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
        let (n_out, n_in) = (d_bias.len, weight.len / d_bias.len);
        let n = x.len / n_in;
        let input = Product {
            layout: Layout::NN,
            out: self.address(d_x),
            wide: false,
            accumulate: false,
            a: self.address(d_out),
            b: self.weight(weight),
            bias: Ptr::NULL,
            m: n,
            n: n_in,
            k: n_out,
        };
        self.multiply(&input);
        self.multiply(&Product {
            layout: Layout::TN,
            out: self.address(d_weight),
            wide: true,
            accumulate: true,
            b: self.address(x),
            m: n_out,
            n: n_in,
            k: n,
            ..input
        });
        let (n_runs, rows) = runs(n);
        let partial = self.scratch(n_runs * n_out * 4);
        let args = [
            Arg::Ptr(partial),
            self.at(d_out),
            Arg::U32(n as u32),
            Arg::U32(n_out as u32),
            Arg::U32(rows as u32),
        ];
        self.launch("column_sums", [n_out.div_ceil(WARP), n_runs, 1], &args);
        self.add_partial_sums(self.address(d_bias), partial, n_runs, n_out, n_out);
    }

    fn activation(&mut self, out: Span, x: Span, kind: Activation) {
        let n = self.packs(x);
        let args = [self.at(out), self.at(x), Arg::U64(n), Arg::U32(activation_id(kind))];
        self.launch_loop("activation", n, &args);
    }

    fn activation_backward(&mut self, d_x: Span, x: Span, kind: Activation) {
        let n = self.packs(x);
        let args = [self.at(d_x), self.at(x), Arg::U64(n), Arg::U32(activation_id(kind))];
        self.launch_loop("activation_backward", n, &args);
    }

    fn attention(&mut self, out: Span, lse: Span, qkv: Span, s: AttentionShape, dropout: Dropout) {
        let kernels = ["attention", "attention_32", "attention_64", "attention_128"];
        let args = vec![self.at(out), self.at(lse), self.at(qkv)];
        self.launch_attention(kernels, args, s, dropout);
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
        let AttentionShape { n_batch, n_ctx, n_head, head_dim } = shape;
        let delta = self.scratch(lse.len * 4);
        let mut args = vec![Arg::Ptr(delta), self.at(d_out), self.at(out)];
        args.extend([n_batch, n_ctx, n_head, head_dim].map(|n| Arg::U32(n as u32)));
        self.launch("attention_delta", warps(n_batch * n_head * n_ctx), &args);
        let args =
            vec![self.at(d_qkv), self.at(d_out), self.at(lse), Arg::Ptr(delta), self.at(qkv)];
        let kernels =
            ["attention_d_q", "attention_d_q_32", "attention_d_q_64", "attention_d_q_128"];
        self.launch_attention(kernels, args.clone(), shape, dropout);
        let kernels =
            ["attention_d_kv", "attention_d_kv_32", "attention_d_kv_64", "attention_d_kv_128"];
        self.launch_attention(kernels, args, shape, dropout);
    }

    fn head_loss(&mut self, d_x: Span, d_table: Span, x: Span, table: Span, scale: f32) {
        self.head(x, table, Some((d_x, d_table, scale)));
    }

    fn head_eval(&mut self, x: Span, table: Span) {
        self.head(x, table, None);
    }

    fn head_logits(&mut self, logits: &mut [f32], x: Span, table: Span) -> Result<()> {
        // logits.len / n = V and x.len / n = C, so n · n = logits.len · x.len / table.len.
        let n = (logits.len() * x.len / table.len).isqrt();
        let (c, v) = (x.len / n, logits.len() / n);
        let out = self.scratch(n * v * 4);
        self.multiply(&Product {
            layout: Layout::NT,
            out,
            wide: true,
            accumulate: false,
            a: self.address(x),
            b: self.weight(table),
            bias: Ptr::NULL,
            m: n,
            n: v,
            k: c,
        });
        self.check()?;
        self.device.download(out, bytemuck::cast_slice_mut(logits))
    }
}

/// The number by which the kernels know an activation.
fn activation_id(kind: Activation) -> u32 {
    match kind {
        Activation::GeluErf => 0,
        Activation::GeluTanh => 1,
        Activation::Relu => 2,
    }
}
