//! Sets as packs: folders that are checked, filled expert by expert, changed and trimmed while others
//! read them. `docs/packs.md` says how they are hosted and fetched.
//!
//! A folder has one writer at a time, which holds its lock; readers need none. Every file appears whole
//! under its name or not at all, an expert's file before the `set.gguf` that names it, so that a reader
//! and a process that is killed find the old set or the new one.

mod cache;
mod edit;
mod install;
mod manifest;
mod verify;

pub use cache::PackCache;
pub use edit::{Edited, add, remove, replace};
pub use install::{install, update};
pub use manifest::{MANIFEST, write_manifest};
pub use verify::{Checked, State, verify};

use crate::format::{AtomicFile, Gguf};
use crate::mmap::MappedFile;
use crate::router::Router;
use crate::set::{Row, SET_FILE, Set};
use core::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::string::String;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What went wrong, and with which file.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A file breaks a rule, or the operating system refused something with it.
    File {
        /// The file.
        path: PathBuf,
        /// The rule.
        source: crate::Error,
    },
    /// The set does not allow what was asked for; the text says why.
    Refused(String),
}

/// What every fallible function here returns.
pub type Result<T> = core::result::Result<T, Error>;

impl Error {
    /// For `map_err`: the failure of something with the file at `path`.
    fn at<E: Into<crate::Error>>(path: &Path) -> impl Fn(E) -> Error {
        move |source| Error::File { path: path.into(), source: source.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::File { path, source: crate::Error::Io { errno } } if *errno != 0 => {
                write!(f, "{}: {}", path.display(), std::io::Error::from_raw_os_error(*errno))
            }
            Error::File { path, source } => write!(f, "{}: {source}", path.display()),
            Error::Refused(why) => f.write_str(why),
        }
    }
}

impl core::error::Error for Error {}

/// The folder of a set, its `set.gguf` mapped and checked.
#[derive(Debug)]
pub struct SetFolder {
    path: PathBuf,
    file: MappedFile,
}

impl SetFolder {
    /// Opens the set in the folder `path`. No expert needs to be there.
    ///
    /// # Errors
    /// `set.gguf` cannot be read or breaks a rule.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.join(SET_FILE);
        let folder = SetFolder {
            path: path.into(),
            file: MappedFile::open(&name).map_err(Error::at(&name))?,
        };
        folder.set()?;
        Ok(folder)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The set.
    ///
    /// # Errors
    /// None that opening the folder has not already met.
    pub fn set(&self) -> Result<Set<'_>> {
        let set = self.file.gguf().and_then(|gguf| Set::open(&gguf));
        set.map_err(Error::at(&self.path.join(SET_FILE)))
    }

    /// The set's router, where it has one.
    ///
    /// # Errors
    /// The rule that its tables break.
    pub fn router(&self) -> Result<Option<Router<'_>>> {
        Router::open(&self.gguf()?).map_err(Error::at(&self.path.join(SET_FILE)))
    }

    /// Where the file of expert `index` lies or would lie.
    pub fn expert(&self, index: usize) -> Option<PathBuf> {
        Some(self.path.join(self.set().ok()?.entry(index)?.file))
    }

    /// Whether the file of expert `index` is there.
    pub fn is_present(&self, index: usize) -> bool {
        self.expert(index).is_some_and(|path| path.exists())
    }

    fn gguf(&self) -> Result<Gguf<'_>> {
        self.file.gguf().map_err(Error::at(&self.path.join(SET_FILE)))
    }
}

/// Name of the model card in a set's folder: words for people, no part of the set.
pub const CARD: &str = "README.md";

/// File in a set's folder whose lock a writer holds.
const LOCK: &str = "lock";

/// Writers of this process, which the operating system's lock does not tell apart everywhere.
static WRITERS: Mutex<()> = Mutex::new(());

/// The right to write to a folder, until it is dropped.
#[derive(Debug)]
struct Lock {
    _process: MutexGuard<'static, ()>,
    _folder: File,
}

impl Lock {
    /// Waits for other writers, and removes what killed ones left behind.
    fn new(folder: &Path) -> Result<Self> {
        let process = WRITERS.lock().unwrap_or_else(PoisonError::into_inner);
        let path = folder.join(LOCK);
        let file = File::create(&path).map_err(Error::at(&path))?;
        match file.lock() {
            // Android has no such locks: there an app's folder belongs to one process.
            Err(e) if e.kind() == std::io::ErrorKind::Unsupported => {}
            result => result.map_err(Error::at(&path))?,
        }
        AtomicFile::remove_unfinished(folder);
        Ok(Lock { _process: process, _folder: file })
    }
}

/// Writes `bytes` as a file that is found under its name also after the power failed.
fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(path).map_err(Error::at(path))?;
    file.write_all(bytes).map_err(Error::at(path))?;
    file.commit().map_err(Error::at(path))?;
    sync_folder(path);
    Ok(())
}

/// Deletes the files of a set that its next version does not name; they may not be there.
fn delete_unnamed(folder: &Path, old: &[Row], new: &[Row]) -> Result<()> {
    for row in old.iter().filter(|old| new.iter().all(|row| row.file != old.file)) {
        let path = folder.join(&row.file);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            result => result.map_err(Error::at(&path))?,
        }
    }
    Ok(())
}

/// Makes the renaming of a file durable, where the system can.
fn sync_folder(path: &Path) {
    let folder = path.parent().and_then(|folder| File::open(folder).ok());
    if let Some(folder) = folder {
        let _ = folder.sync_all();
    }
}
