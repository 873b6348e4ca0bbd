//! Products against sums in double precision, at every edge of a tile.

use super::kernel::{BLOCK_INNER, Kernel};
use super::{Mat, Start, gemm, par_gemm};
use xelm_runtime::isa::Isa;
use xelm_runtime::rng::Rng;

fn kernels() -> Vec<Kernel> {
    let all = Isa::supported().into_iter().flatten();
    all.flat_map(|isa| [Kernel::f32(isa), Kernel::bf16(isa)]).collect()
}

fn random(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.next_normal()).collect()
}

fn to_bf16(x: f32) -> f32 {
    half::bf16::from_f32(x).to_f32()
}

#[derive(Clone, Copy, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    a_transposed: bool,
    b_transposed: bool,
    /// More than a row of either factor or of the output holds.
    gap: usize,
}

impl Case {
    /// The product by every kernel, with every start, on one thread and on all.
    fn check(self) {
        let Case { m, n, k, gap, .. } = self;
        let rng = &mut Rng::new((m * 1009 + n * 31 + k) as u64, 0);
        let side = |transposed: bool, rows: usize, cols: usize| {
            if transposed { (cols, rows) } else { (rows, cols) }
        };
        let (a_rows, a_cols) = side(self.a_transposed, m, k);
        let (b_rows, b_cols) = side(self.b_transposed, k, n);
        let a_data = random(rng, a_rows * (a_cols + gap));
        let b_data = random(rng, b_rows * (b_cols + gap));
        let a = Mat::strided(&a_data, a_rows, a_cols, a_cols + gap);
        let b = Mat::strided(&b_data, b_rows, b_cols, b_cols + gap);
        let a = if self.a_transposed { a.transposed() } else { a };
        let b = if self.b_transposed { b.transposed() } else { b };
        let row = random(rng, n);
        let old = random(rng, m * (n + gap));
        for kernel in kernels() {
            let exact = |i: usize, j: usize| -> f64 {
                let round = |x: f32| f64::from(if kernel.depth() == 2 { to_bf16(x) } else { x });
                (0..k).map(|l| round(a.at_or_zero(i, l)) * round(b.at_or_zero(l, j))).sum()
            };
            for start in [Start::Zero, Start::Row(&row), Start::Output] {
                // Without a start, what the output held must not matter.
                let zero = matches!(start, Start::Zero);
                let mut out = if zero { vec![f32::NAN; old.len()] } else { old.clone() };
                gemm(kernel, &mut out, n + gap, a, b, start);
                let mut dense = vec![f32::NAN; m * n];
                for i in 0..m {
                    if !zero {
                        dense[i * n..][..n].copy_from_slice(&old[i * (n + gap)..][..n]);
                    }
                }
                par_gemm(kernel, &mut dense, a, b, start, &mut Vec::new());
                for i in 0..m {
                    for j in 0..n {
                        let start = match start {
                            Start::Zero => 0.0,
                            Start::Row(row) => row[j],
                            Start::Output => old[i * (n + gap) + j],
                        };
                        let want = f64::from(start) + exact(i, j);
                        let got = out[i * (n + gap) + j];
                        let error = (f64::from(got) - want).abs();
                        let tolerance = 1e-6 * (k as f64 + 8.0);
                        assert!(error <= tolerance, "{self:?} {kernel:?} {i} {j}: {got} {want}");
                        assert_eq!(
                            got.to_bits(),
                            dense[i * n + j].to_bits(),
                            "{self:?} {kernel:?}"
                        );
                    }
                    let gap_before = &old[i * (n + gap)..][n..n + gap];
                    let gap_after = &out[i * (n + gap)..][n..n + gap];
                    assert!(zero || gap_before == gap_after, "{self:?} {kernel:?}: beyond the row");
                }
            }
        }
    }
}

#[test]
fn every_edge_of_a_tile() {
    let mut case = Case { m: 0, n: 0, k: 0, a_transposed: false, b_transposed: false, gap: 0 };
    for (i, m) in (1..=15).chain([28, 29, 150]).enumerate() {
        for n in [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 70] {
            let k = [1, 2, 3, 4, 5, 8, 31][(i + n) % 7];
            case = Case { m, n, k, gap: (m + n) % 3, ..case };
            case.a_transposed = !case.a_transposed;
            case.b_transposed ^= case.a_transposed;
            case.check();
        }
    }
}

#[test]
fn every_edge_of_a_block() {
    for k in [BLOCK_INNER - 1, BLOCK_INNER, BLOCK_INNER + 1, 2 * BLOCK_INNER + 3] {
        for (a_transposed, b_transposed) in [(false, true), (true, false)] {
            Case { m: 17, n: 35, k, a_transposed, b_transposed, gap: 1 }.check();
        }
    }
}

/// Kernels that fuse sum in order, whatever their tiles: the bits of one CPU are those of another.
#[test]
fn fused_sums_have_one_order() {
    let rng = &mut Rng::new(1, 0);
    let (m, n, k) = (40, 50, BLOCK_INNER + 188);
    let (a, b) = (random(rng, m * k), random(rng, k * n));
    for kernel in kernels().into_iter().filter(|k| k.depth() == 1 && k.columns() > 8) {
        let mut out = vec![0.0; m * n];
        gemm(kernel, &mut out, n, Mat::rows(&a, k), Mat::rows(&b, n), Start::Zero);
        for (i, out) in out.chunks_exact(n).enumerate() {
            for (j, x) in out.iter().enumerate() {
                let want = (0..k).fold(0.0f32, |sum, l| a[i * k + l].mul_add(b[l * n + j], sum));
                assert_eq!(x.to_bits(), want.to_bits(), "{kernel:?}");
            }
        }
    }
}

#[test]
fn nothing_to_multiply() {
    for kernel in kernels() {
        gemm(kernel, &mut [], 3, Mat::strided(&[], 0, 2, 2), Mat::rows(&[1.0; 6], 3), Start::Zero);
    }
}

#[test]
fn not_a_number_stays_visible() {
    for kernel in kernels() {
        for (bad, n) in [(f32::NAN, 3), (f32::INFINITY, 40), (f32::from_bits(0x7fff_ffff), 3)] {
            let mut out = vec![0.0; n];
            let mut a = [1.0; 5];
            a[3] = bad;
            gemm(
                kernel,
                &mut out,
                n,
                Mat::rows(&a, 5),
                Mat::rows(&vec![1.0; 5 * n], n),
                Start::Zero,
            );
            assert!(out.iter().all(|x| !x.is_finite()), "{kernel:?} {bad}");
        }
    }
}
