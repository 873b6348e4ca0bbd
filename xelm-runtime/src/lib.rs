//! The runtime of xelm: cross-lingual expert language models on a device.
//!
//! An expert is a whole language model for a group of related languages. This crate reads expert
//! files in place, chooses the expert for a language, and generates or scores text in memory that
//! the caller supplies. Its core is `no_std` and never allocates; the feature `std` adds mapped
//! files, a thread pool, CPU detection, and the writers that the offline tools use; `cuda` an NVIDIA card.
//!
//! Floors, each standing on those before it:
//! [`error`], [`math`], [`rng`], [`isa`], [`arena`] → [`quant`], [`trie`] → [`layout`], [`format`] →
//! [`tokenizer`], [`config`], [`shortlist`], [`lang`] → [`expert`] → [`set`] → [`router`], [`kernels`],
//! [`parallel`], [`observe`] → [`ensemble`], [`sampler`], [`device`] → [`session`] → [`score`]; with `std` also
//! `mmap`, `pool` → `pack`; with the feature `cuda` also `cuda`, a [`device`].

#![no_std]
#![warn(clippy::std_instead_of_core)]

#[cfg(any(test, feature = "std"))]
extern crate std;

pub mod arena;
mod cache;
pub mod config;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod ensemble;
pub mod error;
pub mod expert;
pub mod format;
mod forward;
pub mod isa;
pub mod kernels;
pub mod lang;
pub mod layout;
pub mod math;
mod mixture;
pub mod observe;
pub mod parallel;
pub mod quant;
pub mod rng;
pub mod router;
pub mod sampler;
pub mod score;
pub mod session;
pub mod set;
pub mod shortlist;
pub mod tokenizer;
pub mod trie;

#[cfg(feature = "std")]
pub mod crew;
#[cfg(feature = "std")]
pub mod mmap;
#[cfg(feature = "std")]
pub mod pack;
#[cfg(feature = "std")]
pub mod pool;

pub use error::{Error, Result};
