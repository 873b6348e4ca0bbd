//! Sessions: the state of one text being read, written or scored.

use crate::expert::xelm_expert;
use crate::params::{self, Params, xelm_params};
use crate::pointer::{self, Handle, Out, header_size, place};
use crate::status::{Failure, Text, guarded, status_of, xelm_status};
use core::ffi::{c_char, c_void};
use core::sync::atomic::{AtomicBool, Ordering};
use xelm_runtime::Error;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::pool::{Pool, THREAD_STACK};
use xelm_runtime::sampler::Sampler;
use xelm_runtime::score::Stop;
use xelm_runtime::session::Session;
use xelm_runtime::tokenizer::TextStream;

/// One text in one expert. Used by one thread at a time, except for `xelm_session_cancel`.
#[derive(Debug)]
pub struct xelm_session {
    magic: u64,
    /// Set while a call uses `state`.
    busy: AtomicBool,
    cancel: AtomicBool,
    error: Text<256>,
    state: State,
    /// Declared last, so dropped last: the session borrows it.
    pool: Pool,
}

impl Handle for xelm_session {
    const KIND: &'static str = "session";
    const MAGIC: u64 = u64::from_le_bytes(*b"xelmses1");
    const MAGIC_AT: usize = core::mem::offset_of!(xelm_session, magic);
}

/// What a call changes.
#[derive(Debug)]
struct State {
    /// `None` only while the handle is being made.
    session: Option<Session<'static>>,
    sampler: Sampler,
}

/// How much memory a session takes, in bytes.
#[derive(Debug)]
#[repr(C)]
pub struct xelm_plan {
    /// What `xelm_session_init` must be given: the sum of the next four.
    pub total: usize,
    /// Keys and values.
    pub kv: usize,
    /// Buffers of the forward pass, logits and sampling.
    pub scratch: usize,
    /// Tokenisation.
    pub text: usize,
    /// The handle itself.
    pub handle: usize,
    /// Not part of `total`: the operating system's stacks for threads after the first, at most.
    pub thread_stacks: usize,
    /// For later versions; 0.
    pub reserved: [usize; 10],
}

/// Why `xelm_session_generate` stopped.
pub type xelm_stop = i32;
/// The model ended the text.
pub const XELM_STOP_END: xelm_stop = 0;
/// As many tokens as asked for.
pub const XELM_STOP_LIMIT: xelm_stop = 1;
/// No position is left.
pub const XELM_STOP_CONTEXT: xelm_stop = 2;
/// The callback asked for it.
pub const XELM_STOP_CALLBACK: xelm_stop = 3;

/// Receives generated text: whole UTF-8 characters, not NUL-terminated, valid during the call. A
/// token may come in several parts. Returns 0 to go on, anything else to stop.
pub type xelm_on_text = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        token: u32,
        text: *const c_char,
        text_len: usize,
    ) -> i32,
>;

/// Runs a body with a session's state and notes its error in the handle.
///
/// # Safety
/// As the header says of handles.
unsafe fn with(
    session: *mut xelm_session,
    work: impl FnOnce(&mut Session<'static>, &mut Sampler) -> Result<(), Failure>,
) -> xelm_status {
    // SAFETY: the caller's promise is the one that `checked` asks for.
    if let Err(failure) = unsafe { pointer::checked(session.cast_const()) } {
        return failure.status();
    }
    // SAFETY: an open handle. Fields are borrowed one by one: `cancel` and `pool` are shared with
    // other threads and with the session meanwhile.
    let busy = unsafe { &(*session).busy };
    if busy.swap(true, Ordering::Acquire) {
        return Failure::Busy.status();
    }
    // SAFETY: an open handle, and `busy` keeps every other call away from these two.
    let (state, error) = unsafe { (&mut (*session).state, &mut (*session).error) };
    let result = guarded(|| {
        let inner = state.session.as_mut().ok_or(Failure::Internal)?;
        work(inner, &mut state.sampler)
    });
    if matches!(result, Err(Failure::Runtime(Error::Cancelled, _))) {
        // SAFETY: an open handle; the flag is atomic.
        unsafe { &(*session).cancel }.store(false, Ordering::Relaxed);
    }
    let status = error.record(&result);
    busy.store(false, Ordering::Release);
    status
}

/// How much memory a session with these options takes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_plan(
    params: *mut xelm_params,
    expert: *const xelm_expert,
    plan: *mut xelm_plan,
) -> xelm_status {
    let work = |params: &mut Params| {
        // SAFETY: the header's rules for handles and outputs.
        let (expert, out) = unsafe { (xelm_expert::get(expert)?, Out::new(plan, "plan")?) };
        let inner = Session::plan(expert, &params.options())?;
        let handle = header_size::<xelm_session>();
        let too_large = Error::OutOfRange { what: "a memory size" };
        out.set(xelm_plan {
            total: inner.total.checked_add(handle).ok_or(too_large)?,
            kv: inner.kv,
            scratch: inner.scratch,
            text: inner.text,
            handle,
            thread_stacks: (params.n_threads() - 1) * THREAD_STACK,
            reserved: [0; 10],
        });
        Ok(())
    };
    // SAFETY: the header's rule for params.
    unsafe { params::with(params, work) }
}

/// Opens a session at position 0 and starts its threads. The memory's former contents do not matter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_init(
    params: *mut xelm_params,
    expert: *const xelm_expert,
    memory: *mut c_void,
    memory_len: usize,
    session: *mut *mut xelm_session,
) -> xelm_status {
    let work = |params: &mut Params| {
        // SAFETY: the header's rules for handles, memory and outputs.
        let (expert, out, (header, rest)) = unsafe {
            let expert: &'static _ = xelm_expert::get(expert)?;
            (expert, Out::new(session, "session")?, place::<xelm_session>(memory, memory_len)?)
        };
        let needed = Session::plan(expert, &params.options())?.total;
        let short = Error::MemoryTooSmall { needed: needed + header_size::<xelm_session>() };
        let rest = rest.get_mut(..needed).ok_or(short)?;
        let sampler = params.sampler()?;
        let pool = Pool::new(params.n_threads()).map_err(Error::from)?;
        // The number comes last: until then this is no handle.
        let handle: *mut xelm_session = header.write(xelm_session {
            magic: 0,
            busy: AtomicBool::new(false),
            cancel: AtomicBool::new(false),
            error: Text::EMPTY,
            state: State { session: None, sampler },
            pool,
        });
        // SAFETY: just written; the handle stays at this address until it is closed, which drops
        // the session before what it borrows. The two fields are only ever borrowed shared.
        let (pool, cancel): (&'static Pool, &'static AtomicBool) =
            unsafe { (&(*handle).pool, &(*handle).cancel) };
        match Session::init(expert, &params.options(), rest, Kernels::new(Isa::detect()), pool) {
            Ok(mut inner) => {
                inner.set_cancel(Some(cancel));
                // SAFETY: as above; nothing else refers to these fields.
                unsafe {
                    (*handle).state.session = Some(inner);
                    (*handle).magic = xelm_session::MAGIC;
                }
                out.set(handle);
                Ok(())
            }
            Err(error) => {
                // SAFETY: written above, and borrowed by nothing any more.
                unsafe { core::ptr::drop_in_place(handle) };
                Err(error.into())
            }
        }
    };
    // SAFETY: the header's rule for params.
    unsafe { params::with(params, work) }
}

/// Closes a session and ends its threads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_close(session: *mut xelm_session) -> xelm_status {
    // SAFETY: the header's rule for closing.
    status_of(|| unsafe { pointer::close(session) })
}

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

/// Takes how tokens are chosen, and the seed, from `params`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_set_sampling(
    session: *mut xelm_session,
    params: *mut xelm_params,
) -> xelm_status {
    let mut sampler = None;
    let read = |params: &mut Params| {
        sampler = Some(params.sampler()?);
        Ok(())
    };
    // SAFETY: the header's rule for params.
    let status = unsafe { params::with(params, read) };
    let Some(sampler) = sampler else { return status };
    // SAFETY: the header's rule for handles.
    unsafe {
        with(session, |_, state| {
            *state = sampler;
            Ok(())
        })
    }
}

/// Turns a text into token ids, without the `</s>` that opens every text. `ids` has room for
/// `capacity` ids; `n_ids` is how many the text has. With `ids` NULL and `capacity` 0 they are only
/// counted; a capacity that is too small is XELM_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_tokenize(
    session: *mut xelm_session,
    text: *const c_char,
    text_len: usize,
    ids: *mut u32,
    capacity: usize,
    n_ids: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles, inputs and outputs.
    unsafe {
        with(session, |session, _| {
            let n_ids = Out::new(n_ids, "n_ids")?;
            let found = session.encode(pointer::bytes(text.cast(), text_len, "text")?)?.ids;
            if capacity > 0 {
                if ids.is_null() {
                    return Err(Failure::Null("ids"));
                }
                if found.len() > capacity {
                    return Err(Error::BufferTooSmall { needed: found.len() }.into());
                }
                core::ptr::copy_nonoverlapping(found.as_ptr(), ids, found.len());
            }
            n_ids.set(found.len());
            Ok(())
        })
    }
}

/// Reads tokens. Afterwards the logits are those after the last one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_prefill(
    session: *mut xelm_session,
    ids: *const u32,
    n_ids: usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles and inputs.
    unsafe {
        with(session, |session, _| {
            if n_ids == 0 {
                return Ok(());
            }
            if ids.is_null() {
                return Err(Failure::Null("ids"));
            }
            // Longer than any context; also keeps the slice's size in range.
            if n_ids > session.n_ctx() {
                return Err(Error::ContextFull { n_ctx: session.n_ctx() }.into());
            }
            Ok(session.prefill(core::slice::from_raw_parts(ids, n_ids))?)
        })
    }
}

/// Reads the opening `</s>` and a text. Afterwards the logits are those after its last token.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_prefill_text(
    session: *mut xelm_session,
    text: *const c_char,
    text_len: usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles and inputs.
    unsafe {
        with(session, |session, _| {
            Ok(session.prefill_text(pointer::bytes(text.cast(), text_len, "text")?)?)
        })
    }
}

/// The logits after the last token that was read, one for each entry of the vocabulary; valid until
/// the next call with this session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_logits(
    session: *mut xelm_session,
    logits: *mut *const f32,
    n_vocab: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles and outputs.
    unsafe {
        with(session, |session, _| {
            let (logits, n_vocab) = (Out::new(logits, "logits")?, Out::new(n_vocab, "n_vocab")?);
            let found = session.logits()?;
            logits.set(found.as_ptr());
            n_vocab.set(found.len());
            Ok(())
        })
    }
}

/// Chooses the next token from the logits. It is not read: `xelm_session_prefill` does that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_next(
    session: *mut xelm_session,
    token: *mut u32,
) -> xelm_status {
    // SAFETY: the header's rules for handles and outputs.
    unsafe {
        with(session, |session, sampler| {
            let token = Out::new(token, "token")?;
            token.set(session.sample(sampler)?);
            Ok(())
        })
    }
}

/// Writes at most `n_max` tokens after what the session has read, and hands their text to `on_text`
/// as it comes. `n_tokens` is how many were written, `why` one of XELM_STOP_*. After
/// XELM_STOP_CALLBACK and XELM_STOP_CONTEXT the last token has not been read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_generate(
    session: *mut xelm_session,
    n_max: usize,
    on_text: xelm_on_text,
    user: *mut c_void,
    n_tokens: *mut usize,
    why: *mut xelm_stop,
) -> xelm_status {
    // SAFETY: the header's rules for handles, callbacks and outputs.
    unsafe {
        with(session, |session, sampler| {
            let (n_tokens, why) = (Out::new(n_tokens, "n_tokens")?, Out::new(why, "why")?);
            let on_text = on_text.ok_or(Failure::Null("on_text"))?;
            // After `</s>` alone a text begins, and its first space is dropped.
            let begins = session.n_past() == 1;
            let stream = if begins { TextStream::new() } else { TextStream::continuing() };
            let (n, stop) = session.generate(sampler, n_max, stream, |written| {
                let text = written.text;
                on_text(user, written.token, text.as_ptr().cast(), text.len()) == 0
            })?;
            n_tokens.set(n);
            why.set(match stop {
                Stop::EndOfText => XELM_STOP_END,
                Stop::Limit => XELM_STOP_LIMIT,
                Stop::ContextFull => XELM_STOP_CONTEXT,
                Stop::Callback => XELM_STOP_CALLBACK,
            });
            Ok(())
        })
    }
}

/// How probable the expert finds a text, read from position 0 as a whole document: the `</s>` after
/// it is scored too, and what exceeds the context is cut off. `nll` is the negative log likelihood
/// in nats of `n_tokens` tokens, which stand for `n_bytes` bytes of the text; perplexity is
/// exp(nll / n_tokens), bits per byte nll / ln 2 / n_bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_score(
    session: *mut xelm_session,
    text: *const c_char,
    text_len: usize,
    nll: *mut f64,
    n_tokens: *mut usize,
    n_bytes: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles, inputs and outputs.
    unsafe {
        with(session, |session, _| {
            let (nll, n_tokens) = (Out::new(nll, "nll")?, Out::new(n_tokens, "n_tokens")?);
            let n_bytes = Out::new(n_bytes, "n_bytes")?;
            let score = session.score_text(pointer::bytes(text.cast(), text_len, "text")?)?;
            nll.set(score.nll_sum);
            n_tokens.set(score.tokens);
            n_bytes.set(score.bytes);
            Ok(())
        })
    }
}

/// Ends the call in progress with XELM_CANCELLED before its next layer, or the next call if none is
/// in progress. Any thread and any signal handler may call it. The session can be used again: it
/// stands where the cancelled call's current batch began.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_cancel(session: *mut xelm_session) -> xelm_status {
    status_of(|| {
        // SAFETY: the header's rule for handles.
        let _ = unsafe { pointer::checked(session.cast_const()) }?;
        // SAFETY: an open handle; the flag is atomic.
        unsafe { &(*session).cancel }.store(true, Ordering::Relaxed);
        Ok(())
    })
}

/// What went wrong in the last call with this session; empty after a success. The text stays valid
/// until the next such call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_last_error(session: *const xelm_session) -> *const c_char {
    // SAFETY: the header's rule for handles.
    match unsafe { pointer::checked(session) } {
        // SAFETY: an open handle.
        Ok(session) => unsafe { &(*session).error }.as_ptr(),
        Err(_) => c"not an open session".as_ptr(),
    }
}
