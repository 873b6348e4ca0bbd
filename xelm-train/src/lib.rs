//! The offline half of xelm: from a corpus to a set of expert language models.
//!
//! Each stage reads what earlier ones wrote to a run directory ([`run`]) and can be repeated, resumed,
//! or done on another machine:
//!
//! [`corpus`] → [`vocab`] → [`tokens`] → [`typology`] or [`tfidf`] → [`job`] (seed, then experts) →
//! [`pack`] → [`evaluate`] → [`icl`].
//!
//! Below them, [`stream`] orders the documents, [`model`] says what a training step computes, and
//! [`backend`] computes it.

#![deny(unsafe_code)]

pub mod backend;
pub mod checkpoint;
pub mod corpus;
mod error;
pub mod evaluate;
pub mod icl;
pub mod job;
pub mod memory;
pub mod model;
pub mod pack;
pub mod report;
pub mod run;
pub mod settings;
pub mod stream;
pub mod tfidf;
pub mod tokens;
pub mod typology;
pub mod vocab;

pub use error::{Error, Result};
