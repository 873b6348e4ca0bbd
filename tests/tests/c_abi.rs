//! The C ABI: a session from beginning to end, and every misuse that the header calls an error.

#![allow(clippy::multiple_unsafe_ops_per_block, reason = "a C program has no smaller steps either")]

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::{null, null_mut};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use xelm::expert::*;
use xelm::params::*;
use xelm::session::*;
use xelm::set::*;
use xelm::state::*;
use xelm::status::*;
use xelm::text::*;
use xelm_tests::c_abi::{Opened, Params, session_error, text, tiny_expert};
use xelm_tests::examples::{compile, static_library};
use xelm_tests::xelm::Xelm;
use xelm_train::memory::Memory;
use xelm_train::shortlist::write_shortlist;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

static RUN: LazyLock<PathBuf> = LazyLock::new(|| XELM.tiny_run("c_abi").0);

/// The header alone, as C99 and as C++.
#[test]
fn the_header_is_c_and_cpp() {
    let folder = XELM.folder("c_header");
    for (name, standard) in [("header.c", "-std=c99"), ("header.cpp", "-std=c++11")] {
        let source = folder.join(name);
        std::fs::write(
            &source,
            "#include \"xelm.h\"\nint main(void) { return xelm_version() == 0; }\n",
        )
        .unwrap();
        compile(&source, &source.with_extension("out"), standard, &[], &static_library());
    }
}

/// An open set, expert and session with the memory that they live in.
struct OpenSet {
    params: Params,
    set: *mut xelm_set,
    expert: *mut xelm_expert,
    session: *mut xelm_session,
    _memory: [Memory; 3],
}

impl OpenSet {
    fn new() -> OpenSet {
        let folder = text(&RUN.join("set-q8_0")).to_owned();
        let mut params = Params::new();
        let p = params.get();
        let (mut set, mut expert, mut session) = (null_mut(), null_mut(), null_mut());
        let (mut size, mut plan) = (0, MaybeUninit::<xelm_plan>::uninit());
        // SAFETY: all pointers are to live memory of the right size.
        unsafe {
            let n = xelm_set_size(folder.len());
            let mut set_memory = Memory::new(n);
            let m: *mut c_void = set_memory.bytes().as_mut_ptr().cast();
            let path = folder.as_ptr().cast();
            let short = xelm_set_open(p, path, folder.len(), m, n - 1, &mut set);
            assert_eq!((short, set.is_null()), (XELM_MEMORY_TOO_SMALL, true));
            assert_eq!(xelm_set_open(p, path, folder.len(), m, n, &mut set), XELM_OK);
            assert_eq!(xelm_expert_plan(p, set, 0, &mut size), XELM_OK);
            let mut expert_memory = Memory::new(size);
            let m: *mut c_void = expert_memory.bytes().as_mut_ptr().cast();
            let short = xelm_expert_open(p, set, 0, m, size - 1, &mut expert);
            assert_eq!((short, expert.is_null()), (XELM_MEMORY_TOO_SMALL, true));
            assert_eq!(xelm_expert_open(p, set, 0, m, size, &mut expert), XELM_OK);
            assert_eq!(xelm_session_plan(p, expert, plan.as_mut_ptr()), XELM_OK);
            let plan = plan.assume_init();
            assert_eq!(plan.total, plan.kv + plan.scratch + plan.text + plan.routing + plan.handle);
            let mut memory = Memory::new(plan.total);
            let m: *mut c_void = memory.bytes().as_mut_ptr().cast();
            let short = xelm_session_init(p, expert, m, plan.total - 1, &mut session);
            assert_eq!((short, session.is_null()), (XELM_MEMORY_TOO_SMALL, true));
            assert_eq!(xelm_session_init(p, expert, m, plan.total, &mut session), XELM_OK);
            let _memory = [set_memory, expert_memory, memory];
            OpenSet { params, set, expert, session, _memory }
        }
    }

    fn error(&self) -> String {
        session_error(self.session)
    }
}

unsafe extern "C" fn count(user: *mut c_void, written: *const xelm_written) -> i32 {
    // SAFETY: `user` is the counter that the test hands over, `written` valid during the call.
    let (counter, written) = unsafe { (&*user.cast::<AtomicUsize>(), &*written) };
    assert_eq!(written.n_experts, 1);
    counter.fetch_add(written.text_len, Ordering::Relaxed);
    0
}

unsafe extern "C" fn stop(_: *mut c_void, _: *const xelm_written) -> i32 {
    1
}

unsafe extern "C" fn reenter(user: *mut c_void, _: *const xelm_written) -> i32 {
    // SAFETY: `user` is an open session.
    let status = unsafe { xelm_session_reset(user.cast()) };
    assert_eq!(status, XELM_BUSY);
    1
}

unsafe extern "C" fn cancel(user: *mut c_void, _: *const xelm_written) -> i32 {
    // SAFETY: `user` is an open session.
    assert_eq!(unsafe { xelm_session_cancel(user.cast()) }, XELM_OK);
    0
}

/// A file with a shortlist: the logits of its tokens, and of all where that is asked for.
#[test]
fn logits_of_a_shortlist() {
    let path = XELM.folder("c_shortlist").join("short.gguf");
    let ids: Vec<u32> = (0..4).chain((5..300).step_by(5)).collect();
    write_shortlist(&tiny_expert(), &path, &ids).unwrap();
    let mut params = Params::new();
    let short = Opened::new(&path, &mut params);
    // SAFETY: initialised options.
    assert_eq!(unsafe { xelm_params_set_full_output(params.get(), 1) }, XELM_OK);
    let full = Opened::new(&path, &mut params);
    let (mut logits, mut found, mut n) = (null(), null(), 0);
    // SAFETY: handles are open, pointers live.
    unsafe {
        for s in [short.session, full.session] {
            assert_eq!(xelm_session_prefill_text(s, c"Am Morgen".as_ptr(), 9), XELM_OK);
        }
        let s = full.session;
        assert_eq!(xelm_session_logits(s, &mut logits, &mut n), XELM_OK);
        assert_eq!(n, xelm_expert_n_vocab(full.expert));
        let all = core::slice::from_raw_parts(logits, n).to_vec();
        assert_eq!(xelm_session_output_logits(s, &mut logits, &mut found, &mut n), XELM_OK);
        assert_eq!((n, found), (all.len(), null()));
        assert_eq!(core::slice::from_raw_parts(logits, n), all);
        let s = short.session;
        assert_eq!(xelm_session_logits(s, &mut logits, &mut n), XELM_BAD_PARAMETER);
        assert!(short.error().contains("full_output"), "{}", short.error());
        assert_eq!(xelm_session_output_logits(s, &mut logits, &mut found, &mut n), XELM_OK);
        assert_eq!(core::slice::from_raw_parts(found, n), ids);
        let expected: Vec<f32> = ids.iter().map(|&id| all[id as usize]).collect();
        assert_eq!(core::slice::from_raw_parts(logits, n), expected);
        let null_ids = xelm_session_output_logits(s, &mut logits, null_mut(), &mut n);
        assert_eq!(null_ids, XELM_NULL);
        let mut token = u32::MAX;
        assert_eq!(xelm_session_next(s, &mut token), XELM_OK);
        assert!(ids.contains(&token));
    }
}

#[test]
fn a_session_from_beginning_to_end() {
    let opened = OpenSet::new();
    let s = opened.session;
    let (mut n, mut why, mut n_past) = (0, -1, 0);
    let written = AtomicUsize::new(0);
    let counter: *mut c_void = core::ptr::from_ref(&written).cast_mut().cast();
    // SAFETY: handles are open, pointers live.
    unsafe {
        // Nothing has been read: there is nothing to continue.
        let mut token = 7;
        assert_eq!(xelm_session_next(s, &mut token), XELM_BAD_PARAMETER);
        assert_eq!(token, 7);
        assert!(opened.error().contains("nothing has been read"));

        assert_eq!(xelm_session_prefill_text(s, c"Am Morgen".as_ptr(), 9), XELM_OK);
        assert_eq!(opened.error(), "");
        assert_eq!(xelm_session_n_past(s, &mut n_past), XELM_OK);
        let (mut logits, mut n_vocab) = (null(), 0);
        assert_eq!(xelm_session_logits(s, &mut logits, &mut n_vocab), XELM_OK);
        assert_eq!(n_vocab, xelm_expert_n_vocab(opened.expert));
        let first = core::slice::from_raw_parts(logits, n_vocab).to_vec();
        assert_eq!(xelm_session_next(s, &mut token), XELM_OK);
        assert!((token as usize) < n_vocab && first.iter().all(|l| l.is_finite()));
        assert_eq!(xelm_session_generate(s, 5, Some(count), counter, &mut n, &mut why), XELM_OK);
        assert!(n <= 5 && (why == XELM_STOP_LIMIT || why == XELM_STOP_END), "{n} {why}");
        assert_eq!(xelm_session_generate(s, 5, Some(stop), counter, &mut n, &mut why), XELM_OK);
        assert_eq!(xelm_session_generate(s, 5, Some(reenter), s.cast(), &mut n, &mut why), XELM_OK);

        // Cancelled in the middle, the session goes on afterwards.
        assert_eq!(xelm_session_reset(s), XELM_OK);
        assert_eq!(xelm_session_prefill_text(s, c"Am Morgen".as_ptr(), 9), XELM_OK);
        let status = xelm_session_generate(s, 5, Some(cancel), s.cast(), &mut n, &mut why);
        assert_eq!((status, opened.error().as_str()), (XELM_CANCELLED, "cancelled"));
        assert_eq!(xelm_session_rewind(s, n_past - 1), XELM_OK);
        let mut ids = [0u32; 16];
        let (text, mut n_ids) = (c"Am Morgen".as_ptr(), 0);
        assert_eq!(xelm_session_tokenize(s, text, 9, null_mut(), 0, &mut n_ids), XELM_OK);
        assert_eq!(n_ids, n_past - 1);
        let short = xelm_session_tokenize(s, text, 9, ids.as_mut_ptr(), n_ids - 1, &mut n_ids);
        assert_eq!(short, XELM_BUFFER_TOO_SMALL);
        assert_eq!(xelm_session_tokenize(s, text, 9, ids.as_mut_ptr(), 16, &mut n_ids), XELM_OK);
        assert_eq!(xelm_session_prefill(s, &ids[n_ids - 1], 1), XELM_OK);
        assert_eq!(xelm_session_logits(s, &mut logits, &mut n_vocab), XELM_OK);
        assert_eq!(core::slice::from_raw_parts(logits, n_vocab), first);

        let (mut nll, mut n_tokens, mut n_bytes) = (0.0, 0, 0);
        let status = xelm_session_score(s, text, 9, &mut nll, &mut n_tokens, &mut n_bytes);
        assert_eq!((status, n_tokens, n_bytes), (XELM_OK, n_ids + 1, 9));
        assert!(nll > 0.0);

        // Sets are for choosing; experts outlive them; sessions are closed first.
        assert_eq!(xelm_set_close(opened.set), XELM_OK);
        assert_eq!(xelm_session_reset(s), XELM_OK);
        assert_eq!(xelm_session_prefill_text(s, null(), 0), XELM_OK);
        assert_eq!(xelm_session_close(s), XELM_OK);
        assert_eq!(xelm_session_close(s), XELM_BAD_HANDLE);
        assert_eq!(xelm_expert_close(opened.expert), XELM_OK);
        assert_eq!(xelm_expert_close(opened.expert), XELM_BAD_HANDLE);
        assert_eq!(xelm_set_close(opened.set), XELM_BAD_HANDLE);
    }
}

#[test]
fn misuse_is_an_error() {
    let mut opened = OpenSet::new();
    let (p, s) = (opened.params.get(), opened.session);
    let mut raw = MaybeUninit::<xelm_params>::zeroed();
    // SAFETY: every pointer is NULL or to live memory.
    unsafe {
        assert_eq!(xelm_params_init(null_mut(), XELM_ABI_VERSION), XELM_NULL);
        assert_eq!(xelm_params_init(raw.as_mut_ptr(), XELM_ABI_VERSION + 1), XELM_ABI_MISMATCH);
        assert_eq!(xelm_params_set_n_ctx(raw.as_mut_ptr(), 5), XELM_BAD_HANDLE);
        assert_eq!(xelm_params_set_n_ctx(null_mut(), 5), XELM_NULL);
        assert_eq!(xelm_params_set_n_batch(p, 0), XELM_BAD_PARAMETER);
        assert_eq!(xelm_params_set_n_threads(p, 0), XELM_BAD_PARAMETER);
        assert_eq!(xelm_params_set_kv_type(p, 9), XELM_BAD_PARAMETER);
        assert_eq!(xelm_params_set_sampling(p, f32::NAN, 0, 1.0, 0.0, 0), XELM_BAD_PARAMETER);
        assert_eq!(opened.params.error(), "the parameter temperature is out of range");
        assert_eq!(xelm_params_set_n_ctx(p, 1 << 20), XELM_OK);
        let mut plan = MaybeUninit::<xelm_plan>::uninit();
        assert_eq!(xelm_session_plan(p, opened.expert, plan.as_mut_ptr()), XELM_BAD_PARAMETER);

        let set_as_expert: *const xelm_expert = s.cast_const().cast();
        assert_eq!(xelm_session_plan(p, set_as_expert, plan.as_mut_ptr()), XELM_BAD_HANDLE);
        assert_eq!(xelm_session_plan(p, null(), plan.as_mut_ptr()), XELM_NULL);
        assert_eq!(xelm_expert_n_vocab(set_as_expert), 0);

        let mut size = 0;
        assert_eq!(xelm_expert_plan(p, opened.set, 99, &mut size), XELM_OUT_OF_RANGE);
        let path = b"no/such/file";
        assert_eq!(xelm_expert_plan_path(p, path.as_ptr().cast(), 12, &mut size), XELM_IO);
        assert!(opened.params.error().contains("no/such/file"), "{}", opened.params.error());
        let path = [0xffu8, 0xfe];
        assert_eq!(xelm_expert_plan_path(p, path.as_ptr().cast(), 2, &mut size), XELM_NOT_UTF8);

        let (mut index, mut how, mut language, mut len) = (0, 0, null(), 0);
        let mut select = |tag: &str| {
            let tag_ptr = tag.as_ptr().cast();
            let (i, l) = (&raw mut index, &raw mut language);
            xelm_set_select(opened.set, tag_ptr, tag.len(), null(), i, &mut how, l, &mut len)
        };
        assert_eq!(select("xx"), XELM_NO_EXPERT);
        assert_eq!(select("no tag"), XELM_BAD_LANGUAGE_TAG);
        assert_eq!(select("ja-JP"), XELM_OK);
        assert_eq!((index, how, len), (1, XELM_MATCH_PREFIX, 2));

        let (mut n, mut why) = (0, 0);
        assert_eq!(xelm_session_generate(s, 1, None, null_mut(), &mut n, &mut why), XELM_NULL);
        assert_eq!(xelm_session_prefill(s, null(), 3), XELM_NULL);
        let ids = [1u32 << 30];
        assert_eq!(xelm_session_prefill(s, ids.as_ptr(), 1), XELM_BAD_TOKEN);
        assert_eq!(xelm_session_prefill(s, ids.as_ptr(), usize::MAX), XELM_CONTEXT_FULL);
        let long = vec![b'a'; 100_000];
        let status = xelm_session_prefill_text(s, long.as_ptr().cast(), long.len());
        assert_eq!(status, XELM_TEXT_TOO_LONG);
        assert!(opened.error().contains("plan the session for more"));
        assert_eq!(xelm_session_reset(null_mut()), XELM_NULL);
        assert_eq!(xelm_session_close(s), XELM_OK);
        assert_eq!(xelm_session_reset(s), XELM_BAD_HANDLE);
    }
}
