//! The backward pass: the forward pass read from bottom to top.

use super::{
    DropoutPlan, Linear, Model, Norm, PLACE_ATTENTION, PLACE_ATTN_OUTPUT, PLACE_FFN_OUTPUT,
    Recompute,
};
use crate::backend::{Backend, Dropout, Region, Span};

impl Model {
    /// One micro-batch: adds its loss to the step's statistics, and the gradients of loss · `scale`
    /// to the parameters' gradients.
    pub fn train(&self, backend: &mut dyn Backend, dropout: DropoutPlan, scale: f32) {
        backend.dropout_key(dropout.key);
        self.forward(backend, dropout);
        let (p, acts, g) = (&self.params, &self.acts, &self.grads);
        let shape = self.attention_shape();

        let d_table = grad(p.token_embd);
        backend.head_loss(g.hidden, d_table, acts.output_norm, p.token_embd, scale);
        backend.zero(g.stream);

        for (l, (p, a)) in p.layers.iter().zip(&acts.layers).enumerate().rev() {
            let drop = |place| dropout.at(l, place);
            let (norm, _, stats) = self.norm_of_input(l + 1);
            self.join_backward(backend, drop(PLACE_FFN_OUTPUT), a.out, stats, norm);
            self.recompute(backend, l, dropout);

            linear_backward(backend, g.ff, g.branch, a.act, p.ffn_down);
            backend.activation_backward(g.ff, a.up, self.config.activation);
            linear_backward(backend, g.hidden, g.ff, a.ffn_norm, p.ffn_up);
            self.join_backward(backend, drop(PLACE_ATTN_OUTPUT), a.mid, a.ffn_stats, p.ffn_norm);

            linear_backward(backend, g.hidden, g.branch, a.att, p.attn_output);
            let drop = drop(PLACE_ATTENTION);
            backend.attention_backward(g.qkv, g.hidden, a.att, a.lse, a.qkv, shape, drop);
            linear_backward(backend, g.hidden, g.qkv, a.attn_norm, p.attn_qkv);
        }
        let (p, _, stats) = self.norm_of_input(0);
        let (d_weight, d_bias, x) = (grad(p.weight), grad(p.bias), self.input_of(0));
        backend.layer_norm_backward(g.stream, d_weight, d_bias, g.hidden, x, stats, p.weight);
        backend.embed_backward(d_table, g.stream, self.embed_scale(), self.config.n_embd);
    }

    /// Through a norm and the residual connection before it, down to the gradient of the branch.
    fn join_backward(
        &self,
        backend: &mut dyn Backend,
        dropout: Dropout,
        stream: Span,
        stats: Span,
        p: Norm,
    ) {
        let (g, d_weight, d_bias) = (&self.grads, grad(p.weight), grad(p.bias));
        backend.residual_norm_backward(
            g.stream, g.branch, dropout, d_weight, d_bias, g.hidden, stream, stats, p.weight,
        );
    }

    /// Computes again what was not kept of layer `l`; the last layer's is still there.
    fn recompute(&self, backend: &mut dyn Backend, l: usize, dropout: DropoutPlan) {
        if l + 1 == self.config.n_layer {
            return;
        }
        match self.recompute {
            Recompute::None => {}
            Recompute::Activations => {
                let a = &self.acts.layers[l];
                self.norm_input(backend, l);
                self.norm_mid(backend, l);
                backend.activation(a.act, a.up, self.config.activation);
            }
            Recompute::Layers => {
                self.norm_input(backend, l);
                self.inside(backend, l, dropout);
            }
        }
    }
}

/// Where a parameter's gradient lies.
fn grad(parameter: Span) -> Span {
    parameter.of(Region::Grads)
}

fn linear_backward(backend: &mut dyn Backend, d_x: Span, d_out: Span, x: Span, p: Linear) {
    backend.linear_backward(d_x, grad(p.weight), grad(p.bias), d_out, x, p.weight);
}
