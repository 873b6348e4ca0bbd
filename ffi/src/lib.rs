//! The C ABI of the xelm runtime, declared in `include/xelm.h`.
//!
//! Every handle lives in memory of the caller's: ask for its size, hand over that much, close it
//! when done. The conventions that hold for all functions stand at the top of the header, which
//! `cbindgen` generates from this crate.
//!
//! Floors: [`status`] → `pointer` → [`params`] → [`set`] → [`expert`] → [`session`].

#![allow(
    non_camel_case_types,
    clippy::missing_safety_doc,
    clippy::multiple_unsafe_ops_per_block,
    reason = "the names are C's; what every pointer must be is said once, in the header"
)]

pub mod expert;
pub mod params;
mod pointer;
pub mod session;
pub mod set;
pub mod status;
