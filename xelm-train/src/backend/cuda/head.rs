//! Output layer and cross-entropy on a card.

use super::{Arg, Cuda, Device, Layout, Product, Ptr};
use crate::backend::Span;

/// Logits computed at a time, at most: 1.5 GiB with their gradients. Fewer would reread the head's weights
/// and gradients more often.
const CHUNK_LOGITS: usize = 256 << 20;

impl<D: Device> Cuda<D> {
    /// Logits of a chunk after another, their losses, and with `gradients` (d_x, d_table, scale) what
    /// follows from them.
    pub(super) fn head(&mut self, x: Span, table: Span, gradients: Option<(Span, Span, f32)>) {
        let n = self.batch.n_tokens;
        let c = x.len / n;
        let v = table.len / c;
        let n_rows = (CHUNK_LOGITS / v).clamp(64, 4096).min(n);
        let n_bytes = self.precision().n_bytes();
        let logits_bytes = (n_rows * v * 4).next_multiple_of(256);
        let d_logits_bytes =
            if n_bytes == 4 { 0 } else { (n_rows * v * n_bytes).next_multiple_of(256) };
        let logits = self.scratch(logits_bytes + d_logits_bytes + n * 4);
        // In f32 the gradients replace the logits.
        let d_logits = if n_bytes == 4 { logits } else { logits.offset(logits_bytes) };
        let losses = logits.offset(logits_bytes + d_logits_bytes);
        let scale = gradients.map_or(0.0, |(.., scale)| scale);
        for start in (0..n).step_by(n_rows) {
            let rows = n_rows.min(n - start);
            let x = self.address(x).offset(start * c * n_bytes);
            let table = self.weight(table);
            let chunk = Product {
                layout: Layout::NT,
                out: logits,
                wide: true,
                accumulate: false,
                a: x,
                b: table,
                bias: Ptr::NULL,
                m: rows,
                n: v,
                k: c,
            };
            self.multiply(&chunk);
            let args = [
                Arg::Ptr(losses.offset(start * 4)),
                Arg::Ptr(d_logits),
                Arg::Ptr(logits),
                Arg::Ptr(self.batch.targets.offset(start * 4)),
                Arg::U32(v as u32),
                Arg::F32(scale),
            ];
            self.launch("cross_entropy", [rows, 1, 1], &args);
            if let Some((d_x, d_table, _)) = gradients {
                let d_x = self.address(d_x).offset(start * c * n_bytes);
                self.multiply(&Product {
                    layout: Layout::NN,
                    out: d_x,
                    wide: false,
                    a: d_logits,
                    n: c,
                    k: v,
                    ..chunk
                });
                self.multiply(&Product {
                    layout: Layout::TN,
                    out: self.address(d_table),
                    accumulate: true,
                    a: d_logits,
                    b: x,
                    m: v,
                    n: c,
                    k: rows,
                    ..chunk
                });
            }
        }
        let args = [Arg::Ptr(self.stats.at), Arg::Ptr(losses), Arg::U32(n as u32)];
        self.launch("add_losses", [1, 1, 1], &args);
        self.n_targets += self.batch.n_targets;
    }
}
