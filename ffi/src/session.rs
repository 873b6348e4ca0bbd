//! Sessions: opening and closing them, their threads, cancelling.

use crate::device::{self, Card};
use crate::ensemble::{xelm_active, xelm_ensemble};
use crate::expert::xelm_expert;
use crate::log::Log;
use crate::params::{self, Params, xelm_params};
use crate::pointer::{self, Buffer, Handle, Out, header_size, place};
use crate::status::{Failure, Text, guarded, status_of, xelm_status};
use core::ffi::{c_char, c_void};
use core::sync::atomic::{AtomicBool, Ordering};
use xelm_runtime::Error;
use xelm_runtime::ensemble::Ensemble;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
#[cfg(not(feature = "std"))]
use xelm_runtime::parallel::Serial;
#[cfg(feature = "std")]
use xelm_runtime::pool::{Pool, THREAD_STACK};
use xelm_runtime::sampler::Sampler;
use xelm_runtime::session::Session;

/// One text in one expert, or in a mixture of an ensemble's. Used by one thread at a time, except for
/// `xelm_session_cancel` and lent threads.
#[derive(Debug)]
pub struct xelm_session {
    magic: u64,
    /// Set while a call uses `state`.
    busy: AtomicBool,
    cancel: AtomicBool,
    error: Text<256>,
    log: Log,
    state: State,
    /// Declared after the session, so dropped after it: it borrows both.
    card: Option<Card>,
    workers: Workers,
}

/// Who does a session's work.
#[cfg(feature = "std")]
type Workers = Pool;
/// Without the standard library, the calling thread.
#[cfg(not(feature = "std"))]
type Workers = Serial;

impl Handle for xelm_session {
    const KIND: &'static str = "session";
    const MAGIC: u64 = u64::from_le_bytes(*b"xelmses1");
    const MAGIC_AT: usize = core::mem::offset_of!(xelm_session, magic);
}

/// What a call changes.
#[derive(Debug)]
pub(crate) struct State {
    /// `None` only while the handle is being made.
    session: Option<Session<'static>>,
    sampler: Sampler,
}

/// How much memory a session takes, in bytes.
#[derive(Debug)]
#[repr(C)]
pub struct xelm_plan {
    /// What opening the session must be given: the sum of the next five.
    pub total: usize,
    /// Keys and values.
    pub kv: usize,
    /// Buffers of the forward pass, logits and sampling.
    pub scratch: usize,
    /// Tokenisation, and the tokens read.
    pub text: usize,
    /// Choosing experts.
    pub routing: usize,
    /// The handle itself.
    pub handle: usize,
    /// Not part of `total`: stacks of the threads after the first, which the operating system provides.
    pub thread_stacks: usize,
    /// Not part of `total`: bytes of weights that are mapped from files, or lie in the caller's memory.
    pub mapped: usize,
    /// Experts whose keys and values fit at once.
    pub n_resident: usize,
    /// Not part of `total`: bytes of the card's memory, where one computes (`xelm_params_set_device`).
    pub device: usize,
    /// For later versions; 0.
    pub reserved: [usize; 6],
}

/// Runs a body with a session's state and notes its error in the handle.
///
/// # Safety
/// As the header says of handles.
pub(crate) unsafe fn with<'a>(
    session: *mut xelm_session,
    work: impl FnOnce(&mut Session<'static>, &mut Sampler) -> Result<(), Failure<'a>>,
) -> xelm_status {
    // SAFETY: the caller's promise is the one that `checked` asks for.
    if let Err(failure) = unsafe { pointer::checked(session.cast_const()) } {
        return failure.status();
    }
    // SAFETY: an open handle. Fields are borrowed one by one: `cancel` and `workers` are shared with
    // other threads and with the session meanwhile.
    let busy = unsafe { &(*session).busy };
    if busy.swap(true, Ordering::Acquire) {
        return Failure::Busy.status();
    }
    // SAFETY: an open handle, and `busy` keeps every other call away from these three.
    let (state, error, log) =
        unsafe { (&mut (*session).state, &mut (*session).error, (*session).log) };
    let result = guarded(|| {
        let inner = state.session.as_mut().ok_or(Failure::Internal)?;
        work(inner, &mut state.sampler)
    });
    match &result {
        Err(Failure::Runtime(Error::Cancelled, _)) => {
            // SAFETY: an open handle; the flag is atomic.
            unsafe { &(*session).cancel }.store(false, Ordering::Relaxed);
        }
        Err(failure @ Failure::Internal) => log.warn(format_args!("{failure}")),
        _ => {}
    }
    let status = error.record(&result);
    busy.store(false, Ordering::Release);
    status
}

/// # Safety
/// As [`Out::new`].
unsafe fn plan(
    params: &Params,
    ensemble: Ensemble<'_>,
    plan: *mut xelm_plan,
) -> Result<(), Failure<'static>> {
    // SAFETY: the caller's promise is ours.
    let out = unsafe { Out::new(plan, "plan") }?;
    let options = params.options();
    let inner = Session::plan(ensemble, &options)?;
    let handle = header_size::<xelm_session>();
    let too_large = Error::OutOfRange { what: "a memory size" };
    #[cfg(feature = "std")]
    let thread_stacks = (params.threads().0 - 1) * THREAD_STACK;
    #[cfg(not(feature = "std"))]
    let thread_stacks = 0;
    out.set(xelm_plan {
        total: inner.total.checked_add(handle).ok_or(too_large)?,
        kv: inner.kv,
        scratch: inner.scratch,
        text: inner.text,
        routing: inner.routing,
        handle,
        thread_stacks,
        mapped: inner.mapped,
        n_resident: inner.n_resident,
        device: device::planned(ensemble, &options)?,
        reserved: [0; 6],
    });
    Ok(())
}

/// # Safety
/// As [`place`] and [`Out::new`]; what the ensemble borrows stays while the session is open.
unsafe fn open(
    params: &Params,
    ensemble: Ensemble<'static>,
    memory: *mut c_void,
    memory_len: usize,
    session: *mut *mut xelm_session,
) -> Result<(), Failure<'static>> {
    // SAFETY: the caller's promises are ours.
    let (out, (header, rest)) =
        unsafe { (Out::new(session, "session")?, place::<xelm_session>(memory, memory_len)?) };
    let options = params.options();
    let needed = Session::plan(ensemble, &options)?.total;
    let short = Error::MemoryTooSmall { needed: needed + header_size::<xelm_session>() };
    let rest = rest.get_mut(..needed).ok_or(short)?;
    let sampler = params.sampler()?;
    let card = params.card().map(|index| device::open(index, ensemble, &options)).transpose()?;
    #[cfg(feature = "std")]
    let (workers, isa) = {
        let (n_threads, n_lent) = params.threads();
        (Pool::with_room(n_threads, n_lent).map_err(Error::from)?, Isa::detect())
    };
    #[cfg(not(feature = "std"))]
    let (workers, isa) = (Serial, Isa::COMPILED);
    // The number comes last: until then this is no handle.
    let handle: *mut xelm_session = header.write(xelm_session {
        magic: 0,
        busy: AtomicBool::new(false),
        cancel: AtomicBool::new(false),
        error: Text::EMPTY,
        log: params.log(),
        state: State { session: None, sampler },
        card,
        workers,
    });
    // SAFETY: just written; the handle stays at this address until it is closed, which drops the
    // session before what it borrows. The two fields are only ever borrowed shared.
    let (workers, cancel): (&'static Workers, &'static AtomicBool) =
        unsafe { (&(*handle).workers, &(*handle).cancel) };
    // SAFETY: as above; only the session ever refers to this field.
    let card = unsafe { &mut (*handle).card }.as_mut();
    let kernels = Kernels::new(isa);
    let session = match card {
        None => Session::init(ensemble, &options, rest, kernels, workers),
        Some(card) => {
            Session::init_on(device::of(card), ensemble, &options, rest, kernels, workers)
        }
    };
    match session {
        Ok(mut inner) => {
            inner.set_cancel(Some(cancel));
            let (n_ctx, total) = (inner.n_ctx(), memory_len);
            // SAFETY: as above; nothing else refers to these fields.
            unsafe {
                (*handle).state.session = Some(inner);
                (*handle).magic = xelm_session::MAGIC;
            }
            params.log().info(format_args!("session: {n_ctx} positions, {total} bytes"));
            out.set(handle);
            Ok(())
        }
        Err(error) => {
            // SAFETY: written above, and borrowed by nothing any more.
            unsafe { core::ptr::drop_in_place(handle) };
            Err(error.into())
        }
    }
}

/// How much memory a session of an expert takes with these options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_plan(
    params: *mut xelm_params,
    expert: *const xelm_expert,
    plan: *mut xelm_plan,
) -> xelm_status {
    // SAFETY: the header's rules for params, handles and outputs.
    unsafe {
        params::with(params, |params| self::plan(params, xelm_expert::get(expert)?.into(), plan))
    }
}

/// How much memory a session of an ensemble takes with these options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_plan_ensemble(
    params: *mut xelm_params,
    ensemble: *const xelm_ensemble,
    plan: *mut xelm_plan,
) -> xelm_status {
    // SAFETY: the header's rules for params, handles and outputs.
    unsafe {
        params::with(params, |params| self::plan(params, xelm_ensemble::get(ensemble)?, plan))
    }
}

/// Opens a session of an expert at position 0 and starts its threads. The memory's former contents do
/// not matter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_init(
    params: *mut xelm_params,
    expert: *const xelm_expert,
    memory: *mut c_void,
    memory_len: usize,
    session: *mut *mut xelm_session,
) -> xelm_status {
    // SAFETY: the header's rules for params, handles, memory and outputs.
    unsafe {
        params::with(params, |params| {
            open(params, xelm_expert::get(expert)?.into(), memory, memory_len, session)
        })
    }
}

/// Opens a session of an ensemble.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_init_ensemble(
    params: *mut xelm_params,
    ensemble: *const xelm_ensemble,
    memory: *mut c_void,
    memory_len: usize,
    session: *mut *mut xelm_session,
) -> xelm_status {
    // SAFETY: the header's rules for params, handles, memory and outputs.
    unsafe {
        params::with(params, |params| {
            open(params, xelm_ensemble::get(ensemble)?, memory, memory_len, session)
        })
    }
}

/// Closes a session: lent threads are sent back and its own ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_close(session: *mut xelm_session) -> xelm_status {
    // SAFETY: the header's rule for closing.
    status_of(|| unsafe { pointer::close(session) })
}

/// Lends the calling thread to a session that was opened with room for it (`xelm_params_set_n_lent`):
/// it helps with the session's work and sleeps in between, until the session is closed or
/// `xelm_session_end_workers` is called. No result depends on it. A stack of 64 KiB suffices.
/// XELM_BUSY where there is no room.
#[cfg(feature = "std")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_worker_run(session: *mut xelm_session) -> xelm_status {
    status_of(|| {
        // SAFETY: the header's rule for handles; `workers` is only ever borrowed shared, and closing
        // waits until every lent thread has left.
        let workers = unsafe {
            let _ = pointer::checked(session.cast_const())?;
            &(*session).workers
        };
        if workers.crew().work() { Ok(()) } else { Err(Failure::Busy) }
    })
}

/// Sends lent threads back and ends the session's own, and returns when all have left; from then on the
/// session works on the calling thread alone. Not to be called by a lent thread.
#[cfg(feature = "std")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_end_workers(session: *mut xelm_session) -> xelm_status {
    status_of(|| {
        // SAFETY: as in `xelm_session_worker_run`.
        let workers = unsafe {
            let _ = pointer::checked(session.cast_const())?;
            &(*session).workers
        };
        workers.crew().close();
        Ok(())
    })
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

/// The experts of the last step, by index, and their weights: what the logits were mixed from.
/// `experts` has room for `capacity`; with NULL and 0 they are only counted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_experts(
    session: *mut xelm_session,
    experts: *mut xelm_active,
    capacity: usize,
    n_experts: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles and outputs; the types have one layout, as asserted beside
    // `xelm_active`.
    unsafe {
        with(session, |session, _| {
            let buffer = Buffer::new(experts.cast(), capacity, n_experts, "experts")?;
            buffer.set(session.active())
        })
    }
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
