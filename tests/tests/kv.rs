//! Keys and values in 8 bits.

use xelm_runtime::Error;
use xelm_runtime::expert::Expert;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::mmap::ExpertFile;
use xelm_runtime::pool::Pool;
use xelm_runtime::session::{KvType, Options, Session};
use xelm_tests::card::{self, Case, difference, ids, logits, same_bits};
use xelm_tests::xelm::Xelm;
use xelm_train::memory::Memory;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

/// Models whose heads have 10, 32 and 64 numbers, the weights being those of the random model themselves.
fn files(name: &str) -> [ExpertFile; 3] {
    let cases = card::cases(&XELM.folder(name));
    let is = |case: &Case, width: usize| case.name == format!("f32 {width} F32");
    [20, 96, 256].map(|width| {
        let case = cases.iter().find(|case| is(case, width)).unwrap();
        ExpertFile::open(&case.path).unwrap()
    })
}

/// Calls `work` with a session in memory that is full of something else.
fn with<T>(
    expert: &Expert<'_>,
    options: &Options,
    isa: Isa,
    n_threads: usize,
    work: impl FnOnce(&mut Session<'_>) -> T,
) -> T {
    let mut memory = Memory::new(Session::plan(expert, options).unwrap().total);
    memory.bytes().fill(0x7f);
    let pool = Pool::new(n_threads).unwrap();
    let kernels = Kernels::new(isa);
    work(&mut Session::init(expert, options, memory.bytes(), kernels, &pool).unwrap())
}

/// The logits are near those of single precision, and the same bits however tokens are divided into passes, with any
/// number of threads, on every instruction set.
#[test]
fn near_single_precision_and_the_same_everywhere() {
    for file in &files("kv-near")[1..] {
        let expert = file.expert();
        let ids = ids(expert.config());
        let all = |kv, isa, n_threads, parts: &[usize]| {
            with(expert, &card::options(kv), isa, n_threads, |session| {
                logits(session, &ids, parts).unwrap()
            })
        };
        let [single, half, eighth] =
            [KvType::F32, KvType::F16, KvType::Q8_0].map(|kv| all(kv, Isa::detect(), 1, &[100]));
        let (half, off) = (difference(&half, &single), difference(&eighth, &single));
        println!(
            "heads of {}: {half:.1e}, {off:.1e}",
            expert.config().n_embd / expert.config().n_head
        );
        // A number is off by up to a 254th of the largest of 32: more than half precision, and not much more.
        assert!(half < off && off < 2e-2, "{half} {off}");
        for isa in Isa::supported().into_iter().flatten() {
            for (n_threads, parts) in [(1, &[1][..]), (2, &[64, 1, 7]), (3, &[3, 62, 1, 2, 1])] {
                let got = all(KvType::Q8_0, isa, n_threads, parts);
                assert!(same_bits(&got, &eighth), "{isa:?}, {n_threads} threads, {parts:?}");
            }
        }
    }
}

/// A state that was saved goes on with the same bits, and is not taken for one of another type; so does a session that
/// was rewound.
#[test]
fn states_and_rewinding() {
    let [_, _, file] = files("kv-states");
    let expert = file.expert();
    let ids = ids(expert.config());
    let (first, rest) = ids.split_at(37);
    let options = card::options(KvType::Q8_0);
    let run = |options: &Options, work: &mut dyn FnMut(&mut Session<'_>)| {
        with(expert, options, Isa::detect(), 2, work);
    };
    let (mut state, mut expected) = (Vec::new(), Vec::new());
    run(&options, &mut |session| {
        session.prefill(first).unwrap();
        state.resize(session.state_size(), 0);
        assert_eq!(session.save(&mut state), Ok(state.len()));
        expected = logits(session, rest, &[5]).unwrap();
        session.rewind(37).unwrap();
        assert!(same_bits(&logits(session, rest, &[100]).unwrap(), &expected));
    });
    // Another length of context: the state knows nothing of it.
    run(&Options { n_ctx: 90, ..options }, &mut |session| {
        session.restore(&state).unwrap();
        assert!(same_bits(&logits(session, rest, &[100]).unwrap(), &expected));
    });
    for kv in [KvType::F32, KvType::F16] {
        run(&card::options(kv), &mut |session| {
            assert!(matches!(session.restore(&state), Err(Error::ForeignState { .. })));
        });
    }
}

/// 34 bytes for 32 numbers, exactly; heads of other sizes, and cards, are refused.
#[test]
fn memory_and_refusals() {
    let [odd, _, file] = files("kv-memory");
    let kv = |kv| Session::plan(file.expert(), &card::options(kv)).unwrap().kv;
    let config = file.expert().config();
    let n = 2 * config.n_layer * config.n_ctx * config.n_embd;
    let rounded = |bytes: usize| bytes..bytes + 128;
    assert!(rounded(n / 32 * 34).contains(&kv(KvType::Q8_0)), "{}", kv(KvType::Q8_0));
    assert!(rounded(n * 2).contains(&kv(KvType::F16)));

    let refused = Session::plan(odd.expert(), &card::options(KvType::Q8_0));
    assert!(
        matches!(refused, Err(Error::BadParameter { what }) if what.contains("multiple of 32"))
    );
    let on_card = Options { on_device: true, ..card::options(KvType::Q8_0) };
    let needs = Session::needs(file.expert(), &on_card).unwrap();
    let refused = xelm_runtime::cuda::plan(file.expert(), &needs);
    assert!(matches!(refused, Err(Error::Device { what, .. }) if what.contains("8 bits")));
}
