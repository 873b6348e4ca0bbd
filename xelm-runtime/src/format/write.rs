//! Writing GGUF files: a header builder, and files that appear whole or not at all.

use super::{ALIGNMENT, MAGIC, VERSION, ValueType, keys};
use crate::error::{Error, Result};
use crate::quant::DType;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::string::String;
use std::vec::Vec;

/// Collects metadata and tensor descriptions, then writes the file front to back.
///
/// Tensors are described first, in the order in which their bytes follow:
/// `new` → keys → [`Writer::tensor`] … → [`Writer::begin`] → [`Body::tensor`] … → [`Body::finish`].
#[derive(Debug)]
pub struct Writer {
    kv: Vec<u8>,
    n_kv: u64,
    infos: Vec<u8>,
    sizes: Vec<usize>,
    offset: usize,
}

impl Writer {
    /// A file of the given `general.architecture`, tensors aligned to [`ALIGNMENT`].
    pub fn new(architecture: &str) -> Self {
        let mut w =
            Writer { kv: Vec::new(), n_kv: 0, infos: Vec::new(), sizes: Vec::new(), offset: 0 };
        w.string(keys::ARCHITECTURE, architecture);
        w.u32(keys::ALIGNMENT, ALIGNMENT as u32);
        w
    }

    fn entry(&mut self, key: &str, of: ValueType) {
        push_string(&mut self.kv, key);
        self.kv.extend_from_slice(&(of as u32).to_le_bytes());
        self.n_kv += 1;
    }

    /// Adds a u32.
    pub fn u32(&mut self, key: &str, value: u32) {
        self.entry(key, ValueType::U32);
        self.kv.extend_from_slice(&value.to_le_bytes());
    }

    /// Adds a u64.
    pub fn u64(&mut self, key: &str, value: u64) {
        self.entry(key, ValueType::U64);
        self.kv.extend_from_slice(&value.to_le_bytes());
    }

    /// Adds an f32.
    pub fn f32(&mut self, key: &str, value: f32) {
        self.entry(key, ValueType::F32);
        self.kv.extend_from_slice(&value.to_le_bytes());
    }

    /// Adds a bool.
    pub fn bool(&mut self, key: &str, value: bool) {
        self.entry(key, ValueType::Bool);
        self.kv.push(u8::from(value));
    }

    /// Adds a string.
    pub fn string(&mut self, key: &str, value: &str) {
        self.entry(key, ValueType::String);
        push_string(&mut self.kv, value);
    }

    fn array(&mut self, key: &str, of: ValueType, len: usize) {
        self.entry(key, ValueType::Array);
        self.kv.extend_from_slice(&(of as u32).to_le_bytes());
        self.kv.extend_from_slice(&(len as u64).to_le_bytes());
    }

    /// Adds an array of strings.
    pub fn strings<S: AsRef<str>>(&mut self, key: &str, values: &[S]) {
        self.array(key, ValueType::String, values.len());
        for value in values {
            push_string(&mut self.kv, value.as_ref());
        }
    }

    /// Adds an array of bytes.
    pub fn bytes(&mut self, key: &str, values: &[u8]) {
        self.array(key, ValueType::U8, values.len());
        self.kv.extend_from_slice(values);
    }

    /// Adds an array of u32.
    pub fn u32s(&mut self, key: &str, values: &[u32]) {
        self.array(key, ValueType::U32, values.len());
        values.iter().for_each(|v| self.kv.extend_from_slice(&v.to_le_bytes()));
    }

    /// Adds an array of i32.
    pub fn i32s(&mut self, key: &str, values: &[i32]) {
        self.array(key, ValueType::I32, values.len());
        values.iter().for_each(|v| self.kv.extend_from_slice(&v.to_le_bytes()));
    }

    /// Adds an array of u64.
    pub fn u64s(&mut self, key: &str, values: &[u64]) {
        self.array(key, ValueType::U64, values.len());
        values.iter().for_each(|v| self.kv.extend_from_slice(&v.to_le_bytes()));
    }

    /// Adds an array of f32.
    pub fn f32s(&mut self, key: &str, values: &[f32]) {
        self.array(key, ValueType::F32, values.len());
        values.iter().for_each(|v| self.kv.extend_from_slice(&v.to_le_bytes()));
    }

    /// Copies a metadata entry of another file as it is.
    pub fn copy(&mut self, key: &str, value: super::Value<'_>) {
        use super::Value;
        match value {
            Value::U8(v) => self.scalar(key, ValueType::U8, &v.to_le_bytes()),
            Value::I8(v) => self.scalar(key, ValueType::I8, &v.to_le_bytes()),
            Value::U16(v) => self.scalar(key, ValueType::U16, &v.to_le_bytes()),
            Value::I16(v) => self.scalar(key, ValueType::I16, &v.to_le_bytes()),
            Value::U32(v) => self.scalar(key, ValueType::U32, &v.to_le_bytes()),
            Value::I32(v) => self.scalar(key, ValueType::I32, &v.to_le_bytes()),
            Value::F32(v) => self.scalar(key, ValueType::F32, &v.to_le_bytes()),
            Value::U64(v) => self.scalar(key, ValueType::U64, &v.to_le_bytes()),
            Value::I64(v) => self.scalar(key, ValueType::I64, &v.to_le_bytes()),
            Value::F64(v) => self.scalar(key, ValueType::F64, &v.to_le_bytes()),
            Value::Bool(v) => self.bool(key, v),
            Value::String(v) => self.string(key, v),
            Value::Array(v) => {
                self.array(key, v.of, v.len);
                self.kv.extend_from_slice(v.bytes);
            }
        }
    }

    fn scalar(&mut self, key: &str, of: ValueType, bytes: &[u8]) {
        self.entry(key, of);
        self.kv.extend_from_slice(bytes);
    }

    /// Describes the next tensor; `dims` has the row length first.
    ///
    /// # Errors
    /// The row is not a whole number of the type's blocks.
    pub fn tensor(&mut self, name: &str, dtype: DType, dims: &[usize]) -> Result<()> {
        let bad = Error::OutOfRange { what: "a tensor's dimensions" };
        let (&n_cols, rows) = dims.split_first().ok_or(bad)?;
        let n_bytes = dtype.row_bytes(n_cols).ok_or(bad)? * rows.iter().product::<usize>();
        push_string(&mut self.infos, name);
        self.infos.extend_from_slice(&(dims.len() as u32).to_le_bytes());
        for &d in dims {
            self.infos.extend_from_slice(&(d as u64).to_le_bytes());
        }
        self.infos.extend_from_slice(&(dtype as u32).to_le_bytes());
        self.infos.extend_from_slice(&(self.offset as u64).to_le_bytes());
        self.offset = (self.offset + n_bytes).next_multiple_of(ALIGNMENT);
        self.sizes.push(n_bytes);
        Ok(())
    }

    /// Bytes of the whole file, with the tensors described so far.
    pub fn file_len(&self) -> u64 {
        let header = self.header_len();
        let header =
            if self.sizes.is_empty() { header } else { header.next_multiple_of(ALIGNMENT) };
        (header + self.offset) as u64
    }

    fn header_len(&self) -> usize {
        24 + self.kv.len() + self.infos.len()
    }

    /// Writes the header; the tensors' bytes follow through the returned [`Body`].
    ///
    /// # Errors
    /// The writer's.
    pub fn begin<W: Write>(self, mut out: W) -> Result<Body<W>> {
        let n_tensors = self.sizes.len() as u64;
        let len = self.header_len();
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&n_tensors.to_le_bytes())?;
        out.write_all(&self.n_kv.to_le_bytes())?;
        out.write_all(&self.kv)?;
        out.write_all(&self.infos)?;
        if !self.sizes.is_empty() {
            write_zeros(&mut out, len.next_multiple_of(ALIGNMENT) - len)?;
        }
        Ok(Body { out, sizes: self.sizes.into_iter() })
    }
}

/// The second half of a file being written: tensor data in the order of the descriptions.
#[derive(Debug)]
pub struct Body<W> {
    out: W,
    sizes: std::vec::IntoIter<usize>,
}

impl<W: Write> Body<W> {
    /// Writes the next tensor in as many parts as `parts` yields.
    ///
    /// # Errors
    /// The writer's; [`Error::OutOfRange`] where the bytes are not those described.
    pub fn tensor<B: AsRef<[u8]>>(&mut self, parts: impl IntoIterator<Item = B>) -> Result<()> {
        let wrong = Error::OutOfRange { what: "the size of a tensor being written" };
        let size = self.sizes.next().ok_or(wrong)?;
        let mut written = 0;
        for part in parts {
            self.out.write_all(part.as_ref())?;
            written += part.as_ref().len();
        }
        if written != size {
            return Err(wrong);
        }
        write_zeros(&mut self.out, size.next_multiple_of(ALIGNMENT) - size)
    }

    /// Ends the file.
    ///
    /// # Errors
    /// Tensors that were described are missing.
    pub fn finish(mut self) -> Result<W> {
        match self.sizes.next() {
            None => Ok(self.out),
            Some(_) => Err(Error::OutOfRange { what: "the number of tensors being written" }),
        }
    }
}

fn push_string(out: &mut Vec<u8>, s: &str) {
    out.extend_from_slice(&(s.len() as u64).to_le_bytes());
    out.extend_from_slice(s.as_bytes());
}

fn write_zeros<W: Write>(out: &mut W, n: usize) -> Result<()> {
    Ok(out.write_all(&[0; ALIGNMENT][..n])?)
}

/// Between a file's name and the process that is writing it.
const UNFINISHED: &str = ".tmp-";

/// A file that appears under its name only when it is complete: written beside it, synced, renamed.
/// Dropped before [`AtomicFile::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct AtomicFile {
    out: Option<BufWriter<File>>,
    temporary: PathBuf,
    path: PathBuf,
}

impl AtomicFile {
    /// Begins a file that will be `path`, creating its folder.
    ///
    /// # Errors
    /// The operating system's.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        if let Some(folder) = folder {
            fs::create_dir_all(folder)?;
        }
        // A device such as /dev/full cannot be renamed onto; it is written directly.
        let special = fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir());
        let temporary = if special {
            PathBuf::from(path)
        } else {
            let name = path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
            path.with_file_name(std::format!("{name}{UNFINISHED}{}", std::process::id()))
        };
        let out = Some(BufWriter::new(File::create(&temporary)?));
        Ok(AtomicFile { out, temporary, path: PathBuf::from(path) })
    }

    /// Makes the file durable and visible.
    ///
    /// # Errors
    /// The operating system's; the file is then not there.
    pub fn commit(mut self) -> std::io::Result<()> {
        let Some(out) = self.out.take() else { return Ok(()) };
        let result = out.into_inner().map_err(|e| e.into_error()).and_then(|file| {
            match file.sync_all() {
                // Pipes and devices have nothing to sync.
                Err(e) if e.kind() == std::io::ErrorKind::InvalidInput => Ok(()),
                result => result,
            }
        });
        result
            .and_then(|()| {
                if self.temporary != self.path {
                    fs::rename(&self.temporary, &self.path)?;
                }
                Ok(())
            })
            .inspect_err(|_| self.discard())
    }

    fn discard(&self) {
        if self.temporary != self.path {
            // Nothing can be done about a temporary file that cannot be removed.
            let _ = fs::remove_file(&self.temporary);
        }
    }

    /// Writes `bytes` as the whole file.
    ///
    /// # Errors
    /// The operating system's.
    pub fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        let mut file = AtomicFile::create(path)?;
        file.write_all(bytes)?;
        file.commit()
    }

    /// Removes what killed processes left half-written in a folder that nobody else writes to now.
    pub fn remove_unfinished(folder: &Path) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().contains(UNFINISHED) {
                // What cannot be removed only takes space.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// The final path as text, for messages.
    pub fn name(&self) -> String {
        std::format!("{}", self.path.display())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &mut self.out {
            Some(out) => out.write(bytes),
            None => Err(std::io::ErrorKind::WriteZero.into()),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.as_mut().map_or(Ok(()), |out| out.flush())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if self.out.take().is_some() {
            self.discard();
        }
    }
}
