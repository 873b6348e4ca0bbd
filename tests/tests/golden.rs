//! Bytes that others have written down: ggml's blocks.

use safetensors::SafeTensors;
use xelm_runtime::quant::{DType, dequantize_row, quantize_row};

#[test]
fn blocks_are_ggmls_bit_for_bit() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/blocks.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        let data = file.tensor(name).unwrap().data().to_vec();
        data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let x = floats("x");
    for dtype in [DType::Q8_0, DType::Q4_0] {
        let expected = file.tensor(dtype.name()).unwrap().data().to_vec();
        let mut quantised = vec![0; expected.len()];
        quantize_row(dtype, &x, &mut quantised).unwrap();
        let size = dtype.block_bytes();
        for (i, (a, b)) in quantised.chunks(size).zip(expected.chunks(size)).enumerate() {
            assert_eq!(a, b, "{dtype:?}, block {i}: {:?}", &x[i * 32..][..32]);
        }
        let mut back = vec![0.0; x.len()];
        dequantize_row(dtype, &expected, &mut back).unwrap();
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&back), bits(&floats(&format!("{}.back", dtype.name()))), "{dtype:?}");
    }
}
