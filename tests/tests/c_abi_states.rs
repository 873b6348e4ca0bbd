//! The C ABI: what a session has read, saved and taken up again; experts inside other files and in memory.

#![cfg(unix)]
#![allow(clippy::multiple_unsafe_ops_per_block, reason = "a C program has no smaller steps either")]

use core::ptr::{null, null_mut};
use std::io::Write;
use std::os::fd::AsRawFd;
use xelm::ensemble::xelm_active;
use xelm::expert::*;
use xelm::params::*;
use xelm::session::*;
use xelm::set::*;
use xelm::state::*;
use xelm::status::*;
use xelm::text::*;
use xelm_quantize::{Recipe, quantize_file};
use xelm_tests::c_abi::*;
use xelm_train::memory::Memory;

const PROMPT: &str = "Am Morgen";

/// Options that draw tokens at random.
fn random(change: impl FnOnce(*mut xelm_params) -> xelm_status) -> Params {
    let mut params = Params::new();
    // SAFETY: initialised options.
    unsafe {
        assert_eq!(xelm_params_set_sampling(params.get(), 0.9, 30, 0.95, 0.0, 7), XELM_OK);
        assert_eq!(xelm_params_set_repetition(params.get(), 1.1, 64), XELM_OK);
    }
    assert_eq!(change(params.get()), XELM_OK);
    params
}

fn save(session: *mut xelm_session) -> Vec<u8> {
    let (mut size, mut len) = (0, 0);
    // SAFETY: an open session, and room for as much as it has said.
    unsafe {
        assert_eq!(xelm_session_state_size(session, &mut size), XELM_OK);
        let mut state = vec![0xa5u8; size + 1];
        let at = state.as_mut_ptr().cast();
        assert_eq!(xelm_session_save(session, at, size - 1, &mut len), XELM_BUFFER_TOO_SMALL);
        assert_eq!(xelm_session_save(session, null_mut(), size, &mut len), XELM_NULL);
        assert!(state.iter().all(|&b| b == 0xa5) && len == 0);
        assert_eq!(xelm_session_save(session, at, size + 1, &mut len), XELM_OK);
        assert_eq!((len, state.pop()), (size, Some(0xa5)));
        state
    }
}

fn restore(session: *mut xelm_session, state: &[u8]) -> xelm_status {
    // SAFETY: an open session, and a state of this length.
    unsafe { xelm_session_restore(session, state.as_ptr().cast(), state.len()) }
}

/// What is drawn at random after a state is what would have been drawn there: in the same session, in
/// another one, in one with another number of positions.
#[test]
fn restored_sessions_go_on_bit_for_bit() {
    let path = tiny_expert();
    let one = Opened::new(&path, &mut random(|_| XELM_OK));
    assert_eq!(prefill_text(one.session, PROMPT), XELM_OK);
    let before = generate(one.session, 20);
    let state = save(one.session);
    let after = generate(one.session, 40);
    let read = tokens(one.session);
    let expected = (after, read, logits(one.session));
    assert!(!before.is_empty() && expected.0.len() > 20, "{before} {}", expected.0);

    // SAFETY: initialised options.
    let set_n_ctx = |p: *mut xelm_params| unsafe { xelm_params_set_n_ctx(p, 100) };
    let others =
        [Opened::new(&path, &mut random(|_| XELM_OK)), Opened::new(&path, &mut random(set_n_ctx))];
    assert_eq!(prefill_text(others[0].session, "Something else"), XELM_OK);
    for session in [one.session, others[0].session, others[1].session] {
        assert_eq!(restore(session, &state), XELM_OK);
        let text = generate(session, 40);
        assert_eq!((text, tokens(session), logits(session)), expected);
    }
    // The state of a session that has read nothing.
    let empty = Opened::new(&path, &mut random(|_| XELM_OK));
    let nothing = save(empty.session);
    assert_eq!(restore(one.session, &nothing), XELM_OK);
    assert!(tokens(one.session).is_empty());
    assert_eq!(prefill_text(one.session, PROMPT), XELM_OK);
    assert_eq!(generate(one.session, 20), before);
}

/// A refused state leaves an empty session, which works.
#[test]
fn other_states_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let q4_0 = folder.path().join("q4_0.gguf");
    quantize_file(&tiny_expert(), &q4_0, Recipe::Q4_0).unwrap();
    let one = Opened::new(&tiny_expert(), &mut random(|_| XELM_OK));
    assert_eq!(prefill_text(one.session, PROMPT), XELM_OK);
    let expected = generate(one.session, 20);
    let state = save(one.session);
    let reset = |session: *mut xelm_session| {
        assert_eq!(prefill_text(session, "Ein anderer Satz"), XELM_OK);
    };
    let mut lengths: Vec<usize> = (0..100).chain([state.len() / 2, state.len() - 1]).collect();
    lengths.retain(|&len| len < state.len());
    for len in lengths {
        reset(one.session);
        assert_eq!(restore(one.session, &state[..len]), XELM_FOREIGN_STATE, "{len} bytes");
        assert!(tokens(one.session).is_empty(), "{len} bytes");
    }
    let mut longer = state.clone();
    longer.push(0);
    assert_eq!(restore(one.session, &longer), XELM_FOREIGN_STATE);
    // Magic number, version, type of keys and values, model.
    for at in [8, 16, 20, 24, 55] {
        let mut damaged = state.clone();
        damaged[at] ^= 1;
        reset(one.session);
        assert_eq!(restore(one.session, &damaged), XELM_FOREIGN_STATE, "byte {at}");
        assert!(tokens(one.session).is_empty());
    }
    // SAFETY: NULL is an error.
    assert_eq!(unsafe { xelm_session_restore(one.session, null(), 9) }, XELM_NULL);
    assert_eq!(restore(one.session, &state), XELM_OK);
    // SAFETY: initialised options.
    let f32_kv = |p: *mut xelm_params| unsafe { xelm_params_set_kv_type(p, XELM_KV_F32) };
    let other_kv = Opened::new(&tiny_expert(), &mut random(f32_kv));
    let other_model = Opened::new(&q4_0, &mut random(|_| XELM_OK));
    for other in [&other_kv, &other_model] {
        assert_eq!(restore(other.session, &state), XELM_FOREIGN_STATE);
        assert!(!other.error().is_empty());
        assert_eq!(prefill_text(other.session, PROMPT), XELM_OK);
        assert!(!generate(other.session, 20).is_empty());
    }
    // SAFETY: initialised options.
    let set_n_ctx = |p: *mut xelm_params| unsafe { xelm_params_set_n_ctx(p, 20) };
    let short = Opened::new(&tiny_expert(), &mut random(set_n_ctx));
    assert_eq!(restore(short.session, &state), XELM_CONTEXT_FULL);
    assert!(tokens(short.session).is_empty());
    assert!(!expected.is_empty());
}

/// Reading a text again reads only where it differs, and gives the same bits.
#[test]
fn what_was_read_is_not_read_again() {
    let one = Opened::new(&tiny_expert(), &mut Params::new());
    let fresh = Opened::new(&tiny_expert(), &mut Params::new());
    let again = |text: &str| {
        let mut n = 0;
        let at = text.as_ptr().cast();
        // SAFETY: an open session, and a text of this length.
        let status =
            unsafe { xelm_session_prefill_text_again(one.session, at, text.len(), &mut n) };
        assert_eq!(status, XELM_OK, "{}", one.error());
        n
    };
    let (first, longer, other) = ("Am Montag war", "Am Montag war es kalt", "My sister keeps");
    let mut n_before = 0;
    for text in [first, longer, first, first, other, ""] {
        let n_same = tokens(one.session);
        let n_reused = again(text);
        assert_eq!(prefill_text(fresh.session, text), XELM_OK);
        let ids = tokens(fresh.session);
        let n_same = n_same.iter().zip(&ids).take_while(|(a, b)| a == b).count();
        assert_eq!(n_reused, n_same.min(ids.len() - 1), "{text}");
        assert_eq!((tokens(one.session), logits(one.session)), (ids, logits(fresh.session)));
        // SAFETY: an open session.
        assert_eq!(unsafe { xelm_session_reset(fresh.session) }, XELM_OK);
        n_before = n_before.max(n_reused);
    }
    assert!(n_before > 2);
    // SAFETY: an open session; NULL is an error.
    let status = unsafe { xelm_session_prefill_text_again(one.session, null(), 0, null_mut()) };
    assert_eq!(status, XELM_NULL);

    assert_eq!(again(longer), 1);
    let ids = tokens(one.session);
    let mut n = 99;
    // SAFETY: an open session, and buffers of these lengths.
    unsafe {
        let s = one.session;
        let mut out = vec![7; ids.len()];
        let short = xelm_session_tokens(s, out.as_mut_ptr(), ids.len() - 1, &mut n);
        assert_eq!((short, n, out[0]), (XELM_BUFFER_TOO_SMALL, 99, 7));
        assert_eq!(xelm_session_tokens(s, null_mut(), 3, &mut n), XELM_NULL);
        assert_eq!(xelm_session_tokens(s, out.as_mut_ptr(), 3, null_mut()), XELM_NULL);
        assert_eq!(xelm_session_reuse_prefix(s, ids.as_ptr(), ids.len(), &mut n), XELM_OK);
        assert_eq!((n, tokens(s).len()), (ids.len() - 1, ids.len() - 1));
        assert_eq!(xelm_session_prefill(s, &ids[n], 1), XELM_OK);
        // One expert has all the weight.
        assert_eq!(xelm_session_experts(s, null_mut(), 0, &mut n), XELM_OK);
        assert_eq!(n, 1);
        let mut active = [xelm_active { expert: 9, weight: 0.5 }; 2];
        assert_eq!(xelm_session_experts(s, active.as_mut_ptr(), 2, &mut n), XELM_OK);
        assert_eq!((n, active[0].expert, active[0].weight), (1, 0, 1.0));
        assert_eq!(active[1].expert, 9);
        assert_eq!(xelm_session_experts(s, null_mut(), 2, &mut n), XELM_NULL);
    }
}

/// What a session of an expert says, the expert being open.
fn said(params: &mut Params, expert: *mut xelm_expert) -> (Vec<u32>, usize) {
    let (p, mut plan) = (params.get(), core::mem::MaybeUninit::<xelm_plan>::uninit());
    let mut session = null_mut();
    // SAFETY: an open expert; the session lives in this function.
    unsafe {
        assert_eq!(xelm_session_plan(p, expert, plan.as_mut_ptr()), XELM_OK);
        let total = plan.assume_init().total;
        let mut memory = filled(total);
        let status = xelm_session_init(p, expert, pointer(&mut memory), total, &mut session);
        assert_eq!(status, XELM_OK);
        assert_eq!(prefill_text(session, PROMPT), XELM_OK);
        let logits = logits(session);
        assert_eq!(xelm_session_close(session), XELM_OK);
        (logits, total)
    }
}

/// An expert inside a larger file, as inside an APK.
#[test]
fn experts_inside_other_files() {
    let bytes = std::fs::read(tiny_expert()).unwrap();
    let len = bytes.len();
    let mut file = tempfile::tempfile().unwrap();
    // The page that the expert begins in does not begin with it.
    for part in [&[7u8; 4096 + 96][..], &bytes, &[9; 40]] {
        file.write_all(part).unwrap();
    }
    let offset = 4096 + 96;
    let expected = said(&mut Params::new(), Opened::new(&tiny_expert(), &mut Params::new()).expert);
    let mut params = Params::new();
    let (p, mut expert, mut size) = (params.get(), null_mut(), 0);
    // SAFETY: pointers to live memory of the right size.
    unsafe {
        let fd = file.as_raw_fd();
        assert_eq!(xelm_expert_plan_fd(p, fd, offset, len, &mut size), XELM_OK);
        let mut memory = filled(size);
        let m = pointer(&mut memory);
        for (fd, offset, len, status) in [
            (fd, offset + 1, len, XELM_MISALIGNED),
            (fd, offset + 16, len, XELM_MISALIGNED),
            (fd, offset - 32, len, XELM_BAD_MAGIC),
            (fd, offset, len - 32, XELM_TRUNCATED),
            (fd, offset, 0, XELM_BAD_MAGIC),
            (fd, offset, len + 41, XELM_IO),
            (fd, u64::MAX - 31, len, XELM_IO),
            (fd, offset, usize::MAX, XELM_IO),
            (-1, offset, len, XELM_IO),
            (i32::MAX, offset, len, XELM_IO),
        ] {
            let what = format!("{fd} {offset} {len}");
            assert_eq!(xelm_expert_plan_fd(p, fd, offset, len, &mut size), status, "{what}");
            let opened = xelm_expert_open_fd(p, fd, offset, len, m, size, &mut expert);
            assert_eq!((opened, expert.is_null()), (status, true), "{what}");
        }
        let short = xelm_expert_open_fd(p, fd, offset, len, m, size - 1, &mut expert);
        assert_eq!((short, expert.is_null()), (XELM_MEMORY_TOO_SMALL, true));
        // What follows the expert is not its concern; nor does it need the descriptor.
        assert_eq!(xelm_expert_open_fd(p, fd, offset, len + 40, m, size, &mut expert), XELM_OK);
        assert_eq!(xelm_expert_close(expert), XELM_OK);
        assert_eq!(xelm_expert_open_fd(p, fd, offset, len, m, size, &mut expert), XELM_OK);
        drop(file);
        assert_eq!(said(&mut params, expert), expected);
        assert_eq!(xelm_expert_close(expert), XELM_OK);
    }
}

/// An expert in memory.
#[test]
fn experts_in_memory() {
    let bytes = std::fs::read(tiny_expert()).unwrap();
    let len = bytes.len();
    // At a multiple of 32 that is none of 64.
    let mut model = Memory::new(32 + len);
    model.bytes()[32..].copy_from_slice(&bytes);
    let at: *const u8 = model.bytes()[32..].as_ptr();
    let expected = said(&mut Params::new(), Opened::new(&tiny_expert(), &mut Params::new()).expert);
    let mut params = Params::new();
    let (p, mut expert, mut set, mut size) = (params.get(), null_mut(), null_mut(), 0);
    // SAFETY: pointers to live memory of the right size.
    unsafe {
        assert_eq!(xelm_expert_plan_bytes(p, at.cast(), len, &mut size), XELM_OK);
        let mut memory = filled(size);
        let m = pointer(&mut memory);
        let mut open = |data: *const u8, len, status| {
            let opened = xelm_expert_open_bytes(p, data.cast(), len, m, size, &mut expert);
            assert_eq!((opened, expert.is_null()), (status, true), "{data:p} {len}");
        };
        open(at.add(1), len - 1, XELM_MISALIGNED);
        open(at.sub(16), len, XELM_MISALIGNED);
        open(at.add(32), len - 32, XELM_BAD_MAGIC);
        open(at, len - 1, XELM_TRUNCATED);
        open(null(), len, XELM_NULL);
        open(at, usize::MAX, XELM_OUT_OF_RANGE);
        // An expert is no set.
        let set_size = xelm_set_size(0);
        let mut set_memory = filled(set_size);
        let opened =
            xelm_set_open_bytes(p, at.cast(), len, pointer(&mut set_memory), set_size, &mut set);
        assert_eq!((opened, set.is_null()), (XELM_WRONG_ARCHITECTURE, true));
        assert_eq!(xelm_expert_open_bytes(p, at.cast(), len, m, size, &mut expert), XELM_OK);
        assert_eq!(said(&mut params, expert), expected);
        assert_eq!(xelm_expert_close(expert), XELM_OK);
    }
}
