//! A tensor in another type: part after part, on all threads.

use crate::compensate::Cost;
use crate::imatrix::Imatrix;
use crate::rows::{RowError, compensated, is_compensated, quantize_row};
use rayon::prelude::*;
use xelm_runtime::config::{Role, TensorId};
use xelm_runtime::format::Tensor;
use xelm_runtime::quant::{DType, dequantize_row};

/// What errors in a matrix matter by.
pub(crate) struct Guide {
    importance: Option<Vec<f32>>,
    /// And the mean of what the matrix is multiplied by.
    cost: Option<(Cost, Vec<f64>)>,
}

impl Guide {
    pub(crate) fn new(imatrix: &Imatrix, tensor: &Tensor<'_>, to: DType, has_bias: bool) -> Self {
        if tensor.dtype == to {
            return Guide { importance: None, cost: None };
        }
        // An output layer of its own meets what the embedding would.
        let name = match TensorId::parse(tensor.name) {
            Some(TensorId { role: Role::Output, .. }) => Role::TokenEmbd.name(),
            _ => tensor.name,
        };
        let cost = if is_compensated(to) { imatrix.cost(name, has_bias) } else { None };
        Guide { importance: imatrix.importance(name), cost }
    }

    /// Whether errors make up for each other.
    pub(crate) fn compensates(&self) -> bool {
        self.cost.is_some()
    }
}

/// A bias with what its matrix loses on average.
pub(crate) fn with_loss(bias: &Tensor<'_>, loss: Vec<f64>) -> Vec<u8> {
    let (numbers, _) = bias.bytes.as_chunks();
    let sums = numbers.iter().zip(loss).map(|(&b, loss)| f64::from(f32::from_le_bytes(b)) + loss);
    sums.flat_map(|sum| (sum as f32).to_le_bytes()).collect()
}

/// A tensor's bytes in another type, in parts; what its rows lose on average is appended to `losses`.
pub(crate) fn converted<'a>(
    tensor: &'a Tensor<'a>,
    to: DType,
    guide: &'a Guide,
    losses: &'a mut Vec<f64>,
) -> impl Iterator<Item = std::result::Result<Vec<u8>, RowError>> + 'a {
    let n_cols = tensor.n_cols();
    // Both types hold whole blocks in a row: the input by its reader's rule, the output was asked.
    let from_bytes = tensor.dtype.row_bytes(n_cols).unwrap_or(1);
    let to_bytes = to.row_bytes(n_cols).unwrap_or(1);
    tensor.bytes.chunks(ROWS * from_bytes).map(move |rows| {
        if tensor.dtype == to {
            return Ok(rows.to_vec());
        }
        let mut out = vec![0; rows.len() / from_bytes * to_bytes];
        let pairs = rows.par_chunks_exact(from_bytes).zip(out.par_chunks_exact_mut(to_bytes));
        let lost = pairs.map_init(
            || vec![0.0f32; n_cols],
            |floats, (row, out)| {
                dequantize_row(tensor.dtype, row, floats).map_err(|_| RowError::Shape)?;
                let lost = match &guide.cost {
                    None => {
                        quantize_row(to, floats, guide.importance.as_deref(), out)?;
                        0.0
                    }
                    Some((cost, mean)) => {
                        let errors = compensated(to, floats, cost, out)?;
                        errors.iter().zip(mean).map(|(&e, mean)| f64::from(e) * mean).sum()
                    }
                };
                // Scales are in half precision, which ends at 65504.
                dequantize_row(to, out, floats).map_err(|_| RowError::Shape)?;
                let fits = floats.iter().all(|v| v.is_finite());
                if fits { Ok(lost) } else { Err(RowError::TooLarge) }
            },
        );
        losses.extend(lost.collect::<std::result::Result<Vec<f64>, _>>()?);
        Ok(out)
    })
}

/// Rows converted together: bounds the memory of a conversion.
const ROWS: usize = 1024;
