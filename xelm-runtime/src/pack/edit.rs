//! Adding, replacing and removing experts: `set.gguf` is written anew, no other file is touched.

use super::manifest::{MANIFEST, write_manifest};
use super::{Error, Lock, Result, SetFolder, sync_folder, write_file};
use crate::format::{AtomicFile, Gguf, Value, Writer, keys};
use crate::lang::Tag;
use crate::mmap::MappedFile;
use crate::set::{ARCH_SET, Row, SET_FILE, is_file_name};
use crate::tokenizer::hex;
use sha2::{Digest, Sha256};
use std::format;
use std::fs;
use std::path::Path;
use std::string::String;
use std::vec::Vec;

/// What distinguishes the router's metadata keys and tensors.
const ROUTER: [&str; 2] = ["xelm.router.", "router."];
/// Digits of a file's SHA-256 that go into its name.
const HASH_DIGITS: usize = 8;

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// The expert.
    pub id: String,
    /// Its file, now in the folder or no longer.
    pub file: String,
    /// The set had a router, which does not fit another number of experts and was left out.
    pub dropped_router: bool,
}

/// Adds the expert in `file` to a set, as `id` or the name that the file states.
///
/// # Errors
/// The file is no sound expert or does not fit the set; the set has an expert of this name.
pub fn add(folder: &Path, file: &Path, id: Option<&str>) -> Result<Edited> {
    let edit = Edit::begin(folder)?;
    let (row, bytes) = edit.examine(file, id)?;
    if edit.position(&row.id).is_some() {
        return Err(Error::Refused(format!("the set has an expert {:?} already", row.id)));
    }
    write_file(&folder.join(&row.file), bytes.bytes())?;
    let mut rows = edit.rows.clone();
    rows.push(row.clone());
    edit.finish(rows, row)
}

/// Puts the expert in `file` into the place of the one called `id`, or as the file states.
///
/// # Errors
/// The file is no sound expert or does not fit the set; the set has no expert of this name.
pub fn replace(folder: &Path, file: &Path, id: Option<&str>) -> Result<Edited> {
    let edit = Edit::begin(folder)?;
    let (row, bytes) = edit.examine(file, id)?;
    let mut rows = edit.rows.clone();
    *edit.find(&mut rows, &row.id)? = row.clone();
    write_file(&folder.join(&row.file), bytes.bytes())?;
    edit.finish(rows, row)
}

/// Takes the expert `id` out of a set and deletes its file.
///
/// # Errors
/// The set has no expert of this name, or no other one.
pub fn remove(folder: &Path, id: &str) -> Result<Edited> {
    let edit = Edit::begin(folder)?;
    let mut rows = edit.rows.clone();
    let old = edit.find(&mut rows, id)?.clone();
    rows.retain(|row| row.id != id);
    if rows.is_empty() {
        return Err(Error::Refused(format!("{id:?} is the last expert of the set")));
    }
    edit.finish(rows, old)
}

/// A set that is being changed.
struct Edit {
    folder: SetFolder,
    rows: Vec<Row>,
    _lock: Lock,
}

impl Edit {
    fn begin(folder: &Path) -> Result<Self> {
        let lock = Lock::new(folder)?;
        let folder = SetFolder::open(folder)?;
        let rows = Row::read(&folder.set()?);
        Ok(Edit { folder, rows, _lock: lock })
    }

    fn position(&self, id: &str) -> Option<usize> {
        self.rows.iter().position(|row| row.id == id)
    }

    fn find<'r>(&self, rows: &'r mut [Row], id: &str) -> Result<&'r mut Row> {
        let found = rows.iter_mut().find(|row| row.id == id);
        found.ok_or_else(|| {
            let ids: Vec<_> = self.rows.iter().map(|row| row.id.as_str()).collect();
            Error::Refused(format!("the set has no expert {id:?}, but {}", ids.join(", ")))
        })
    }

    /// Checks that a file can be an expert of the set; its row, and the mapped file.
    fn examine(&self, path: &Path, id: Option<&str>) -> Result<(Row, MappedFile)> {
        let file = MappedFile::open(path).map_err(Error::at(path))?;
        let gguf = file.gguf().map_err(Error::at(path))?;
        self.folder.set()?.admit(&gguf).map_err(Error::at(path))?;
        let id = id.unwrap_or(text(&gguf, keys::EXPERT_ID));
        let refuse = |why: &str| Err(Error::Refused(format!("{}: {why}", path.display())));
        // The name becomes part of a file's.
        if !is_file_name(id) {
            return refuse("the file states no usable name: give one with an id");
        }
        let languages = languages(&gguf);
        if languages.is_empty() || languages.iter().any(|tag| Tag::new(tag).is_err()) {
            return refuse("the file does not state the expert's languages");
        }
        let sha256 = hex(&Sha256::digest(file.bytes()));
        let row = Row {
            id: id.into(),
            // Another content has another name, so that a reader of the old set finds the old file.
            file: format!("{id}-{}.gguf", sha256.get(..HASH_DIGITS).unwrap_or_default()),
            size: file.bytes().len() as u64,
            sha256,
            parent: text(&gguf, keys::EXPERT_PARENT).into(),
            languages,
        };
        if self.rows.iter().any(|other| other.file == row.file && other.id != row.id) {
            return refuse("another expert's file has the name that this one would get");
        }
        Ok((row, file))
    }

    /// Writes `set.gguf` and its manifest, then deletes the files that the set no longer names.
    fn finish(&self, rows: Vec<Row>, row: Row) -> Result<Edited> {
        let gguf = self.folder.gguf()?;
        let same_number = rows.len() == self.rows.len();
        let is_kept = |name: &str| same_number || !ROUTER.iter().any(|r| name.starts_with(r));
        let path = self.folder.path().join(SET_FILE);
        rewrite(&gguf, &rows, is_kept, &path).map_err(Error::at(&path))?;
        sync_folder(&path);
        let manifest = self.folder.path().join(MANIFEST);
        write_manifest(self.folder.path()).map_err(Error::at(&manifest))?;
        for old in self.rows.iter().filter(|old| rows.iter().all(|row| row.file != old.file)) {
            delete(&self.folder.path().join(&old.file))?;
        }
        let dropped_router = !gguf.tensors().all(|tensor| is_kept(tensor.name));
        Ok(Edited { id: row.id, file: row.file, dropped_router })
    }
}

/// Writes a set with other experts: of everything else, that which is kept is copied.
fn rewrite(
    gguf: &Gguf<'_>,
    rows: &[Row],
    is_kept: impl Fn(&str) -> bool,
    path: &Path,
) -> crate::Result<()> {
    let mut writer = Writer::new(ARCH_SET);
    for (key, value) in gguf.metadata() {
        if key == Row::KEYS[0] {
            Row::write(rows, &mut writer);
        } else if ![keys::ARCHITECTURE, keys::ALIGNMENT].contains(&key)
            && !Row::KEYS.contains(&key)
            && is_kept(key)
        {
            writer.copy(key, value);
        }
    }
    let tensors = || gguf.tensors().filter(|tensor| is_kept(tensor.name));
    for tensor in tensors() {
        let dims = tensor.dims.get(..tensor.n_dims).unwrap_or_default();
        writer.tensor(tensor.name, tensor.dtype, dims)?;
    }
    let mut body = writer.begin(AtomicFile::create(path)?)?;
    for tensor in tensors() {
        body.tensor([tensor.bytes])?;
    }
    Ok(body.finish()?.commit()?)
}

/// The string of a key; empty where there is none.
fn text<'a>(gguf: &Gguf<'a>, key: &str) -> &'a str {
    match gguf.get(key) {
        Some(Value::String(text)) => text,
        _ => "",
    }
}

fn languages(gguf: &Gguf<'_>) -> Vec<String> {
    match gguf.get(keys::EXPERT_LANGUAGES) {
        Some(Value::Array(array)) => array.strings().map(String::from).collect(),
        _ => Vec::new(),
    }
}

/// Deletes a file that may never have been there.
fn delete(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(Error::at(path)),
    }
}
