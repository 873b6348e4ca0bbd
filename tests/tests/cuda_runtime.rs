//! The runtime on a card: its host side as it is, over a driver that executes the kernels on this CPU from their
//! own sources.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use xelm_runtime::Error;
use xelm_runtime::config::{ARCH_STANDARD, Activation, Config, inventory};
use xelm_runtime::cuda::{Cuda, Plan, cards, plan};
use xelm_runtime::ensemble::Ensemble;
use xelm_runtime::format::Writer;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::mmap::ExpertFile;
use xelm_runtime::pack::SetFolder;
use xelm_runtime::parallel::Serial;
use xelm_runtime::quant::DType;
use xelm_runtime::session::{KvType, Mixing, Options, Session, Want};
use xelm_tests::card::{self, Case, Off, difference, ids, same_bits, session};
use xelm_tests::ensembles::{FourExperts, SWITCHING};
use xelm_tests::shim::{FakeDriver, Order};
use xelm_tests::xelm::Xelm;
use xelm_train::memory::Memory;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

static DRIVER: LazyLock<Option<Mutex<FakeDriver>>> =
    LazyLock::new(|| FakeDriver::load().map(Mutex::new));

/// The driver, for one test at a time; none where it cannot be compiled.
fn driver() -> Option<MutexGuard<'static, FakeDriver>> {
    let driver = DRIVER.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
    driver.set_order(Order::Forward);
    Some(driver)
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| card::cases(&XELM.folder("cuda_runtime")));

fn case(name: &str) -> &'static Case {
    CASES.iter().find(|case| case.name == name).unwrap()
}

/// Every format, width, activation and type of cache gives the CPU's logits, within the tolerance; the same bits
/// in every order of the threads, and however the tokens are divided into passes. No kernel is left out.
#[test]
fn every_model() {
    let Some(driver) = driver() else { return };
    let mut all: BTreeMap<&str, Off> = BTreeMap::new();
    for case in CASES.iter() {
        let want = case.logits(None, &[100]).unwrap();
        let got = case.logits(Some(0), &[100]).unwrap();
        let off = case.off(&got, &want);
        assert!(off.is_within(&case.bound()), "{}: {off:?}", case.name);
        let of_type = all.entry(case.dtype.name()).or_default();
        *of_type = Off { best: of_type.best.max(off.best), worst: of_type.worst.max(off.worst) };
        let ways: [(Order, &[usize]); 2] =
            [(Order::Reverse, &[64, 1, 7]), (Order::Shuffled, &[3, 62, 1, 2, 1])];
        for (order, parts) in ways {
            driver.set_order(order);
            let again = case.logits(Some(0), parts).unwrap();
            assert!(same_bits(&again, &got), "{}: {order:?}, {parts:?}", case.name);
        }
        driver.set_order(Order::Forward);
    }
    println!("{} models: {all:?}", CASES.len());
    assert_eq!(driver.never_launched(), None);
}

/// After a session was opened, nothing is allocated on the card, and a token is two graphs: layers and head.
#[test]
fn a_token_is_two_graphs() {
    let Some(driver) = driver() else { return };
    let file = ExpertFile::open(&case("q8_0 256 F16").path).unwrap();
    let ids = ids(file.expert().config());
    let run = |session: &mut Session<'_>| {
        session.prefill(&ids[..40]).unwrap();
        let before = driver.counts();
        for &id in &ids[40..50] {
            session.prefill(&[id]).unwrap();
        }
        let after = driver.counts();
        assert_eq!(after.allocations, before.allocations);
        assert_eq!(after.graph_launches - before.graph_launches, 2 * 10);
        session.prefill(&ids[50..]).unwrap();
        assert_eq!(driver.counts().allocations, before.allocations);
    };
    session(file.expert(), &card::options(KvType::F16), Some(0), run).unwrap();
}

/// Rewinding and restoring leave no trace; a state is understood by the CPU, too.
#[test]
fn what_was_rewound_or_restored_leaves_no_trace() {
    let Some(_driver) = driver() else { return };
    for name in ["q4_k 256 F32", "q8_0 96 F16"] {
        let case = case(name);
        let file = ExpertFile::open(&case.path).unwrap();
        let (expert, options) = (file.expert(), card::options(case.kv));
        let ids = ids(expert.config());
        let whole = case.logits(Some(0), &[100]).unwrap();
        let tail = &whole[67 * expert.config().n_vocab..];
        let mut state = Vec::new();
        let work = |session: &mut Session<'_>| {
            session.prefill(&ids[..75]).unwrap();
            session.rewind(67).unwrap();
            state.resize(session.state_size(), 0);
            session.save(&mut state).unwrap();
            let rewound = card::logits(session, &ids[67..], &[30]).unwrap();
            assert!(same_bits(&rewound, tail), "{name}: rewound");
            session.reset();
            session.prefill(&ids[50..]).unwrap();
            session.restore(&state).unwrap();
            let restored = card::logits(session, &ids[67..], &[1]).unwrap();
            assert!(same_bits(&restored, tail), "{name}: restored");
        };
        session(expert, &options, Some(0), work).unwrap();
        let on_cpu = session(expert, &options, None, |session| {
            session.restore(&state).unwrap();
            card::logits(session, &ids[67..], &[30]).unwrap()
        });
        let off = case.off(&on_cpu.unwrap(), tail);
        assert!(off.worst <= case.bound().worst, "{name}, on the CPU: {off:?}");
    }
}

static RUN: LazyLock<PathBuf> = LazyLock::new(|| XELM.tiny_run("cuda_runtime_run").0);

/// Experts side by side give the mixture that the CPU gives, also where not all caches fit; one chosen late reads what
/// it has missed.
#[test]
fn mixtures() {
    let Some(_driver) = driver() else { return };
    FourExperts::open(&RUN).ensemble(|ensemble| {
        let config = ensemble.config();
        let slot = ensemble.n_ctx() * 2 * config.n_layer * config.n_embd * 4;
        for (top_m, kv_budget) in [(1, 0), (2, 0), (0, 0), (1, 2 * slot), (2, 2 * slot)] {
            let mixing = Mixing { top_m, kv_budget, ..Mixing::default() };
            let options =
                Options { mixing, n_batch: 5, max_text: 1 << 10, ..card::options(KvType::F32) };
            let text = |session: &mut Session<'_>| {
                let mut tokens = vec![session.tokenizer().unwrap().bos()];
                tokens.extend_from_slice(session.encode(SWITCHING.as_bytes()).unwrap().ids);
                let all = card::logits(session, &tokens, &[usize::MAX]).unwrap();
                session.reset();
                let one_by_one = card::logits(session, &tokens, &[1]).unwrap();
                assert!(same_bits(&all, &one_by_one), "{top_m}, {kv_budget}");
                all
            };
            let want = session(ensemble, &options, None, text).unwrap();
            let got = session(ensemble, &options, Some(0), text).unwrap();
            let off = difference(&got, &want);
            println!("{top_m} of 4 experts, {kv_budget} bytes of cache: {off:.1e}");
            assert!(off <= 5e-6, "{top_m}, {kv_budget}: {off}");
        }
    });
}

/// Experts with shortlists that differ: the logits of the tokens on any of them, or of all.
#[test]
fn shortlists() {
    let Some(_driver) = driver() else { return };
    let (set, short) = (RUN.join("set"), RUN.join("set-short"));
    let corpus = RUN.with_file_name("corpus");
    let [from, to, corpus] = [&set, &short, &corpus].map(|p| p.to_str().unwrap());
    let args = ["--coverage", "0.9", "--out", to];
    XELM.run(&[&["shortlist", "--set", from, "--corpus", corpus][..], &args].concat());
    let folder = SetFolder::open(&short).unwrap();
    let files = [0, 1].map(|i| ExpertFile::open(&folder.expert(i).unwrap()).unwrap());
    let experts = files.each_ref().map(|file| Some(file.expert()));
    let lists = files.each_ref().map(|file| file.expert().shortlist().unwrap().len());
    assert_ne!(lists[0], lists[1]);
    let ensemble = Ensemble::new(&experts, folder.router().unwrap()).unwrap();
    let ids = [2, 90, 14, 300, 77, 1200, 41];
    for (full_output, top_m) in [(false, 1), (false, 2), (true, 2)] {
        let mixing = Mixing { top_m, ..Mixing::default() };
        let options = Options { full_output, mixing, ..card::options(KvType::F32) };
        let read = |session: &mut Session<'_>| card::logits(session, &ids, &[4, 1]).unwrap();
        let want = session(ensemble, &options, None, read).unwrap();
        let got = session(ensemble, &options, Some(0), read).unwrap();
        assert!(full_output || top_m == 2 || want.contains(&f32::NEG_INFINITY));
        let off = difference(&got, &want);
        assert!(off <= 5e-6, "{full_output}, {top_m}: {off}");
    }
}

/// A device that was opened for something else is refused, and so is a session that is not told of it.
#[test]
fn a_device_belongs_to_one_kind_of_session() {
    let Some(_driver) = driver() else { return };
    let [one, other] = ["q8_0 96 F16", "q4_0 96 F32"].map(|name| {
        let file = ExpertFile::open(&case(name).path).unwrap();
        (file, Options { on_device: true, ..card::options(KvType::F16) })
    });
    let needs = Session::needs(one.0.expert(), &one.1).unwrap();
    let mut cuda = Cuda::open(0, one.0.expert(), &needs).unwrap();
    let mut open = |file: &ExpertFile, options: &Options| {
        let mut memory = Memory::new(1 << 22);
        let kernels = Kernels::new(Isa::detect());
        Session::init_on(&mut cuda, file.expert(), options, memory.bytes(), kernels, &Serial)
            .map(drop)
    };
    assert_eq!(open(&one.0, &one.1), Ok(()));
    let error = open(&other.0, &other.1).unwrap_err();
    assert!(matches!(error, Error::ExpertsDiffer { .. }), "{error}");
    for options in [
        Options { n_ctx: 9, ..one.1 },
        Options { kv: KvType::F32, ..one.1 },
        Options { on_device: false, ..one.1 },
    ] {
        let error = open(&one.0, &options).unwrap_err();
        assert!(matches!(error, Error::BadParameter { .. }), "{error}");
    }
    let mut memory = Memory::new(1 << 22);
    let kernels = Kernels::new(Isa::detect());
    let error = Session::init(one.0.expert(), &one.1, memory.bytes(), kernels, &Serial);
    assert_eq!(error.unwrap_err(), Error::BadParameter { what: "on_device" });
}

#[test]
fn what_cannot_be_opened_is_said() {
    let Some(_driver) = driver() else { return };
    assert_eq!(cards().unwrap()[0].name, "Fake card 0");
    let file = ExpertFile::open(&case("q8_0 96 F16").path).unwrap();
    let options = card::options(KvType::F16);
    let needs = Session::needs(file.expert(), &options).unwrap();
    let error = Cuda::open(3, file.expert(), &needs).unwrap_err();
    assert!(error.to_string().contains("no such card"), "{error}");
    // More than the card has: what would be needed is said, and what was taken is given back.
    let needs = xelm_runtime::device::Needs { n_slots: 100_000, ..needs };
    let needed = plan(file.expert(), &needs).unwrap().total;
    assert_eq!(Cuda::open(0, file.expert(), &needs).unwrap_err(), Error::DeviceFull { needed });
    let needs = xelm_runtime::device::Needs { n_slots: usize::MAX / 2, ..needs };
    assert!(matches!(plan(file.expert(), &needs), Err(Error::OutOfRange { .. })));
}

/// A cancelled call leaves a session that can be used.
#[test]
fn a_call_is_cancelled() {
    let Some(_driver) = driver() else { return };
    let case = case("q8_0 96 F16");
    let file = ExpertFile::open(&case.path).unwrap();
    let ids = ids(file.expert().config());
    let flag = std::sync::atomic::AtomicBool::new(false);
    let whole = case.logits(Some(0), &[100]).unwrap();
    let options = Options { on_device: true, ..card::options(case.kv) };
    let mut memory = Memory::new(Session::plan(file.expert(), &options).unwrap().total);
    let needs = Session::needs(file.expert(), &options).unwrap();
    let mut cuda = Cuda::open(0, file.expert(), &needs).unwrap();
    let kernels = Kernels::new(Isa::detect());
    let mut session =
        Session::init_on(&mut cuda, file.expert(), &options, memory.bytes(), kernels, &Serial)
            .unwrap();
    session.set_cancel(Some(&flag));
    flag.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(session.run(&ids, Want::Nothing), Err(Error::Cancelled));
    flag.store(false, std::sync::atomic::Ordering::Relaxed);
    let again = card::logits(&mut session, &ids, &[100]).unwrap();
    assert!(same_bits(&again, &whole));
}

/// The header of a model whose matrices are of one type, and a hole in the place of its weights.
fn hollow(path: &Path, config: &Config, dtype: DType) {
    let mut writer = Writer::new(ARCH_STANDARD);
    config.write(&mut writer);
    for tensor in inventory(config) {
        let (rows, cols) = tensor.shape(config);
        let dims: &[usize] = if tensor.is_matrix() { &[cols, rows] } else { &[cols] };
        let dtype = if tensor.role.is_quantizable() { dtype } else { DType::F32 };
        writer.tensor(&tensor.to_string(), dtype, dims).unwrap();
    }
    let len = writer.file_len();
    let mut header = Vec::new();
    writer.begin(&mut header).unwrap();
    let mut file = File::create(path).unwrap();
    file.write_all(&header).unwrap();
    file.set_len(len).unwrap();
}

/// XGLM's sizes, as large as they are: no card is needed to plan for one.
#[test]
fn plans_of_real_models() {
    let folder = XELM.folder("cuda_plans");
    let config = |n_layer, n_embd, n_ff| Config {
        n_vocab: 256_008,
        n_ctx: 2048,
        n_embd,
        n_layer,
        n_head: 16,
        n_ff,
        activation: Activation::GeluTanh,
        norm_eps: 1e-5,
    };
    let options = Options { n_batch: 256, kv: KvType::F16, ..Options::default() };
    // MiB of weights, keys and values, scratch.
    for (name, config, dtype, n_mib) in [
        ("564M", config(24, 1024, 4096), DType::Q8_0, [580, 192, 45]),
        ("564M", config(24, 1024, 4096), DType::Q4_0, [311, 192, 45]),
        ("1.7B", config(24, 2048, 8192), DType::Q8_0, [1773, 384, 88]),
        ("1.7B", config(24, 2048, 8192), DType::Q4_0, [947, 384, 88]),
    ] {
        let path: PathBuf = folder.join(format!("{name}-{}.gguf", dtype.name()));
        hollow(&path, &config, dtype);
        let file = ExpertFile::open(&path).unwrap();
        let of = |options: &Options| -> Plan {
            let needs = Session::needs(file.expert(), options).unwrap();
            plan(file.expert(), &needs).unwrap()
        };
        let one = of(&options);
        println!("{name} {}: {one:?}", dtype.name());
        assert_eq!([one.weights, one.kv, one.scratch].map(|n| n >> 20), n_mib, "{name}");
        assert_eq!(one.total, one.weights + one.kv + one.scratch);
        // Weights are those of the file but for alignment.
        let in_file = file.expert().weight_bytes();
        assert!(one.weights >= in_file && one.weights - in_file < 256 << 10, "{one:?}, {in_file}");
        let short = of(&Options { n_ctx: 512, ..options });
        assert_eq!((short.kv * 4, short.weights), (one.kv, one.weights));
        std::fs::remove_file(path).unwrap();
    }
    // Two experts side by side.
    let path = folder.join("two.gguf");
    hollow(&path, &Config { n_vocab: 8000, ..config(2, 1024, 4096) }, DType::Q8_0);
    let file = ExpertFile::open(&path).unwrap();
    let one: Ensemble<'_> = file.expert().into();
    let needs = Session::needs(one, &options).unwrap();
    let two = xelm_runtime::device::Needs { n_lanes: 2, n_slots: 2, n_logits: 2, ..needs };
    let [one, two] = [needs, two].map(|needs| plan(file.expert(), &needs).unwrap());
    assert_eq!((two.weights, two.kv), (one.weights, 2 * one.kv));
    assert!(two.scratch <= 2 * one.scratch + 256);
}
