//! Copies to the card that the host does not wait for.

#![allow(unsafe_code, reason = "the driver is a C library")]

use super::device::Ptr;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

/// Bytes of an upload that is staged: a micro-batch has far fewer.
pub(super) const STAGED: usize = 1 << 20;

/// Page-locked memory, from which copies run while the host goes on; the event ends with the copy.
#[derive(Debug)]
pub(super) struct Staging {
    memory: *mut u8,
    copied: sys::CUevent,
}

impl Staging {
    pub(super) fn new() -> std::result::Result<Self, DriverError> {
        // SAFETY: memory without type, freed in `free`.
        let memory = unsafe { result::malloc_host(STAGED, 0) }?.cast();
        let copied = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        Ok(Staging { memory, copied })
    }

    /// Queues a copy of at most [`STAGED`] bytes, after the last one from here is done.
    pub(super) fn copy(
        &self,
        to: Ptr,
        bytes: &[u8],
        stream: sys::CUstream,
    ) -> std::result::Result<(), DriverError> {
        assert!(bytes.len() <= STAGED, "more than the staging memory holds");
        // SAFETY: the event is this struct's own; one that was never recorded counts as done.
        unsafe { result::event::synchronize(self.copied) }?;
        // SAFETY: at most STAGED bytes, by the assertion, and nothing reads the memory any more.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.memory, bytes.len()) };
        // SAFETY: just written, and not written again before the copy is done.
        let staged = unsafe { std::slice::from_raw_parts(self.memory, bytes.len()) };
        // SAFETY: `to` lies in memory of this device with room for the bytes.
        unsafe { result::memcpy_htod_async(to.0, staged, stream) }?;
        // SAFETY: event and stream are alive.
        unsafe { result::event::record(self.copied, stream) }
    }

    pub(super) fn free(&self) {
        // SAFETY: the stream was waited for; neither is used again.
        let _ = unsafe { result::event::destroy(self.copied) };
        // SAFETY: as above.
        let _ = unsafe { result::free_host(self.memory.cast()) };
    }
}
