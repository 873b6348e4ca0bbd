//! What the library tells an app that listens. Without a callback it is silent; it never prints.

use crate::status::Text;
use core::ffi::{c_char, c_void};
use core::fmt;

/// How important a message is.
pub type xelm_log_level = i32;
/// Something went on that the caller did not ask for in so many words.
pub const XELM_LOG_WARN: xelm_log_level = 1;
/// Something was opened.
pub const XELM_LOG_INFO: xelm_log_level = 2;

/// Receives a message: NUL-terminated, valid during the call.
pub type xelm_on_log =
    Option<unsafe extern "C" fn(user: *mut c_void, level: xelm_log_level, text: *const c_char)>;

/// The callback and what it is called with.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Log {
    pub(crate) on_log: xelm_on_log,
    pub(crate) user: *mut c_void,
}

impl Log {
    pub(crate) const NONE: Log = Log { on_log: None, user: core::ptr::null_mut() };

    pub(crate) fn info(&self, message: fmt::Arguments<'_>) {
        self.say(XELM_LOG_INFO, message);
    }

    pub(crate) fn warn(&self, message: fmt::Arguments<'_>) {
        self.say(XELM_LOG_WARN, message);
    }

    fn say(&self, level: xelm_log_level, message: fmt::Arguments<'_>) {
        if let Some(on_log) = self.on_log {
            let text = Text::<256>::new(message);
            // SAFETY: the header's rule for callbacks.
            unsafe { on_log(self.user, level, text.as_ptr()) };
        }
    }
}
