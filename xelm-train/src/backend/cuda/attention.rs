//! Which kernel computes an attention.

use super::{Arg, Cuda, Device, Precision, warps};
use crate::backend::{AttentionShape, Dropout};

/// Queries or keys per block of the tensor-core attention, and its threads.
const ATTENTION_ROWS: usize = 64;
const ATTENTION_BLOCK: u32 = 128;
/// The largest head that the plain attention takes.
const MAX_HEAD_DIM: usize = 256;

impl<D: Device> Cuda<D> {
    /// The kernel for heads of a size: its name, and whether it runs on tensor cores.
    fn attention_kernel(
        &self,
        s: AttentionShape,
        kernels: [&'static str; 4],
    ) -> (&'static str, bool) {
        let fits = self.precision() == Precision::Bf16 && s.head_dim.is_multiple_of(8);
        match s.head_dim {
            ..=32 if fits => (kernels[1], true),
            33..=64 if fits => (kernels[2], true),
            65..=128 if fits => (kernels[3], true),
            _ => (kernels[0], false),
        }
    }

    pub(super) fn launch_attention(
        &mut self,
        kernels: [&'static str; 4],
        mut args: Vec<Arg>,
        s: AttentionShape,
        dropout: Dropout,
    ) {
        let (kernel, tensor_cores) = self.attention_kernel(s, kernels);
        let AttentionShape { n_batch, n_ctx, n_head, head_dim } = s;
        if !tensor_cores {
            args.push(Arg::U32(n_batch as u32));
        }
        args.extend([n_ctx, n_head, head_dim].map(|n| Arg::U32(n as u32)));
        args.push(Arg::F32(1.0 / xelm_runtime::math::sqrt(head_dim as f32)));
        args.extend(self.dropout_args(dropout));
        if head_dim > MAX_HEAD_DIM {
            self.refuse(format!(
                "heads of {head_dim} numbers, only up to {MAX_HEAD_DIM}: use more"
            ));
        } else if tensor_cores {
            let grid = [n_ctx.div_ceil(ATTENTION_ROWS), n_batch * n_head, 1];
            self.launch_blocks(kernel, grid, ATTENTION_BLOCK, &args);
        } else {
            self.launch(kernel, warps(n_batch * n_head * n_ctx), &args);
        }
    }
}
