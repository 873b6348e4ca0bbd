//! ggml's block formats, byte for byte, and conversion to and from f32.
//!
//! A row of a quantised matrix is a sequence of blocks of [`BLOCK`] numbers that share a scale.
//! The quantisers give the bytes of ggml's reference functions (`quantize_row_*_ref`).

use crate::error::{Error, Result};
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

/// Numbers in one block of a quantised format.
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
    /// [`BlockQ8_0`], 8.5 bits per weight.
    Q8_0 = 8,
    /// Signed bytes (tables, not weights).
    I8 = 24,
    /// Signed 32-bit integers (token ids, tables).
    I32 = 26,
    /// Signed 64-bit integers (offsets).
    I64 = 27,
}

impl DType {
    /// The type with ggml's number `number`.
    pub const fn from_ggml(number: u32) -> Option<DType> {
        Some(match number {
            0 => DType::F32,
            1 => DType::F16,
            2 => DType::Q4_0,
            8 => DType::Q8_0,
            24 => DType::I8,
            26 => DType::I32,
            27 => DType::I64,
            _ => return None,
        })
    }

    /// Numbers per block (1 for the plain types).
    pub const fn block_len(self) -> usize {
        match self {
            DType::Q4_0 | DType::Q8_0 => BLOCK,
            _ => 1,
        }
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 => 2,
            DType::Q4_0 => size_of::<BlockQ4_0>(),
            DType::Q8_0 => size_of::<BlockQ8_0>(),
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
            DType::Q8_0 => "q8_0",
            DType::I8 => "i8",
            DType::I32 => "i32",
            DType::I64 => "i64",
        }
    }
}

/// x = d · (q − 8), q in 0..16. Byte j of `qs` holds number j in its low and number j + 16 in its
/// high half. 4.5 bits per weight.
#[derive(Clone, Copy, Debug, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// Scale, half precision bits.
    pub d: u16,
    /// Two numbers per byte.
    pub qs: [u8; BLOCK / 2],
}
const _: () = assert!(size_of::<BlockQ4_0>() == 18);

/// x = d · q, q in −127..=127. 8.5 bits per weight.
#[derive(Clone, Copy, Debug, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// Scale, half precision bits.
    pub d: u16,
    /// One number per byte.
    pub qs: [i8; BLOCK],
}
const _: () = assert!(size_of::<BlockQ8_0>() == 34);

/// Truncates as the reference's C does on x86: through 32 bits, where everything that does not fit becomes
/// the smallest integer, whose low byte is 0. (Scales so small that their inverse overflows get there.)
fn to_i8(x: f32) -> i8 {
    let wide = if x.abs() < 2_147_483_648.0 { x as i32 } else { i32::MIN };
    wide as i8
}

impl BlockQ4_0 {
    /// Quantises one block as ggml's `quantize_row_q4_0_ref`.
    pub fn quantize(x: &[f32; BLOCK]) -> Self {
        // The scale takes the sign of the largest magnitude, so that this number becomes −8.
        let mut max = 0.0f32;
        for &v in x {
            if v.abs() > max.abs() {
                max = v;
            }
        }
        let d = max / -8.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        // Truncation after + 8.5.
        let nibble = |v: f32| to_i8(v * inverse + 8.5).min(15) as u8;
        let qs = core::array::from_fn(|j| nibble(x[j]) | (nibble(x[j + BLOCK / 2]) << 4));
        BlockQ4_0 { d: f16::from_f32(d).to_bits(), qs }
    }

    /// The block's numbers.
    #[inline(always)]
    pub fn dequantize(&self) -> [f32; BLOCK] {
        let d = f16_to_f32(self.d);
        let mut out = [0.0; BLOCK];
        for j in 0..BLOCK / 2 {
            out[j] = d * f32::from((self.qs[j] & 0x0f) as i8 - 8);
            out[j + BLOCK / 2] = d * f32::from((self.qs[j] >> 4) as i8 - 8);
        }
        out
    }
}

impl BlockQ8_0 {
    /// Quantises one block as ggml's `quantize_row_q8_0_ref`.
    pub fn quantize(x: &[f32; BLOCK]) -> Self {
        let amax = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let d = amax / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        // Half away from zero, as C's `roundf`.
        let qs = core::array::from_fn(|j| to_i8(libm::roundf(x[j] * inverse)));
        BlockQ8_0 { d: f16::from_f32(d).to_bits(), qs }
    }

    /// The block's numbers.
    #[inline(always)]
    pub fn dequantize(&self) -> [f32; BLOCK] {
        let d = f16_to_f32(self.d);
        self.qs.map(|q| d * f32::from(q))
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

/// Writes `row` into `out` in the format `dtype` (bits as ggml's reference).
///
/// # Errors
/// `row` is not a whole number of blocks, `out` does not have exactly the row's size, or `dtype`
/// holds no real numbers.
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
        DType::Q4_0 => blocks(row, out, BlockQ4_0::quantize),
        DType::Q8_0 => blocks(row, out, BlockQ8_0::quantize),
        DType::I8 | DType::I32 | DType::I64 => {
            return Err(Error::UnsupportedDType { found: dtype as u32 });
        }
    }
    Ok(())
}

/// Reads a row stored as `dtype` into `out`.
///
/// # Errors
/// As [`quantize_row`].
pub fn dequantize_row(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    if dtype.row_bytes(out.len()) != Some(bytes.len()) {
        return Err(Error::OutOfRange { what: "row length" });
    }
    fn blocks<B: AnyBitPattern>(bytes: &[u8], out: &mut [f32], read: fn(&B) -> [f32; BLOCK]) {
        for (block, x) in bytes.chunks_exact(size_of::<B>()).zip(out.chunks_exact_mut(BLOCK)) {
            x.copy_from_slice(&read(&bytemuck::pod_read_unaligned(block)));
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
        DType::Q4_0 => blocks(bytes, out, BlockQ4_0::dequantize),
        DType::Q8_0 => blocks(bytes, out, BlockQ8_0::dequantize),
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
        for (dtype, steps) in [(DType::Q8_0, 127.0), (DType::Q4_0, 8.0), (DType::F16, 2048.0)] {
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
        }
        assert!(quantize_row(DType::Q8_0, &[0.0; 33], &mut [0; 34]).is_err());
        assert!(quantize_row(DType::I8, &[0.0; 2], &mut [0; 2]).is_err());
        assert!(dequantize_row(DType::Q4_0, &[0; 17], &mut [0.0; 32]).is_err());
    }
}
