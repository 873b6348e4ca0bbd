//! What the tests of the C ABI share: handles with the memory that they live in.

#![allow(
    clippy::multiple_unsafe_ops_per_block,
    clippy::not_unsafe_ptr_arg_deref,
    reason = "as in a C program: larger steps, and handles that every test keeps open"
)]

use core::ffi::{CStr, c_void};
use core::mem::MaybeUninit;
use core::ptr::{null, null_mut};
use std::path::{Path, PathBuf};
use xelm::expert::*;
use xelm::params::*;
use xelm::session::*;
use xelm::state::*;
use xelm::status::*;
use xelm::text::*;
use xelm_train::memory::Memory;

/// The small expert of the fixtures: one file, German and English, 224 positions.
pub fn tiny_expert() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny/expert.gguf")
}

/// A path as C takes it.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Memory as C takes it.
pub fn pointer(memory: &mut Memory) -> *mut c_void {
    memory.bytes().as_mut_ptr().cast()
}

/// Options as they are at first.
#[derive(Debug)]
pub struct Params(MaybeUninit<xelm_params>);

impl Params {
    /// Options as they are at first.
    #[allow(clippy::new_without_default, reason = "nothing needs it")]
    pub fn new() -> Params {
        let mut params = MaybeUninit::uninit();
        // SAFETY: 256 writable bytes.
        assert_eq!(unsafe { xelm_params_init(params.as_mut_ptr(), XELM_ABI_VERSION) }, XELM_OK);
        Params(params)
    }

    /// As C takes them.
    pub fn get(&mut self) -> *mut xelm_params {
        self.0.as_mut_ptr()
    }

    /// What went wrong in the last call that took them.
    pub fn error(&self) -> String {
        // SAFETY: they are initialised.
        let text = unsafe { CStr::from_ptr(xelm_params_last_error(self.0.as_ptr())) };
        text.to_str().expect("UTF-8").to_owned()
    }
}

/// An open expert file and a session of it, closed in the right order.
#[derive(Debug)]
pub struct Opened {
    /// The expert.
    pub expert: *mut xelm_expert,
    /// The session.
    pub session: *mut xelm_session,
    _memory: [Memory; 2],
}

impl Opened {
    /// Opens both in memory that holds `0xa5`.
    pub fn new(path: &Path, params: &mut Params) -> Opened {
        let (p, path) = (params.get(), text(path));
        let (mut expert, mut session, mut size) = (null_mut(), null_mut(), 0);
        let mut plan = MaybeUninit::<xelm_plan>::uninit();
        // SAFETY: all pointers are to live memory of the right size.
        unsafe {
            let (at, len) = (path.as_ptr().cast(), path.len());
            assert_eq!(xelm_expert_plan_path(p, at, len, &mut size), XELM_OK);
            let mut expert_memory = filled(size);
            let m = pointer(&mut expert_memory);
            assert_eq!(xelm_expert_open_path(p, at, len, m, size, &mut expert), XELM_OK);
            assert_eq!(xelm_session_plan(p, expert, plan.as_mut_ptr()), XELM_OK);
            let total = plan.assume_init().total;
            let mut memory = filled(total);
            let m = pointer(&mut memory);
            assert_eq!(xelm_session_init(p, expert, m, total, &mut session), XELM_OK);
            Opened { expert, session, _memory: [expert_memory, memory] }
        }
    }

    /// What went wrong in the session's last call.
    pub fn error(&self) -> String {
        session_error(self.session)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: open handles, or ones that the test has closed, whose memory is still there.
        unsafe {
            xelm_session_close(self.session);
            xelm_expert_close(self.expert);
        }
    }
}

/// Memory that is not zero.
pub fn filled(n: usize) -> Memory {
    let mut memory = Memory::new(n);
    memory.bytes().fill(0xa5);
    memory
}

/// What went wrong in a session's last call.
pub fn session_error(session: *const xelm_session) -> String {
    // SAFETY: an open session.
    let text = unsafe { CStr::from_ptr(xelm_session_last_error(session)) };
    text.to_str().expect("UTF-8").to_owned()
}

/// Reads `</s>` and a text.
pub fn prefill_text(session: *mut xelm_session, text: &str) -> xelm_status {
    // SAFETY: an open session, and a text of this length.
    unsafe { xelm_session_prefill_text(session, text.as_ptr().cast(), text.len()) }
}

/// Writes `n_max` tokens, or fewer where the model ends the text.
pub fn generate(session: *mut xelm_session, n_max: usize) -> String {
    let (mut text, mut n, mut why) = (String::new(), 0, -1);
    let user = (&raw mut text).cast();
    // SAFETY: an open session; the callback is handed what it expects.
    let status =
        unsafe { xelm_session_generate(session, n_max, Some(append), user, &mut n, &mut why) };
    assert_eq!(status, XELM_OK, "{}", session_error(session));
    assert!(n == n_max || why == XELM_STOP_END);
    text
}

/// Appends what is written to the `String` that `user` points to.
///
/// # Safety
/// `user` points to a `String`.
pub unsafe extern "C" fn append(user: *mut c_void, written: *const xelm_written) -> i32 {
    // SAFETY: the caller's promise, and the header's for callbacks.
    let (text, part) = unsafe {
        let part = core::slice::from_raw_parts((*written).text.cast(), (*written).text_len);
        (&mut *user.cast::<String>(), part)
    };
    text.push_str(core::str::from_utf8(part).expect("whole characters"));
    0
}

/// The logits after the last token, as bits.
pub fn logits(session: *mut xelm_session) -> Vec<u32> {
    let (mut logits, mut n) = (null(), 0);
    // SAFETY: an open session; the logits are valid until its next call.
    unsafe {
        assert_eq!(xelm_session_logits(session, &mut logits, &mut n), XELM_OK);
        core::slice::from_raw_parts(logits, n).iter().map(|l| l.to_bits()).collect()
    }
}

/// The tokens that were read.
pub fn tokens(session: *mut xelm_session) -> Vec<u32> {
    let mut n = 0;
    // SAFETY: an open session, and room for as many tokens as it has said.
    unsafe {
        assert_eq!(xelm_session_tokens(session, null_mut(), 0, &mut n), XELM_OK);
        let mut ids = vec![0; n];
        assert_eq!(xelm_session_tokens(session, ids.as_mut_ptr(), n, &mut n), XELM_OK);
        ids
    }
}

/// A score of a text: nats as bits, tokens, bytes.
pub fn score(session: *mut xelm_session, text: &str) -> (u64, usize, usize) {
    let (mut nll, mut n_tokens, mut n_bytes) = (0.0, 0, 0);
    let at = text.as_ptr().cast();
    // SAFETY: an open session, and a text of this length.
    let status = unsafe {
        xelm_session_score(session, at, text.len(), &mut nll, &mut n_tokens, &mut n_bytes)
    };
    assert_eq!(status, XELM_OK, "{}", session_error(session));
    (nll.to_bits(), n_tokens, n_bytes)
}
