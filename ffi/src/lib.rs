//! The C ABI of the xelm runtime, declared in `include/xelm.h`.
//!
//! Every handle lives in memory of the caller's: ask for its size, hand over that much, close it
//! when done. The conventions that hold for all functions stand at the top of the header, which
//! `cbindgen` generates from this crate.
//!
//! Without the feature `std` the library maps no files and starts no threads, and neither it nor
//! anything in it has an allocator: sets and experts are opened from bytes.
//!
//! Floors: [`status`] → `pointer`, [`log`], `source`, `device` → [`params`] → [`set`], [`expert`] →
//! [`ensemble`] → [`session`] → [`text`], [`state`].

#![cfg_attr(not(feature = "std"), no_std)]
#![allow(
    non_camel_case_types,
    clippy::missing_safety_doc,
    clippy::multiple_unsafe_ops_per_block,
    reason = "the names are C's; what every pointer must be is said once, in the header"
)]

mod device;
pub mod ensemble;
pub mod expert;
pub mod log;
pub mod params;
mod pointer;
pub mod session;
pub mod set;
mod source;
pub mod state;
pub mod status;
pub mod text;

/// What a panic does where there is nothing to unwind with.
#[cfg(all(not(feature = "std"), not(test)))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    unsafe extern "C" {
        safe fn abort() -> !;
    }
    abort()
}
