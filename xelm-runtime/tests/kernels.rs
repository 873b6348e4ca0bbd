//! Every instruction set of this CPU gives the same bits. Writes their names.

use bytemuck::Zeroable;
use xelm_runtime::expert::Matrix;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::{Kernels, KvElement, Quants};
use xelm_runtime::parallel::Serial;
use xelm_runtime::quant::{
    BLOCK, DType, SUPER_BLOCK, dequantize_row, f16_to_f32, f32_to_f16, quantize_row,
};
use xelm_runtime::rng::Rng;

fn main() {
    matmul_of_every_type_isa_and_batch();
    halves_of_every_isa();
    let names: Vec<&str> = Isa::supported().into_iter().flatten().map(Isa::name).collect();
    println!("kernels: {}", names.join(" "));
}

fn random(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.next_normal()).collect()
}

/// A row of a type: of the given numbers, or of random super-blocks with numbers of that size.
fn store(dtype: DType, rng: &mut Rng, row: &[f32], out: &mut [u8]) {
    if dtype.block_len() < SUPER_BLOCK {
        return quantize_row(dtype, row, out).unwrap();
    }
    for block in out.chunks_exact_mut(dtype.block_bytes()) {
        block.fill_with(|| rng.next_u32() as u8);
        let mut half = |x: f32| f32_to_f16(x * (0.5 + rng.next_f32())).to_le_bytes();
        match dtype {
            DType::Q6K => block[208..].copy_from_slice(&half(6e-4)),
            _ => {
                block[..2].copy_from_slice(&half(2e-3));
                block[2..4].copy_from_slice(&half(2e-2));
            }
        }
    }
}

/// Every instruction set against double precision and, bit for bit, against `portable`; every
/// number of tokens against one at a time.
fn matmul_of_every_type_isa_and_batch() {
    let mut rng = Rng::new(11, 0);
    let types = DType::ALL.into_iter().filter(|dtype| dtype.holds_weights());
    let shapes = [(1, 32), (7, 64), (33, 96), (16, 160), (3, 256), (17, 768), (5, 2048)];
    for dtype in types {
        for (n_rows, n_cols) in shapes {
            let Some(row_bytes) = dtype.row_bytes(n_cols) else { continue };
            for n in [1usize, 2, 3, 4, 5, 9] {
                let dense = random(&mut rng, n_rows * n_cols);
                let mut bytes = vec![0; row_bytes * n_rows];
                let mut weights = vec![0.0; dense.len()];
                for r in 0..n_rows {
                    let stored = &mut bytes[r * row_bytes..][..row_bytes];
                    let row = r * n_cols..(r + 1) * n_cols;
                    store(dtype, &mut rng, &dense[row.clone()], stored);
                    dequantize_row(dtype, stored, &mut weights[row]).unwrap();
                }
                // At an aligned address, as in a mapped file.
                let mut words = vec![0u64; bytes.len().div_ceil(8)];
                let aligned: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
                aligned[..bytes.len()].copy_from_slice(&bytes);
                let bytes = &aligned[..bytes.len()];
                let w = Matrix { dtype, n_rows, n_cols, bytes };
                let x = random(&mut rng, n * n_cols);
                let bias = random(&mut rng, n_rows);
                let run = |isa: Isa, x: &[f32]| {
                    let mut out = vec![f32::NAN; x.len() / n_cols * n_rows];
                    let mut quants = vec![Quants::zeroed(); x.len() / BLOCK];
                    let linear = |_| (w, &bias[..]);
                    Kernels::new(isa).matmul(&Serial, &mut out, x, 1, linear, None, &mut quants);
                    out
                };
                let portable = run(Isa::PORTABLE, &x);
                for isa in Isa::supported().into_iter().flatten() {
                    assert_eq!(run(isa, &x), portable, "{dtype:?} {}", isa.name());
                }
                for t in 0..n {
                    let one = run(Isa::PORTABLE, &x[t * n_cols..][..n_cols]);
                    assert_eq!(one, portable[t * n_rows..][..n_rows]);
                }
                // 8-bit activations lose up to half a step of 1/127 of a block's maximum.
                let tolerance =
                    if dtype.is_quantized() { 0.03 } else { 2e-6 } * (n_cols as f64).sqrt();
                for t in 0..n {
                    for r in 0..n_rows {
                        let dot: f64 = (0..n_cols)
                            .map(|c| {
                                f64::from(weights[r * n_cols + c]) * f64::from(x[t * n_cols + c])
                            })
                            .sum();
                        let got = f64::from(portable[t * n_rows + r]);
                        let want = dot + f64::from(bias[r]);
                        assert!((got - want).abs() < tolerance, "{dtype:?}: {got} {want}");
                    }
                }
            }
        }
    }
}

/// Numbers of the cache: every one of half precision, and what rounds to them.
fn halves_of_every_isa() {
    let halves: Vec<u16> = (0..=u16::MAX).filter(|&bits| !f16_to_f32(bits).is_nan()).collect();
    let singles: Vec<f32> = halves.iter().map(|&bits| f16_to_f32(bits)).collect();
    let mut rng = Rng::new(13, 0);
    let unrounded: Vec<f32> = singles.iter().map(|x| x * (1.0 + 1e-3 * rng.next_f32())).collect();
    for isa in Isa::supported().into_iter().flatten() {
        let mut room = vec![f32::NAN; halves.len()];
        assert_eq!(KvElement::singles(isa, &halves, &mut room), singles, "{}", isa.name());
        // Not a multiple of eight, so that there is a rest.
        for x in [&singles, &unrounded].map(|x| &x[..x.len() - 3]) {
            let want: Vec<u16> = x.iter().map(|&x| f32_to_f16(x)).collect();
            let mut stored = vec![0u16; x.len()];
            KvElement::store(isa, x, &mut stored);
            assert_eq!(stored, want, "{}", isa.name());
        }
    }
}
