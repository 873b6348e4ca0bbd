//! The runtime on a card against the runtime on this CPU: with a stand-in for the driver in tests, with NVIDIA's
//! on a machine that has a card (`tests/gpu.sh`).

use std::path::{Path, PathBuf};
use xelm_quantize::{Options as QuantizeOptions, Override, Recipe, quantize_file, repack_file};
use xelm_runtime::config::{ARCH_STANDARD, Activation, Config, inventory};
use xelm_runtime::cuda::Cuda;
use xelm_runtime::ensemble::Ensemble;
use xelm_runtime::format::{AtomicFile, Writer};
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::layout::Layout;
use xelm_runtime::mmap::ExpertFile;
use xelm_runtime::parallel::Serial;
use xelm_runtime::quant::DType;
use xelm_runtime::rng::Rng;
use xelm_runtime::session::{KvType, Options, Session, Want};
use xelm_train::memory::Memory;

/// A model to compare: a file, and how keys and values are kept.
#[derive(Clone, Debug)]
pub struct Case {
    /// Format, width, keys and values.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// How its matrices are stored.
    pub dtype: DType,
    /// Storage of keys and values.
    pub kv: KvType,
}

/// Tokens that the comparisons read: more than one chunk of keys.
const N_TOKENS: usize = 80;
const N_VOCAB: usize = 75;

/// How far the card's logits are from the CPU's, as shares of the largest logit: in the best twentieth of the
/// positions, and in the worst one.
///
/// Sums are in another order, so now and then a number that is rounded to 8 bits, or a key to half precision,
/// becomes its neighbour. From then on whatever attends to it is off by about what the rounding itself costs, in these
/// random models up to a hundredth. Positions before that are equal up to the rounding of sums.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Off {
    /// Of the best twentieth.
    pub best: f32,
    /// Of the worst position.
    pub worst: f32,
}

impl Off {
    fn between(ours: &[f32], theirs: &[f32], n_vocab: usize) -> Self {
        let rows = ours.chunks(n_vocab).zip(theirs.chunks(n_vocab));
        let mut rows: Vec<f32> = rows.map(|(a, b)| difference(a, b)).collect();
        rows.sort_by(f32::total_cmp);
        Off { best: rows[rows.len() / 20], worst: rows[rows.len() - 1] }
    }

    /// Whether nothing is above a bound.
    pub fn is_within(&self, bound: &Off) -> bool {
        self.best <= bound.best && self.worst <= bound.worst
    }
}

impl Case {
    /// How far the card may be off.
    pub fn bound(&self) -> Off {
        match (self.dtype.is_quantized(), self.kv) {
            (false, KvType::F32) => Off { best: 2e-6, worst: 5e-6 },
            (false, KvType::F16) => Off { best: 2e-4, worst: 5e-4 },
            (true, KvType::F32) => Off { best: 2e-6, worst: 3e-2 },
            (true, KvType::F16) => Off { best: 1e-3, worst: 3e-2 },
            (_, KvType::Q8_0) => unreachable!("a card refuses them"),
        }
    }

    /// How far the card is off.
    pub fn off(&self, ours: &[f32], theirs: &[f32]) -> Off {
        Off::between(ours, theirs, N_VOCAB)
    }
}

/// Models in every format, of friendly and of awkward widths, with every activation, and one that is packed.
pub fn cases(folder: &Path) -> Vec<Case> {
    let base = Config {
        n_vocab: N_VOCAB,
        n_ctx: 140,
        n_embd: 256,
        n_layer: 1,
        n_head: 4,
        n_ff: 256,
        activation: Activation::GeluErf,
        norm_eps: 1e-5,
    };
    let narrow = Config { n_layer: 2, n_ctx: 90, ..base };
    let (tanh, relu) = (Activation::GeluTanh, Activation::Relu);
    let groups = Config { n_embd: 96, n_head: 3, n_ff: 160, activation: tanh, ..narrow };
    let awkward = Config { n_embd: 20, n_head: 2, n_ff: 36, activation: relu, ..narrow };
    let mut cases = Vec::new();
    for config in [awkward, groups, base] {
        let plain = folder.join(format!("{}-plain.gguf", config.n_embd));
        write(&plain, &config);
        for dtype in DType::ALL.into_iter().filter(|dtype| dtype.holds_weights()) {
            if dtype.row_bytes(config.n_embd).is_none() {
                continue;
            }
            let path = folder.join(format!("{}-{}.gguf", config.n_embd, dtype.name()));
            let overrides = [Override { pattern: "*".into(), dtype }];
            let options =
                QuantizeOptions { overrides: &overrides, ..QuantizeOptions::from(Recipe::F32) };
            quantize_file(&plain, &path, options).expect("the model is quantised");
            let both = matches!(dtype, DType::Q8_0 | DType::F16);
            let kinds = if both { &[KvType::F32, KvType::F16][..] } else { &[KvType::F32] };
            for &kv in kinds {
                let name = format!("{} {} {kv:?}", dtype.name(), config.n_embd);
                cases.push(Case { name, path: path.clone(), dtype, kv });
            }
            if dtype == DType::Q8_0 && config == groups {
                let packed = folder.join("packed.gguf");
                repack_file(&path, &packed, Layout::Packed).expect("the model is packed");
                let name = format!("packed {} {}", dtype.name(), config.n_embd);
                cases.push(Case { name, path: packed, dtype, kv: KvType::F32 });
            }
        }
    }
    cases
}

/// Writes an expert with random weights large enough that every part of it matters.
fn write(path: &Path, config: &Config) {
    let mut writer = Writer::new(ARCH_STANDARD);
    config.write(&mut writer);
    for tensor in inventory(config) {
        let (rows, cols) = tensor.shape(config);
        let dims: &[usize] = if tensor.is_matrix() { &[cols, rows] } else { &[cols] };
        writer.tensor(&tensor.to_string(), DType::F32, dims).expect("whole rows");
    }
    let file = AtomicFile::create(path).expect("a scratch file");
    let mut body = writer.begin(file).expect("a header");
    let mut rng = Rng::new(3, 0);
    for tensor in inventory(config) {
        let (rows, cols) = tensor.shape(config);
        let size = if tensor.is_matrix() { 1.5 / (cols as f32).sqrt() } else { 0.3 };
        let offset = if tensor.to_string().ends_with("norm.weight") { 1.0 } else { 0.0 };
        let numbers: Vec<f32> =
            (0..rows * cols).map(|_| offset + size * rng.next_normal()).collect();
        body.tensor([bytemuck::cast_slice::<f32, u8>(&numbers)]).expect("a tensor");
    }
    body.finish().expect("all tensors").commit().expect("a scratch file");
}

/// Runs `work` in a session of the CPU's or, with `card`, of that card's.
pub fn session<'e, T>(
    experts: impl Into<Ensemble<'e>>,
    options: &Options,
    card: Option<usize>,
    work: impl FnOnce(&mut Session<'_>) -> T,
) -> xelm_runtime::Result<T> {
    let ensemble = experts.into();
    let options = Options { on_device: card.is_some(), ..*options };
    let mut memory = Memory::new(Session::plan(ensemble, &options)?.total);
    memory.bytes().fill(0xa5);
    let (memory, kernels) = (memory.bytes(), Kernels::new(Isa::detect()));
    let Some(index) = card else {
        return Ok(work(&mut Session::init(ensemble, &options, memory, kernels, &Serial)?));
    };
    let mut cuda = Cuda::open(index, ensemble, &Session::needs(ensemble, &options)?)?;
    Ok(work(&mut Session::init_on(&mut cuda, ensemble, &options, memory, kernels, &Serial)?))
}

/// Options by which passes of the comparisons are divided unevenly.
pub fn options(kv: KvType) -> Options {
    Options { n_batch: 32, n_logits: 5, kv, max_text: 0, ..Options::default() }
}

/// Logits after every token, the sequence being read in parts of the given lengths, the last one repeated.
pub fn logits(
    session: &mut Session<'_>,
    ids: &[u32],
    parts: &[usize],
) -> xelm_runtime::Result<Vec<f32>> {
    let mut all = Vec::new();
    let (mut rest, mut i) = (ids, 0);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(parts[i.min(parts.len() - 1)].min(rest.len()));
        session.run(now, Want::All(&mut |_, logits| all.extend_from_slice(logits)))?;
        (rest, i) = (later, i + 1);
    }
    Ok(all)
}

/// Token ids for a model.
pub fn ids(config: &Config) -> Vec<u32> {
    let mut rng = Rng::new(5, 0);
    (0..N_TOKENS.min(config.n_ctx)).map(|_| rng.below(config.n_vocab as u32)).collect()
}

impl Case {
    /// Logits on the CPU, or on a card.
    ///
    /// # Errors
    /// The card's.
    pub fn logits(&self, card: Option<usize>, parts: &[usize]) -> xelm_runtime::Result<Vec<f32>> {
        let file = ExpertFile::open(&self.path)?;
        let ids = ids(file.expert().config());
        session(file.expert(), &options(self.kv), card, |session| logits(session, &ids, parts))?
    }
}

/// The largest difference relative to the largest number; infinite where one is no number.
pub fn difference(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let finite = theirs.iter().filter(|x| x.is_finite());
    let largest = finite.fold(0.0f32, |max, x| max.max(x.abs()));
    let off = ours.iter().zip(theirs).map(|(a, b)| {
        let off = (a - b).abs();
        // Two tokens that cannot be are equal.
        if a == b {
            0.0
        } else if off.is_finite() {
            off
        } else {
            f32::INFINITY
        }
    });
    off.fold(0.0, f32::max) / largest.max(f32::MIN_POSITIVE)
}

/// Whether two runs gave the same bits.
pub fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}
