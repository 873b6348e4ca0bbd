//! Training jobs on the CUDA backend, its kernels executed on this CPU: a device that fails in the middle
//! loses nothing, and a job may change its device.

use std::fs;
use std::path::{Path, PathBuf};
use xelm_tests::shim::{Order, Shim};
use xelm_train::backend::cuda::{Cuda, Precision};
use xelm_train::backend::{Backend, Cpu};
use xelm_train::corpus::{BadInput, write_bundled};
use xelm_train::job::{Cadence, JobResult};
use xelm_train::report::Silent;
use xelm_train::run::Run;
use xelm_train::settings::{ModelSettings, Preset, TrainSettings};
use xelm_train::vocab::VocabSettings;
use xelm_train::{Error, Result};

const MODEL: ModelSettings =
    ModelSettings { n_layer: 2, n_embd: 32, n_head: 2, n_ff: 64, n_ctx: 24 };

const EVERY_OTHER: Cadence = Cadence { save_every: 2, valid_every: 6 };

/// Six steps with dropout, a checkpoint after every second.
fn pretrain(run: &Path, backend: &mut dyn Backend) -> Result<JobResult> {
    let settings = TrainSettings {
        dropout: 0.1,
        micro_batch: 2,
        warmup: 0,
        ..TrainSettings::preset(Preset::Small, 6, 4, MODEL.n_ctx)
    };
    Run::open(run)?.pretrain(MODEL, settings, EVERY_OTHER, backend, &mut Silent)
}

fn checkpoint(run: &Path) -> Vec<u8> {
    fs::read(run.join("seed/checkpoint.gguf")).unwrap()
}

/// A new run with a small vocabulary of one language.
fn begin(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda_training").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    let corpus = folder.join("corpus");
    fs::create_dir_all(&corpus).unwrap();
    write_bundled(&corpus).unwrap();
    let root = folder.join("run");
    let run = Run::create(&root, &corpus, &["en".to_owned()], BadInput::Stop).unwrap();
    let settings = VocabSettings { n_vocab: 300, ..VocabSettings::default() };
    run.train_vocabulary(&settings, &[]).unwrap();
    root
}

#[test]
fn a_device_that_fails_loses_nothing() {
    let Some(shim) = Shim::new(Precision::Bf16, Order::Forward) else { return };
    let whole = begin("whole");
    let result = pretrain(&whole, &mut Cuda::new(shim)).unwrap();
    let loss = result.loss.unwrap();

    // Fails in the third step, resumed at the third in the fifth, resumed at the fifth at once.
    let broken = begin("broken");
    for n_launches in [600, 600, 3] {
        let shim = Shim::new(Precision::Bf16, Order::Forward).unwrap().failing_after(n_launches);
        let error = pretrain(&broken, &mut Cuda::new(shim)).unwrap_err();
        assert!(matches!(error, Error::Device(_)), "{error}");
    }
    let log = fs::read_to_string(broken.join("seed/log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 4, "{log}");
    let moved = begin("moved");
    fs::remove_dir_all(&moved).unwrap();
    copy(&broken, &moved);

    // Resumed on the same kind of device: the same bits. On the CPU: nearly.
    let shim = Shim::new(Precision::Bf16, Order::Shuffled).unwrap();
    let resumed = pretrain(&broken, &mut Cuda::new(shim)).unwrap();
    assert_eq!((resumed.new_steps, resumed.loss), (2, Some(loss)));
    assert!(checkpoint(&broken) == checkpoint(&whole), "the weights have other bits");
    let resumed = pretrain(&moved, &mut Cpu::new()).unwrap();
    assert_eq!(resumed.new_steps, 2);
    assert!((resumed.loss.unwrap() - loss).abs() < 0.02, "{:?}, not {loss}", resumed.loss);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}
