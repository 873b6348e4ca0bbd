//! How the blocks of a quantised matrix lie in memory: row after row, as in standard files, or *packed*:
//! eight rows interleaved, as vectors with a lane for every row take them.
//!
//! ```text
//! panel p of R bytes a row: rows 8p .. 8p + 8, at byte 8 · p · R; in it
//! block i of B bytes:       at byte 8 · i · B;                    in it
//! the unit at byte o:       of row r at byte 8 · o + s · r, s being the unit's bytes
//! ```
//!
//! A block is cut into units of four bytes from its beginning; where its size is no multiple of four, the scale
//! is a unit of two bytes (the first of Q8_0 and Q4_0, the last of Q6_K). Rows behind the last whole panel lie as
//! in the standard layout. So every row has as many bytes as there, and every panel begins where its first
//! row does.

use crate::quant::{BlockQ4_0, BlockQ6K, BlockQ8_0, DType};
use core::mem::offset_of;

/// Rows of a panel.
pub const PANEL: usize = 8;

/// Number of the packed layout in files.
pub const PACKED_LAYOUT: u32 = 1;

/// Bytes of the largest block.
pub const MAX_BLOCK_BYTES: usize = size_of::<BlockQ6K>();

/// Where the blocks of a matrix lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Row after row.
    #[default]
    Standard,
    /// Panels of interleaved rows.
    Packed,
}

/// Interleaves [`PANEL`] rows of a quantised type, which `rows` holds one after the other, into `panel`, as
/// long; of several panels, the first.
pub fn pack(dtype: DType, rows: &[u8], panel: &mut [u8]) {
    each_unit(dtype, rows.len() / PANEL, |row, packed, len| {
        panel[packed..packed + len].copy_from_slice(&rows[row..row + len]);
    });
}

/// Undoes [`pack`].
pub fn unpack(dtype: DType, panel: &[u8], rows: &mut [u8]) {
    each_unit(dtype, panel.len() / PANEL, |row, packed, len| {
        rows[row..row + len].copy_from_slice(&panel[packed..packed + len]);
    });
}

/// Reads block `i` of row `r` of a panel into `block`, which is as long as a block.
pub fn unpack_block(dtype: DType, panel: &[u8], r: usize, i: usize, block: &mut [u8]) {
    let panel = &panel[PANEL * i * block.len()..][..PANEL * block.len()];
    for (o, s) in units(dtype) {
        block[o..o + s].copy_from_slice(&panel[PANEL * o + s * r..][..s]);
    }
}

/// Calls `copy` with the place of every unit in eight rows, that in their panel, and its bytes.
fn each_unit(dtype: DType, row_bytes: usize, mut copy: impl FnMut(usize, usize, usize)) {
    for r in 0..PANEL {
        for block in (0..row_bytes).step_by(dtype.block_bytes()) {
            for (o, s) in units(dtype) {
                copy(r * row_bytes + block + o, PANEL * (block + o) + s * r, s);
            }
        }
    }
}

/// Offset and bytes of the units of a block.
fn units(dtype: DType) -> impl Iterator<Item = (usize, usize)> {
    let len = dtype.block_bytes();
    let short = match dtype {
        DType::Q8_0 => offset_of!(BlockQ8_0, d),
        DType::Q4_0 => offset_of!(BlockQ4_0, d),
        DType::Q6K => offset_of!(BlockQ6K, d),
        _ => len,
    };
    let mut at = 0;
    core::iter::from_fn(move || {
        let unit = (at, if at == short { 2 } else { 4 });
        at += unit.1;
        (unit.0 < len).then_some(unit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn packing_is_undone() {
        for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_quantized()) {
            let n_blocks = 3;
            let rows: Vec<u8> = (0..PANEL * n_blocks * dtype.block_bytes())
                .map(|i| (i * 7 + i / 251) as u8)
                .collect();
            let (mut panel, mut back) = (vec![0; rows.len()], vec![0; rows.len()]);
            pack(dtype, &rows, &mut panel);
            unpack(dtype, &panel, &mut back);
            assert_eq!(back, rows, "{dtype:?}");
            let mut block = vec![0; dtype.block_bytes()];
            assert!(block.len() <= MAX_BLOCK_BYTES);
            for (j, want) in rows.chunks_exact(block.len()).enumerate() {
                unpack_block(dtype, &panel, j / n_blocks, j % n_blocks, &mut block);
                assert_eq!(block, want, "{dtype:?} {j}");
            }
        }
    }

    /// The layout as it is documented, byte for byte.
    #[test]
    fn units_lie_where_they_should() {
        let rows: Vec<u8> = (0..=255).cycle().take(PANEL * 34).collect();
        let mut panel = vec![0; rows.len()];
        pack(DType::Q8_0, &rows, &mut panel);
        for r in 0..PANEL {
            // d, then the 32 numbers four by four.
            assert_eq!(panel[2 * r..][..2], rows[34 * r..][..2]);
            for j in 0..8 {
                assert_eq!(panel[16 + 32 * j + 4 * r..][..4], rows[34 * r + 2 + 4 * j..][..4]);
            }
        }
    }
}
