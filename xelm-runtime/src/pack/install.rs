//! Filling a folder: the file of an expert that its `set.gguf` lists, and another version of the set.

use super::manifest::{MANIFEST, write_manifest};
use super::{Error, Lock, Result, SetFolder, delete_unnamed, write_file};
use crate::mmap::MappedFile;
use crate::set::{Row, SET_FILE};
use std::fs;
use std::path::{Path, PathBuf};
use std::string::String;
use std::vec::Vec;

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
    copy(&folder, index, source, folder.path())
}

/// Brings the set in `folder` to the version whose `set.gguf` lies in the folder `from`, with those of its
/// expert files that lie there too; `folder` may also be empty. Experts that both versions have stay as
/// they are, and files that the new one does not name are deleted. The files of new experts come first,
/// then `set.gguf`, so that a set is whole at any moment. Returns the files that were copied.
///
/// # Errors
/// A file in `from` is not what the new set says; a file of the old version has the name of another
/// content in the new one, which therefore needs a folder of its own.
pub fn update(folder: &Path, from: &Path) -> Result<Vec<String>> {
    fs::create_dir_all(folder).map_err(Error::at(folder))?;
    let _lock = Lock::new(folder)?;
    let new = SetFolder::open(from)?;
    let rows = Row::read(&new.set()?);
    let target = folder.join(SET_FILE);
    let old =
        if target.exists() { Row::read(&SetFolder::open(folder)?.set()?) } else { Vec::new() };
    let has_other_content = |old: &&Row| {
        rows.iter().any(|row| row.file == old.file && !row.sha256.eq_ignore_ascii_case(&old.sha256))
    };
    if let Some(row) = old.iter().find(has_other_content) {
        return Err(Error::Refused(std::format!(
            "{} has another content in the new set: bring that to a folder of its own",
            row.file
        )));
    }
    let mut copied = Vec::new();
    for (index, row) in rows.iter().enumerate().filter(|(index, _)| new.is_present(*index)) {
        copy(&new, index, &from.join(&row.file), folder)?;
        copied.push(row.file.clone());
    }
    write_file(&target, new.file.bytes())?;
    write_manifest(folder).map_err(Error::at(&folder.join(MANIFEST)))?;
    delete_unnamed(folder, &old, &rows)?;
    Ok(copied)
}

/// Copies `source` to `folder` once it has been found to be the file of expert `index` of a set.
fn copy(set: &SetFolder, index: usize, source: &Path, folder: &Path) -> Result<PathBuf> {
    let missing = || Error::Refused(std::format!("the set has no expert number {index}"));
    let set = set.set()?;
    let target = folder.join(set.entry(index).ok_or_else(missing)?.file);
    let file = MappedFile::open(source).map_err(Error::at(source))?;
    set.verify(index, file.bytes()).map_err(Error::at(source))?;
    write_file(&target, file.bytes())?;
    Ok(target)
}
