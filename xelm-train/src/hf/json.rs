//! Compact JSON: a vocabulary of a quarter of a million tokens need not be a million lines.

use crate::{Error, Result};
use serde_json::Value;
use std::path::Path;
use xelm_runtime::format::AtomicFile;

/// Writes a value on one line.
pub(super) fn write(path: &Path, json: &Value) -> Result<()> {
    AtomicFile::write(path, format!("{json}\n").as_bytes()).map_err(Error::io("write", path))
}
