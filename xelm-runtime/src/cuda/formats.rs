//! How the card holds weights: the numbers of ggml's blocks, arranged so that everything but scales lies at
//! multiples of 16 bytes, which is what a thread loads at a time.
//!
//! Of a matrix, first come the *bodies* of all its blocks, then what is left of them, the *rest*; a format whose
//! blocks are whole multiples of 16 bytes has no rest. Nothing is padded: a matrix takes the bytes that it has
//! in its file.

use crate::quant::DType;
use core::ffi::CStr;
use core::ops::Range;

/// The formats that weights are in.
pub(super) const FORMATS: [Format; 9] = [
    Format::new(DType::F32, c"embed_f32", c"matmul_f32_one", c"matmul_f32_many"),
    Format::new(DType::F16, c"embed_f16", c"matmul_f16_one", c"matmul_f16_many"),
    Format::new(DType::BF16, c"embed_bf16", c"matmul_bf16_one", c"matmul_bf16_many"),
    Format::new(DType::Q4_0, c"embed_q4_0", c"matmul_q4_0_one", c"matmul_q4_0_many"),
    Format::new(DType::Q4_1, c"embed_q4_1", c"matmul_q4_1_one", c"matmul_q4_1_many"),
    Format::new(DType::Q8_0, c"embed_q8_0", c"matmul_q8_0_one", c"matmul_q8_0_many"),
    Format::new(DType::Q4K, c"embed_q4_k", c"matmul_q4_k_one", c"matmul_q4_k_many"),
    Format::new(DType::Q5K, c"embed_q5_k", c"matmul_q5_k_one", c"matmul_q5_k_many"),
    Format::new(DType::Q6K, c"embed_q6_k", c"matmul_q6_k_one", c"matmul_q6_k_many"),
];

/// A format and the kernels for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    pub(super) dtype: DType,
    /// Gathers rows.
    pub(super) embed: &'static CStr,
    /// Multiplies by one token.
    pub(super) one: &'static CStr,
    /// Multiplies by eight.
    pub(super) many: &'static CStr,
}

impl Format {
    const fn new(
        dtype: DType,
        embed: &'static CStr,
        one: &'static CStr,
        many: &'static CStr,
    ) -> Self {
        Format { dtype, embed, one, many }
    }
}

/// The bytes of a block that are its body.
pub(super) fn body(dtype: DType) -> Range<usize> {
    match dtype {
        // The scale comes first, or scale and minimum do.
        DType::Q8_0 | DType::Q4_0 => 2..dtype.block_bytes(),
        DType::Q4_1 => 4..dtype.block_bytes(),
        // The scale comes last.
        DType::Q6K => 0..dtype.block_bytes() - 2,
        _ => 0..dtype.block_bytes(),
    }
}

/// Copies the bodies or the rests of blocks into `out`.
pub(super) fn gather(dtype: DType, blocks: &[u8], bodies: bool, out: &mut [u8]) {
    let (body, len) = (body(dtype), dtype.block_bytes());
    let [first, second] = if bodies { [body, 0..0] } else { [0..body.start, body.end..len] };
    let out = out.chunks_exact_mut(first.len() + second.len());
    for (block, out) in blocks.chunks_exact(len).zip(out) {
        let (head, tail) = out.split_at_mut(first.len());
        head.copy_from_slice(&block[first.clone()]);
        tail.copy_from_slice(&block[second.clone()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn bodies_are_aligned_and_nothing_is_lost() {
        for Format { dtype, .. } in FORMATS {
            let (body, len) = (body(dtype), dtype.block_bytes());
            assert!(!dtype.is_quantized() || body.len().is_multiple_of(16), "{dtype:?}");
            let blocks: Vec<u8> = (0..3 * len).map(|i| i as u8).collect();
            let mut bodies = vec![0; 3 * body.len()];
            let mut rests = vec![0; 3 * (len - body.len())];
            gather(dtype, &blocks, true, &mut bodies);
            if !rests.is_empty() {
                gather(dtype, &blocks, false, &mut rests);
            }
            let mut all = [bodies, rests].concat();
            all.sort_unstable();
            let mut wanted = blocks;
            wanted.sort_unstable();
            assert_eq!(all, wanted, "{dtype:?}");
        }
        assert_eq!(FORMATS.len(), DType::ALL.iter().filter(|d| d.holds_weights()).count());
    }
}
