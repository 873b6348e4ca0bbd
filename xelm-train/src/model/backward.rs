//! The backward pass: the forward pass read from bottom to top.

use super::{
    DropoutPlan, Linear, Model, Norm, PLACE_ATTENTION, PLACE_ATTN_OUTPUT, PLACE_FFN_OUTPUT,
    Recompute,
};
use crate::backend::{Backend, Dropout, Operations, Region, Span};

impl Model {
    /// One micro-batch: adds its loss to the step's statistics, and the gradients of loss · `scale`
    /// to the parameters' gradients.
    pub fn train(&self, backend: &mut dyn Backend, dropout: DropoutPlan, scale: f32) {
        let ops = backend.operations();
        ops.dropout_key(dropout.key);
        self.forward(ops, dropout);
        let (p, acts, g) = (&self.params, &self.acts, &self.grads);
        let shape = self.attention_shape();

        let d_table = grad(p.token_embd);
        ops.head_loss(g.hidden, d_table, acts.output_norm, p.token_embd, scale);
        ops.zero(g.stream);

        for (l, (p, a)) in p.layers.iter().zip(&acts.layers).enumerate().rev() {
            let drop = |place| dropout.at(l, place);
            let (norm, _, stats) = self.norm_of_input(l + 1);
            self.join_backward(ops, drop(PLACE_FFN_OUTPUT), a.out, stats, norm);
            self.recompute(ops, l, dropout);

            linear_backward(ops, g.ff, g.branch, a.act, p.ffn_down);
            ops.activation_backward(g.ff, a.up, self.config.activation);
            linear_backward(ops, g.hidden, g.ff, a.ffn_norm, p.ffn_up);
            self.join_backward(ops, drop(PLACE_ATTN_OUTPUT), a.mid, a.ffn_stats, p.ffn_norm);

            linear_backward(ops, g.hidden, g.branch, a.att, p.attn_output);
            let drop = drop(PLACE_ATTENTION);
            ops.attention_backward(g.qkv, g.hidden, a.att, a.lse, a.qkv, shape, drop);
            linear_backward(ops, g.hidden, g.qkv, a.attn_norm, p.attn_qkv);
        }
        let (p, _, stats) = self.norm_of_input(0);
        let (d_weight, d_bias, x) = (grad(p.weight), grad(p.bias), self.input_of(0));
        ops.layer_norm_backward(g.stream, d_weight, d_bias, g.hidden, x, stats, p.weight);
        ops.embed_backward(d_table, g.stream, self.embed_scale(), self.config.n_embd);
    }

    /// Through a norm and the residual connection before it, down to the gradient of the branch.
    fn join_backward(
        &self,
        ops: &mut dyn Operations,
        dropout: Dropout,
        stream: Span,
        stats: Span,
        p: Norm,
    ) {
        let (g, d_weight, d_bias) = (&self.grads, grad(p.weight), grad(p.bias));
        ops.residual_norm_backward(
            g.stream, g.branch, dropout, d_weight, d_bias, g.hidden, stream, stats, p.weight,
        );
    }

    /// Computes again what was not kept of layer `l`; the last layer's is still there.
    fn recompute(&self, ops: &mut dyn Operations, l: usize, dropout: DropoutPlan) {
        if l + 1 == self.config.n_layer {
            return;
        }
        match self.recompute {
            Recompute::None => {}
            Recompute::Activations => {
                let a = &self.acts.layers[l];
                self.norm_input(ops, l);
                self.norm_mid(ops, l);
                ops.activation(a.act, a.up, self.config.activation);
            }
            Recompute::Layers => {
                self.norm_input(ops, l);
                self.inside(ops, l, dropout);
            }
        }
    }
}

/// Where a parameter's gradient lies.
fn grad(parameter: Span) -> Span {
    parameter.of(Region::Grads)
}

fn linear_backward(ops: &mut dyn Operations, d_x: Span, d_out: Span, x: Span, p: Linear) {
    ops.linear_backward(d_x, grad(p.weight), grad(p.bias), d_out, x, p.weight);
}
