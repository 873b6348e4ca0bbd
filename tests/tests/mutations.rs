//! Damaged files on the level of the library: cut short, with single bytes changed all over their
//! structure, with several bytes changed at random. Each is refused or is another model; nothing panics
//! and nothing hangs. `tests/corruption.sh` does the same through C under AddressSanitizer, and `fuzz/`
//! searches for what these do not find.

use rayon::prelude::*;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::LazyLock;
use xelm_runtime::Error;
use xelm_runtime::arena::Arena;
use xelm_runtime::expert::{Expert, Layer};
use xelm_runtime::format::{Gguf, Value, keys};
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::parallel::Serial;
use xelm_runtime::rng::Rng;
use xelm_runtime::router::{Context, Router};
use xelm_runtime::sampler::{Sampler, SamplerOptions};
use xelm_runtime::session::{Options, Session};
use xelm_runtime::set::Set;
use xelm_runtime::tokenizer::TextStream;
use xelm_tests::xelm::Xelm;
use xelm_train::memory::Memory;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

static FILES: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let run = XELM.tiny_run("mutations").0;
    let file = |name: &str, open| Sample { whole: fs::read(run.join(name)).unwrap(), open };
    let mut files = vec![file("set/set.gguf", use_set)];
    let short = XELM.folder("mutations_short").join("set");
    let args = ["--coverage", "0.9", "--corpus"].map(std::ffi::OsStr::new);
    let (set, corpus) = (run.join("set-q8_0"), run.with_file_name("corpus"));
    let args = ["shortlist".as_ref(), "--set".as_ref(), set.as_os_str()].into_iter().chain(args);
    let args = args.chain([corpus.as_os_str(), "--out".as_ref(), short.as_os_str()]);
    XELM.run(&args.collect::<Vec<_>>());
    let packed = short.with_file_name("packed");
    let args = ["repack", "--set", short.to_str().unwrap(), "--out", packed.to_str().unwrap()];
    XELM.run(&args);
    let sets = ["set", "set-q8_0", "set-q4_0"].map(|name| run.join(name));
    for set in sets.iter().chain([&short, &packed]) {
        let entries = fs::read_dir(run.join(set)).unwrap().map(|e| e.unwrap().path());
        let is_expert = |p: &PathBuf| {
            p.extension().is_some_and(|extension| extension == "gguf") && !p.ends_with("set.gguf")
        };
        let expert = entries.filter(is_expert).min().unwrap();
        files.push(file(expert.to_str().unwrap(), use_expert));
    }
    files
});

/// A sound file, and what opens and uses it.
struct Sample {
    whole: Vec<u8>,
    open: fn(&[u8]) -> Result<(), Error>,
}

/// Opens bytes as an expert and, where that works, reads, writes and scores with it.
fn use_expert(bytes: &[u8]) -> Result<(), Error> {
    let gguf = Gguf::open(bytes)?;
    let mut layers = vec![Layer::default(); Expert::n_layer(&gguf)?];
    let expert = Expert::open(gguf, &mut layers)?;
    let options = Options { max_text: 256, ..Options::default() };
    let plan = Session::plan(&expert, &options)?;
    // A flipped bit may ask for any size; the caller decides what is too much.
    if plan.total > 1 << 28 {
        return Err(Error::MemoryTooSmall { needed: plan.total });
    }
    let mut memory = Memory::new(plan.total);
    let kernels = Kernels::new(Isa::detect());
    let mut session = Session::init(&expert, &options, memory.bytes(), kernels, &Serial)?;
    session.prefill_text("Am Morgen 今日は".as_bytes())?;
    let mut sampler = Sampler::new(SamplerOptions { temperature: 1.0, ..Default::default() })?;
    session.generate(&mut sampler, 3, TextStream::continuing(), |_| true)?;
    session.score_text("Ένα κείμενο".as_bytes()).map(drop)
}

/// Opens bytes as a set, and chooses from what opens by language and, where it has a router, by words.
fn use_set(bytes: &[u8]) -> Result<(), Error> {
    let gguf = Gguf::open(bytes)?;
    let set = Set::open(&gguf)?;
    set.entries().for_each(drop);
    for tag in ["de", "el-CY", "zh", "fr"] {
        let _ = set.select(tag, |i| i > 0);
    }
    let Some(router) = Router::open(&gguf)? else { return Ok(()) };
    let mut plan = Arena::measure();
    Context::carve(&mut plan, Some(&router))?;
    let mut memory = Memory::new(plan.used());
    let mut context = Context::carve(&mut Arena::new(memory.bytes())?, Some(&router))?;
    context.feed(&router, "am Morgen, 今日は");
    let mut weights = vec![0.0; router.n_experts()];
    router.weights(context.vector(&router), &Default::default(), &|_| true, &mut weights)
}

/// A file's bytes where a reader wants them: aligned.
fn aligned(bytes: &[u8]) -> Memory {
    let mut memory = Memory::new(bytes.len());
    memory.bytes().copy_from_slice(bytes);
    memory
}

#[test]
fn files_cut_anywhere_are_refused() {
    let mut n = 0;
    for Sample { whole, open } in FILES.iter() {
        assert_eq!(open(aligned(whole).bytes()), Ok(()));
        // A set file is small: every 10th byte.
        let every = if whole.len() > 100_000 { 1000 } else { 10 };
        for len in (0..whole.len()).step_by(every) {
            assert!(open(aligned(&whole[..len]).bytes()).is_err(), "cut to {len} bytes");
            n += 1;
        }
    }
    println!("{n} cut files");
    assert!(n > 1000);
}

/// Bytes to change: where, and what to xor them with.
type Change = Vec<(usize, u8)>;

/// Says which change a panic came from.
struct Trying<'a>(&'a Change);

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("panicked with {:?}", self.0);
        }
    }
}

/// Applies each change to the sound file and uses the result; how many were refused.
fn refused(Sample { whole, open }: &Sample, changes: &[Change]) -> usize {
    let part = |changes: &[Change]| {
        let mut memory = aligned(whole);
        let bytes = memory.bytes();
        let mut refused = 0;
        for change in changes {
            let _trying = Trying(change);
            change.iter().for_each(|&(at, x)| bytes[at] ^= x);
            refused += usize::from(open(bytes).is_err());
            change.iter().for_each(|&(at, x)| bytes[at] ^= x);
        }
        assert!(bytes == whole);
        refused
    };
    changes.par_chunks(256).map(part).sum()
}

/// Where the structure of a file lies, and in it the character map, which is long and all of a kind.
fn header(whole: &[u8]) -> (usize, Range<usize>) {
    let mut memory = aligned(whole);
    let bytes = memory.bytes();
    let gguf = Gguf::open(bytes).unwrap();
    let place = |part: &[u8]| part.as_ptr().addr() - bytes.as_ptr().addr();
    let end = gguf.tensors().next().map_or(whole.len(), |tensor| place(tensor.bytes));
    let charsmap = match gguf.get(keys::CHARSMAP) {
        Some(Value::Array(map)) => place(map.bytes)..place(map.bytes) + map.bytes.len(),
        _ => 0..0,
    };
    (end, charsmap)
}

/// Every 7th byte of the structure, one at a time; of the character map every 707th.
#[test]
fn changed_bytes_of_the_structure_do_no_harm() {
    let (mut n, mut n_refused) = (0, 0);
    // The first three experts differ in their weights only.
    for sample in [&FILES[0], &FILES[1], &FILES[4]] {
        let (end, charsmap) = header(&sample.whole);
        let mut rng = Rng::new(11, 0);
        let changes: Vec<Change> = (0..end)
            .step_by(7)
            .filter(|at| !charsmap.contains(at) || at % 101 == 0)
            .map(|at| vec![(at, 1 + rng.below(255) as u8)])
            .collect();
        n += changes.len();
        n_refused += refused(sample, &changes);
    }
    println!("{n_refused} of {n} refused");
    assert!(n > 10_000 && n_refused > 1000 && n_refused < n);
}

/// 10,000 changes of up to 16 bytes, scattered or in a row, half of them in the structure.
#[test]
fn changes_of_many_bytes_do_no_harm() {
    let (n, mut n_refused) = (10_000, 0);
    for (stream, sample) in (0..).zip(FILES.iter()) {
        let (end, charsmap) = header(&sample.whole);
        let mut rng = Rng::new(12, stream);
        let change = |i: usize| -> Change {
            let n_bytes = 1 + rng.below(16) as usize;
            let in_a_row = rng.below(2) == 0;
            let mut at = 0;
            let mut change = Vec::new();
            for j in 0..n_bytes {
                if j == 0 || !in_a_row {
                    at = if i.is_multiple_of(2) {
                        rng.below(sample.whole.len() as u32) as usize
                    } else {
                        // Before or behind the character map.
                        let at = rng.below((end - charsmap.len()) as u32) as usize;
                        if at < charsmap.start { at } else { at + charsmap.len() }
                    };
                } else {
                    at += 1;
                }
                let Some(&old) = sample.whole.get(at) else { break };
                let new = [rng.next_u32() as u8, 0, 0xff, old.wrapping_add(1)];
                change.push((at, old ^ new[rng.below(4) as usize]));
            }
            change
        };
        let changes: Vec<Change> = (0..n / FILES.len()).map(change).collect();
        n_refused += refused(sample, &changes);
    }
    println!("{n_refused} of {n} refused");
    assert!(n_refused > 1000 && n_refused < n);
}
