//! Options, and where calls without a handle of their own leave their error text.

use crate::pointer::Handle;
use crate::status::{Failure, Text, XELM_ABI_VERSION, guarded, status_of, xelm_status};
use core::ffi::c_char;
use xelm_runtime::Error;
use xelm_runtime::sampler::{Sampler, SamplerOptions};
use xelm_runtime::session::{KvType, Options};

/// Options of sessions, and the text of the last error of a call that took them. 256 bytes of the
/// caller's, usually on the stack; `xelm_params_init` comes first. Used by one thread at a time.
#[derive(Debug)]
#[repr(C)]
pub struct xelm_params {
    opaque: [u64; 32],
}

/// How keys and values of a session are stored.
pub type xelm_kv_type = i32;
/// Half precision: the default.
pub const XELM_KV_F16: xelm_kv_type = 0;
/// Single precision.
pub const XELM_KV_F32: xelm_kv_type = 1;

/// What an `xelm_params` holds.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Params {
    magic: u64,
    n_ctx: usize,
    n_batch: usize,
    max_text: usize,
    n_threads: usize,
    top_k: usize,
    seed: u64,
    temperature: f32,
    top_p: f32,
    kv_f32: u64,
    error: Text<184>,
}

const _: () = assert!(size_of::<Params>() <= size_of::<xelm_params>());
const _: () = assert!(align_of::<Params>() <= align_of::<xelm_params>());

impl Handle for Params {
    const KIND: &'static str = "params";
    const MAGIC: u64 = u64::from_le_bytes(*b"xelmpar1");
    const MAGIC_AT: usize = core::mem::offset_of!(Params, magic);
}

impl Params {
    pub(crate) fn options(&self) -> Options {
        let kv = if self.kv_f32 == 0 { KvType::F16 } else { KvType::F32 };
        let (n_ctx, n_batch, max_text) = (self.n_ctx, self.n_batch, self.max_text);
        Options { n_ctx, n_batch, kv, max_text, ..Options::default() }
    }

    pub(crate) fn sampler(&self) -> Result<Sampler, Error> {
        let Params { temperature, top_k, top_p, seed, .. } = *self;
        Sampler::new(SamplerOptions { temperature, top_k, top_p, seed, ..Default::default() })
    }

    pub(crate) fn n_threads(&self) -> usize {
        self.n_threads
    }
}

/// Runs a body with the options and notes its error in them.
///
/// # Safety
/// `params` is NULL or points to an `xelm_params` that nothing else uses meanwhile.
pub(crate) unsafe fn with(
    params: *mut xelm_params,
    work: impl FnOnce(&mut Params) -> Result<(), Failure>,
) -> xelm_status {
    // SAFETY: the caller's promise covers the eight bytes that are looked at, and then the whole.
    match unsafe { crate::pointer::checked(params.cast::<Params>()) } {
        Err(failure) => failure.status(),
        Ok(_) => {
            // SAFETY: initialised, by its number; used by nothing else, by the caller's promise.
            let params = unsafe { &mut *params.cast::<Params>() };
            let result = guarded(|| work(params));
            params.error.record(&result)
        }
    }
}

/// Fills `params` with the defaults: the model's whole context, batches of 32 tokens, keys and
/// values in half precision, texts of up to 16 KiB, one thread, greedy sampling.
/// `abi_version` is XELM_ABI_VERSION.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_params_init(
    params: *mut xelm_params,
    abi_version: u32,
) -> xelm_status {
    status_of(|| {
        if params.is_null() {
            return Err(Failure::Null("params"));
        }
        if abi_version != XELM_ABI_VERSION {
            return Err(Failure::AbiMismatch(abi_version));
        }
        // SAFETY: not null, and 256 writable bytes by the header's rule.
        unsafe { params.write(xelm_params { opaque: [0; 32] }) };
        let options = Options::default();
        let sampler = SamplerOptions::default();
        let value = Params {
            magic: Params::MAGIC,
            n_ctx: options.n_ctx,
            n_batch: options.n_batch,
            max_text: options.max_text,
            n_threads: 1,
            top_k: sampler.top_k,
            seed: sampler.seed,
            temperature: sampler.temperature,
            top_p: sampler.top_p,
            kv_f32: 0,
            error: Text::EMPTY,
        };
        // SAFETY: it fits, and its alignment is not stricter, as asserted above.
        unsafe { params.cast::<Params>().write(value) };
        Ok(())
    })
}

/// Positions of a session; 0 means all that the model has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_params_set_n_ctx(
    params: *mut xelm_params,
    n_ctx: usize,
) -> xelm_status {
    // SAFETY: the header's rule for params.
    unsafe { with(params, |p| set(&mut p.n_ctx, n_ctx)) }
}

/// Tokens that one pass of a prefill takes at most.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_params_set_n_batch(
    params: *mut xelm_params,
    n_batch: usize,
) -> xelm_status {
    let valid = n_batch > 0;
    // SAFETY: the header's rule for params.
    unsafe {
        with(params, |p| checked(valid, "n_batch").and_then(|()| set(&mut p.n_batch, n_batch)))
    }
}

/// Longest text that a session can tokenise, in bytes after normalisation: ordinary text grows by
/// about half, since each space takes three bytes (`xelm_expert_text_size` gives the exact number).
/// 0 is for sessions that take ids only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_params_set_max_text(
    params: *mut xelm_params,
    bytes: usize,
) -> xelm_status {
    // SAFETY: the header's rule for params.
    unsafe { with(params, |p| set(&mut p.max_text, bytes)) }
}

/// Threads that a session computes with, the calling one included. No result depends on it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_params_set_n_threads(
    params: *mut xelm_params,
    n_threads: usize,
) -> xelm_status {
    let valid = (1..=1024).contains(&n_threads);
    // SAFETY: the header's rule for params.
    unsafe {
        with(params, |p| {
            checked(valid, "n_threads").and_then(|()| set(&mut p.n_threads, n_threads))
        })
    }
}

/// How keys and values are stored: XELM_KV_F16 or XELM_KV_F32.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_params_set_kv_type(
    params: *mut xelm_params,
    kv_type: xelm_kv_type,
) -> xelm_status {
    let valid = matches!(kv_type, XELM_KV_F16 | XELM_KV_F32);
    let kv_f32 = u64::from(kv_type == XELM_KV_F32);
    // SAFETY: the header's rule for params.
    unsafe { with(params, |p| checked(valid, "kv_type").and_then(|()| set(&mut p.kv_f32, kv_f32))) }
}

/// How tokens are chosen. `temperature` 0 takes the most probable one; otherwise one is drawn from
/// the `top_k` most probable (0 for all), of these from the fewest that together reach `top_p`
/// (1 for all), with random numbers that `seed` determines.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_params_set_sampling(
    params: *mut xelm_params,
    temperature: f32,
    top_k: usize,
    top_p: f32,
    seed: u64,
) -> xelm_status {
    let change = |p: &mut Params| {
        let changed = Params { temperature, top_k, top_p, seed, ..*p };
        changed.sampler()?;
        *p = changed;
        Ok(())
    };
    // SAFETY: the header's rule for params.
    unsafe { with(params, change) }
}

/// What went wrong in the last call that took `params`; empty after a success. The text stays valid
/// until the next such call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_params_last_error(params: *const xelm_params) -> *const c_char {
    // SAFETY: the header's rule for params.
    match unsafe { crate::pointer::checked(params.cast::<Params>()) } {
        // SAFETY: initialised, by its number.
        Ok(params) => unsafe { &(*params).error }.as_ptr(),
        Err(_) => c"not an initialised xelm_params".as_ptr(),
    }
}

fn set<T>(field: &mut T, value: T) -> Result<(), Failure> {
    *field = value;
    Ok(())
}

fn checked(valid: bool, what: &'static str) -> Result<(), Failure> {
    if valid { Ok(()) } else { Err(Error::BadParameter { what }.into()) }
}
