//! A stream's stopwatch.

#![allow(unsafe_code, reason = "the driver is a C library")]

use cudarc::driver::result::event;
use cudarc::driver::sys::{self, CUevent, CUevent_flags, CUstream};

/// The first driver whose events tell times by the call that is used here.
const MIN_DRIVER: i32 = 12_080;

/// Two events of a stream.
pub(super) struct Clock {
    stream: CUstream,
    start: CUevent,
    stop: CUevent,
}

impl Clock {
    /// A clock for a stream of the current context; none where the driver is older than CUDA 12.8.
    pub(super) fn new(stream: CUstream) -> Option<Self> {
        let mut version = 0;
        // SAFETY: the number is written during the call.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().ok()?;
        let new = || event::create(CUevent_flags::CU_EVENT_DEFAULT).ok();
        let start = (version >= MIN_DRIVER).then(new)??;
        let Some(stop) = new() else {
            // SAFETY: just created.
            let _ = unsafe { event::destroy(start) };
            return None;
        };
        Some(Clock { stream, start, stop })
    }

    /// Starts when all that was queued is done; false where the card has failed.
    pub(super) fn start(&self) -> bool {
        // SAFETY: event and stream are alive.
        unsafe { event::record(self.start, self.stream) }.is_ok()
    }

    /// Waits for what was queued since, and tells its milliseconds.
    pub(super) fn stop(&self) -> Option<f32> {
        // SAFETY: event and stream are alive.
        unsafe { event::record(self.stop, self.stream) }.ok()?;
        // SAFETY: as above.
        unsafe { event::synchronize(self.stop) }.ok()?;
        // SAFETY: both were recorded and are done.
        unsafe { event::elapsed(self.start, self.stop) }.ok()
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        for event in [self.start, self.stop] {
            // SAFETY: this clock's own.
            let _ = unsafe { event::destroy(event) };
        }
    }
}
