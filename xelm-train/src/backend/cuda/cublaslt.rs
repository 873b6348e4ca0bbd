//! Matrix products by the cuBLASLt library. Which of its algorithms computes a shape is decided once, by
//! timing, and kept: another one would round differently.

#![allow(unsafe_code, reason = "cuBLASLt is a C library")]

use super::clock::Clock;
use super::device::{Precision, Product};
use super::plan::{Algorithm, Key, Plan, WORKSPACE};
use crate::backend::Plans;
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::result as driver;
use cudarc::driver::sys::CUstream;
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;

/// Algorithms that are timed for a shape, at most.
const CANDIDATES: usize = 8;
/// Runs of each that are timed together, after one that is not.
const RUNS: usize = 4;
/// Share of the time of an earlier proposal below which a later one is faster: less is noise.
const FASTER: f32 = 0.97;

/// The library, opened.
pub(super) struct CublasLt {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    stream: CUstream,
    /// None where algorithms are not timed.
    clock: Option<Clock>,
    /// A shape for which the library has no algorithm maps to none.
    plans: HashMap<Key, Option<Plan>>,
    /// The algorithm of every shape so far, and of those that a job used before.
    record: Plans,
}

impl fmt::Debug for CublasLt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CublasLt").field("plans", &self.plans.len()).finish_non_exhaustive()
    }
}

impl CublasLt {
    /// Opens the library for a stream of the current context, on a card of this name; none where it refuses.
    pub(super) fn new(card: &str, stream: CUstream) -> Option<Self> {
        let handle = result::create_handle().ok()?;
        // SAFETY: work memory without type, freed in `drop`.
        let workspace = unsafe { driver::malloc_sync(WORKSPACE) }.ok()?;
        // SAFETY: the function takes nothing and returns a number.
        let library = unsafe { sys::cublasLtGetVersion() } as u64;
        let record = Plans { card: card.to_owned(), library, ..Plans::default() };
        let clock = Clock::new(stream);
        Some(CublasLt { handle, workspace, stream, clock, plans: HashMap::new(), record })
    }

    /// Takes the library's first proposal for every shape.
    pub(super) fn without_timing(&mut self) {
        self.clock = None;
    }

    /// The algorithms so far.
    pub(super) fn record(&self) -> &Plans {
        &self.record
    }

    /// Goes on with the algorithms of an earlier record; false where it is that of another card or library.
    pub(super) fn repeat(&mut self, record: &Plans) -> bool {
        let fits = self.record.fit(record);
        if fits {
            self.plans.clear();
            self.record = record.clone();
        }
        fits
    }

    /// Whether it is decided how products of this shape are computed.
    pub(super) fn is_planned(&self, product: &Product, precision: Precision) -> bool {
        self.plans.contains_key(&Key::new(product, precision))
    }

    /// Decides how products of this shape are computed; false where the library has no algorithm. Its own runs
    /// write over the result, unless products are added to it.
    pub(super) fn plan(&mut self, product: &Product, precision: Precision) -> bool {
        let key = Key::new(product, precision);
        if !self.plans.contains_key(&key) {
            let plan = self.choose(key, product).ok();
            if let Some(plan) = &plan {
                self.record.algorithms.insert(key.to_string(), plan.algorithm.to_text());
            }
            self.plans.insert(key, plan);
        }
        self.plans[&key].is_some()
    }

    /// Queues a product that was planned.
    pub(super) fn multiply(
        &self,
        product: &Product,
        precision: Precision,
    ) -> Result<(), CublasError> {
        match self.plans.get(&Key::new(product, precision)) {
            Some(Some(plan)) => {
                if product.bias.0 != 0 {
                    plan.set_bias(product.bias.0)?;
                }
                self.run(plan, plan.algorithm, product, product.out.0)
            }
            _ => Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)),
        }
    }

    /// The recorded algorithm, or the fastest one.
    fn choose(&self, key: Key, product: &Product) -> Result<Plan, CublasError> {
        let mut plan = Plan::new(key, product.bias.0)?;
        let recorded = self.record.algorithms.get(&key.to_string());
        let recorded = recorded.and_then(|text| Algorithm::from_text(text));
        if let Some(algorithm) = recorded.filter(|&a| plan.accepts(self.handle, a)) {
            plan.algorithm = algorithm;
            return Ok(plan);
        }
        let candidates = plan.candidates(self.handle, key, CANDIDATES)?;
        let fastest = self.fastest(&plan, &candidates, product);
        plan.algorithm = fastest
            .or(candidates.first().copied())
            .ok_or(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED))?;
        Ok(plan)
    }

    /// The fastest of several algorithms, or the first that works where they are not timed.
    fn fastest(
        &self,
        plan: &Plan,
        candidates: &[Algorithm],
        product: &Product,
    ) -> Option<Algorithm> {
        // A sum must not grow by what is only tried.
        let scratch = if product.accumulate {
            // SAFETY: work memory without type, freed below.
            Some(unsafe { driver::malloc_sync(product.m * product.n * size_of::<f32>()) }.ok()?)
        } else {
            None
        };
        let out = scratch.unwrap_or(product.out.0);
        let works = |algorithm| self.run(plan, algorithm, product, out).is_ok();
        let fastest = match &self.clock {
            Some(clock) if candidates.len() > 1 => {
                let time = |algorithm| {
                    (works(algorithm) && clock.start()).then_some(())?;
                    (0..RUNS).all(|_| works(algorithm)).then(|| clock.stop())?
                };
                let times = candidates.iter().filter_map(|&a| Some((a, time(a)?)));
                let better = |best: (Algorithm, f32), next: (Algorithm, f32)| {
                    if next.1 < FASTER * best.1 { next } else { best }
                };
                times.reduce(better).map(|(algorithm, _)| algorithm)
            }
            _ => candidates.iter().copied().find(|&a| works(a)),
        };
        if let Some(scratch) = scratch {
            // SAFETY: the stream outlives this library.
            let _ = unsafe { driver::stream::synchronize(self.stream) };
            // SAFETY: allocated above, and nothing uses it any more.
            let _ = unsafe { driver::free_sync(scratch) };
        }
        fastest
    }

    fn run(
        &self,
        plan: &Plan,
        algorithm: Algorithm,
        product: &Product,
        out: u64,
    ) -> Result<(), CublasError> {
        let (alpha, beta) = (1.0f32, if product.accumulate { 1.0f32 } else { 0.0 });
        // The library's matrices are column-major: a row-major product is that of the transposed
        // operands, in reverse order.
        // SAFETY: the plan's descriptors live as long as `self`; the addresses lie in memory of the
        // device and hold matrices of the plan's sizes; the scalars are read during the call.
        unsafe {
            result::matmul(
                self.handle,
                plan.product,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                product.b.0 as *const c_void,
                plan.b,
                product.a.0 as *const c_void,
                plan.a,
                out as *const c_void,
                plan.out,
                out as *mut c_void,
                plan.out,
                &raw const algorithm.0,
                self.workspace as *mut c_void,
                WORKSPACE,
                self.stream.cast(),
            )
        }
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        self.plans.clear();
        self.clock = None;
        // SAFETY: nothing uses the library or its work memory any more.
        let _ = unsafe { result::destroy_handle(self.handle) };
        // SAFETY: as above.
        let _ = unsafe { driver::free_sync(self.workspace) };
    }
}
