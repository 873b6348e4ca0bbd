//! Quantising: file → file, set → set, streaming, on all threads, the same bytes every time.
//!
//! The block formats are ggml's, bit for bit ([`xelm_runtime::quant`]); a [`Recipe`] says which tensor
//! gets which.

#![deny(unsafe_code)]

mod blocks;
mod compensate;
mod convert;
mod error;
mod grid;
mod imatrix;
mod recipe;
mod repack;
mod rows;
mod search;

pub use error::{Error, Result};
pub use imatrix::{Collector, Imatrix};
pub use recipe::{Options, Override, Recipe};
pub use repack::repack_file;
pub use rows::{RowError, quantize_row};

use convert::{Guide, converted, with_loss};
use error::{file, io};
use std::collections::HashMap;
use std::path::Path;
use xelm_runtime::config::TensorId;
use xelm_runtime::expert::Expert;
use xelm_runtime::format::{AtomicFile, Gguf, Tensor, Writer, keys};
use xelm_runtime::layout::Layout;
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::pack::{MANIFEST, write_manifest};
use xelm_runtime::quant::DType;
use xelm_runtime::set::{ARCH_SET, SET_FILE, Set, file_identity, keys as set_keys};

/// Sizes before and after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of the input files.
    pub before: u64,
    /// Bytes of the output files.
    pub after: u64,
}

/// What a file would become.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its tensors, in their order.
    pub tensors: Vec<Planned>,
    /// Bytes of the whole file.
    pub sizes: Sizes,
}

/// What a tensor would become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Its dimensions, the length of a row first.
    pub dims: Vec<usize>,
    /// The type it has.
    pub from: DType,
    /// The type it would get.
    pub to: DType,
    /// Bytes of its data, in that type.
    pub bytes: u64,
}

/// Quantises one model file. Tensors that keep their type are copied as they are.
///
/// # Errors
/// The input is no model file; a row holds NaN or infinities, or is too large for its type; an override fits
/// no matrix, or not its rows; an importance matrix cannot be read, is of another model or lacks what the
/// recipe needs; or the output cannot be written.
pub fn quantize_file<'a>(from: &Path, to: &Path, options: impl Into<Options<'a>>) -> Result<Sizes> {
    let options = options.into();
    let input = open(from, to)?;
    let gguf = input.gguf().map_err(file(from))?;
    let (types, writer) = described(&gguf, from, &options)?;
    let imatrix = importances(&types, from, &options)?;
    let out = AtomicFile::create(to).map_err(io(to))?;
    let mut body = writer.begin(out).map_err(file(to))?;
    // What matrices lose on average, by the names of the biases that make up for it.
    let mut losses = HashMap::new();
    for (i, (tensor, dtype)) in types.iter().enumerate() {
        if let Some(loss) = losses.remove(tensor.name) {
            body.tensor([with_loss(tensor, loss)]).map_err(file(to))?;
            continue;
        }
        let bias = tensor.name.replace("weight", "bias");
        let has_bias = types[i + 1..].iter().any(|(t, _)| t.name == bias && t.dtype == DType::F32);
        let guide = Guide::new(&imatrix, tensor, *dtype, has_bias);
        let mut failure = None;
        let mut loss = Vec::new();
        let parts = converted(tensor, *dtype, &guide, &mut loss);
        let parts = parts.map_while(|part| part.map_err(|source| failure = Some(source)).ok());
        let written = body.tensor(parts);
        if let Some(source) = failure {
            return Err(Error::Tensor { path: from.into(), name: tensor.name.into(), source });
        }
        written.map_err(file(to))?;
        if has_bias && guide.compensates() {
            losses.insert(bias, loss);
        }
    }
    body.finish().map_err(file(to))?.commit().map_err(io(to))?;
    Ok(Sizes { before: size(from)?, after: size(to)? })
}

/// Maps `from`, which must not be the file `to` that is written.
fn open(from: &Path, to: &Path) -> Result<MappedFile> {
    let same = |a: &Path, b: &Path| Some(a.canonicalize().ok()? == b.canonicalize().ok()?);
    if same(from, to) == Some(true) {
        return Err(Error::SameFile(to.to_owned()));
    }
    MappedFile::open(from).map_err(io(from))
}

fn size(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).map_err(io(path))?.len())
}

/// The sum of the importance matrices for the expert file `path`, which must be those of its matrices.
fn importances(
    tensors: &[(Tensor<'_>, DType)],
    path: &Path,
    options: &Options<'_>,
) -> Result<Imatrix> {
    let sum = Imatrix::read_all(options.imatrix, path)?;
    if let Some(first) = options.imatrix.first() {
        let is_matrix =
            |name: &str| TensorId::parse(name).is_some_and(|id| id.role.is_quantizable());
        let matrices = tensors.iter().map(|(tensor, _)| (tensor.name, tensor.n_cols()));
        let fits = sum.check(matrices.filter(|(name, _)| is_matrix(name)));
        fits.map_err(|why| Error::Imatrix { path: first.clone(), why })?;
    }
    if options.recipe.needs_products() && !sum.has_products() {
        return Err(Error::NoProducts { path: path.to_owned(), recipe: options.recipe.name() });
    }
    Ok(sum)
}

/// What [`quantize_file`] would write, without writing or converting anything.
///
/// # Errors
/// As [`quantize_file`], but for rows, importance matrices and the output, which are not looked at.
pub fn plan_file<'a>(from: &Path, options: impl Into<Options<'a>>) -> Result<Plan> {
    let input = MappedFile::open(from).map_err(io(from))?;
    let gguf = input.gguf().map_err(file(from))?;
    let (types, writer) = described(&gguf, from, &options.into())?;
    let before = size(from)?;
    let planned = |(tensor, to): &(Tensor<'_>, DType)| Planned {
        name: tensor.name.to_owned(),
        dims: tensor.dims[..tensor.n_dims].to_vec(),
        from: tensor.dtype,
        to: *to,
        bytes: (tensor.n_rows() * to.row_bytes(tensor.n_cols()).unwrap_or(0)) as u64,
    };
    Ok(Plan {
        tensors: types.iter().map(planned).collect(),
        sizes: Sizes { before, after: writer.file_len() },
    })
}

/// The tensors of a model with the types they get, and the header that says so.
fn described<'a>(
    gguf: &Gguf<'a>,
    path: &Path,
    options: &Options<'_>,
) -> Result<(Vec<(Tensor<'a>, DType)>, Writer)> {
    // Only whole models: a set or a checkpoint would be quantised into nonsense.
    let (config, _) = Expert::check_standard(gguf).map_err(file(path))?;
    let mut types = Vec::new();
    let mut used = vec![false; options.overrides.len()];
    for tensor in gguf.tensors() {
        let Some(id) = TensorId::parse(tensor.name) else { continue };
        let mut dtype = options.recipe.dtype(id, tensor.n_cols(), config.n_layer);
        for (chosen, used) in options.overrides.iter().zip(&mut used) {
            if id.role.is_quantizable() && chosen.fits(tensor.name) {
                (dtype, *used) = (chosen.dtype, true);
            }
        }
        if dtype.row_bytes(tensor.n_cols()).is_none() {
            let (path, name) = (path.to_owned(), tensor.name.to_owned());
            return Err(Error::Tensor { path, name, source: RowError::Shape });
        }
        types.push((tensor, dtype));
    }
    if let Some(unused) = used.iter().position(|used| !used) {
        let pattern = options.overrides[unused].pattern.clone();
        return Err(Error::NoSuchTensor { path: path.to_owned(), pattern });
    }
    let mut writer = header(gguf, options.recipe);
    for (tensor, dtype) in &types {
        let dims = &tensor.dims[..tensor.n_dims];
        writer.tensor(tensor.name, *dtype, dims).map_err(file(path))?;
    }
    Ok((types, writer))
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

/// Quantises every expert of a set into the folder `to`, and writes its `set.gguf` and manifest.
///
/// # Errors
/// As [`quantize_file`]; an expert file is missing.
pub fn quantize_set<'a>(from: &Path, to: &Path, options: impl Into<Options<'a>>) -> Result<Sizes> {
    let options = options.into();
    convert_set(from, to, |from, to| quantize_file(from, to, options))
}

/// Writes every expert of a set in another layout into the folder `to`, with its `set.gguf` and manifest.
///
/// # Errors
/// As [`repack_file`]; an expert file is missing.
pub fn repack_set(from: &Path, to: &Path, layout: Layout) -> Result<Sizes> {
    convert_set(from, to, |from, to| repack_file(from, to, layout))
}

/// Makes a set of another one, expert by expert.
fn convert_set(
    from: &Path,
    to: &Path,
    mut convert: impl FnMut(&Path, &Path) -> Result<Sizes>,
) -> Result<Sizes> {
    let path = from.join(SET_FILE);
    let input = MappedFile::open(&path).map_err(io(&path))?;
    let gguf = input.gguf().map_err(file(&path))?;
    let set = Set::open(&gguf).map_err(file(&path))?;
    let mut total = Sizes::default();
    let (mut sizes, mut hashes) = (Vec::new(), Vec::new());
    for entry in set.entries() {
        let target = to.join(entry.file);
        let Sizes { before, after } = convert(&from.join(entry.file), &target)?;
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

/// What [`quantize_set`] would make of each expert: names of files, and their plans.
///
/// # Errors
/// As [`plan_file`]; an expert file is missing.
pub fn plan_set<'a>(from: &Path, options: impl Into<Options<'a>>) -> Result<Vec<(String, Plan)>> {
    let options = options.into();
    let path = from.join(SET_FILE);
    let input = MappedFile::open(&path).map_err(io(&path))?;
    let gguf = input.gguf().map_err(file(&path))?;
    let set = Set::open(&gguf).map_err(file(&path))?;
    let plan = |name: &str| Ok((name.to_owned(), plan_file(&from.join(name), options)?));
    set.entries().map(|entry| plan(entry.file)).collect()
}
