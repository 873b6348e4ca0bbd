//! Matrix products by the cuBLASLt library, with the plan of each shape made once and kept.

#![allow(unsafe_code, reason = "cuBLASLt is a C library")]

use super::device::{Layout, Precision, Product};
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtEpilogue_t, cublasLtMatmulDescAttributes_t,
    cublasLtMatmulPreferenceAttributes_t as Preference, cudaDataType,
};
use cudarc::driver::result as driver;
use cudarc::driver::sys::CUstream;
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::mem::size_of_val;

/// Work memory of the library, as NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;
/// Sums over parts of k may meet in a workspace of f32, never in the result itself: one order.
const REDUCTION_IN_WORKSPACE: u32 = 2;

/// The library, opened.
pub(super) struct CublasLt {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    /// A shape for which the library has no algorithm maps to none.
    plans: HashMap<Key, Option<Plan>>,
}

/// What a plan depends on: the product without its addresses, but with their alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    layout: (bool, bool),
    wide: bool,
    bias: bool,
    size: (usize, usize, usize),
    alignment: [u32; 3],
}

/// Descriptors and algorithm of a product.
struct Plan {
    product: sys::cublasLtMatmulDesc_t,
    a: sys::cublasLtMatrixLayout_t,
    b: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl fmt::Debug for CublasLt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CublasLt").field("plans", &self.plans.len()).finish_non_exhaustive()
    }
}

impl CublasLt {
    /// Opens the library for the current context; none where it refuses.
    pub(super) fn new() -> Option<Self> {
        let handle = result::create_handle().ok()?;
        // SAFETY: work memory without type, freed in `drop`.
        let workspace = unsafe { driver::malloc_sync(WORKSPACE) }.ok()?;
        Some(CublasLt { handle, workspace, plans: HashMap::new() })
    }

    /// Queues a product; false where the library has no algorithm for it.
    pub(super) fn multiply(
        &mut self,
        product: &Product,
        precision: Precision,
        stream: CUstream,
    ) -> bool {
        let key = Key::new(product);
        let handle = self.handle;
        let new = || Plan::new(handle, key, precision, product.bias.0).ok();
        let plan = self.plans.entry(key).or_insert_with(new);
        let Some(plan) = plan else { return false };
        if key.bias && plan.set_bias(product.bias.0).is_err() {
            return false;
        }
        let (alpha, beta) = (1.0f32, if product.accumulate { 1.0f32 } else { 0.0 });
        // The library's matrices are column-major: a row-major product is that of the transposed
        // operands, in reverse order.
        // SAFETY: the plan's descriptors live as long as `self`; the addresses lie in memory of the
        // device and hold matrices of the key's sizes; the scalars are read during the call.
        let outcome = unsafe {
            result::matmul(
                handle,
                plan.product,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                product.b.0 as *const c_void,
                plan.b,
                product.a.0 as *const c_void,
                plan.a,
                product.out.0 as *const c_void,
                plan.out,
                product.out.0 as *mut c_void,
                plan.out,
                &raw const plan.algorithm,
                self.workspace as *mut c_void,
                WORKSPACE,
                stream.cast(),
            )
        };
        outcome.is_ok()
    }
}

impl Key {
    fn new(p: &Product) -> Self {
        Key {
            layout: (p.layout == Layout::TN, p.layout == Layout::NT),
            wide: p.wide,
            bias: p.bias.0 != 0,
            size: (p.m, p.n, p.k),
            alignment: [p.a, p.b, p.out].map(|x| 1 << x.0.trailing_zeros().min(8)),
        }
    }
}

impl Plan {
    fn new(
        handle: sys::cublasLtHandle_t,
        key: Key,
        precision: Precision,
        bias: u64,
    ) -> Result<Self, CublasError> {
        let operand = match precision {
            Precision::F32 => cudaDataType::CUDA_R_32F,
            Precision::Bf16 => cudaDataType::CUDA_R_16BF,
        };
        let result_type = if key.wide { cudaDataType::CUDA_R_32F } else { operand };
        let (m, n, k) = (key.size.0 as u64, key.size.1 as u64, key.size.2 as u64);
        let (a_trans, b_trans) = key.layout;
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
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
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
        plan.with_algorithm(handle, key)
    }

    fn with_algorithm(
        mut self,
        handle: sys::cublasLtHandle_t,
        key: Key,
    ) -> Result<Self, CublasError> {
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
        // SAFETY: all descriptors are alive.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                handle,
                self.product,
                self.b,
                self.a,
                self.out,
                self.out,
                preference.0,
            )
        }?;
        self.algorithm = found.algo;
        Ok(self)
    }

    fn set<V>(&self, what: cublasLtMatmulDescAttributes_t, value: &V) -> Result<(), CublasError> {
        let bytes = (value as *const V).cast();
        // SAFETY: the descriptor is alive; the value is read during the call.
        unsafe { result::set_matmul_desc_attribute(self.product, what, bytes, size_of_val(value)) }
    }

    fn set_bias(&self, bias: u64) -> Result<(), CublasError> {
        self.set(cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)
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

impl Drop for CublasLt {
    fn drop(&mut self) {
        self.plans.clear();
        // SAFETY: nothing uses the library or its work memory any more.
        let _ = unsafe { result::destroy_handle(self.handle) };
        // SAFETY: as above.
        let _ = unsafe { driver::free_sync(self.workspace) };
    }
}
