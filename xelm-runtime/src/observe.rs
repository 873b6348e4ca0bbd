//! Watching what a model's matrices are multiplied by: what a quantiser learns which errors matter from.

use crate::config::TensorId;

/// Sees the inputs of every product with a matrix, as [`crate::session::Session::set_observer`] promises.
pub trait Observer: Sync {
    /// Matrix `tensor` of expert `expert`, by index in the set, is about to be multiplied by `x`,
    /// `[n, n_cols]`: a row per token. The embedding is told of as the output layer, for the rows whose
    /// logits are computed.
    fn product(&self, expert: u32, tensor: TensorId, n_cols: usize, x: &[f32]);
}
