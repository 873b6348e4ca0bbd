//! The C ABI: ensembles, and choosing experts by the words of a text.

#![cfg(unix)]
#![allow(clippy::multiple_unsafe_ops_per_block, reason = "a C program has no smaller steps either")]

use core::mem::MaybeUninit;
use core::ptr::{null, null_mut};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use xelm::ensemble::*;
use xelm::expert::*;
use xelm::params::*;
use xelm::session::*;
use xelm::set::*;
use xelm::status::*;
use xelm_tests::c_abi::*;
use xelm_tests::guarded::Guarded;
use xelm_tests::xelm::Xelm;
use xelm_train::memory::Memory;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

/// A set of two experts with a router, and the same without one.
static SETS: LazyLock<[PathBuf; 2]> = LazyLock::new(|| {
    let with = XELM.tiny_run("c_abi_ensembles").0.join("set-q8_0");
    let without = XELM.without_router(&with, "c_abi_ensembles_unrouted");
    [with, without]
});

const MIXED: &str = "Am Morgen und die Nacht. 今日は、今日は。";

/// An open set and its experts, closed in the right order.
struct OpenSet {
    set: *mut xelm_set,
    experts: [*mut xelm_expert; 2],
    _memory: [Memory; 3],
}

impl OpenSet {
    fn new(folder: &Path, params: &mut Params) -> OpenSet {
        let (p, folder) = (params.get(), text(folder));
        let (mut set, mut experts) = (null_mut(), [null_mut(); 2]);
        // SAFETY: pointers to live memory of the right size.
        unsafe {
            let n = xelm_set_size(folder.len());
            let mut memory = [filled(n), Memory::new(0), Memory::new(0)];
            let m = pointer(&mut memory[0]);
            let status = xelm_set_open(p, folder.as_ptr().cast(), folder.len(), m, n, &mut set);
            assert_eq!((status, xelm_set_n_experts(set)), (XELM_OK, 2));
            for (i, expert) in experts.iter_mut().enumerate() {
                let mut size = 0;
                assert_eq!(xelm_expert_plan(p, set, i, &mut size), XELM_OK);
                memory[i + 1] = filled(size);
                let m = pointer(&mut memory[i + 1]);
                assert_eq!(xelm_expert_open(p, set, i, m, size, expert), XELM_OK);
            }
            OpenSet { set, experts, _memory: memory }
        }
    }

    /// As `xelm_ensemble_open` takes them.
    fn experts(&self) -> [*const xelm_expert; 2] {
        self.experts.map(|expert| expert.cast_const())
    }
}

impl Drop for OpenSet {
    fn drop(&mut self) {
        // SAFETY: the memory is still there.
        unsafe {
            for expert in self.experts {
                xelm_expert_close(expert);
            }
            xelm_set_close(self.set);
        }
    }
}

/// An ensemble of the experts, in `memory`.
fn ensemble(
    params: &mut Params,
    set: *const xelm_set,
    experts: &[*const xelm_expert],
    memory: &mut Memory,
) -> (xelm_status, *mut xelm_ensemble) {
    let (mut ensemble, len) = (null_mut(), memory.bytes().len());
    let (at, n) = (experts.as_ptr(), experts.len());
    // SAFETY: pointers to live memory; handles that are open, closed or of another kind.
    let status = unsafe {
        xelm_ensemble_open(params.get(), set, at, n, pointer(memory), len, &mut ensemble)
    };
    assert_eq!(status == XELM_OK, !ensemble.is_null());
    (status, ensemble)
}

#[test]
fn what_is_no_ensemble_is_an_error() {
    let mut params = Params::new();
    let open = OpenSet::new(&SETS[0], &mut params);
    let mut memory = filled(xelm_ensemble_size(2));
    let experts = open.experts();
    let mut status =
        |set, experts: &[*const xelm_expert]| ensemble(&mut params, set, experts, &mut memory).0;
    assert_eq!(status(open.set, &experts[..1]), XELM_EXPERTS_DIFFER);
    assert_eq!(status(open.set, &[]), XELM_EXPERTS_DIFFER);
    assert_eq!(status(open.set, &[experts[0], experts[1], null()]), XELM_EXPERTS_DIFFER);
    assert_eq!(status(open.set, &[null(), null()]), XELM_NO_EXPERT);
    assert_eq!(status(null(), &experts), XELM_NULL);
    // Handles of another kind.
    assert_eq!(status(experts[0].cast(), &experts), XELM_BAD_HANDLE);
    assert_eq!(status(open.set, &[experts[0], open.set.cast_const().cast()]), XELM_BAD_HANDLE);
    // An expert with another vocabulary, and one that is closed.
    let other = Opened::new(&tiny_expert(), &mut Params::new());
    assert_eq!(status(open.set, &[experts[0], other.expert]), XELM_EXPERTS_DIFFER);
    // SAFETY: an open session and expert, closed in this order; their memory stays.
    unsafe {
        assert_eq!(xelm_session_close(other.session), XELM_OK);
        assert_eq!(xelm_expert_close(other.expert), XELM_OK);
    }
    assert_eq!(status(open.set, &[experts[0], other.expert]), XELM_BAD_HANDLE);

    let p = params.get();
    let mut ensemble = null_mut();
    // SAFETY: NULL is an error, the rest is live memory.
    unsafe {
        let (m, n) = (pointer(&mut memory), xelm_ensemble_size(2));
        let (s, at, out) = (open.set, experts.as_ptr(), &raw mut ensemble);
        assert_eq!(xelm_ensemble_open(p, s, null(), 2, m, n, out), XELM_NULL);
        assert_eq!(xelm_ensemble_open(p, s, at, 2, null_mut(), n, out), XELM_NULL);
        assert_eq!(xelm_ensemble_open(p, s, at, 2, m, n, null_mut()), XELM_NULL);
        assert_eq!(xelm_ensemble_open(p, s, at, 2, m, n - 1, out), XELM_MEMORY_TOO_SMALL);
        assert_eq!(xelm_ensemble_open(null_mut(), s, at, 2, m, n, out), XELM_NULL);
        assert!(ensemble.is_null());
        assert_eq!(xelm_ensemble_open(p, s, at, 2, m, n, out), XELM_OK);
        let mut plan = MaybeUninit::<xelm_plan>::uninit();
        assert_eq!(xelm_session_plan_ensemble(p, ensemble, plan.as_mut_ptr()), XELM_OK);
        assert_eq!(xelm_session_plan(p, ensemble.cast(), plan.as_mut_ptr()), XELM_BAD_HANDLE);
        assert_eq!(xelm_ensemble_close(ensemble), XELM_OK);
        assert_eq!(xelm_ensemble_close(ensemble), XELM_BAD_HANDLE);
        let status = xelm_session_plan_ensemble(p, ensemble, plan.as_mut_ptr());
        assert_eq!(status, XELM_BAD_HANDLE);
        assert_eq!(xelm_session_plan_ensemble(p, null(), plan.as_mut_ptr()), XELM_NULL);
    }
}

/// Where nothing weighs several experts they cannot be mixed; one of them alone can run.
#[test]
fn a_set_without_a_router() {
    let mut params = Params::new();
    let open = OpenSet::new(&SETS[1], &mut params);
    let mut memory = filled(xelm_ensemble_size(2));
    let experts = open.experts();
    let (status, _) = ensemble(&mut params, open.set, &experts, &mut memory);
    assert_eq!(status, XELM_NO_ROUTER);
    assert!(params.error().starts_with("the set has no router"), "{}", params.error());
    let (status, one) = ensemble(&mut params, open.set, &[null(), experts[1]], &mut memory);
    assert_eq!(status, XELM_OK);
    let (mut weights, mut scratch) = ([7.0f32; 2], filled(64));
    let (at, m) = (MIXED.as_ptr().cast(), pointer(&mut scratch));
    // SAFETY: open handles and live memory.
    unsafe {
        assert_eq!(xelm_set_route_size(open.set), 0);
        let (p, s, w) = (params.get(), open.set, weights.as_mut_ptr());
        let status = xelm_set_route(p, s, at, MIXED.len(), null(), m, 64, w);
        assert_eq!((status, weights), (XELM_NO_ROUTER, [7.0; 2]));
        assert_eq!(xelm_ensemble_close(one), XELM_OK);
    }
}

#[test]
fn texts_weigh_experts() {
    let mut params = Params::new();
    let open = OpenSet::new(&SETS[0], &mut params);
    // SAFETY: an open set.
    let size = unsafe { xelm_set_route_size(open.set) };
    assert!(size > 0);
    let (mut weights, mut scratch) = ([7.0f32; 2], filled(size + 64));
    let m = pointer(&mut scratch);
    let mut route = |text: &str, present: Option<[u8; 2]>, offset: usize, size: usize| {
        let (at, w) = (text.as_ptr().cast(), weights.as_mut_ptr());
        let present = present.as_ref().map_or(null(), |p| p.as_ptr());
        // SAFETY: an open set and live memory.
        let status = unsafe {
            let m = m.byte_add(offset);
            xelm_set_route(params.get(), open.set, at, text.len(), present, m, size, w)
        };
        (status, weights)
    };
    let (status, german) = route("Am Morgen und die Nacht ist das nicht", None, 0, size);
    assert_eq!(status, XELM_OK);
    let (_, japanese) = route("今日は、今日は。私はとても", None, 0, size);
    assert!(german[0] > 0.5 && japanese[1] > 0.5, "{german:?} {japanese:?}");
    assert!((german[0] + german[1] - 1.0).abs() < 1e-6);
    assert_eq!(route("", None, 0, size).1, [0.5; 2]);
    assert_eq!(route("今日は", Some([1, 0]), 0, size), (XELM_OK, [1.0, 0.0]));
    assert_eq!(route("今日は", Some([0, 0]), 0, size).0, XELM_NO_EXPERT);
    assert_eq!(route("今日は", None, 0, size - 1).0, XELM_MEMORY_TOO_SMALL);
    assert_eq!(route("今日は", None, 1, size).0, XELM_MEMORY_MISALIGNED);
    let (p, s, at) = (params.get(), open.set, MIXED.as_ptr().cast());
    // SAFETY: NULL is an error.
    unsafe {
        let status = xelm_set_route(p, s, at, 3, null(), m, size, null_mut());
        assert_eq!(status, XELM_NULL);
        let status = xelm_set_route(p, s, at, 3, null(), null_mut(), size, weights.as_mut_ptr());
        assert_eq!(status, XELM_NULL);
        assert_eq!(xelm_set_route_size(null()), 0);
    }
}

/// Exactly the planned memory works for every kind of mixture and none beyond it is touched; a step's
/// experts are said.
#[test]
fn sessions_of_ensembles_keep_to_their_plan() {
    let mut params = Params::new();
    let open = OpenSet::new(&SETS[0], &mut params);
    let mut memory = filled(xelm_ensemble_size(2));
    let (status, mixed) = ensemble(&mut params, open.set, &open.experts(), &mut memory);
    assert_eq!(status, XELM_OK);
    let p = params.get();
    let mut n_resident = Vec::new();
    for (top_m, routing, n_ctx, n_batch, budget) in [
        (1, XELM_ROUTE_TOKEN, 0, 32, 0),
        (2, XELM_ROUTE_TOKEN, 33, 1, 0),
        (0, XELM_ROUTE_PROMPT, 17, 200, 0),
        // One expert's keys and values: 2 · 2 layers · 64 positions · 32 numbers · 2 bytes.
        (1, XELM_ROUTE_TOKEN, 64, 5, 16384),
    ] {
        let (mut session, mut plan) = (null_mut(), MaybeUninit::<xelm_plan>::uninit());
        // SAFETY: open handles and live memory.
        unsafe {
            assert_eq!(xelm_params_set_ensemble(p, top_m, routing), XELM_OK);
            assert_eq!(xelm_params_set_n_ctx(p, n_ctx), XELM_OK);
            assert_eq!(xelm_params_set_n_batch(p, n_batch), XELM_OK);
            assert_eq!(xelm_params_set_kv_budget(p, budget), XELM_OK);
            assert_eq!(xelm_session_plan_ensemble(p, mixed, plan.as_mut_ptr()), XELM_OK);
            let plan = plan.assume_init();
            assert_eq!(plan.total, plan.kv + plan.scratch + plan.text + plan.routing + plan.handle);
            assert!(plan.mapped > 0 && plan.thread_stacks == 0 && plan.reserved == [0; 6]);
            n_resident.push(plan.n_resident);
            let total = plan.total;
            let mut memory = Guarded::new(total, XELM_ALIGN, true);
            let m = memory.address().cast();
            let short = xelm_session_init_ensemble(p, mixed, m, total - 1, &mut session);
            assert_eq!((short, session.is_null()), (XELM_MEMORY_TOO_SMALL, true));
            assert_eq!(xelm_session_init_ensemble(p, mixed, m, total, &mut session), XELM_OK);
            let text = &MIXED[..if n_ctx == 17 { 9 } else { MIXED.len() }];
            assert_eq!(prefill_text(session, text), XELM_OK, "{}", session_error(session));
            assert!(generate(session, 3).len() < 200);

            let most = if top_m == 0 { 2 } else { top_m };
            let mut n = 99;
            assert_eq!(xelm_session_experts(session, null_mut(), 0, &mut n), XELM_OK);
            assert!((1..=most).contains(&n));
            let mut active = [xelm_active { expert: 9, weight: 0.0 }; 2];
            let at = active.as_mut_ptr();
            if n == 2 {
                let short = xelm_session_experts(session, at, 1, &mut n);
                assert_eq!((short, active[0].expert), (XELM_BUFFER_TOO_SMALL, 9));
            }
            assert_eq!(xelm_session_experts(session, at, 2, &mut n), XELM_OK);
            let sum: f32 = active[..n].iter().map(|a| a.weight).sum();
            assert!((sum - 1.0).abs() < 1e-6 && active[..n].iter().all(|a| a.expert < 2));
            let (_, n_tokens, _) = score(session, text);
            assert!(n_tokens > 3);
            assert_eq!(xelm_session_close(session), XELM_OK);
        }
    }
    assert_eq!(n_resident, [2, 2, 2, 1]);
    // Too little for one expert, or for the two that a step needs.
    for (top_m, budget) in [(1, 16383), (2, 16384)] {
        let mut plan = MaybeUninit::<xelm_plan>::uninit();
        // SAFETY: open handles.
        unsafe {
            assert_eq!(xelm_params_set_ensemble(p, top_m, XELM_ROUTE_TOKEN), XELM_OK);
            assert_eq!(xelm_params_set_kv_budget(p, budget), XELM_OK);
            let status = xelm_session_plan_ensemble(p, mixed, plan.as_mut_ptr());
            assert_eq!(status, XELM_BAD_PARAMETER);
        }
    }
    // SAFETY: its sessions are closed.
    assert_eq!(unsafe { xelm_ensemble_close(mixed) }, XELM_OK);
}
