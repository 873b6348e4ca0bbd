//! Expert files whose output layer is restricted to some tokens: by a shortlist, which leaves the vocabulary
//! as it is, or by trimming, which makes a smaller one for a whole set.
//!
//! The bytes of the rows that stay are copied as they are, in whatever type.

use crate::{Error, Result};
use std::path::Path;
use xelm_runtime::config::{ARCH_OWN, Role};
use xelm_runtime::expert::Expert;
use xelm_runtime::format::{AtomicFile, Gguf, Tensor, Value, Writer, keys};
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::pack::{MANIFEST, write_manifest};
use xelm_runtime::set::{ARCH_SET, Entry, Row, SET_FILE, Set, file_identity, keys as set_keys};
use xelm_runtime::tokenizer::{Tokenizer, Vocabulary, hex};

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restricted {
    /// Tokens that had logits, and that have them now.
    pub tokens: [usize; 2],
    /// Bytes of the output layer: what a decoded token reads of it.
    pub output_bytes: [u64; 2],
    /// Bytes of the file.
    pub file_bytes: [u64; 2],
}

/// Writes the expert of `from` with the shortlist `ids`, ascending, in place of any that it has.
///
/// # Errors
/// `from` is no expert, or `to` cannot be written or is the same file.
pub fn write_shortlist(from: &Path, to: &Path, ids: &[u32]) -> Result<Restricted> {
    let file = open(from, to)?;
    let gguf = file.gguf().map_err(Error::file(from))?;
    Expert::check_standard(&gguf).map_err(Error::file(from))?;
    // llama.cpp refuses tensors that it does not know, and this architecture.
    let mut writer = Writer::new(ARCH_OWN);
    for (key, value) in gguf.metadata() {
        if ![keys::ARCHITECTURE, keys::ALIGNMENT, keys::SHORTLIST].contains(&key) {
            writer.copy(key, value);
        }
    }
    writer.u32s(keys::SHORTLIST, ids);
    let kept = || gguf.tensors().filter(|tensor| tensor.name != Role::Output.name());
    let embd = embedding(&gguf, from)?;
    let parts = kept().map(|tensor| (tensor, None));
    let parts = parts.chain([(Tensor { name: Role::Output.name(), ..embd }, Some(ids))]);
    write(writer, parts.collect(), to)?;
    restricted(from, to, &embd, ids)
}

/// Writes the expert of `from` with a vocabulary of the tokens `ids` alone, ascending, and notes what they
/// were.
///
/// # Errors
/// `from` is no expert, has a shortlist, or a vocabulary of another kind than ours; `to` cannot be written or
/// is the same file.
pub fn trim(from: &Path, to: &Path, ids: &[u32]) -> Result<Restricted> {
    let file = open(from, to)?;
    let gguf = file.gguf().map_err(Error::file(from))?;
    let (_, tokenizer) = Expert::check_standard(&gguf).map_err(Error::file(from))?;
    let no_tokenizer = xelm_runtime::Error::NoTokenizer;
    let tokenizer = tokenizer.ok_or(no_tokenizer).map_err(Error::file(from))?;
    if gguf.get(keys::SHORTLIST).is_some() {
        let from = from.display();
        return Err(Error::usage(format!("{from} has a shortlist: trim the file it was made of")));
    }
    let vocabulary = trimmed(&tokenizer, ids, from)?;
    let mut writer = Writer::new(match gguf.get(keys::ARCHITECTURE) {
        Some(Value::String(name)) => name,
        _ => ARCH_OWN,
    });
    let replaced = [keys::ARCHITECTURE, keys::ALIGNMENT, keys::VOCAB_PARENT, keys::VOCAB_IDS];
    for (key, value) in gguf.metadata() {
        let is_tokenizer = key.starts_with("tokenizer.") || key.starts_with("xelm.tokenizer.");
        if !is_tokenizer && !replaced.contains(&key) {
            writer.copy(key, value);
        }
    }
    writer.string(keys::VOCAB_PARENT, &hex(&tokenizer.hash()));
    writer.u32s(keys::VOCAB_IDS, ids);
    vocabulary.write(&mut writer).map_err(Error::file(from))?;
    let embd = embedding(&gguf, from)?;
    let parts = gguf.tensors().map(|tensor| {
        let rows = (tensor.name == Role::TokenEmbd.name()).then_some(ids);
        (tensor, rows)
    });
    write(writer, parts.collect(), to)?;
    restricted(from, to, &embd, ids)
}

/// The hash of the vocabulary that [`trim`] makes of a tokenizer of `path`.
///
/// # Errors
/// The vocabulary is of another kind than ours.
pub fn trimmed_hash(tokenizer: &Tokenizer<'_>, ids: &[u32], path: &Path) -> Result<[u8; 32]> {
    Ok(trimmed(tokenizer, ids, path)?.hash())
}

/// The tokens `ids` of a vocabulary as one of their own. The first four ids stay what they are.
fn trimmed(tokenizer: &Tokenizer<'_>, ids: &[u32], path: &Path) -> Result<Vocabulary> {
    let special = [tokenizer.bos(), tokenizer.eos(), tokenizer.unk()] == [2, 2, 3];
    if !special || tokenizer.normalizer().flags() != (true, true) || !ids.starts_with(&[0, 1, 2, 3])
    {
        return Err(Error::usage(format!(
            "{}: the special tokens of its vocabulary are not XGLM's",
            path.display()
        )));
    }
    Ok(Vocabulary {
        tokens: ids.iter().map(|&id| tokenizer.piece(id).to_owned()).collect(),
        scores: ids.iter().map(|&id| tokenizer.score(id)).collect(),
        types: ids.iter().map(|&id| tokenizer.token_type(id)).collect(),
        charsmap: tokenizer.normalizer().charsmap().to_vec(),
    })
}

/// Makes a set of another one: `each` writes the file of an expert from that of the other. `vocabulary` is the
/// hash of the one that the new experts have, where it is another.
///
/// # Errors
/// What `each` meets; an expert's file is not there; `to` is the folder of the set or cannot be written.
pub fn convert_set(
    from: &Path,
    to: &Path,
    mut each: impl FnMut(Entry<'_>, &Path, &Path) -> Result<()>,
    vocabulary: Option<&str>,
) -> Result<()> {
    let path = from.join(SET_FILE);
    let target = to.join(SET_FILE);
    let file = open(&path, &target)?;
    let gguf = file.gguf().map_err(Error::file(&path))?;
    let set = Set::open(&gguf).map_err(Error::file(&path))?;
    let mut rows = Row::read(&set);
    for (entry, row) in set.entries().zip(&mut rows) {
        let made = to.join(entry.file);
        each(entry, &from.join(entry.file), &made)?;
        (row.size, row.sha256) = file_identity(&made).map_err(Error::io("read", &made))?;
    }
    let mut writer = Writer::new(ARCH_SET);
    for (key, value) in gguf.metadata() {
        match (key, vocabulary) {
            (keys::ARCHITECTURE | keys::ALIGNMENT, _) => {}
            (set_keys::TOKENIZER_HASH, Some(hash)) => {
                writer.string(key, hash);
                writer.string(keys::VOCAB_PARENT, set.tokenizer_hash());
            }
            (keys::VOCAB_PARENT, Some(_)) => {}
            _ if key == Row::KEYS[0] => Row::write(&rows, &mut writer),
            _ if Row::KEYS.contains(&key) => {}
            _ => writer.copy(key, value),
        }
    }
    write(writer, gguf.tensors().map(|tensor| (tensor, None)).collect(), &target)?;
    write_manifest(to).map_err(Error::file(&to.join(MANIFEST)))?;
    Ok(())
}

/// Maps `from`, which must not be the file `to` that is written.
fn open(from: &Path, to: &Path) -> Result<MappedFile> {
    let same = |a: &Path, b: &Path| Some(a.canonicalize().ok()? == b.canonicalize().ok()?);
    if same(from, to) == Some(true) {
        let to = to.display();
        return Err(Error::usage(format!("{to} would be overwritten: choose another --out")));
    }
    MappedFile::open(from).map_err(Error::io("open", from))
}

fn embedding<'a>(gguf: &Gguf<'a>, path: &Path) -> Result<Tensor<'a>> {
    let name = Role::TokenEmbd.name();
    gguf.tensor(name).ok_or(xelm_runtime::Error::MissingTensor { name }).map_err(Error::file(path))
}

/// Writes a file: of each tensor all rows, or those that are listed.
fn write(mut writer: Writer, tensors: Vec<(Tensor<'_>, Option<&[u32]>)>, to: &Path) -> Result<()> {
    let wrong = Error::file(to);
    for (tensor, rows) in &tensors {
        let mut dims = tensor.dims[..tensor.n_dims].to_vec();
        if let Some(rows) = rows {
            dims[1] = rows.len();
        }
        writer.tensor(tensor.name, tensor.dtype, &dims).map_err(&wrong)?;
    }
    let mut body =
        writer.begin(AtomicFile::create(to).map_err(Error::io("write", to))?).map_err(&wrong)?;
    for (tensor, rows) in tensors {
        let len = tensor.bytes.len() / tensor.n_rows().max(1);
        let row = |&id: &u32| &tensor.bytes[id as usize * len..][..len];
        match rows {
            Some(rows) => body.tensor(rows.iter().map(row)),
            None => body.tensor([tensor.bytes]),
        }
        .map_err(&wrong)?;
    }
    body.finish().map_err(&wrong)?.commit().map_err(Error::io("write", to))
}

fn restricted(from: &Path, to: &Path, embd: &Tensor<'_>, ids: &[u32]) -> Result<Restricted> {
    let size = |path: &Path| std::fs::metadata(path).map_err(Error::io("read", path));
    let all = embd.bytes.len() as u64;
    let n_rows = embd.n_rows();
    Ok(Restricted {
        tokens: [n_rows, ids.len()],
        output_bytes: [all, all / n_rows.max(1) as u64 * ids.len() as u64],
        file_bytes: [size(from)?.len(), size(to)?.len()],
    })
}
