//! Every instruction set of this CPU gives the same bits. Writes their names.

use bytemuck::Zeroable;
use xelm_runtime::expert::Matrix;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::{Kernels, KvElement, Quants};
use xelm_runtime::layout::{Layout, PANEL, pack};
use xelm_runtime::parallel::Serial;
use xelm_runtime::quant::{
    BLOCK, DType, SUPER_BLOCK, dequantize_row, f16_to_f32, f32_to_f16, quantize_row,
};
use xelm_runtime::rng::Rng;

fn main() {
    matmul_of_every_type_isa_and_batch();
    matmul_of_every_length_and_alignment();
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

/// A matrix of random numbers in memory whose address is a multiple of 64, and `shift` bytes more.
struct Stored {
    dtype: DType,
    layout: Layout,
    n_rows: usize,
    n_cols: usize,
    shift: usize,
    memory: Vec<Line>,
}

#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Stored {
    fn random(rng: &mut Rng, dtype: DType, n_rows: usize, n_cols: usize, shift: usize) -> Self {
        let row_bytes = dtype.row_bytes(n_cols).unwrap();
        let memory = vec![Line::zeroed(); (shift + n_rows * row_bytes).div_ceil(64)];
        let layout = Layout::Standard;
        let mut stored = Stored { dtype, layout, n_rows, n_cols, shift, memory };
        for out in stored.bytes_mut().chunks_exact_mut(row_bytes) {
            let row = random(rng, n_cols);
            store(dtype, rng, &row, out);
        }
        stored
    }

    /// The same numbers, packed.
    fn packed(&self) -> Self {
        let mut packed = Stored { layout: Layout::Packed, memory: self.memory.clone(), ..*self };
        let panel_bytes = PANEL * self.dtype.row_bytes(self.n_cols).unwrap();
        let panels = packed.bytes_mut().chunks_exact_mut(panel_bytes);
        for (rows, panel) in self.matrix().bytes.chunks_exact(panel_bytes).zip(panels) {
            pack(self.dtype, rows, panel);
        }
        packed
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.n_rows * self.dtype.row_bytes(self.n_cols).unwrap();
        &mut bytemuck::cast_slice_mut(&mut self.memory)[self.shift..][..len]
    }

    fn matrix(&self) -> Matrix<'_> {
        let Stored { dtype, layout, n_rows, n_cols, shift, .. } = *self;
        let len = n_rows * dtype.row_bytes(n_cols).unwrap();
        let bytes = &bytemuck::cast_slice(&self.memory)[shift..][..len];
        Matrix { dtype, layout, n_rows, n_cols, bytes }
    }

    fn matmul(&self, isa: Isa, x: &[f32], bias: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; x.len() / self.n_cols * self.n_rows];
        let mut quants = vec![Quants::zeroed(); x.len() / BLOCK];
        let linear = |_| (self.matrix(), bias);
        Kernels::new(isa).matmul(&Serial, &mut out, x, 1, linear, None, &mut quants);
        out
    }

    /// Whether every instruction set and both layouts give the same bits, which are returned.
    fn check(&self, x: &[f32], bias: &[f32]) -> Vec<f32> {
        let portable = self.matmul(Isa::PORTABLE, x, bias);
        let packed = self.dtype.is_quantized().then(|| self.packed());
        for stored in [self].into_iter().chain(&packed) {
            for isa in Isa::supported().into_iter().flatten() {
                let Stored { dtype, layout, n_rows, n_cols, shift, .. } = stored;
                assert_eq!(
                    stored.matmul(isa, x, bias),
                    portable,
                    "{dtype:?} {layout:?} {n_rows} x {n_cols} + {shift}, {}",
                    isa.name()
                );
            }
        }
        portable
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
            let stored = Stored::random(&mut rng, dtype, n_rows, n_cols, 0);
            let mut weights = vec![0.0; n_rows * n_cols];
            let rows = stored.matrix().bytes.chunks_exact(row_bytes);
            for (row, out) in rows.zip(weights.chunks_exact_mut(n_cols)) {
                dequantize_row(dtype, row, out).unwrap();
            }
            for n in [1usize, 2, 3, 4, 5, 9] {
                let x = random(&mut rng, n * n_cols);
                let bias = random(&mut rng, n_rows);
                let portable = stored.check(&x, &bias);
                for t in 0..n {
                    let one = stored.matmul(Isa::PORTABLE, &x[t * n_cols..][..n_cols], &bias);
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

/// Up to four tiles and a little more of rows (a tile is at most 16), of blocks (one) and of tokens (32), at
/// every alignment that a file may have.
fn matmul_of_every_length_and_alignment() {
    let mut rng = Rng::new(12, 0);
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_quantized()) {
        let len = dtype.block_len();
        let mut check = |(n_rows, n_cols, shift): (usize, usize, usize), n_tokens: &[usize]| {
            let stored = Stored::random(&mut rng, dtype, n_rows, n_cols, shift);
            let bias = random(&mut rng, n_rows);
            for n in n_tokens {
                stored.check(&random(&mut rng, n * n_cols), &bias);
            }
        };
        for n_rows in 1..=4 * 16 + 1 {
            check((n_rows, len, 0), &[1, 2]);
        }
        for n_blocks in 1..=5 {
            check((16, n_blocks * len, 0), &[1, 2]);
        }
        for shift in (2..64).step_by(2) {
            check((17, 2 * len, shift), &[1, 2]);
        }
        let tokens: Vec<usize> = (1..=4 * 32 + 1).collect();
        check((16, len, 0), &tokens);
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
