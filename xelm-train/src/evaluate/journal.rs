//! Finished pieces of work in a file of JSON lines: what is in it need not be done again.

use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file to which every piece of work is appended as it ends, under an identity that covers everything
/// its result depends on. One process at a time holds it.
#[derive(Debug)]
pub(crate) struct Journal<T> {
    path: PathBuf,
    file: File,
    done: HashMap<String, T>,
}

/// One line.
#[derive(Serialize, Deserialize)]
struct Line<T> {
    id: String,
    #[serde(flatten)]
    result: T,
}

impl<T: Serialize + DeserializeOwned + Clone> Journal<T> {
    /// Opens a journal; there may be none yet. A last line that a killed process did not finish is
    /// removed; lines of another kind are kept and ignored.
    ///
    /// # Errors
    /// The file cannot be read or written, or another process holds it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let options = OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut file = options.map_err(Error::io("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::usage(format!(
                    "another process is writing {}: wait for it",
                    path.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        let end = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        if end < bytes.len() {
            file.set_len(end as u64).map_err(Error::io("mend", path))?;
            file.seek(SeekFrom::End(0)).map_err(Error::io("mend", path))?;
        }
        let lines = bytes[..end].split(|&b| b == b'\n');
        let done = lines
            .filter_map(|line| serde_json::from_slice::<Line<T>>(line).ok())
            .map(|line| (line.id, line.result))
            .collect();
        Ok(Journal { path: path.to_owned(), file, done })
    }

    /// The result with this identity, where there is one.
    pub(crate) fn get(&self, id: &str) -> Option<&T> {
        self.done.get(id)
    }

    /// Notes a result.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn append(&mut self, id: String, result: T) -> Result<()> {
        let line = Line { id, result };
        let mut text = serde_json::to_string(&line)
            .map_err(|e| Error::usage(format!("cannot write {}: {e}", self.path.display())))?;
        text.push('\n');
        // One write, so that a process that is killed leaves whole lines and at most one torn one.
        self.file.write_all(text.as_bytes()).map_err(Error::io("write", &self.path))?;
        self.done.insert(line.id, line.result);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Cell {
        nll: f64,
    }

    #[test]
    fn what_was_appended_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let cell = |nll| Cell { nll };
        // A number whose shortest decimal form a careless parser reads one unit off.
        let odd = f64::from_bits(0x4085_2b5e_9c3b_d1f7);
        let mut journal = Journal::open(&path).unwrap();
        journal.append("a".into(), cell(odd)).unwrap();
        journal.append("b".into(), cell(2.5)).unwrap();
        let busy = Journal::<Cell>::open(&path).unwrap_err().to_string();
        assert!(busy.contains("another process"), "{busy}");
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        // Torn in the middle of the second line, a line of another kind before it.
        let first = whole.iter().position(|&b| b == b'\n').unwrap() + 1;
        let torn = [b"{\"other\": 1}\n", &whole[..first], &whole[first..whole.len() - 4]].concat();
        std::fs::write(&path, torn).unwrap();
        let mut journal = Journal::<Cell>::open(&path).unwrap();
        assert_eq!(journal.get("a").map(|c| c.nll.to_bits()), Some(odd.to_bits()));
        assert_eq!(journal.get("b"), None);
        journal.append("b".into(), cell(3.5)).unwrap();
        drop(journal);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(text.starts_with("{\"other\": 1}\n") && text.ends_with('\n'));
        assert_eq!(Journal::open(&path).unwrap().get("b"), Some(&cell(3.5)));
    }
}
