//! ggml's block formats, byte for byte, and conversion to and from f32.
//!
//! A row of a quantised matrix is a sequence of blocks: of [`BLOCK`] numbers that share a scale, or, in
//! the K formats, of [`SUPER_BLOCK`] numbers with scales for parts of them. The simple formats are
//! quantised here, with the bytes of ggml's reference functions (`quantize_row_*_ref`); to quantise the K
//! formats is a search, which no device makes, and is the crate `xelm-quantize`'s.

mod blocks;
mod super_blocks;

use crate::error::{Error, Result};
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

pub use blocks::{BlockQ4_0, BlockQ4_1, BlockQ8_0, pack_nibbles};
pub use super_blocks::{BlockQ4K, BlockQ5K, BlockQ6K, GROUPS, GroupScales, Q6K_PART, SUPER_BLOCK};

/// Numbers in one block of a simple quantised format.
pub const BLOCK: usize = 32;

/// How the numbers of a tensor are stored; the discriminant is ggml's type number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DType {
    /// IEEE 754 single precision, 32 bits per weight.
    F32 = 0,
    /// IEEE 754 half precision, 16 bits per weight.
    F16 = 1,
    /// [`BlockQ4_0`], 4.5 bits per weight.
    Q4_0 = 2,
    /// [`BlockQ4_1`], 5 bits per weight.
    Q4_1 = 3,
    /// [`BlockQ8_0`], 8.5 bits per weight.
    Q8_0 = 8,
    /// [`BlockQ4K`], 4.5 bits per weight.
    Q4K = 12,
    /// [`BlockQ5K`], 5.5 bits per weight.
    Q5K = 13,
    /// [`BlockQ6K`], 6.5625 bits per weight.
    Q6K = 14,
    /// Signed bytes (tables, not weights).
    I8 = 24,
    /// Signed 32-bit integers (token ids, tables).
    I32 = 26,
    /// Signed 64-bit integers (offsets).
    I64 = 27,
    /// The upper half of a single, 16 bits per weight.
    BF16 = 30,
}

impl DType {
    /// Every type.
    pub const ALL: [DType; 12] = [
        DType::F32,
        DType::F16,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q8_0,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
        DType::I8,
        DType::I32,
        DType::I64,
        DType::BF16,
    ];

    /// The type with ggml's number `number`.
    pub const fn from_ggml(number: u32) -> Option<DType> {
        Some(match number {
            0 => DType::F32,
            1 => DType::F16,
            2 => DType::Q4_0,
            3 => DType::Q4_1,
            8 => DType::Q8_0,
            12 => DType::Q4K,
            13 => DType::Q5K,
            14 => DType::Q6K,
            24 => DType::I8,
            26 => DType::I32,
            27 => DType::I64,
            30 => DType::BF16,
            _ => return None,
        })
    }

    /// Whether numbers share scales; products with such weights take activations in 8 bits.
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// Whether a weight matrix may be stored so.
    pub const fn holds_weights(self) -> bool {
        !matches!(self, DType::I8 | DType::I32 | DType::I64)
    }

    /// Numbers per block (1 for the plain types).
    pub const fn block_len(self) -> usize {
        match self {
            DType::Q4_0 | DType::Q4_1 | DType::Q8_0 => BLOCK,
            DType::Q4K | DType::Q5K | DType::Q6K => SUPER_BLOCK,
            DType::F32 | DType::F16 | DType::BF16 | DType::I8 | DType::I32 | DType::I64 => 1,
        }
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::Q4_0 => size_of::<BlockQ4_0>(),
            DType::Q4_1 => size_of::<BlockQ4_1>(),
            DType::Q8_0 => size_of::<BlockQ8_0>(),
            DType::Q4K => size_of::<BlockQ4K>(),
            DType::Q5K => size_of::<BlockQ5K>(),
            DType::Q6K => size_of::<BlockQ6K>(),
            DType::I8 => 1,
            DType::I64 => 8,
        }
    }

    /// Bytes of a row of `n` numbers; `None` where `n` is not a whole number of blocks.
    pub const fn row_bytes(self, n: usize) -> Option<usize> {
        if n.is_multiple_of(self.block_len()) {
            (n / self.block_len()).checked_mul(self.block_bytes())
        } else {
            None
        }
    }

    /// ggml's name of the type in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Q4_0 => "q4_0",
            DType::Q4_1 => "q4_1",
            DType::Q8_0 => "q8_0",
            DType::Q4K => "q4_k",
            DType::Q5K => "q5_k",
            DType::Q6K => "q6_k",
            DType::I8 => "i8",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::BF16 => "bf16",
        }
    }
}

/// Half to single precision, exactly. Branch-free, so that loops over it vectorise everywhere.
#[inline(always)]
pub fn f16_to_f32(h: u16) -> f32 {
    // Shifting puts the half's exponent into the single's field; the product with 2¹¹² corrects
    // the bias and normalises subnormals on the way.
    let magnitude = u32::from(h & 0x7fff) << 13;
    let scaled = f32::from_bits(magnitude) * f32::from_bits((112 + 127) << 23);
    let bits = if magnitude >= 0x0f80_0000 { magnitude | 0x7f80_0000 } else { scaled.to_bits() };
    f32::from_bits(bits | (u32::from(h & 0x8000) << 16))
}

/// Single to half precision, rounding to nearest even.
#[inline]
pub fn f32_to_f16(x: f32) -> u16 {
    f16::from_f32(x).to_bits()
}

/// The bits of a [`DType::BF16`] number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(transparent)]
pub struct Bf16(pub u16);

impl Bf16 {
    /// Rounds to nearest even; a NaN stays one.
    #[inline(always)]
    pub fn from_f32(x: f32) -> Self {
        let bits = x.to_bits();
        let upper = (bits >> 16) as u16;
        if x.is_nan() {
            return Bf16(upper | 0x40);
        }
        // Neither infinity nor a number that becomes one wraps around: exponents end at 255.
        Bf16(((bits + 0x7fff + u32::from(upper & 1)) >> 16) as u16)
    }

    /// The number, exactly.
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

/// Writes `row` into `out` in the format `dtype` (bits as ggml's reference).
///
/// # Errors
/// `row` is not a whole number of blocks, `out` does not have exactly the row's size, or `dtype`
/// holds no real numbers or is a K format.
pub fn quantize_row(dtype: DType, row: &[f32], out: &mut [u8]) -> Result<()> {
    if dtype.row_bytes(row.len()) != Some(out.len()) {
        return Err(Error::OutOfRange { what: "row length" });
    }
    fn blocks<B: NoUninit>(row: &[f32], out: &mut [u8], quantize: fn(&[f32; BLOCK]) -> B) {
        let (blocks, _) = row.as_chunks::<BLOCK>();
        for (block, bytes) in blocks.iter().zip(out.chunks_exact_mut(size_of::<B>())) {
            bytes.copy_from_slice(bytemuck::bytes_of(&quantize(block)));
        }
    }
    match dtype {
        DType::F32 => {
            for (x, bytes) in row.iter().zip(out.chunks_exact_mut(4)) {
                bytes.copy_from_slice(&x.to_le_bytes());
            }
        }
        DType::F16 => {
            for (x, bytes) in row.iter().zip(out.chunks_exact_mut(2)) {
                bytes.copy_from_slice(&f32_to_f16(*x).to_le_bytes());
            }
        }
        DType::BF16 => {
            for (x, bytes) in row.iter().zip(out.chunks_exact_mut(2)) {
                bytes.copy_from_slice(&Bf16::from_f32(*x).0.to_le_bytes());
            }
        }
        DType::Q4_0 => blocks(row, out, BlockQ4_0::quantize),
        DType::Q4_1 => blocks(row, out, BlockQ4_1::quantize),
        DType::Q8_0 => blocks(row, out, BlockQ8_0::quantize),
        DType::Q4K | DType::Q5K | DType::Q6K | DType::I8 | DType::I32 | DType::I64 => {
            return Err(Error::UnsupportedDType { found: dtype as u32 });
        }
    }
    Ok(())
}

/// Reads a row stored as `dtype` into `out`.
///
/// # Errors
/// `out` is not a whole number of blocks, `bytes` is not exactly their size, or `dtype` holds no real
/// numbers.
pub fn dequantize_row(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    if dtype.row_bytes(out.len()) != Some(bytes.len()) {
        return Err(Error::OutOfRange { what: "row length" });
    }
    fn blocks<B: AnyBitPattern, const N: usize>(
        bytes: &[u8],
        out: &mut [f32],
        read: fn(&B) -> [f32; N],
    ) {
        let (out, _) = out.as_chunks_mut::<N>();
        for (block, x) in bytes.chunks_exact(size_of::<B>()).zip(out) {
            *x = read(&bytemuck::pod_read_unaligned(block));
        }
    }
    match dtype {
        DType::F32 => {
            for (x, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *x = f32::from_le_bytes(*b);
            }
        }
        DType::F16 => {
            for (x, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *x = f16_to_f32(u16::from_le_bytes(*b));
            }
        }
        DType::BF16 => {
            for (x, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *x = Bf16(u16::from_le_bytes(*b)).to_f32();
            }
        }
        DType::Q4_0 => blocks(bytes, out, BlockQ4_0::dequantize),
        DType::Q4_1 => blocks(bytes, out, BlockQ4_1::dequantize),
        DType::Q8_0 => blocks(bytes, out, BlockQ8_0::dequantize),
        DType::Q4K => blocks(bytes, out, BlockQ4K::dequantize),
        DType::Q5K => blocks(bytes, out, BlockQ5K::dequantize),
        DType::Q6K => blocks(bytes, out, BlockQ6K::dequantize),
        DType::I8 | DType::I32 | DType::I64 => {
            return Err(Error::UnsupportedDType { found: dtype as u32 });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_converts_exactly() {
        for bits in 0..=u16::MAX {
            let want = f16::from_bits(bits).to_f32();
            let got = f16_to_f32(bits);
            assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{bits:x}");
        }
    }

    #[test]
    fn quantised_rows_stay_within_half_a_step() {
        let mut rng = crate::rng::Rng::new(1, 0);
        let row: [f32; 96] = core::array::from_fn(|_| rng.next_normal());
        let types = [
            (DType::Q8_0, 127.0),
            (DType::Q4_0, 8.0),
            (DType::Q4_1, 14.9),
            (DType::F16, 2048.0),
            (DType::BF16, 256.0),
        ];
        for (dtype, steps) in types {
            let mut bytes = [0u8; 400];
            let bytes = &mut bytes[..dtype.row_bytes(row.len()).unwrap()];
            let mut back = [0.0f32; 96];
            quantize_row(dtype, &row, bytes).unwrap();
            dequantize_row(dtype, bytes, &mut back).unwrap();
            for (block, restored) in row.chunks(BLOCK).zip(back.chunks(BLOCK)) {
                let amax = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                for (a, b) in block.iter().zip(restored) {
                    assert!((a - b).abs() <= amax / steps * 1.01, "{dtype:?}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn awkward_blocks() {
        for x in [[0.0f32; BLOCK], [-0.0; BLOCK], [1e-40; BLOCK], [65504.0; BLOCK]] {
            assert!(BlockQ8_0::quantize(&x).dequantize().iter().all(|v| v.is_finite()));
            assert!(BlockQ4_0::quantize(&x).dequantize().iter().all(|v| v.is_finite()));
            assert!(BlockQ4_1::quantize(&x).dequantize().iter().all(|v| v.is_finite()));
        }
        assert!(quantize_row(DType::Q8_0, &[0.0; 33], &mut [0; 34]).is_err());
        assert!(quantize_row(DType::Q4K, &[0.0; 256], &mut [0; 144]).is_err());
        assert!(dequantize_row(DType::Q6K, &[0; 210], &mut [0.0; 256]).is_ok());
        assert!(dequantize_row(DType::Q6K, &[0; 210], &mut [0.0; 224]).is_err());
        assert!(quantize_row(DType::I8, &[0.0; 2], &mut [0; 2]).is_err());
        assert!(dequantize_row(DType::Q4_0, &[0; 17], &mut [0.0; 32]).is_err());
    }

    #[test]
    fn bf16_rounds_to_the_nearest_even() {
        for (x, bits) in [
            (1.0, 0x3f80),
            (f32::from_bits(0x3f80_8000), 0x3f80),
            (f32::from_bits(0x3f81_8000), 0x3f82),
            (f32::from_bits(0x3f80_8001), 0x3f81),
            (-f32::MAX, 0xff80),
            (f32::INFINITY, 0x7f80),
        ] {
            assert_eq!(Bf16::from_f32(x).0, bits, "{x}");
        }
        assert!(Bf16::from_f32(f32::from_bits(0x7f80_0001)).to_f32().is_nan());
        assert_eq!(Bf16(0x4049).to_f32(), 3.140_625);
    }

    #[test]
    fn types_are_found_by_their_numbers() {
        for dtype in DType::ALL {
            assert_eq!(DType::from_ggml(dtype as u32), Some(dtype));
            let n = dtype.block_len();
            assert_eq!(dtype.row_bytes(3 * n), Some(3 * dtype.block_bytes()));
            assert_eq!(dtype.row_bytes(3 * n + 1).is_none(), dtype.is_quantized());
        }
        let known = (0..100).filter(|&number| DType::from_ggml(number).is_some());
        assert_eq!(known.count(), DType::ALL.len());
    }
}
