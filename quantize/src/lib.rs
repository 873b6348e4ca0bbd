//! Quantising: file → file, set → set, streaming, on all threads, the same bytes every time.
//!
//! The block formats are ggml's, bit for bit ([`xelm_runtime::quant`]); a [`Recipe`] says which tensor
//! gets which.

#![deny(unsafe_code)]

mod blocks;
mod rows;
mod search;

pub use rows::{RowError, quantize_row};

use rayon::prelude::*;
use std::fmt;
use std::path::{Path, PathBuf};
use xelm_runtime::config::{Role, TensorId};
use xelm_runtime::expert::Expert;
use xelm_runtime::format::{AtomicFile, Gguf, Tensor, Writer, keys};
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::pack::{MANIFEST, write_manifest};
use xelm_runtime::quant::{DType, dequantize_row};
use xelm_runtime::set::{ARCH_SET, SET_FILE, Set, file_identity, keys as set_keys};

/// Which type each matrix of a file gets. Vectors and the position table stay F32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// Everything in F32 (undoes a quantisation, as far as that goes).
    F32,
    /// Every matrix in half precision.
    F16,
    /// Every matrix in Q8_0.
    Q8_0,
    /// Matrices in Q4_0, the embedding, which is also the output layer, in Q8_0.
    Q4_0,
}

impl Recipe {
    /// All recipes.
    pub const ALL: [Recipe; 4] = [Recipe::F32, Recipe::F16, Recipe::Q8_0, Recipe::Q4_0];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Recipe::F32 => "f32",
            Recipe::F16 => "f16",
            Recipe::Q8_0 => "q8_0",
            Recipe::Q4_0 => "q4_0",
        }
    }

    /// llama.cpp's `general.file_type`.
    const fn file_type(self) -> u32 {
        match self {
            Recipe::F32 => 0,
            Recipe::F16 => 1,
            Recipe::Q4_0 => 2,
            Recipe::Q8_0 => 7,
        }
    }

    /// The type of a tensor with rows of `n_cols` numbers. Rows that are no whole number of blocks are
    /// kept in half precision.
    fn dtype(self, tensor: TensorId, n_cols: usize) -> DType {
        if !tensor.role.is_quantizable() {
            return DType::F32;
        }
        let wanted = match (self, tensor.role) {
            (Recipe::F32, _) => DType::F32,
            (Recipe::F16, _) => DType::F16,
            (Recipe::Q8_0, _) | (Recipe::Q4_0, Role::TokenEmbd) => DType::Q8_0,
            (Recipe::Q4_0, _) => DType::Q4_0,
        };
        if wanted.row_bytes(n_cols).is_some() { wanted } else { DType::F16 }
    }
}

/// What went wrong, and with which file.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something.
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    File {
        /// The file.
        path: PathBuf,
        /// The rule that it breaks.
        source: xelm_runtime::Error,
    },
    /// A file would overwrite its own source.
    SameFile(PathBuf),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Error::File { path, source } => write!(f, "{}: {source}", path.display()),
            Error::SameFile(path) => {
                write!(f, "{}: the output would overwrite the input", path.display())
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            Error::File { source, .. } => Some(source),
            Error::SameFile(_) => None,
        }
    }
}

/// What every fallible function here returns.
pub type Result<T> = std::result::Result<T, Error>;

fn io(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path: path.clone(), source }
}

fn file(path: &Path) -> impl Fn(xelm_runtime::Error) -> Error {
    let path = path.to_owned();
    move |source| match source {
        xelm_runtime::Error::Io { errno } => {
            Error::Io { path: path.clone(), source: std::io::Error::from_raw_os_error(errno) }
        }
        source => Error::File { path: path.clone(), source },
    }
}

/// Sizes before and after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of the input files.
    pub before: u64,
    /// Bytes of the output files.
    pub after: u64,
}

/// Quantises one model file.
///
/// # Errors
/// The input is no model file, or the output cannot be written.
pub fn quantize_file(from: &Path, to: &Path, recipe: Recipe) -> Result<Sizes> {
    let same = |a: &Path, b: &Path| Some(a.canonicalize().ok()? == b.canonicalize().ok()?);
    if same(from, to) == Some(true) {
        return Err(Error::SameFile(to.to_owned()));
    }
    let input = MappedFile::open(from).map_err(io(from))?;
    let gguf = input.gguf().map_err(file(from))?;
    // Only whole models: a set or a checkpoint would be quantised into nonsense.
    Expert::check(&gguf).map_err(file(from))?;
    let plan: Vec<(Tensor<'_>, DType)> = gguf
        .tensors()
        .filter_map(|t| Some((t, recipe.dtype(TensorId::parse(t.name)?, t.n_cols()))))
        .collect();
    let mut writer = header(&gguf, recipe);
    for (tensor, dtype) in &plan {
        let dims = &tensor.dims[..tensor.n_dims];
        writer.tensor(tensor.name, *dtype, dims).map_err(file(to))?;
    }
    let out = AtomicFile::create(to).map_err(io(to))?;
    let mut body = writer.begin(out).map_err(file(to))?;
    for (tensor, dtype) in &plan {
        body.tensor(converted(tensor, *dtype)).map_err(file(to))?;
    }
    body.finish().map_err(file(to))?.commit().map_err(io(to))?;
    let size = |path: &Path| Ok(std::fs::metadata(path).map_err(io(path))?.len());
    Ok(Sizes { before: size(from)?, after: size(to)? })
}

/// Everything that the input says of itself, with the new file type.
fn header(gguf: &Gguf<'_>, recipe: Recipe) -> Writer {
    let architecture = match gguf.get(keys::ARCHITECTURE) {
        Some(xelm_runtime::format::Value::String(name)) => name,
        _ => "",
    };
    let mut writer = Writer::new(architecture);
    for (key, value) in gguf.metadata() {
        match key {
            keys::ARCHITECTURE | keys::ALIGNMENT => {}
            keys::FILE_TYPE => writer.u32(key, recipe.file_type()),
            _ => writer.copy(key, value),
        }
    }
    writer
}

/// Rows converted together: bounds the memory of a conversion.
const ROWS: usize = 1024;

/// A tensor's bytes in another type, in parts.
fn converted<'a>(tensor: &'a Tensor<'a>, to: DType) -> impl Iterator<Item = Vec<u8>> + 'a {
    let n_cols = tensor.n_cols();
    // Both types hold whole blocks in a row: the input by its reader's rule, the output by the recipe's.
    let from_bytes = tensor.dtype.row_bytes(n_cols).unwrap_or(1);
    let to_bytes = to.row_bytes(n_cols).unwrap_or(1);
    tensor.bytes.chunks(ROWS * from_bytes).map(move |rows| {
        if tensor.dtype == to {
            return rows.to_vec();
        }
        let mut out = vec![0; rows.len() / from_bytes * to_bytes];
        let pairs = rows.par_chunks_exact(from_bytes).zip(out.par_chunks_exact_mut(to_bytes));
        pairs.for_each_init(
            || vec![0.0f32; n_cols],
            |floats, (row, out)| {
                // The sizes are those of whole rows, and both types hold real numbers.
                dequantize_row(tensor.dtype, row, floats)
                    .map(|()| quantize_row(to, floats, None, out))
                    .expect("a row of a checked matrix");
            },
        );
        out
    })
}

/// Quantises every expert of a set into the folder `to`, and writes its `set.gguf` and manifest.
///
/// # Errors
/// As [`quantize_file`]; an expert file is missing.
pub fn quantize_set(from: &Path, to: &Path, recipe: Recipe) -> Result<Sizes> {
    let path = from.join(SET_FILE);
    let input = MappedFile::open(&path).map_err(io(&path))?;
    let gguf = input.gguf().map_err(file(&path))?;
    let set = Set::open(&gguf).map_err(file(&path))?;
    let mut total = Sizes::default();
    let (mut sizes, mut hashes) = (Vec::new(), Vec::new());
    for entry in set.entries() {
        let target = to.join(entry.file);
        let Sizes { before, after } = quantize_file(&from.join(entry.file), &target, recipe)?;
        total.before += before;
        total.after += after;
        let (size, sha256) = file_identity(&target).map_err(io(&target))?;
        sizes.push(size);
        hashes.push(sha256);
    }
    let mut writer = Writer::new(ARCH_SET);
    for (key, value) in gguf.metadata() {
        match key {
            keys::ARCHITECTURE | keys::ALIGNMENT => {}
            set_keys::SIZES => writer.u64s(key, &sizes),
            set_keys::SHA256 => writer.strings(key, &hashes),
            _ => writer.copy(key, value),
        }
    }
    for tensor in gguf.tensors() {
        let dims = &tensor.dims[..tensor.n_dims];
        writer.tensor(tensor.name, tensor.dtype, dims).map_err(file(&path))?;
    }
    let target = to.join(SET_FILE);
    let out = AtomicFile::create(&target).map_err(io(&target))?;
    let mut body = writer.begin(out).map_err(file(&target))?;
    for tensor in gguf.tensors() {
        body.tensor([tensor.bytes]).map_err(file(&target))?;
    }
    body.finish().map_err(file(&target))?.commit().map_err(io(&target))?;
    write_manifest(to).map_err(file(&to.join(MANIFEST)))?;
    Ok(total)
}
