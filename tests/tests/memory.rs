//! The runtime's promises about memory: the plan is exact, what the memory held before does not
//! matter, and nothing is allocated between a session's first and last moment.

use std::cell::Cell;
use xelm_runtime::Error;
use xelm_runtime::cuda::Cuda;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::mmap::ExpertFile;
use xelm_runtime::parallel::Serial;
use xelm_runtime::pool::Pool;
use xelm_runtime::sampler::{Sampler, SamplerOptions};
use xelm_runtime::score::Written;
use xelm_runtime::session::{KvType, Options, Session};
use xelm_runtime::tokenizer::TextStream;
use xelm_tests::counting::{Counting, allocations};
use xelm_tests::shim::FakeDriver;
use xelm_tests::xelm::Xelm;
use xelm_train::memory::Memory;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

/// All in one test: allocations are counted for the whole process.
#[test]
fn memory() {
    let (run, _) = XELM.tiny_run("memory");
    let (set, short) = (run.join("set-q8_0"), run.join("set-short"));
    let corpus = run.with_file_name("corpus");
    let [set, short, corpus] = [&set, &short, &corpus].map(|path| path.to_str().unwrap());
    let args =
        ["shortlist", "--set", set, "--corpus", corpus, "--coverage", "0.98", "--out", short];
    XELM.run(&args);
    for set in ["set", "set-q8_0", "set-q4_0", "set-short"] {
        let entries = std::fs::read_dir(run.join(set)).unwrap().map(|e| e.unwrap().path());
        let experts = entries.filter(|p| p.extension().is_some_and(|e| e == "gguf"));
        for path in experts.filter(|p| !p.ends_with("set.gguf")) {
            let file = ExpertFile::open(&path).unwrap();
            plan_is_exact(&file);
            old_contents_do_not_matter(&file);
            nothing_is_allocated(&file);
            if set == "set-q8_0" {
                nothing_is_allocated_for_a_card(&file);
            }
        }
    }
}

fn all_options() -> Vec<Options> {
    let base = Options::default();
    vec![
        base,
        Options { n_ctx: 17, n_batch: 1, kv: KvType::F32, max_text: 0, ..base },
        Options { n_ctx: 64, n_batch: 200, n_logits: 5, max_text: 77, ..base },
    ]
}

fn plan_is_exact(file: &ExpertFile) {
    let expert = file.expert();
    let kernels = Kernels::new(Isa::detect());
    for options in all_options() {
        let plan = Session::plan(expert, &options).unwrap();
        assert_eq!(plan.total, plan.kv + plan.scratch + plan.text + plan.routing);
        let config = expert.config();
        let element = if options.kv == KvType::F32 { 4 } else { 2 };
        let n_ctx = if options.n_ctx == 0 { config.n_ctx } else { options.n_ctx };
        let kv = 2 * config.n_layer * n_ctx * config.n_embd * element;
        assert!(plan.kv >= kv && plan.kv <= kv + 128, "{plan:?}");
        let mut memory = Memory::new(plan.total);
        let mut init = |range: std::ops::Range<usize>| {
            let memory = &mut memory.bytes()[range];
            Session::init(expert, &options, memory, kernels, &Serial).map(drop)
        };
        assert_eq!(init(0..plan.total), Ok(()));
        assert!(matches!(init(0..plan.total - 1), Err(Error::MemoryTooSmall { .. })));
        assert_eq!(init(1..plan.total), Err(Error::MemoryMisaligned));
    }
    for bad in [
        Options { n_ctx: expert.config().n_ctx + 1, ..Options::default() },
        Options { n_batch: 0, ..Options::default() },
        Options { n_logits: 0, ..Options::default() },
        Options { max_text: usize::MAX / 8, ..Options::default() },
    ] {
        assert!(Session::plan(expert, &bad).is_err(), "{bad:?}");
    }
}

/// A prompt is read, text written and scored; returns all that came out.
fn use_session(session: &mut Session<'_>, text: &mut String) -> (Vec<u32>, f64) {
    let options =
        SamplerOptions { temperature: 0.9, top_k: 30, top_p: 0.9, seed: 5, ..Default::default() };
    let mut sampler = Sampler::new(options).unwrap();
    session.prefill_text("Am Morgen 今日は".as_bytes()).unwrap();
    let mut last = Vec::new();
    session
        .generate(&mut sampler, 20, TextStream::continuing(), |written| {
            text.push_str(written.text);
            true
        })
        .unwrap();
    last.extend(session.logits().unwrap().iter().map(|l| l.to_bits()));
    (last, session.score_text("Ένα κείμενο".as_bytes()).unwrap().nll_sum)
}

fn old_contents_do_not_matter(file: &ExpertFile) {
    let expert = file.expert();
    let options = Options::default();
    let plan = Session::plan(expert, &options).unwrap();
    let mut results = Vec::new();
    let noise = Cell::new(1u64);
    let byte = |_: usize| {
        noise.set(noise.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        (noise.get() >> 56) as u8
    };
    for fill in [&(|_| 0u8) as &dyn Fn(usize) -> u8, &|_| 0xff, &byte] {
        let mut memory = Memory::new(plan.total);
        memory.bytes().iter_mut().enumerate().for_each(|(i, b)| *b = fill(i));
        let kernels = Kernels::new(Isa::detect());
        let mut session =
            Session::init(expert, &options, memory.bytes(), kernels, &Serial).unwrap();
        let mut text = String::new();
        let (logits, nll) = use_session(&mut session, &mut text);
        results.push((text, logits, nll.to_bits()));
    }
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
}

fn nothing_is_allocated(file: &ExpertFile) {
    let expert = file.expert();
    for n_threads in [1, 2] {
        let pool = Pool::new(n_threads).unwrap();
        let options = Options::default();
        let mut memory = Memory::new(Session::plan(expert, &options).unwrap().total);
        let mut text = String::with_capacity(4096);
        let mut ids = [0u32; 64];
        let n = allocations(|| {
            let kernels = Kernels::new(Isa::detect());
            let mut session =
                Session::init(expert, &options, memory.bytes(), kernels, &pool).unwrap();
            let encoding = session.encode("Ein Satz, eine 文.".as_bytes()).unwrap();
            let n_ids = encoding.ids.len();
            ids[..n_ids].copy_from_slice(encoding.ids);
            session.prefill(&ids[..n_ids]).unwrap();
            session.rewind(1).unwrap();
            session.reset();
            let mut sampler = Sampler::new(SamplerOptions::default()).unwrap();
            session.prefill_text(b"Am").unwrap();
            session.sample(&mut sampler).unwrap();
            session.reset();
            session.prefill_text("Guten Tag".as_bytes()).unwrap();
            session
                .generate(&mut sampler, 12, TextStream::continuing(), |written| {
                    text.push_str(written.text);
                    true
                })
                .unwrap();
            session.score_text("Noch ein Satz.".as_bytes()).unwrap();
        });
        assert_eq!(n, 0, "{n_threads} threads");
    }
    // The counter counts.
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

/// The host side of a card, over a driver that runs the kernels on this CPU.
fn nothing_is_allocated_for_a_card(file: &ExpertFile) {
    let Some(driver) = FakeDriver::load() else { return };
    let expert = file.expert();
    let options = Options { on_device: true, n_batch: 8, ..Options::default() };
    let mut cuda = Cuda::open(0, expert, &Session::needs(expert, &options).unwrap()).unwrap();
    let mut memory = Memory::new(Session::plan(expert, &options).unwrap().total);
    let kernels = Kernels::new(Isa::detect());
    let mut session =
        Session::init_on(&mut cuda, expert, &options, memory.bytes(), kernels, &Serial).unwrap();
    let mut text = String::with_capacity(1 << 10);
    let mut state = vec![0; 1 << 20];
    // The driver's functions are looked up when they are called for the first time.
    use_session(&mut session, &mut text);
    session.save(&mut state).unwrap();
    session.reset();
    text.clear();
    let on_card = driver.counts().allocations;
    let n = allocations(|| {
        // What it returns is the test's own; everything else is the session's.
        session.prefill_text("Am Morgen 今日は".as_bytes()).unwrap();
        let mut sampler = Sampler::new(SamplerOptions::default()).unwrap();
        let emit = |_: Written<'_>| true;
        session.generate(&mut sampler, 10, TextStream::continuing(), emit).unwrap();
        session.save(&mut state).unwrap();
    });
    assert_eq!((n, driver.counts().allocations), (0, on_card));
}
