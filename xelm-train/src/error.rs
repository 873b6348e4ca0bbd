//! Errors of the offline tools: one clear line that says what is wrong, where, and what to do.

use std::fmt;
use std::path::Path;

/// What went wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something with a file.
    Io {
        /// What was being done to which file.
        what: String,
        /// The reason.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    File {
        /// The file.
        path: String,
        /// The rule that it breaks.
        source: xelm_runtime::Error,
    },
    /// A corpus file has a line that cannot be used.
    Corpus {
        /// The file.
        path: String,
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A number in training is not finite.
    NotFinite {
        /// The step at which it was found, from 0.
        step: u64,
        /// The tensor that holds it.
        tensor: String,
        /// The documents of the step's batch, by language and place.
        documents: Vec<String>,
    },
    /// Another process is at work on a job; the text says which.
    Claimed(String),
    /// A GPU is missing, unfit, full, or failed; the text says which and what to do.
    Device(String),
    /// A command cannot do what was asked; the text says why and what to do.
    Usage(String),
}

/// What every fallible function of the trainer returns.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A request that cannot be met.
    pub fn usage(message: impl Into<String>) -> Self {
        Error::Usage(message.into())
    }

    /// For `map_err` on file operations: `verb` as in "cannot {verb} {path}".
    pub fn io(verb: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let what = format!("{verb} {}", path.display());
        move |source| Error::Io { what, source }
    }

    /// For `map_err` on the runtime's readers and writers.
    pub fn file(path: &Path) -> impl Fn(xelm_runtime::Error) -> Error {
        let path = path.display().to_string();
        move |source| match source {
            xelm_runtime::Error::Io { errno } => Error::Io {
                what: format!("use {path}"),
                source: std::io::Error::from_raw_os_error(errno),
            },
            source => Error::File { path: path.clone(), source },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { what, source } => write!(f, "cannot {what}: {source}"),
            Error::File { path, source } => write!(f, "{path}: {source}"),
            Error::Corpus { path, line, what } => write!(
                f,
                "{path}:{line}: {what}; mend the line, or pass --bad-input skip to leave such lines out"
            ),
            Error::NotFinite { step, tensor, documents } => write!(
                f,
                "step {step}: {tensor} is not finite; nothing was updated and the last checkpoint is \
                 kept. The batch holds the documents {}: look at them, or train with a lower --lr",
                crate::job::some_of(documents)
            ),
            Error::Claimed(message) | Error::Device(message) | Error::Usage(message) => {
                f.write_str(message)
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            Error::File { source, .. } => Some(source),
            Error::Corpus { .. } | Error::NotFinite { .. } => None,
            Error::Claimed(_) | Error::Device(_) | Error::Usage(_) => None,
        }
    }
}
