//! The C ABI: memory between pages that nobody may touch, small stacks, lent threads, what is logged.

#![cfg(unix)]
#![allow(clippy::multiple_unsafe_ops_per_block, reason = "a C program has no smaller steps either")]

use core::ffi::{CStr, c_char, c_void};
use core::mem::MaybeUninit;
use core::ptr::null_mut;
use std::thread::Builder;
use xelm::expert::*;
use xelm::log::*;
use xelm::params::*;
use xelm::session::*;
use xelm::state::*;
use xelm::status::*;
use xelm_tests::c_abi::*;
use xelm_tests::guarded::Guarded;

const TEXT: &str = "Am Montag, „My sister“";

/// What a session has to say: text, logits, a score.
type Said = (String, Vec<u32>, (u64, usize, usize));

/// Opens the expert and a session in memory that `place` provides for a number of bytes and an alignment,
/// reads, writes and scores.
fn use_everything<M>(
    change: &dyn Fn(*mut xelm_params),
    model: &[u8],
    text: &str,
    place: &mut dyn FnMut(usize, usize) -> M,
    at: &dyn Fn(&mut M) -> *mut u8,
) -> Said {
    let mut params = Params::new();
    let p = params.get();
    let (mut expert, mut session, mut size) = (null_mut(), null_mut(), 0);
    let mut plan = MaybeUninit::<xelm_plan>::uninit();
    // SAFETY: live memory of the right size; handles are closed in the right order.
    unsafe {
        assert_eq!(xelm_params_set_sampling(p, 0.9, 30, 0.9, 0.01, 3), XELM_OK);
        change(p);
        let (data, len) = (model.as_ptr().cast(), model.len());
        assert_eq!(xelm_expert_plan_bytes(p, data, len, &mut size), XELM_OK);
        let mut memory = place(size, XELM_ALIGN);
        let m = at(&mut memory).cast();
        assert_eq!(xelm_expert_open_bytes(p, data, len, m, size, &mut expert), XELM_OK);
        assert_eq!(xelm_session_plan(p, expert, plan.as_mut_ptr()), XELM_OK);
        let total = plan.assume_init().total;
        let mut session_memory = place(total, XELM_ALIGN);
        let m = at(&mut session_memory).cast();
        assert_eq!(xelm_session_init(p, expert, m, total, &mut session), XELM_OK);
        assert_eq!(prefill_text(session, text), XELM_OK, "{}", session_error(session));
        let written = generate(session, 20);
        let said = (written, logits(session), score(session, text));
        assert_eq!(xelm_session_close(session), XELM_OK);
        assert_eq!(xelm_expert_close(expert), XELM_OK);
        said
    }
}

/// Options that differ in everything that memory depends on.
fn all_options() -> [fn(*mut xelm_params); 3] {
    // SAFETY: initialised options.
    [
        |_| {},
        |p| unsafe {
            assert_eq!(xelm_params_set_n_ctx(p, 53), XELM_OK);
            assert_eq!(xelm_params_set_n_batch(p, 1), XELM_OK);
            assert_eq!(xelm_params_set_max_text(p, 41), XELM_OK);
            assert_eq!(xelm_params_set_kv_type(p, XELM_KV_F32), XELM_OK);
        },
        |p| unsafe {
            assert_eq!(xelm_params_set_n_batch(p, 7), XELM_OK);
            assert_eq!(xelm_params_set_n_threads(p, 3), XELM_OK);
        },
    ]
}

/// Nothing outside of what was handed over is touched: neither around the handles' memory nor around the
/// model and the text.
#[test]
fn nothing_is_touched_beyond_the_plan() {
    let bytes = std::fs::read(tiny_expert()).unwrap();
    for change in all_options() {
        let mut plain = |n: usize, _| filled(n);
        let at = |memory: &mut xelm_train::memory::Memory| memory.bytes().as_mut_ptr();
        let mut model = filled(bytes.len());
        model.bytes().copy_from_slice(&bytes);
        let expected = use_everything(&change, model.bytes(), TEXT, &mut plain, &at);
        assert!(!expected.0.is_empty());
        for is_at_end in [false, true] {
            let mut model = Guarded::holding(&bytes, 32, is_at_end);
            let mut text = Guarded::holding(TEXT.as_bytes(), 1, is_at_end);
            // SAFETY: what they hold, and nothing else refers to it.
            let (model, text) = unsafe {
                let model = core::slice::from_raw_parts(model.address(), bytes.len());
                (model, core::slice::from_raw_parts(text.address(), TEXT.len()))
            };
            let text = core::str::from_utf8(text).unwrap();
            let mut place = |n, align| Guarded::new(n, align, is_at_end);
            let said = use_everything(&change, model, text, &mut place, &Guarded::address);
            assert_eq!(said, expected);
        }
    }
}

/// 64 KiB of stack suffice for everything.
#[test]
fn small_stacks_suffice() {
    let run = || {
        let opened = Opened::new(&tiny_expert(), &mut Params::new());
        assert_eq!(prefill_text(opened.session, TEXT), XELM_OK);
        let written = generate(opened.session, 40);
        (written, logits(opened.session), score(opened.session, TEXT))
    };
    let expected = run();
    let thread = Builder::new().stack_size(64 << 10).spawn(run).unwrap();
    assert_eq!(thread.join().unwrap(), expected);
}

/// A session that other threads may be lent to.
#[derive(Clone, Copy)]
struct Lent(*mut xelm_session);
// SAFETY: only used for what the header allows other threads.
unsafe impl Send for Lent {}

impl Lent {
    fn work(self) -> xelm_status {
        // SAFETY: an open session.
        unsafe { xelm_session_worker_run(self.0) }
    }
}

#[test]
fn lent_threads_change_no_token() {
    let alone = Opened::new(&tiny_expert(), &mut Params::new());
    // No thread may be lent to it.
    assert_eq!(Lent(alone.session).work(), XELM_BUSY);
    assert_eq!(prefill_text(alone.session, TEXT), XELM_OK);
    let expected = (generate(alone.session, 40), logits(alone.session));

    let mut params = Params::new();
    // SAFETY: initialised options.
    assert_eq!(unsafe { xelm_params_set_n_lent(params.get(), 2) }, XELM_OK);
    let helped = Opened::new(&tiny_expert(), &mut params);
    let lent = Lent(helped.session);
    let lend = || {
        let work = move || lent.work();
        Builder::new().stack_size(64 << 10).spawn(work).unwrap()
    };
    // One too many: when it is sent away, the others are there.
    let workers = [lend(), lend(), lend()];
    while !workers.iter().any(|worker| worker.is_finished()) {
        std::thread::yield_now();
    }
    for _ in 0..3 {
        // SAFETY: an open session.
        assert_eq!(unsafe { xelm_session_reset(helped.session) }, XELM_OK);
        assert_eq!(prefill_text(helped.session, TEXT), XELM_OK);
        assert_eq!((generate(helped.session, 40), logits(helped.session)), expected);
    }
    // SAFETY: an open session, which the threads then leave.
    assert_eq!(unsafe { xelm_session_end_workers(helped.session) }, XELM_OK);
    let mut statuses = workers.map(|worker| worker.join().unwrap());
    statuses.sort();
    assert_eq!(statuses, [XELM_OK, XELM_OK, XELM_BUSY]);
    // SAFETY: an open session; it works on alone.
    unsafe {
        assert_eq!(xelm_session_end_workers(helped.session), XELM_OK);
        assert_eq!(xelm_session_reset(helped.session), XELM_OK);
    }
    assert_eq!(prefill_text(helped.session, TEXT), XELM_OK);
    assert_eq!((generate(helped.session, 40), logits(helped.session)), expected);
    assert_eq!(Lent(null_mut()).work(), XELM_NULL);
    // SAFETY: NULL is an error.
    assert_eq!(unsafe { xelm_session_end_workers(null_mut()) }, XELM_NULL);
}

unsafe extern "C" fn note(user: *mut c_void, level: xelm_log_level, text: *const c_char) {
    // SAFETY: `user` is the vector that the test hands over, `text` valid during the call.
    let (said, text) = unsafe { (&mut *user.cast::<Vec<(i32, String)>>(), CStr::from_ptr(text)) };
    said.push((level, text.to_str().unwrap().to_owned()));
}

#[test]
fn what_is_opened_is_logged() {
    let (mut params, mut said) = (Params::new(), Vec::<(i32, String)>::new());
    let user = (&raw mut said).cast();
    // SAFETY: initialised options; the vector outlives the handles.
    assert_eq!(unsafe { xelm_params_set_log(params.get(), Some(note), user) }, XELM_OK);
    let opened = Opened::new(&tiny_expert(), &mut params);
    assert_eq!(prefill_text(opened.session, TEXT), XELM_OK);
    drop(opened);
    // SAFETY: initialised options.
    assert_eq!(unsafe { xelm_params_set_log(params.get(), None, null_mut()) }, XELM_OK);
    drop(Opened::new(&tiny_expert(), &mut params));
    let [(XELM_LOG_INFO, expert), (XELM_LOG_INFO, session)] = &said[..] else { panic!("{said:?}") };
    assert!(expert.starts_with("expert en-de: ") && expert.ends_with(" bytes"), "{expert}");
    assert!(session.starts_with("session: 224 positions, "), "{session}");
}
