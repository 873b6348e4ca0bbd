//! The offline half of xelm: from a corpus to a set of expert language models.

#![deny(unsafe_code)]

pub mod backend;
mod error;
pub mod model;

pub use error::{Error, Result};
