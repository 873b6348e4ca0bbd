//! What can go wrong, and with which file.

use crate::rows::RowError;
use std::fmt;
use std::path::{Path, PathBuf};

/// What went wrong, and with which file.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something.
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    File {
        /// The file.
        path: PathBuf,
        /// The rule that it breaks.
        source: xelm_runtime::Error,
    },
    /// A tensor cannot be stored in the type that it should get.
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Why.
        source: RowError,
    },
    /// A choice of a type for single tensors fits no matrix of the file.
    NoSuchTensor {
        /// The file.
        path: PathBuf,
        /// The pattern.
        pattern: String,
    },
    /// An importance matrix is none, or that of another model.
    Imatrix {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A recipe needs to know how the columns of what matrices are multiplied by go together.
    NoProducts {
        /// The file.
        path: PathBuf,
        /// The recipe.
        recipe: &'static str,
    },
    /// A file would overwrite its own source.
    SameFile(PathBuf),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Error::File { path, source } => write!(f, "{}: {source}", path.display()),
            Error::Tensor { path, name, source } => {
                write!(f, "{}: a row of {name} cannot be stored: {source}", path.display())
            }
            Error::NoSuchTensor { path, pattern } => {
                write!(f, "{}: no matrix has a name like {pattern}", path.display())
            }
            Error::Imatrix { path, why } => {
                write!(f, "{}: as an importance matrix: {why}", path.display())
            }
            Error::NoProducts { path, recipe } => write!(
                f,
                "{}: {recipe} needs an importance matrix with products: `xelm imatrix --products` writes it",
                path.display()
            ),
            Error::SameFile(path) => {
                write!(f, "{}: the output would overwrite the input", path.display())
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            Error::File { source, .. } => Some(source),
            Error::Tensor { source, .. } => Some(source),
            Error::NoSuchTensor { .. }
            | Error::Imatrix { .. }
            | Error::NoProducts { .. }
            | Error::SameFile(_) => None,
        }
    }
}

/// What every fallible function of files returns.
pub type Result<T> = std::result::Result<T, Error>;

pub(crate) fn io(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path: path.clone(), source }
}

pub(crate) fn file(path: &Path) -> impl Fn(xelm_runtime::Error) -> Error {
    let path = path.to_owned();
    move |source| match source {
        xelm_runtime::Error::Io { errno } => {
            Error::Io { path: path.clone(), source: std::io::Error::from_raw_os_error(errno) }
        }
        source => Error::File { path: path.clone(), source },
    }
}
