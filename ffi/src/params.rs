//! Options, and where calls without a handle of their own leave their error text.

use crate::log::{Log, xelm_on_log};
use crate::pointer::Handle;
use crate::status::{Failure, Text, XELM_ABI_VERSION, guarded, status_of, xelm_status};
use core::ffi::{c_char, c_void};
use xelm_runtime::Error;
use xelm_runtime::router::{Power, RouteOptions};
use xelm_runtime::sampler::{Sampler, SamplerOptions};
use xelm_runtime::session::{KvType, Mixing, Options, Routing};

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
/// 8 bits, with a scale for every 32 numbers of a head: little more than half of half precision. Heads must have a
/// multiple of 32 numbers; not on a card.
pub const XELM_KV_Q8_0: xelm_kv_type = 2;

/// Who computes a session's passes: this processor, or the CUDA card with a number from 0 on.
pub type xelm_device = i32;
/// This processor: the default.
pub const XELM_DEVICE_CPU: xelm_device = -1;

/// When the experts of an ensemble are chosen.
pub type xelm_routing = i32;
/// At every token, from all text so far: the default.
pub const XELM_ROUTE_TOKEN: xelm_routing = 0;
/// Once, from the prompt; for a text that is scored, from the whole of it.
pub const XELM_ROUTE_PROMPT: xelm_routing = 1;

/// How an expert's weight falls with a text's distance d to it, T being the temperature.
pub type xelm_route_power = i32;
/// exp(-d^2 / T), as the X-ELM paper prints it: the default.
pub const XELM_POWER_PAPER: xelm_route_power = 1;
/// exp(-d^4 / T), as the program released with the paper computes it.
pub const XELM_POWER_RELEASE: xelm_route_power = 2;

/// What an `xelm_params` holds.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Params {
    magic: u64,
    n_ctx: usize,
    n_batch: usize,
    max_text: usize,
    top_m: usize,
    kv_budget: usize,
    top_k: usize,
    repeat_last: usize,
    seed: u64,
    log: Log,
    n_threads: u32,
    n_lent: u32,
    temperature: f32,
    top_p: f32,
    min_p: f32,
    repeat_penalty: f32,
    route_temperature: f32,
    kv_type: i8,
    routing: i8,
    power: i8,
    lag: i8,
    full_output: i8,
    device: xelm_device,
    error: Text<128>,
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
        Options {
            n_ctx: self.n_ctx,
            n_batch: self.n_batch,
            kv: match xelm_kv_type::from(self.kv_type) {
                XELM_KV_F32 => KvType::F32,
                XELM_KV_Q8_0 => KvType::Q8_0,
                _ => KvType::F16,
            },
            max_text: self.max_text,
            mixing: self.mixing(),
            full_output: self.full_output != 0,
            on_device: self.card().is_some(),
            ..Options::default()
        }
    }

    pub(crate) fn mixing(&self) -> Mixing {
        let by_prompt = xelm_routing::from(self.routing) == XELM_ROUTE_PROMPT;
        let released = xelm_route_power::from(self.power) == XELM_POWER_RELEASE;
        Mixing {
            top_m: self.top_m,
            routing: if by_prompt { Routing::Prompt } else { Routing::Token },
            route: RouteOptions {
                power: if released { Power::Release } else { Power::Paper },
                temperature: self.route_temperature,
            },
            lag: self.lag != 0,
            kv_budget: self.kv_budget,
        }
    }

    pub(crate) fn sampler(&self) -> Result<Sampler, Error> {
        let Params { temperature, top_k, top_p, min_p, repeat_penalty, repeat_last, seed, .. } =
            *self;
        Sampler::new(SamplerOptions {
            temperature,
            top_k,
            top_p,
            min_p,
            repeat_penalty,
            repeat_last,
            seed,
        })
    }

    #[cfg_attr(not(feature = "std"), allow(dead_code, reason = "there are no threads"))]
    /// Threads of a session's own, the calling one included, and those that may be lent to it.
    pub(crate) fn threads(&self) -> (usize, usize) {
        (self.n_threads as usize, self.n_lent as usize)
    }

    /// The card that computes, if one does.
    pub(crate) fn card(&self) -> Option<usize> {
        usize::try_from(self.device).ok()
    }

    pub(crate) fn log(&self) -> Log {
        self.log
    }
}

/// Runs a body with the options and notes its error in them.
///
/// # Safety
/// `params` is NULL or points to an `xelm_params` that nothing else uses meanwhile.
pub(crate) unsafe fn with<'a>(
    params: *mut xelm_params,
    work: impl FnOnce(&mut Params) -> Result<(), Failure<'a>>,
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
/// values in half precision, texts of up to 16 KiB, one thread, greedy sampling, and of an ensemble the
/// one best expert at every token.
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
            top_m: options.mixing.top_m,
            kv_budget: options.mixing.kv_budget,
            top_k: sampler.top_k,
            repeat_last: sampler.repeat_last,
            seed: sampler.seed,
            log: Log::NONE,
            n_threads: 1,
            n_lent: 0,
            temperature: sampler.temperature,
            top_p: sampler.top_p,
            min_p: sampler.min_p,
            repeat_penalty: sampler.repeat_penalty,
            route_temperature: options.mixing.route.temperature,
            kv_type: XELM_KV_F16 as i8,
            routing: XELM_ROUTE_TOKEN as i8,
            power: XELM_POWER_PAPER as i8,
            lag: 0,
            full_output: 0,
            device: XELM_DEVICE_CPU,
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

/// Threads that a session computes with, the calling one included. No result depends on it. Without
/// the standard library only 1 is possible.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_params_set_n_threads(
    params: *mut xelm_params,
    n_threads: usize,
) -> xelm_status {
    let most = if cfg!(feature = "std") { 1024 } else { 1 };
    let valid = (1..=most).contains(&n_threads);
    // SAFETY: the header's rule for params.
    unsafe {
        with(params, |p| {
            checked(valid, "n_threads").and_then(|()| set(&mut p.n_threads, n_threads as u32))
        })
    }
}

/// Threads of the caller's, besides those of `xelm_params_set_n_threads`, that may be lent to a session
/// at a time by `xelm_session_worker_run`; 0 at first.
#[cfg(feature = "std")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_params_set_n_lent(
    params: *mut xelm_params,
    n_lent: usize,
) -> xelm_status {
    let valid = n_lent <= 1024;
    // SAFETY: the header's rule for params.
    unsafe {
        with(params, |p| checked(valid, "n_lent").and_then(|()| set(&mut p.n_lent, n_lent as u32)))
    }
}

/// How keys and values are stored: XELM_KV_F16, XELM_KV_F32 or XELM_KV_Q8_0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_params_set_kv_type(
    params: *mut xelm_params,
    kv_type: xelm_kv_type,
) -> xelm_status {
    let valid = matches!(kv_type, XELM_KV_F16 | XELM_KV_F32 | XELM_KV_Q8_0);
    // SAFETY: the header's rule for params.
    unsafe {
        with(params, |p| {
            checked(valid, "kv_type").and_then(|()| set(&mut p.kv_type, kv_type as i8))
        })
    }
}

/// Who computes: XELM_DEVICE_CPU, or the number of a CUDA card, which then holds the weights of all experts of the
/// session, its keys and values. The plan says how much of the card's memory that takes. Tokens of a pass
/// should be some hundred there (`xelm_params_set_n_batch`). XELM_DEVICE, when a session is planned, where the
/// library was built without CUDA.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_params_set_device(
    params: *mut xelm_params,
    device: xelm_device,
) -> xelm_status {
    let valid = device >= XELM_DEVICE_CPU;
    // SAFETY: the header's rule for params.
    unsafe { with(params, |p| checked(valid, "device").and_then(|()| set(&mut p.device, device))) }
}

/// How tokens are chosen. `temperature` 0 takes the most probable one; otherwise one is drawn from
/// the `top_k` most probable (0 for all), of these from those at least `min_p` times as probable as the
/// best (0 for all), of these from the fewest that together reach `top_p` (1 for all), with random
/// numbers that `seed` determines.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_params_set_sampling(
    params: *mut xelm_params,
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    seed: u64,
) -> xelm_status {
    let change = |p: &mut Params| {
        let changed = Params { temperature, top_k, top_p, min_p, seed, ..*p };
        changed.sampler()?;
        *p = changed;
        Ok(())
    };
    // SAFETY: the header's rule for params.
    unsafe { with(params, change) }
}

/// Makes tokens rarer that occur among the last `last`: their log probability is multiplied by
/// `penalty`, 1 or more; 1 changes nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_params_set_repetition(
    params: *mut xelm_params,
    penalty: f32,
    last: usize,
) -> xelm_status {
    let change = |p: &mut Params| {
        let changed = Params { repeat_penalty: penalty, repeat_last: last, ..*p };
        changed.sampler()?;
        *p = changed;
        Ok(())
    };
    // SAFETY: the header's rule for params.
    unsafe { with(params, change) }
}

/// How the experts of an ensemble are mixed: at most `top_m` of them in a step (0 for all that are
/// present), chosen when `routing` says, one of XELM_ROUTE_*.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_params_set_ensemble(
    params: *mut xelm_params,
    top_m: usize,
    routing: xelm_routing,
) -> xelm_status {
    let valid = matches!(routing, XELM_ROUTE_TOKEN | XELM_ROUTE_PROMPT);
    // SAFETY: the header's rule for params.
    unsafe {
        with(params, |p| {
            checked(valid, "routing")?;
            (p.top_m, p.routing) = (top_m, routing as i8);
            Ok(())
        })
    }
}

/// How distances become weights: `power` is one of XELM_POWER_*, `temperature` is above 0 (0.1 at
/// first), and `lag`, unless 0, leaves the token read last out of a step's weights, as the program
/// released with the paper does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_params_set_route(
    params: *mut xelm_params,
    power: xelm_route_power,
    temperature: f32,
    lag: i32,
) -> xelm_status {
    let power_valid = matches!(power, XELM_POWER_PAPER | XELM_POWER_RELEASE);
    let temperature_valid = temperature > 0.0 && temperature.is_finite();
    // SAFETY: the header's rule for params.
    unsafe {
        with(params, |p| {
            checked(power_valid, "power")?;
            checked(temperature_valid, "route_temperature")?;
            (p.power, p.route_temperature, p.lag) = (power as i8, temperature, i8::from(lag != 0));
            Ok(())
        })
    }
}

/// Bytes for the keys and values of an ensemble's experts: as many stay resident as fit, and those used
/// longest ago make room, to read the text again should they be needed. 0 is room for all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_params_set_kv_budget(
    params: *mut xelm_params,
    bytes: usize,
) -> xelm_status {
    // SAFETY: the header's rule for params.
    unsafe { with(params, |p| set(&mut p.kv_budget, bytes)) }
}

/// Whether every token of the vocabulary has a logit, unless 0, also where all experts have shortlists. At
/// first the tokens on any of the shortlists have one, and the others are impossible: a text that has them
/// scores infinity.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_params_set_full_output(
    params: *mut xelm_params,
    full_output: i32,
) -> xelm_status {
    // SAFETY: the header's rule for params.
    unsafe { with(params, |p| set(&mut p.full_output, i8::from(full_output != 0))) }
}

/// Lets the library tell what it does to `on_log`; NULL, as at first, for silence. Handles that are
/// opened with these options keep the callback.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_params_set_log(
    params: *mut xelm_params,
    on_log: xelm_on_log,
    user: *mut c_void,
) -> xelm_status {
    // SAFETY: the header's rule for params.
    unsafe { with(params, |p| set(&mut p.log, Log { on_log, user })) }
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

fn set<T>(field: &mut T, value: T) -> Result<(), Failure<'static>> {
    *field = value;
    Ok(())
}

fn checked(valid: bool, what: &'static str) -> Result<(), Failure<'static>> {
    if valid { Ok(()) } else { Err(Error::BadParameter { what }.into()) }
}
