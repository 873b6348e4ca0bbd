//! Layer norm on a card, alone and together with the residual connection before it.

use super::{Arg, Cuda, Device, Ptr, WARP, runs, warps};
use crate::backend::{Dropout, Residual, Span};

impl<D: Device> Cuda<D> {
    /// The norm of `x`; with a residual connection, which `x` receives first.
    pub(super) fn norm(
        &mut self,
        out: Span,
        stats: Span,
        x: Span,
        residual: Option<Residual>,
        weight: Span,
        bias: Span,
        eps: f32,
    ) {
        let (c, n) = (weight.len, x.len / weight.len);
        let (before, branch, dropout) = match residual {
            Some(Residual { x, branch, dropout }) => (x, self.at(branch), dropout),
            None => (x, Arg::Ptr(Ptr::NULL), Dropout::NONE),
        };
        let mut args = vec![
            self.at(out),
            self.at(stats),
            self.at(x),
            self.at(before),
            branch,
            Arg::Ptr(self.weight(weight)),
            Arg::Ptr(self.weight(bias)),
            Arg::F32(eps),
            Arg::U32(n as u32),
            Arg::U32(c as u32),
        ];
        args.extend(self.dropout_args(dropout));
        self.launch("layer_norm", warps(n), &args);
    }

    /// The gradients of [`Cuda::norm`].
    pub(super) fn norm_backward(
        &mut self,
        d_x: Span,
        branch: Option<(Span, Dropout)>,
        d_weight: Span,
        d_bias: Span,
        d_out: Span,
        x: Span,
        stats: Span,
        weight: Span,
    ) {
        let (c, n) = (weight.len, x.len / weight.len);
        let (n_runs, rows) = runs(n);
        let partial = self.scratch(n_runs * 2 * c * 4);
        let args = [
            Arg::Ptr(partial),
            self.at(d_out),
            self.at(x),
            self.at(stats),
            Arg::U32(n as u32),
            Arg::U32(c as u32),
            Arg::U32(rows as u32),
        ];
        self.launch("layer_norm_columns", [c.div_ceil(WARP), n_runs, 1], &args);
        self.add_partial_sums(self.address(d_weight), partial, n_runs, 2 * c, c);
        self.add_partial_sums(self.address(d_bias), partial.offset(c * 4), n_runs, 2 * c, c);
        let (d_branch, dropout) = match branch {
            Some((d_branch, dropout)) => (self.at(d_branch), dropout),
            None => (Arg::Ptr(Ptr::NULL), Dropout::NONE),
        };
        let mut args = vec![
            self.at(d_x),
            d_branch,
            self.at(d_out),
            self.at(x),
            self.at(stats),
            Arg::Ptr(self.weight(weight)),
            Arg::U32(n as u32),
            Arg::U32(c as u32),
        ];
        args.extend(self.dropout_args(dropout));
        self.launch("layer_norm_backward", warps(n), &args);
    }
}
