//! A saved state with a few bytes changed, restored and gone on with: a byte for the kind of session,
//! changes as [`xelm_fuzz::change`] reads them, how much of the state's end is cut off (a byte), and what is
//! put there instead.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use xelm_fuzz::{Aligned, change, ensemble, use_session};
use xelm_runtime::ensemble::Ensemble;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::parallel::Serial;
use xelm_runtime::session::{KvType, Mixing, Options, Routing, Session};

static ENSEMBLE: LazyLock<Ensemble<'static>> = LazyLock::new(ensemble);

/// Kinds of sessions: how many experts take part, when they are chosen, and how keys and values are stored.
fn options(kind: u8) -> Options {
    let routing = if kind & 1 == 0 { Routing::Token } else { Routing::Prompt };
    let kv = if kind & 2 == 0 { KvType::F16 } else { KvType::F32 };
    let top_m = usize::from(kind >> 2 & 1) + 1;
    let mixing = Mixing { top_m, routing, ..Mixing::default() };
    Options { n_batch: 3, max_text: 64, kv, mixing, ..Options::default() }
}

fn memory(kind: u8) -> Aligned {
    Aligned::new(Session::plan(*ENSEMBLE, &options(kind)).expect("valid options").total)
}

fn session(kind: u8, memory: &mut Aligned) -> Session<'_> {
    let kernels = Kernels::new(Isa::detect());
    Session::init(*ENSEMBLE, &options(kind), memory.bytes(), kernels, &Serial).expect("as planned")
}

/// The state of each kind of session after a text, and the logits there.
static SAVED: LazyLock<Vec<(Vec<u8>, Vec<f32>)>> = LazyLock::new(|| {
    let saved = |kind| {
        let mut memory = memory(kind);
        let mut session = session(kind, &mut memory);
        session.prefill_text("Am 今日".as_bytes()).expect("it fits");
        let logits = session.logits().expect("something was read").to_vec();
        let mut state = vec![0; session.state_size()];
        session.save(&mut state).expect("it fits");
        (state, logits)
    };
    (0..8).map(saved).collect()
});

fuzz_target!(|data: &[u8]| {
    let Some((&kind, changes)) = data.split_first() else { return };
    let (saved, logits) = &SAVED[usize::from(kind % 8)];
    let mut state = saved.clone();
    let Some(rest) = change(&mut state, changes) else { return };
    let Some((&cut, end)) = rest.split_first() else { return };
    state.truncate(state.len() - usize::from(cut).min(state.len()));
    state.extend_from_slice(end);

    let mut memory = memory(kind);
    let mut session = session(kind, &mut memory);
    match session.restore(&state) {
        Err(error) => {
            assert!(state != *saved, "{error}");
            assert_eq!(session.n_past(), 0);
        }
        Ok(()) => {
            let again = session.logits().map(<[f32]>::to_vec);
            assert!(state != *saved || again.as_ref() == Ok(logits));
            let n_past = session.n_past();
            let mut copy = vec![0; session.state_size()];
            session.save(&mut copy).expect("it fits");
            session.restore(&copy).expect("it has just been saved");
            assert_eq!(session.n_past(), n_past);
            if n_past < session.n_ctx() {
                session.prefill(&[2]).expect("there is room");
            }
            assert!(session.rewind(n_past / 2).is_ok());
            let _ = session.logits();
        }
    }
    session.reset();
    use_session(&mut session, b"a").expect("an empty session works");
});
