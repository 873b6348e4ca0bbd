//! The forward pass of XGLM (Lin et al., EMNLP 2022), keeping what the backward pass needs.

use super::{DropoutPlan, Model, PLACE_ATTENTION, PLACE_ATTN_OUTPUT, PLACE_FFN_OUTPUT};
use crate::backend::{Backend, Span};

impl Model {
    /// Runs the micro-batch that the backend holds through all layers, up to the output norm.
    pub(super) fn forward(&self, backend: &mut dyn Backend, dropout: DropoutPlan) {
        let (p, acts) = (&self.params, &self.acts);
        let eps = self.config.norm_eps;

        backend.embed(acts.embedded, p.token_embd, self.positions, self.embed_scale(), self.n_ctx);
        for l in 0..self.config.n_layer {
            self.layer(backend, l, dropout);
        }
        let (x, norm) = (self.input_of(self.config.n_layer), p.output_norm);
        backend.layer_norm(acts.output_norm, acts.output_stats, x, norm.weight, norm.bias, eps);
    }

    /// Runs one layer on its input.
    pub(super) fn layer(&self, backend: &mut dyn Backend, l: usize, dropout: DropoutPlan) {
        let (p, a) = (&self.params.layers[l], &self.acts.layers[l]);
        let (x, branch) = (self.input_of(l), self.acts.branch);
        let drop = |place| dropout.at(l, place);

        self.attn_norm(backend, l);
        backend.linear(a.qkv, a.attn_norm, p.attn_qkv.weight, p.attn_qkv.bias);
        let shape = self.attention_shape();
        backend.attention(a.att, a.lse, a.qkv, shape, drop(PLACE_ATTENTION));
        backend.linear(branch, a.att, p.attn_output.weight, p.attn_output.bias);
        backend.residual(a.mid, x, branch, drop(PLACE_ATTN_OUTPUT));

        self.ffn_norm(backend, l);
        backend.linear(a.up, a.ffn_norm, p.ffn_up.weight, p.ffn_up.bias);
        backend.activation(a.act, a.up, self.config.activation);
        backend.linear(branch, a.act, p.ffn_down.weight, p.ffn_down.bias);
        backend.residual(a.out, a.mid, branch, drop(PLACE_FFN_OUTPUT));
    }

    pub(super) fn attn_norm(&self, backend: &mut dyn Backend, l: usize) {
        let (p, a) = (&self.params.layers[l].attn_norm, &self.acts.layers[l]);
        let (x, eps) = (self.input_of(l), self.config.norm_eps);
        backend.layer_norm(a.attn_norm, a.attn_stats, x, p.weight, p.bias, eps);
    }

    pub(super) fn ffn_norm(&self, backend: &mut dyn Backend, l: usize) {
        let (p, a) = (&self.params.layers[l].ffn_norm, &self.acts.layers[l]);
        let eps = self.config.norm_eps;
        backend.layer_norm(a.ffn_norm, a.ffn_stats, a.mid, p.weight, p.bias, eps);
    }

    /// The residual stream before layer `l`; that after the last layer is the output norm's input.
    pub(super) fn input_of(&self, l: usize) -> Span {
        if l == 0 { self.acts.embedded } else { self.acts.layers[l - 1].out }
    }

    /// Adds the micro-batch's loss to the step's statistics, without gradients.
    pub fn evaluate(&self, backend: &mut dyn Backend) {
        self.forward(backend, DropoutPlan::NONE);
        backend.head_eval(self.acts.output_norm, self.params.token_embd);
    }
}
