//! Rows of a matrix in any format, with or without an importance of the columns.

use crate::blocks::{q4_0, q4_1, q4_k, q5_k, q6_k, sum_of_squares};
use crate::compensate::Cost;
use bytemuck::NoUninit;
use std::fmt;
use xelm_runtime::quant::{
    BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5K, BlockQ6K, DType, quantize_row as quantize_simply,
};

/// Why a row cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowError {
    /// It holds NaN or an infinity.
    NotFinite,
    /// The type has no scale for numbers as large.
    TooLarge,
    /// The importance has another length than the row, or holds negative numbers, NaN or infinities.
    Importance,
    /// It is no whole number of blocks, the output has another size, or the type holds no real numbers.
    Shape,
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RowError::NotFinite => "it holds NaN or an infinity",
            RowError::TooLarge => "its numbers are too large for the type",
            RowError::Importance => {
                "its importance is not one finite number per column, none negative"
            }
            RowError::Shape => "it is no whole number of the type's blocks",
        })
    }
}

impl std::error::Error for RowError {}

/// Writes `row`, `[n_cols]`, into `out` in the format `dtype`, with the bytes of ggml's `quantize_q4_K` and
/// its like. `importance`, `[n_cols]`, says how much an error in each column matters; formats without a
/// search (F32, F16, BF16, Q8_0) ignore it.
///
/// # Errors
/// See [`RowError`].
pub fn quantize_row(
    dtype: DType,
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), RowError> {
    if dtype.row_bytes(row.len()) != Some(out.len()) || !dtype.holds_weights() {
        return Err(RowError::Shape);
    }
    if !row.iter().all(|v| v.is_finite()) {
        return Err(RowError::NotFinite);
    }
    let usable = |w: &[f32]| w.len() == row.len() && w.iter().all(|w| w.is_finite() && *w >= 0.0);
    if !importance.is_none_or(usable) {
        return Err(RowError::Importance);
    }
    // Of the whole row: the scale by which the numbers of its blocks are large or small.
    let variance = sum_of_squares(row) / row.len() as f32;
    match dtype {
        DType::Q4_0 => blocks(row, importance, out, |x, w| q4_0(x, w, variance)),
        DType::Q4_1 => blocks(row, importance, out, |x, w| q4_1(x, w, variance)),
        DType::Q4K => blocks(row, importance, out, q4_k),
        DType::Q5K => blocks(row, importance, out, q5_k),
        DType::Q6K => blocks(row, importance, out, q6_k),
        _ => quantize_simply(dtype, row, out).map_err(|_| RowError::Shape)?,
    }
    Ok(())
}

/// Whether [`compensated`] knows the format.
pub(crate) fn is_compensated(dtype: DType) -> bool {
    matches!(dtype, DType::Q4_0 | DType::Q4_1 | DType::Q4K | DType::Q5K | DType::Q6K)
}

/// Writes `row` into `out` so that it costs little; returns what every column loses.
pub(crate) fn compensated(
    dtype: DType,
    row: &[f32],
    cost: &Cost,
    out: &mut [u8],
) -> Result<Vec<f32>, RowError> {
    if !row.iter().all(|v| v.is_finite()) {
        return Err(RowError::NotFinite);
    }
    Ok(match dtype {
        DType::Q4_0 => cost.round::<_, BlockQ4_0>(row, out),
        DType::Q4_1 => cost.round::<_, BlockQ4_1>(row, out),
        DType::Q4K => cost.round::<_, BlockQ4K>(row, out),
        DType::Q5K => cost.round::<_, BlockQ5K>(row, out),
        DType::Q6K => cost.round::<_, BlockQ6K>(row, out),
        _ => return Err(RowError::Shape),
    })
}

/// Block after block of a row, with its weights if there are any.
fn blocks<B: NoUninit, const N: usize>(
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
    quantize: impl Fn(&[f32; N], Option<&[f32; N]>) -> B,
) {
    let weights = importance.map(|w| w.as_chunks::<N>().0);
    let (blocks, _) = row.as_chunks::<N>();
    for (i, (x, bytes)) in blocks.iter().zip(out.chunks_exact_mut(size_of::<B>())).enumerate() {
        let block = quantize(x, weights.map(|w| &w[i]));
        bytes.copy_from_slice(bytemuck::bytes_of(&block));
    }
}
