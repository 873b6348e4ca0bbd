//! A product as the library knows it: descriptors and an algorithm.

#![allow(unsafe_code, reason = "cuBLASLt is a C library")]

use super::device::{Layout, Precision, Product};
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtEpilogue_t, cublasLtMatmulDescAttributes_t,
    cublasLtMatmulHeuristicResult_t as Found, cublasLtMatmulPreferenceAttributes_t as Preference,
    cudaDataType,
};
use std::fmt::{self, Write};
use std::mem::size_of_val;

/// Work memory of the library, as NVIDIA recommends for Hopper.
pub(super) const WORKSPACE: usize = 32 << 20;
/// Sums over parts of k may meet in a workspace of f32, never in the result itself: one order.
const REDUCTION_IN_WORKSPACE: u32 = 2;

/// What a plan depends on: the product without its addresses, but with their alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) precision: Precision,
    pub(super) layout: Layout,
    pub(super) wide: bool,
    pub(super) bias: bool,
    pub(super) size: (usize, usize, usize),
    pub(super) alignment: [u32; 3],
}

impl Key {
    pub(super) fn new(p: &Product, precision: Precision) -> Self {
        Key {
            precision,
            layout: p.layout,
            wide: p.wide,
            bias: p.bias.0 != 0,
            size: (p.m, p.n, p.k),
            alignment: [p.a, p.b, p.out].map(|x| 1 << x.0.trailing_zeros().min(8)),
        }
    }

    /// Which operands are stored transposed, as columns of k.
    pub(super) fn transposed(&self) -> (bool, bool) {
        (self.layout == Layout::TN, self.layout == Layout::NT)
    }
}

/// As the record names it: `bf16 NT 512x1536x384 bias aligned 256,256,256`.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let precision = match self.precision {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        };
        let (m, n, k) = self.size;
        let bias = if self.bias { " bias" } else { "" };
        let wide = if self.wide { " wide" } else { "" };
        let [a, b, out] = self.alignment;
        write!(f, "{precision} {:?} {m}x{n}x{k}{bias}{wide} aligned {a},{b},{out}", self.layout)
    }
}

/// One of the library's algorithms.
#[derive(Clone, Copy)]
pub(super) struct Algorithm(pub(super) sys::cublasLtMatmulAlgo_t);

impl Algorithm {
    /// Its eight words, hexadecimal.
    pub(super) fn to_text(self) -> String {
        self.0.data.iter().fold(String::new(), |mut text, word| {
            let _ = write!(text, "{word:016x}");
            text
        })
    }

    /// What [`Algorithm::to_text`] wrote.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let mut data = [0; 8];
        for (i, word) in data.iter_mut().enumerate() {
            *word = u64::from_str_radix(text.get(i * 16..(i + 1) * 16)?, 16).ok()?;
        }
        (text.len() == 128).then_some(Algorithm(sys::cublasLtMatmulAlgo_t { data }))
    }
}

/// Descriptors and algorithm of a product.
pub(super) struct Plan {
    pub(super) product: sys::cublasLtMatmulDesc_t,
    pub(super) a: sys::cublasLtMatrixLayout_t,
    pub(super) b: sys::cublasLtMatrixLayout_t,
    pub(super) out: sys::cublasLtMatrixLayout_t,
    pub(super) algorithm: Algorithm,
}

impl Plan {
    /// A product's descriptors; its algorithm is to be chosen.
    pub(super) fn new(key: Key, bias: u64) -> Result<Self, CublasError> {
        let operand = match key.precision {
            Precision::F32 => cudaDataType::CUDA_R_32F,
            Precision::Bf16 => cudaDataType::CUDA_R_16BF,
        };
        let result_type = if key.wide { cudaDataType::CUDA_R_32F } else { operand };
        let (m, n, k) = (key.size.0 as u64, key.size.1 as u64, key.size.2 as u64);
        let (a_trans, b_trans) = key.transposed();
        let layout = |kind, rows: u64, cols: u64| {
            result::create_matrix_layout(kind, rows, cols, rows as i64)
        };
        let plan = Plan {
            product: result::create_matmul_desc(
                cublasComputeType_t::CUBLAS_COMPUTE_32F,
                cudaDataType::CUDA_R_32F,
            )?,
            a: if a_trans { layout(operand, m, k)? } else { layout(operand, k, m)? },
            b: if b_trans { layout(operand, k, n)? } else { layout(operand, n, k)? },
            out: layout(result_type, n, m)?,
            algorithm: Algorithm(sys::cublasLtMatmulAlgo_t { data: [0; 8] }),
        };
        use cublasLtMatmulDescAttributes_t as Attribute;
        // In the library's order the right operand comes first.
        plan.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &i32::from(b_trans))?;
        plan.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &i32::from(a_trans))?;
        if key.bias {
            let epilogue = cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            plan.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            // The choice of an algorithm looks at the bias too.
            plan.set_bias(bias)?;
        }
        Ok(plan)
    }

    /// Up to `n` algorithms that give the same bits each time, the best first as the library sees it.
    pub(super) fn candidates(
        &self,
        handle: sys::cublasLtHandle_t,
        key: Key,
        n: usize,
    ) -> Result<Vec<Algorithm>, CublasError> {
        let preference = PreferenceHandle(result::create_matmul_pref()?);
        let [a, b, out] = key.alignment;
        for (what, value) in [
            (Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, REDUCTION_IN_WORKSPACE),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out),
        ] {
            preference.set(what, &value)?;
        }
        let workspace = WORKSPACE as u64;
        preference.set(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace)?;
        let mut found = vec![nothing_found(); n];
        let mut n_found = 0;
        // SAFETY: all descriptors are alive; there is room for as many results as are asked for.
        let outcome = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                handle,
                self.product,
                self.b,
                self.a,
                self.out,
                self.out,
                preference.0,
                n as i32,
                found.as_mut_ptr(),
                &raw mut n_found,
            )
        };
        outcome.result()?;
        found.truncate(usize::try_from(n_found).unwrap_or(0));
        Ok(found.iter().filter(|f| f.state.result().is_ok()).map(|f| Algorithm(f.algo)).collect())
    }

    /// Whether the library can compute this product by an algorithm.
    pub(super) fn accepts(&self, handle: sys::cublasLtHandle_t, algorithm: Algorithm) -> bool {
        let mut found = nothing_found();
        // SAFETY: all descriptors are alive; the algorithm is read during the call.
        let outcome = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                handle,
                self.product,
                self.b,
                self.a,
                self.out,
                self.out,
                &raw const algorithm.0,
                &raw mut found,
            )
        };
        outcome.result().is_ok() && found.workspaceSize <= WORKSPACE
    }

    fn set<V>(&self, what: cublasLtMatmulDescAttributes_t, value: &V) -> Result<(), CublasError> {
        let bytes = (value as *const V).cast();
        // SAFETY: the descriptor is alive; the value is read during the call.
        unsafe { result::set_matmul_desc_attribute(self.product, what, bytes, size_of_val(value)) }
    }

    pub(super) fn set_bias(&self, bias: u64) -> Result<(), CublasError> {
        self.set(cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)
    }
}

/// Where the library puts what it found.
fn nothing_found() -> Found {
    Found {
        algo: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        workspaceSize: 0,
        state: sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
        wavesCount: 0.0,
        reserved: [0; 4],
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: the descriptors are this plan's own.
        let _ = unsafe { result::destroy_matmul_desc(self.product) };
        for layout in [self.a, self.b, self.out] {
            // SAFETY: as above.
            let _ = unsafe { result::destroy_matrix_layout(layout) };
        }
    }
}

/// What an algorithm is chosen by.
struct PreferenceHandle(sys::cublasLtMatmulPreference_t);

impl PreferenceHandle {
    fn set<V>(&self, what: Preference, value: &V) -> Result<(), CublasError> {
        let bytes = (value as *const V).cast();
        // SAFETY: the preference is alive; the value is read during the call.
        unsafe { result::set_matmul_pref_attribute(self.0, what, bytes, size_of_val(value)) }
    }
}

impl Drop for PreferenceHandle {
    fn drop(&mut self) {
        // SAFETY: this handle's own.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}
