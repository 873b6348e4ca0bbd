//! Products in tiles of the output, summed in registers.

#![allow(unsafe_code, reason = "vector instructions exist on some CPUs only, and take pointers")]

use super::kernel::{Kernel, PORTABLE_ROWS, Variant};
use super::pack::{Packed, aligned, pack_panel, with_buffer};
use super::vector::{Portable, Vector};
use super::{Mat, Start};
use std::marker::PhantomData;
use xelm_runtime::isa::Vectorised;

#[cfg(target_arch = "x86_64")]
use {
    super::kernel::{AVX2_ROWS, AVX512_ROWS},
    super::vector::Avx512Bf16,
    std::arch::x86_64::{__m256, __m512},
};

/// Numbers of the largest tile.
const LARGEST: usize = 14 * 32;

/// out = start + a · b; `out` has rows `stride` apart.
pub(super) fn multiply(
    kernel: Kernel,
    out: &mut [f32],
    stride: usize,
    a: Mat<'_>,
    b: Packed<'_>,
    start: Start<'_>,
) {
    assert_eq!(a.n_cols, b.n_rows());
    assert!(a.n_cols > 0 && b.n_cols() <= stride);
    if a.n_rows == 0 || b.n_cols() == 0 {
        return;
    }
    let isa = kernel.isa();
    with_buffer(|panels| {
        let work = Multiply { kernel, out, stride, a, b, start, panels };
        match kernel.variant() {
            // SAFETY: here and below: a kernel has this variant only where the CPU has its instructions.
            Variant::Portable => isa.run(unsafe { work.by::<Portable<false>, PORTABLE_ROWS>() }),
            // SAFETY: as above.
            Variant::PortableBf16 => isa.run(unsafe { work.by::<Portable<true>, PORTABLE_ROWS>() }),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Variant::Avx2 => isa.run(unsafe { work.by::<__m256, AVX2_ROWS>() }),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Variant::Avx512 => isa.run(unsafe { work.by::<__m512, AVX512_ROWS>() }),
            #[cfg(target_arch = "x86_64")]
            Variant::Avx512Bf16 => {
                // SAFETY: as above.
                let work = unsafe { work.by::<Avx512Bf16, AVX512_ROWS>() };
                // SAFETY: as above.
                unsafe { run_avx512_bf16(work) }
            }
        }
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn run_avx512_bf16<V: Vectorised>(work: V) -> V::Output {
    work.run()
}

struct Multiply<'a> {
    kernel: Kernel,
    out: &'a mut [f32],
    stride: usize,
    a: Mat<'a>,
    b: Packed<'a>,
    start: Start<'a>,
    panels: &'a mut Vec<f32>,
}

/// The same, by tiles of `ROWS` rows and two vectors `V`.
struct MultiplyBy<'a, V, const ROWS: usize>(Multiply<'a>, PhantomData<V>);

impl<'a> Multiply<'a> {
    /// # Safety
    /// The CPU has the vector's instructions, and the result is run by code compiled for them.
    unsafe fn by<V: Vector, const ROWS: usize>(self) -> MultiplyBy<'a, V, ROWS> {
        MultiplyBy(self, PhantomData)
    }
}

impl<V: Vector, const ROWS: usize> Vectorised for MultiplyBy<'_, V, ROWS> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Multiply { kernel, out, stride, a, b, mut start, panels } = self.0;
        let cols = 2 * V::LEN;
        let n_tiles = a.n_rows.div_ceil(ROWS);
        for block in b.blocks() {
            let panel = block.n_packed * ROWS;
            let panels = aligned(panels, n_tiles * panel);
            let a_block = a.col_range(block.first, block.n_rows).transposed();
            for (i, panel) in panels.chunks_exact_mut(panel).enumerate() {
                let row = i * ROWS;
                let rows = a_block.col_range(row, ROWS.min(a.n_rows - row));
                pack_panel::<ROWS>(kernel, panel, rows);
            }
            for (j, b_panel) in block.data.chunks_exact(block.n_packed * cols).enumerate() {
                let col = j * cols;
                let n_cols = cols.min(b.n_cols() - col);
                let start = start.columns(col, n_cols);
                for (i, a_panel) in panels.chunks_exact(panel).enumerate() {
                    let row = i * ROWS;
                    let n_rows = ROWS.min(a.n_rows - row);
                    let out = &mut out[row * stride + col..];
                    if n_rows == ROWS && n_cols == cols {
                        // SAFETY: who made this value guarantees the instructions.
                        unsafe { tile::<V, ROWS>(out, stride, a_panel, b_panel, start) };
                        continue;
                    }
                    let mut whole = [0.0; LARGEST];
                    let part = whole.chunks_exact_mut(cols).map(|row| &mut row[..n_cols]);
                    for (i, to) in part.enumerate().take(n_rows) {
                        match start {
                            Start::Zero => {}
                            Start::Row(row) => to.copy_from_slice(row),
                            Start::Output => to.copy_from_slice(&out[i * stride..][..n_cols]),
                        }
                    }
                    // SAFETY: as above.
                    unsafe { tile::<V, ROWS>(&mut whole, cols, a_panel, b_panel, Start::Output) };
                    for (i, row) in whole.chunks_exact(cols).enumerate().take(n_rows) {
                        out[i * stride..][..n_cols].copy_from_slice(&row[..n_cols]);
                    }
                }
            }
            start = Start::Output;
        }
    }
}

/// out = start + Σ over k of column k of `a` times row k of `b`, both packed.
///
/// # Safety
/// The CPU has the vector's instructions.
#[inline(always)]
#[expect(clippy::multiple_unsafe_ops_per_block, reason = "the assertions cover the whole body")]
unsafe fn tile<V: Vector, const ROWS: usize>(
    out: &mut [f32],
    stride: usize,
    a: &[f32],
    b: &[f32],
    start: Start<'_>,
) {
    /// Steps whose loop is unrolled: twelve sums hide the latency of their instructions only where nothing else is
    /// in the way.
    const STEPS: usize = 4;
    let cols = 2 * V::LEN;
    let n_packed = a.len() / ROWS;
    assert!(b.len() == n_packed * cols);
    assert!(out.len() >= (ROWS - 1) * stride + cols);
    let out = out.as_mut_ptr();
    // SAFETY: the caller guarantees the instructions. `a` is read at n_packed · ROWS numbers, `b` at n_packed · cols,
    // `out` at the first cols of ROWS rows: inside the slices by the assertions.
    unsafe {
        let mut sums = [[V::splat(0.0); 2]; ROWS];
        match start {
            Start::Zero => {}
            Start::Row(row) => {
                let row = &row[..cols];
                sums = [[V::load(row.as_ptr()), V::load(row[V::LEN..].as_ptr())]; ROWS];
            }
            Start::Output => {
                for (i, sums) in sums.iter_mut().enumerate() {
                    let row = out.add(i * stride);
                    *sums = [V::load(row), V::load(row.add(V::LEN))];
                }
            }
        }
        let (mut a, mut b) = (a.as_ptr(), b.as_ptr());
        for _ in 0..n_packed / STEPS {
            for _ in 0..STEPS {
                add_step(&mut sums, a, b);
                (a, b) = (a.add(ROWS), b.add(cols));
            }
        }
        for _ in 0..n_packed % STEPS {
            add_step(&mut sums, a, b);
            (a, b) = (a.add(ROWS), b.add(cols));
        }
        for (i, sums) in sums.iter().enumerate() {
            let row = out.add(i * stride);
            sums[0].store(row);
            sums[1].store(row.add(V::LEN));
        }
    }
}

/// One step along the inner dimension: a column of `a` times a row of `b`.
///
/// # Safety
/// The CPU has the vector's instructions; `ROWS` numbers may be read at `a`, two vectors at `b`.
#[inline(always)]
#[expect(clippy::multiple_unsafe_ops_per_block, reason = "as in `tile`")]
unsafe fn add_step<V: Vector, const ROWS: usize>(
    sums: &mut [[V; 2]; ROWS],
    a: *const f32,
    b: *const f32,
) {
    // SAFETY: the caller's guarantees.
    unsafe {
        let row = [V::load(b), V::load(b.add(V::LEN))];
        for i in 0..ROWS {
            let x = V::splat(*a.add(i));
            sums[i][0] = sums[i][0].add_product(x, row[0]);
            sums[i][1] = sums[i][1].add_product(x, row[1]);
        }
    }
}

impl Start<'_> {
    #[inline(always)]
    fn columns(self, first: usize, n: usize) -> Self {
        match self {
            Start::Row(row) => Start::Row(&row[first..first + n]),
            other => other,
        }
    }
}
