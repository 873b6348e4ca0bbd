//! Experts and sets small enough to be made in a moment: what they compute is nonsense, what they are is
//! sound.

use std::path::Path;
use xelm_runtime::config::{ARCH_STANDARD, Activation, Config, inventory};
use xelm_runtime::format::{AtomicFile, FORMAT_VERSION, Writer, keys};
use xelm_runtime::mmap::ExpertFile;
use xelm_runtime::pack::write_manifest;
use xelm_runtime::quant::DType;
use xelm_runtime::set::{ARCH_SET, Row, SET_FILE, file_identity, keys as set_keys};
use xelm_runtime::tokenizer::{Vocabulary, hex};

/// What distinguishes one small expert from another.
#[derive(Clone, Copy, Debug)]
pub struct Tiny<'a> {
    /// Name.
    pub id: &'a str,
    /// Languages, separated by commas.
    pub languages: &'a str,
    /// All of its weights.
    pub weight: f32,
    /// Width.
    pub n_embd: usize,
    /// The pieces of its vocabulary, separated by spaces.
    pub pieces: &'a str,
}

impl<'a> Tiny<'a> {
    /// An expert that fits the others of this kind.
    pub fn new(id: &'a str, languages: &'a str, weight: f32) -> Self {
        Tiny { id, languages, weight, n_embd: 32, pieces: "▁ a b c d" }
    }

    /// Three experts: 0 speaks German and English, 1 Greek, 2 Japanese.
    pub fn three() -> [Tiny<'static>; 3] {
        [Tiny::new("de-en", "de,en", 0.1), Tiny::new("el", "el", 0.2), Tiny::new("ja", "ja", 0.3)]
    }

    /// Writes the expert's file.
    pub fn write(&self, path: &Path) {
        let pieces: Vec<_> = self.pieces.split(' ').map(|p| (p.to_owned(), -1.0)).collect();
        let vocabulary = Vocabulary::new(pieces, Vec::new());
        let config = Config {
            n_vocab: vocabulary.tokens.len(),
            n_ctx: 16,
            n_embd: self.n_embd,
            n_layer: 1,
            n_head: 2,
            n_ff: 32,
            activation: Activation::GeluErf,
            norm_eps: 1e-5,
        };
        let mut writer = Writer::new(ARCH_STANDARD);
        config.write(&mut writer);
        writer.u32(keys::FORMAT_VERSION, FORMAT_VERSION);
        writer.string(keys::EXPERT_ID, self.id);
        let languages: Vec<_> = self.languages.split(',').collect();
        writer.strings(keys::EXPERT_LANGUAGES, &languages);
        writer.string(keys::EXPERT_PARENT, "seed");
        vocabulary.write(&mut writer).expect("sound pieces");
        for tensor in inventory(&config) {
            let (rows, cols) = tensor.shape(&config);
            let dims: &[usize] = if tensor.is_matrix() { &[cols, rows] } else { &[cols] };
            writer.tensor(&tensor.to_string(), DType::F32, dims).expect("whole rows");
        }
        let file = AtomicFile::create(path).expect("a scratch file");
        let mut body = writer.begin(file).expect("a header");
        for tensor in inventory(&config) {
            let (rows, cols) = tensor.shape(&config);
            let weights = vec![self.weight; rows * cols];
            body.tensor([bytemuck::cast_slice::<f32, u8>(&weights)]).expect("a tensor");
        }
        body.finish().expect("all tensors").commit().expect("a scratch file");
    }
}

/// Writes a set of experts into a folder; `more` adds to the header of `set.gguf`, and tensors of one row
/// of four numbers follow.
pub fn write_set(
    folder: &Path,
    experts: &[Tiny<'_>],
    more: impl FnOnce(&mut Writer),
    tensors: &[&str],
) {
    let mut rows = Vec::new();
    let mut hash = String::new();
    for expert in experts {
        let file = format!("{}.gguf", expert.id);
        let path = folder.join(&file);
        expert.write(&path);
        let opened = ExpertFile::open(&path).expect("a sound expert");
        hash = hex(&opened.expert().tokenizer().expect("a tokenizer").hash());
        let (size, sha256) = file_identity(&path).expect("a file");
        rows.push(Row {
            id: expert.id.to_owned(),
            file,
            size,
            sha256,
            parent: "seed".to_owned(),
            languages: expert.languages.split(',').map(str::to_owned).collect(),
        });
    }
    let mut writer = Writer::new(ARCH_SET);
    writer.u32(keys::FORMAT_VERSION, FORMAT_VERSION);
    Row::write(&rows, &mut writer);
    writer.strings(set_keys::FALLBACK_TAGS, &["de", "el", "ja"]);
    writer.u32s(set_keys::FALLBACK_ORDER, &[0, 1, 2, 1, 0, 2, 2, 1, 0]);
    writer.string(set_keys::TOKENIZER_HASH, &hash);
    writer.u32(set_keys::EMBEDDING_LENGTH, 32);
    more(&mut writer);
    for name in tensors {
        writer.tensor(name, DType::F32, &[4]).expect("whole rows");
    }
    let file = AtomicFile::create(&folder.join(SET_FILE)).expect("a scratch file");
    let mut body = writer.begin(file).expect("a header");
    for _ in tensors {
        body.tensor([[7; 16]]).expect("a tensor");
    }
    body.finish().expect("all tensors").commit().expect("a scratch file");
    write_manifest(folder).expect("a scratch file");
}
