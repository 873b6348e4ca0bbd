//! The corpus that comes with the program: original texts in eight languages that form four pairs of
//! related ones, for `xelm demo` and the tests. See `corpus/README.md` in this crate.

use crate::{Error, Result};
use std::path::Path;
use xelm_runtime::format::AtomicFile;

macro_rules! files {
    ($($language:literal)*) => {
        &[$(
            (concat!($language, ".train.txt"), include_str!(concat!("../../corpus/", $language, ".train.txt"))),
            (concat!($language, ".valid.txt"), include_str!(concat!("../../corpus/", $language, ".valid.txt"))),
        )*]
    };
}

const FILES: &[(&str, &str)] = files!("bg" "de" "el" "en" "es" "ja" "ko" "ru");

/// Writes the bundled corpus into a folder.
///
/// # Errors
/// The folder cannot be written.
pub fn write_bundled(folder: &Path) -> Result<()> {
    for (name, text) in FILES {
        let path = folder.join(name);
        AtomicFile::write(&path, text.as_bytes()).map_err(Error::io("write", &path))?;
    }
    Ok(())
}
