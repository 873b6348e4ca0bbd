//! The forward pass of XGLM (Lin et al., EMNLP 2022), keeping what the backward pass needs. A residual connection
//! and the norm that reads its sum are one operation.

use super::{DropoutPlan, Model, Norm, PLACE_ATTENTION, PLACE_ATTN_OUTPUT, PLACE_FFN_OUTPUT};
use crate::backend::{Backend, Operations, Residual, Span};

impl Model {
    /// Runs the micro-batch that the backend holds through all layers, up to the output norm.
    pub(super) fn forward(&self, ops: &mut dyn Operations, dropout: DropoutPlan) {
        let (p, acts) = (&self.params, &self.acts);

        ops.embed(acts.embedded, p.token_embd, self.positions, self.embed_scale(), self.n_ctx);
        self.norm_input(ops, 0);
        for (l, (p, a)) in p.layers.iter().zip(&acts.layers).enumerate() {
            self.inside(ops, l, dropout);
            ops.linear(acts.branch, a.act, p.ffn_down.weight, p.ffn_down.bias);
            let drop = dropout.at(l, PLACE_FFN_OUTPUT);
            let residual = Residual { x: a.mid, branch: acts.branch, dropout: drop };
            let (norm, out, stats) = self.norm_of_input(l + 1);
            self.join(ops, out, stats, a.out, residual, norm);
        }
    }

    /// Runs one layer from the norm of its input to the activation function.
    pub(super) fn inside(&self, ops: &mut dyn Operations, l: usize, dropout: DropoutPlan) {
        let (p, a) = (&self.params.layers[l], &self.acts.layers[l]);
        let (shape, branch) = (self.attention_shape(), self.acts.branch);
        let drop = |place| dropout.at(l, place);

        ops.linear(a.qkv, a.attn_norm, p.attn_qkv.weight, p.attn_qkv.bias);
        ops.attention(a.att, a.lse, a.qkv, shape, drop(PLACE_ATTENTION));
        ops.linear(branch, a.att, p.attn_output.weight, p.attn_output.bias);
        let residual = Residual { x: self.input_of(l), branch, dropout: drop(PLACE_ATTN_OUTPUT) };
        self.join(ops, a.ffn_norm, a.ffn_stats, a.mid, residual, p.ffn_norm);

        ops.linear(a.up, a.ffn_norm, p.ffn_up.weight, p.ffn_up.bias);
        ops.activation(a.act, a.up, self.config.activation);
    }

    /// A residual connection and the norm that reads its sum.
    fn join(
        &self,
        ops: &mut dyn Operations,
        out: Span,
        stats: Span,
        stream: Span,
        residual: Residual,
        p: Norm,
    ) {
        let eps = self.config.norm_eps;
        ops.residual_norm(out, stats, stream, residual, p.weight, p.bias, eps);
    }

    /// The norm of [`Model::input_of`] alone.
    pub(super) fn norm_input(&self, ops: &mut dyn Operations, l: usize) {
        let (p, out, stats) = self.norm_of_input(l);
        let eps = self.config.norm_eps;
        ops.layer_norm(out, stats, self.input_of(l), p.weight, p.bias, eps);
    }

    /// The norm of the stream between attention and feed-forward, alone.
    pub(super) fn norm_mid(&self, ops: &mut dyn Operations, l: usize) {
        let (p, a) = (self.params.layers[l].ffn_norm, &self.acts.layers[l]);
        let eps = self.config.norm_eps;
        ops.layer_norm(a.ffn_norm, a.ffn_stats, a.mid, p.weight, p.bias, eps);
    }

    /// The residual stream before layer `l`; that after the last layer is the output norm's input.
    pub(super) fn input_of(&self, l: usize) -> Span {
        if l == 0 { self.acts.embedded } else { self.acts.layers[l - 1].out }
    }

    /// The norm that reads [`Model::input_of`], where its output goes and where its statistics.
    pub(super) fn norm_of_input(&self, l: usize) -> (Norm, Span, Span) {
        match (self.params.layers.get(l), self.acts.layers.get(l)) {
            (Some(p), Some(a)) => (p.attn_norm, a.attn_norm, a.attn_stats),
            _ => (self.params.output_norm, self.acts.output_norm, self.acts.output_stats),
        }
    }

    /// Adds the micro-batch's loss to the step's statistics, without gradients.
    pub fn evaluate(&self, backend: &mut dyn Backend) {
        let ops = backend.operations();
        self.forward(ops, DropoutPlan::NONE);
        ops.head_eval(self.acts.output_norm, self.params.token_embd);
    }
}
