//! What a session has read: going back, saving it, and taking it up again.

use crate::pointer::{self, Buffer, Out};
use crate::session::{with, xelm_session};
use crate::status::{Failure, xelm_status};
use core::ffi::c_void;
use xelm_runtime::Error;
use xelm_runtime::sampler::Sampler;
use xelm_runtime::session::Session;

/// Bytes before the runtime's state: how many random numbers the sampler has drawn.
const DRAWN: usize = size_of::<u64>();

/// Forgets everything that was read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_reset(session: *mut xelm_session) -> xelm_status {
    // SAFETY: the header's rule for handles.
    unsafe {
        with(session, |session, _| {
            session.reset();
            Ok(())
        })
    }
}

/// Forgets all positions from `n_past` on. What follows is bit for bit as if they had never been;
/// read at least one token before sampling.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_rewind(
    session: *mut xelm_session,
    n_past: usize,
) -> xelm_status {
    // SAFETY: the header's rule for handles.
    unsafe { with(session, |session, _| Ok(session.rewind(n_past)?)) }
}

/// Positions that are filled.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_n_past(
    session: *mut xelm_session,
    n_past: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles and outputs.
    unsafe {
        with(session, |session, _| {
            Out::new(n_past, "n_past")?.set(session.n_past());
            Ok(())
        })
    }
}

/// The tokens that were read. `ids` has room for `capacity`; with NULL and 0 they are only counted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_tokens(
    session: *mut xelm_session,
    ids: *mut u32,
    capacity: usize,
    n_ids: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles and outputs.
    unsafe {
        with(session, |session, _| Buffer::new(ids, capacity, n_ids, "ids")?.set(session.tokens()))
    }
}

/// Goes back to where the tokens read so far and `ids` part, leaving at least one of `ids` to be read;
/// `n_reused` is how many need not be read again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_reuse_prefix(
    session: *mut xelm_session,
    ids: *const u32,
    n_ids: usize,
    n_reused: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles, inputs and outputs.
    unsafe {
        with(session, |session, _| {
            let n_reused = Out::new(n_reused, "n_reused")?;
            n_reused.set(session.reuse_prefix(pointer::items(ids, n_ids, "ids")?));
            Ok(())
        })
    }
}

/// Bytes that `xelm_session_save` writes now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_state_size(
    session: *mut xelm_session,
    size: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles and outputs.
    unsafe {
        with(session, |session, _| {
            Out::new(size, "size")?.set(DRAWN + session.state_size());
            Ok(())
        })
    }
}

/// Writes what the session has read and where its random numbers stand to `state`, which has room for
/// `capacity` bytes; `state_len` is how many were written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_save(
    session: *mut xelm_session,
    state: *mut c_void,
    capacity: usize,
    state_len: *mut usize,
) -> xelm_status {
    let save = |session: &mut Session<'_>, sampler: &mut Sampler| {
        let needed = DRAWN + session.state_size();
        if capacity < needed {
            return Err(Error::BufferTooSmall { needed }.into());
        }
        if state.is_null() {
            return Err(Failure::Null("state"));
        }
        // SAFETY: the header's rules for outputs. They come from outside of Rust, where memory always
        // holds some value, and every value is a `u8`.
        let (out, state_len) = unsafe {
            let out = core::slice::from_raw_parts_mut(state.cast::<u8>(), needed);
            (out, Out::new(state_len, "state_len")?)
        };
        let (drawn, rest) = out.split_at_mut(DRAWN);
        drawn.copy_from_slice(&sampler.n_drawn().to_le_bytes());
        session.save(rest)?;
        state_len.set(needed);
        Ok(())
    };
    // SAFETY: the header's rule for handles.
    unsafe { with(session, save) }
}

/// Takes a state that a session with the same experts, type of keys and values, and options of sampling
/// saved; its number of positions may differ. What follows is bit for bit what would have followed
/// there. A state of anything else is refused with XELM_FOREIGN_STATE, and the session is then empty.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_restore(
    session: *mut xelm_session,
    state: *const c_void,
    state_len: usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles and inputs.
    unsafe {
        with(session, |session, sampler| {
            let state = pointer::bytes(state.cast(), state_len, "state")?;
            // What is too short for this number is too short for a state.
            let (drawn, rest) = state.split_first_chunk().unwrap_or((&[0; DRAWN], &[]));
            session.restore(rest)?;
            sampler.set_drawn(u64::from_le_bytes(*drawn));
            Ok(())
        })
    }
}
