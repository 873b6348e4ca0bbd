//! Putting an expert into a folder whose `set.gguf` already lists it.

use super::{Error, Lock, Result, SetFolder, write_file};
use crate::mmap::MappedFile;
use std::path::{Path, PathBuf};

/// Copies `source` into a set's folder as the file of expert `index`, once [`Set::verify`] has found it
/// to be that. Killed at any moment, it leaves the file that was there before, if any, or the new one.
///
/// [`Set::verify`]: crate::set::Set::verify
///
/// # Errors
/// The file is another, damaged, or does not fit the set; it cannot be read or written.
pub fn install(folder: &Path, index: usize, source: &Path) -> Result<PathBuf> {
    let _lock = Lock::new(folder)?;
    let folder = SetFolder::open(folder)?;
    let missing = || Error::Refused(std::format!("the set has no expert number {index}"));
    let target = folder.expert(index).ok_or_else(missing)?;
    let file = MappedFile::open(source).map_err(Error::at(source))?;
    folder.set()?.verify(index, file.bytes()).map_err(Error::at(source))?;
    write_file(&target, file.bytes())?;
    Ok(target)
}
