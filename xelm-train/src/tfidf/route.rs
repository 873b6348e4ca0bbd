//! Routing many texts through the runtime's router, in parallel.

use super::file::in_memory;
use crate::memory::Memory;
use rayon::prelude::*;
use xelm_runtime::arena::Arena;
use xelm_runtime::format::Gguf;
use xelm_runtime::router::{Context, Router, RouterTensors};
use xelm_runtime::{Error, Result};

/// Texts that share a context.
const PART: usize = 64;

/// The nearest expert of each text.
///
/// # Errors
/// The router has more dimensions than memory addresses.
pub fn nearest<S: AsRef<str> + Sync>(router: &Router<'_>, texts: &[S]) -> Result<Vec<u32>> {
    let parts: Result<Vec<Vec<u32>>> =
        texts.par_chunks(PART).map(|texts| nearest_in_turn(router, texts)).collect();
    Ok(parts?.concat())
}

/// The mean vector of texts; those without a word that the router knows count as zero.
///
/// # Errors
/// The router has more dimensions than memory addresses.
pub(super) fn mean<S: AsRef<str>>(router: &Router<'_>, texts: &[S]) -> Result<Vec<f32>> {
    let mut plan = Arena::measure();
    Context::carve(&mut plan, Some(router))?;
    let mut memory = Memory::new(plan.used());
    let mut context = Context::carve(&mut Arena::new(memory.bytes())?, Some(router))?;
    let mut sums: Vec<f64> = Vec::new();
    for text in texts {
        context.reset();
        context.feed(router, text.as_ref());
        let vector = context.vector(router);
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        sums.resize(vector.len(), 0.0);
        sums.iter_mut().zip(vector).for_each(|(sum, x)| *sum += f64::from(x / norm));
    }
    Ok(sums.iter().map(|sum| (sum / texts.len().max(1) as f64) as f32).collect())
}

fn nearest_in_turn<S: AsRef<str>>(router: &Router<'_>, texts: &[S]) -> Result<Vec<u32>> {
    let mut plan = Arena::measure();
    Context::carve(&mut plan, Some(router))?;
    let mut memory = Memory::new(plan.used());
    let mut context = Context::carve(&mut Arena::new(memory.bytes())?, Some(router))?;
    let nearest = texts.iter().map(|text| {
        context.reset();
        context.feed(router, text.as_ref());
        // A router has one expert at least, and all are present.
        router.nearest(context.vector(router), &|_| true).unwrap_or(0) as u32
    });
    Ok(nearest.collect())
}

/// Opens tables that are in no file.
///
/// # Errors
/// They break a rule of the format.
pub fn with_router<T>(
    tensors: &RouterTensors,
    work: impl FnOnce(&Router<'_>) -> Result<T>,
) -> Result<T> {
    let mut memory: Memory = in_memory(tensors)?;
    let gguf = Gguf::open(memory.bytes())?;
    work(&Router::open(&gguf)?.ok_or(Error::NoRouter)?)
}
