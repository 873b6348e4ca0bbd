//! Checking a whole folder.

use super::manifest::{MANIFEST, manifest};
use super::{CARD, Error, LOCK, Result, SetFolder};
use crate::error;
use crate::mmap::MappedFile;
use crate::set::{SET_FILE, Set, keys};
use std::fs;
use std::path::Path;
use std::string::String;
use std::vec::Vec;

/// A file of a set's folder and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Name within the folder.
    pub file: String,
    /// What was found.
    pub state: State,
}

/// What [`verify`] finds of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is what the set says, and sound.
    Good,
    /// It is not there, as on a device that does not need it.
    Absent,
    /// The set does not name it.
    Unlisted,
    /// It is a manifest of another `set.gguf` than the one beside it.
    Stale,
    /// It breaks this rule.
    Bad(crate::Error),
}

/// Checks every file of the set in a folder: `set.gguf`, the experts that are there
/// ([`Set::verify`]), the manifest. The experts' order is the set's.
///
/// # Errors
/// The folder cannot be listed. Bad files are part of the answer.
pub fn verify(folder: &Path) -> Result<Vec<Checked>> {
    let mut found = Vec::new();
    let mut note = |file: &str, state| found.push(Checked { file: file.into(), state });
    match SetFolder::open(folder) {
        Err(Error::File { source, .. }) => note(SET_FILE, State::Bad(source)),
        Err(error) => return Err(error),
        Ok(set_folder) => {
            let set = set_folder.set()?;
            note(SET_FILE, state_of(distinct(&set)));
            for (index, entry) in set.entries().enumerate() {
                let path = folder.join(entry.file);
                note(entry.file, if_present(&path, |bytes| state_of(set.verify(index, bytes))));
            }
            let expected = manifest(set_folder.file.bytes()).unwrap_or_default();
            let compare = |bytes: &[u8]| match bytes == expected.as_bytes() {
                true => State::Good,
                false => State::Stale,
            };
            note(MANIFEST, if_present(&folder.join(MANIFEST), compare));
        }
    }
    let entries = fs::read_dir(folder).map_err(Error::at(folder))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let no_part = [LOCK, MANIFEST, CARD];
    let mut others: Vec<String> = names.filter(|name| !no_part.contains(&name.as_str())).collect();
    others.retain(|name| found.iter().all(|checked| checked.file != *name));
    others.sort();
    found.extend(others.into_iter().map(|file| Checked { file, state: State::Unlisted }));
    Ok(found)
}

fn if_present(path: &Path, check: impl FnOnce(&[u8]) -> State) -> State {
    match MappedFile::open(path) {
        Ok(file) => check(file.bytes()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => State::Absent,
        Err(e) => State::Bad(e.into()),
    }
}

fn state_of(result: error::Result<()>) -> State {
    result.map_or_else(State::Bad, |()| State::Good)
}

/// Names and files of experts are distinct; opening a set does not take the time to check that.
fn distinct(set: &Set<'_>) -> error::Result<()> {
    let mut ids: Vec<_> = set.entries().map(|entry| entry.id).collect();
    let mut files: Vec<_> = set.entries().map(|entry| entry.file).collect();
    for (names, what) in [(&mut ids, keys::IDS), (&mut files, keys::FILES)] {
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(crate::Error::OutOfRange { what });
        }
    }
    Ok(())
}
