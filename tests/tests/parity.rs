//! The trainer's forward pass and the runtime's: the same model, the same numbers.

use std::path::PathBuf;
use std::sync::LazyLock;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::mmap::ExpertFile;
use xelm_runtime::parallel::{Parallel, Serial};
use xelm_runtime::pool::Pool;
use xelm_runtime::rng::Rng;
use xelm_runtime::session::{KvType, Options, Session, Want};
use xelm_tests::xelm::Xelm;
use xelm_train::backend::{Backend, Cpu, IGNORE};
use xelm_train::checkpoint::Checkpoint;
use xelm_train::memory::Memory;
use xelm_train::model::{Model, Recompute};

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

static RUN: LazyLock<PathBuf> = LazyLock::new(|| XELM.tiny_run("parity").0);

/// A checkpoint of the run in a trainer's model of one sequence of `n_ctx` tokens.
fn trained(job: &str, n_ctx: usize) -> (Cpu, Model) {
    let checkpoint = Checkpoint::open(&RUN.join(job).join("checkpoint.gguf")).unwrap();
    let mut backend = Cpu::new();
    let model =
        Model::place(&mut backend, checkpoint.info.config, 1, n_ctx, Recompute::None).unwrap();
    checkpoint.load(&model, &mut backend, false);
    (backend, model)
}

fn ids(n: usize, n_vocab: usize, seed: u64) -> Vec<u32> {
    let mut rng = Rng::new(seed, 0);
    (0..n).map(|i| if i == 0 { 2 } else { rng.below(n_vocab as u32) }).collect()
}

/// Logits after every token, the sequence being read in parts of the given lengths.
fn logits(
    file: &ExpertFile,
    options: &Options,
    parallel: &dyn Parallel,
    ids: &[u32],
    parts: &[usize],
) -> Vec<f32> {
    let expert = file.expert();
    let mut memory = Memory::new(Session::plan(expert, options).unwrap().total);
    let kernels = Kernels::new(Isa::detect());
    let mut session = Session::init(expert, options, memory.bytes(), kernels, parallel).unwrap();
    let mut all = Vec::new();
    let mut rest = ids;
    for &part in parts.iter().cycle() {
        let (now, later) = rest.split_at(part.min(rest.len()));
        session.run(now, Want::All(&mut |_, logits| all.extend_from_slice(logits))).unwrap();
        rest = later;
        if rest.is_empty() {
            return all;
        }
    }
    unreachable!("parts are cycled")
}

fn options(n_batch: usize, n_logits: usize, kv: KvType) -> Options {
    Options { n_batch, n_logits, kv, ..Options::default() }
}

#[test]
fn logits_of_trainer_and_runtime_agree() {
    for (job, file) in [("seed", "models/seed.gguf"), ("dense", "models/dense.gguf")] {
        let file = ExpertFile::open(&RUN.join(file)).unwrap();
        let config = *file.expert().config();
        let (mut backend, model) = trained(job, config.n_ctx);
        let mut worst = 0.0f32;
        for seed in 0..4 {
            let ids = ids(config.n_ctx, config.n_vocab, seed);
            let ours = logits(&file, &options(16, 3, KvType::F32), &Serial, &ids, &[usize::MAX]);
            let theirs = model.logits(&mut backend, &ids).unwrap();
            worst = xelm_tests::oracle::differences(&ours, &theirs).0.max(worst);
        }
        println!("{job}: {worst:.2e}");
        assert!(worst <= 1e-4, "{job}: {worst}");
    }
}

/// Reading in any chunks, by any number of threads, gives the same bits as token by token.
#[test]
fn chunks_and_threads_change_no_bit() {
    for name in ["set", "set-q8_0", "set-q4_0"] {
        let folder = RUN.join(name);
        let mut files = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        let path = files.find(|p| !p.ends_with("set.gguf")).unwrap();
        let file = ExpertFile::open(&path).unwrap();
        let config = *file.expert().config();
        let ids = ids(config.n_ctx, config.n_vocab, 9);
        for kv in [KvType::F32, KvType::F16] {
            let expected = logits(&file, &options(1, 1, kv), &Serial, &ids, &[1]);
            for (n_batch, n_logits, parts) in [
                (64, 64, &[64][..]),
                (32, 1, &[64]),
                (7, 2, &[64]),
                (5, 3, &[13, 1, 8]),
                (64, 4, &[3]),
            ] {
                for n_threads in [1, 2, 3] {
                    let pool = Pool::new(n_threads).unwrap();
                    let got = logits(&file, &options(n_batch, n_logits, kv), &pool, &ids, parts);
                    let same = got.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(
                        same && got.len() == expected.len(),
                        "{name}, {kv:?}, {n_batch}, {n_logits}, {parts:?}, {n_threads}"
                    );
                }
            }
        }
    }
}

/// What was rewound or reset leaves no trace.
#[test]
fn rewinding_leaves_no_trace() {
    let file = ExpertFile::open(&RUN.join("models/seed.gguf")).unwrap();
    let expert = file.expert();
    let options = options(8, 1, KvType::F16);
    let mut memory = Memory::new(Session::plan(expert, &options).unwrap().total);
    let kernels = Kernels::new(Isa::detect());
    let mut session = Session::init(expert, &options, memory.bytes(), kernels, &Serial).unwrap();
    let ids = ids(40, expert.config().n_vocab, 3);
    session.prefill(&ids).unwrap();
    let expected = session.logits().unwrap().to_vec();
    session.rewind(17).unwrap();
    session.prefill(&[5, 6, 7]).unwrap();
    assert_ne!(session.logits().unwrap(), expected);
    session.rewind(17).unwrap();
    session.prefill(&ids[17..]).unwrap();
    assert_eq!(session.logits().unwrap(), expected);
    session.reset();
    session.prefill(&ids).unwrap();
    assert_eq!(session.logits().unwrap(), expected);
    assert!(session.rewind(41).is_err());
    // A full context and an unknown token are errors that change nothing.
    assert!(session.prefill(&vec![4; expert.config().n_ctx - 39]).is_err());
    assert!(session.prefill(&[expert.config().n_vocab as u32]).is_err());
    assert_eq!((session.n_past(), session.logits().unwrap()), (40, &expected[..]));
}

/// The score of a text is the trainer's loss on its tokens.
#[test]
fn score_is_the_trainers_loss() {
    let text = "Heute scheint die Sonne, und wir gehen in den Wald.";
    let path = RUN.join("models/seed.gguf");
    let args = ["score", "--json", "--expert", path.to_str().unwrap(), "--text", text];
    let score: serde_json::Value = serde_json::from_str(&XELM.run(&args)).unwrap();
    let file = ExpertFile::open(&path).unwrap();
    let tokenizer = file.expert().tokenizer().unwrap();
    let mut inputs = vec![tokenizer.bos()];
    inputs.extend(xelm_train::tokens::encode(tokenizer, text.as_bytes()).unwrap());
    let mut targets = inputs[1..].to_vec();
    targets.push(tokenizer.eos());
    let n = targets.len();
    assert_eq!(score["tokens"], n);
    // The trainer's sequences are of one length; what follows is not counted and, the model being
    // causal, not seen.
    let n_ctx = file.expert().config().n_ctx;
    assert!(n < n_ctx);
    inputs.resize(n_ctx, 0);
    targets.resize(n_ctx, IGNORE);
    let (mut backend, model) = trained("seed", n_ctx);
    backend.load_batch(&inputs, &targets);
    model.evaluate(&mut backend);
    let loss = backend.finish_step().unwrap().loss;
    let nll = score["nll_sum"].as_f64().unwrap();
    println!("runtime {:.6}, trainer {loss:.6} nats per token", nll / n as f64);
    assert!((nll / n as f64 - loss).abs() < 1e-5);
}
