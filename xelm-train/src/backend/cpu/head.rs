//! Output layer and cross-entropy, fused in chunks of rows: the logits of a chunk become their own
//! gradient in place and are gone before the next chunk.

use super::gemm::{Kernel, Mat, Start, par_gemm};
use super::grown;
use crate::backend::IGNORE;
use rayon::prelude::*;
use xelm_runtime::isa::{Isa, Vectorised};
use xelm_runtime::math;

/// Logits of one chunk, 32 MiB: enough rows that packing the table is a small part of the work.
const CHUNK_LOGITS: usize = 8 << 20;

/// Where the gradients go; without them only the loss is computed.
pub(super) struct Gradients<'a> {
    pub(super) d_x: &'a mut [f32],
    pub(super) d_table: &'a mut [f32],
    pub(super) scale: f32,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Loss {
    pub(super) sum: f64,
    pub(super) n_targets: u64,
}

pub(super) fn loss(
    isa: Isa,
    kernel: Kernel,
    x: &[f32],
    table: &[f32],
    targets: &[u32],
    mut gradients: Option<Gradients<'_>>,
    scratch: &mut Vec<f32>,
) -> Loss {
    let c = x.len() / targets.len();
    let v = table.len() / c;
    let table = Mat::rows(table, c);
    let n_rows = (CHUNK_LOGITS / v).clamp(256, 4096);
    let mut loss = Loss::default();
    let mut logits = std::mem::take(scratch);
    for (i, targets) in targets.chunks(n_rows).enumerate() {
        let rows = i * n_rows * c..(i * n_rows + targets.len()) * c;
        let x = Mat::rows(&x[rows.clone()], c);
        let logits = grown(&mut logits, targets.len() * v);
        par_gemm(kernel, logits, x, table.transposed(), Start::Zero, scratch);
        let scale = gradients.as_ref().map(|g| g.scale);
        let losses: Vec<f32> = logits
            .par_chunks_exact_mut(v)
            .zip(targets)
            .map(|(row, &target)| isa.run(CrossEntropy { row, target, scale }))
            .collect();
        // Summed in order, in double precision.
        loss.sum += losses.iter().map(|&l| f64::from(l)).sum::<f64>();
        loss.n_targets += targets.iter().filter(|&&t| t != IGNORE).count() as u64;
        if let Some(g) = &mut gradients {
            let d = Mat::rows(logits, v);
            par_gemm(kernel, &mut g.d_x[rows], d, table, Start::Zero, scratch);
            par_gemm(kernel, g.d_table, d.transposed(), x, Start::Output, scratch);
        }
    }
    // Keeps the larger of the two work vectors.
    if logits.len() > scratch.len() {
        *scratch = logits;
    }
    loss
}

/// The loss of one row of logits; with a scale, the row becomes (softmax − one-hot) · scale.
struct CrossEntropy<'a> {
    row: &'a mut [f32],
    target: u32,
    scale: Option<f32>,
}

impl Vectorised for CrossEntropy<'_> {
    type Output = f32;
    #[inline(always)]
    fn run(self) -> f32 {
        let CrossEntropy { row, target, scale } = self;
        if target == IGNORE {
            row.fill(0.0);
            return 0.0;
        }
        let target = target as usize;
        let at_target = row[target];
        let max = math::max(row);
        let mut lanes = [0.0f32; 16];
        for chunk in row.chunks_mut(16) {
            for (x, lane) in chunk.iter_mut().zip(&mut lanes) {
                *x = math::exp(*x - max);
                *lane += *x;
            }
        }
        let sum: f32 = lanes.iter().sum();
        if let Some(scale) = scale {
            let factor = scale / sum;
            for x in row.iter_mut() {
                *x *= factor;
            }
            row[target] -= scale;
        }
        // NaN logits make the maximum miss them, but not the sum: it stays visible in the loss.
        max + math::ln(sum) - at_target
    }
}
