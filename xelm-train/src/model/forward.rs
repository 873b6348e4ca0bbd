//! The forward pass of XGLM (Lin et al., EMNLP 2022), keeping what the backward pass needs.

use super::{DropoutPlan, Model, PLACE_ATTENTION, PLACE_ATTN_OUTPUT, PLACE_FFN_OUTPUT};
use crate::backend::Backend;

impl Model {
    /// Runs the micro-batch that the backend holds through all layers, up to the output norm.
    pub(super) fn forward(&self, backend: &mut impl Backend, dropout: DropoutPlan) {
        let (p, acts) = (&self.params, &self.acts);
        let eps = self.config.norm_eps;
        let shape = self.attention_shape();

        backend.embed(acts.embedded, p.token_embd, self.positions, self.embed_scale(), self.n_ctx);
        let mut x = acts.embedded;
        for (l, (p, a)) in p.layers.iter().zip(&acts.layers).enumerate() {
            let drop = |place| dropout.at(l, place);

            backend.layer_norm(
                a.attn_norm,
                a.attn_stats,
                x,
                p.attn_norm.weight,
                p.attn_norm.bias,
                eps,
            );
            backend.linear(a.qkv, a.attn_norm, p.attn_qkv.weight, p.attn_qkv.bias);
            backend.attention(a.att, a.lse, a.qkv, shape, drop(PLACE_ATTENTION));
            backend.linear(acts.branch, a.att, p.attn_output.weight, p.attn_output.bias);
            backend.residual(a.mid, x, acts.branch, drop(PLACE_ATTN_OUTPUT));

            backend.layer_norm(
                a.ffn_norm,
                a.ffn_stats,
                a.mid,
                p.ffn_norm.weight,
                p.ffn_norm.bias,
                eps,
            );
            backend.linear(a.up, a.ffn_norm, p.ffn_up.weight, p.ffn_up.bias);
            backend.activation(a.act, a.up, self.config.activation);
            backend.linear(acts.branch, a.act, p.ffn_down.weight, p.ffn_down.bias);
            backend.residual(a.out, a.mid, acts.branch, drop(PLACE_FFN_OUTPUT));
            x = a.out;
        }
        let norm = p.output_norm;
        backend.layer_norm(acts.output_norm, acts.output_stats, x, norm.weight, norm.bias, eps);
    }

    /// Adds the micro-batch's loss to the step's statistics, without gradients.
    pub fn evaluate(&self, backend: &mut impl Backend) {
        self.forward(backend, DropoutPlan::NONE);
        backend.head_eval(self.acts.output_norm, self.params.token_embd);
    }
}
