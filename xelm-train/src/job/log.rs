//! `log.jsonl`: one line per step, and lines about what was noticed on the way.

use super::to_json;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use xelm_runtime::format::AtomicFile;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LogLine {
    /// An update.
    #[allow(missing_docs, reason = "the names of the log")]
    Step { step: u64, loss: f64, lr: f32, grad_norm: f64 },
    /// The loss of held-out text after so many updates.
    #[allow(missing_docs, reason = "the names of the log")]
    Valid { step: u64, valid_loss: f64 },
    /// An update whose loss stood out, and the documents in its batch.
    #[allow(missing_docs, reason = "the names of the log")]
    Spike { step: u64, spike: f64, documents: Vec<String> },
}

impl LogLine {
    /// Updates before the line was written.
    fn step(&self) -> u64 {
        match *self {
            LogLine::Step { step, .. } | LogLine::Spike { step, .. } => step,
            // After `step` updates: the line stands behind that of update `step` - 1.
            LogLine::Valid { step, .. } => step.saturating_sub(1),
        }
    }
}

/// A job's log, open for appending.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    /// Opens the log for appending, without the steps that will be done again. Returns the losses that
    /// are in it.
    pub(super) fn open(path: PathBuf, start: u64) -> Result<(Log, Vec<f64>)> {
        let (mut kept, mut losses) = (String::new(), Vec::new());
        for line in read(&path)?.into_iter().take_while(|line| line.step() < start) {
            if let LogLine::Step { loss, .. } = line {
                losses.push(loss);
            }
            kept.push_str(&to_json(&line)?);
            kept.push('\n');
        }
        AtomicFile::write(&path, kept.as_bytes()).map_err(Error::io("write", &path))?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io("open", &path))?;
        Ok((Log { file, path }, losses))
    }

    pub(super) fn write(&mut self, line: &LogLine) -> Result<()> {
        let mut line = to_json(line)?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(Error::io("write", &self.path))
    }
}

/// The lines of a log, up to the first that is not whole; none where there is no log.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> Result<Vec<LogLine>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("read", path)(e)),
    };
    let mut lines = Vec::new();
    for line in BufReader::new(file).lines() {
        match serde_json::from_str(&line.map_err(Error::io("read", path))?) {
            Ok(line) => lines.push(line),
            Err(_) => break,
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_log_ends_where_the_job_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let (mut log, losses) = Log::open(path.clone(), 0).unwrap();
        assert!(losses.is_empty());
        for step in 0..10 {
            let loss = step as f64;
            log.write(&LogLine::Step { step, loss, lr: 0.5, grad_norm: 1.0 }).unwrap();
            if step % 5 == 4 {
                log.write(&LogLine::Valid { step: step + 1, valid_loss: loss }).unwrap();
            }
        }
        drop(log);
        let torn = std::fs::read_to_string(&path).unwrap() + "{\"step\":10,\"lo";
        std::fs::write(&path, torn).unwrap();
        assert_eq!(read(&path).unwrap().len(), 12);
        let (_, losses) = Log::open(path.clone(), 5).unwrap();
        assert_eq!(losses, [0.0, 1.0, 2.0, 3.0, 4.0]);
        // What is known after five updates stays known.
        assert_eq!(read(&path).unwrap().last(), Some(&LogLine::Valid { step: 5, valid_loss: 4.0 }));
        assert!(read(&folder.path().join("none")).unwrap().is_empty());
    }
}
