//! The offline half of xelm: from a corpus to a set of expert language models.
//!
//! Each stage reads what earlier ones wrote to a run directory ([`run`]) and can be repeated, resumed,
//! or done on another machine:
//!
//! [`corpus`] → [`vocab`] → [`tokens`] → [`typology`] or [`tfidf`] → [`job`] (seed, then experts) →
//! [`pack`] → [`evaluate`] and [`icl`] → [`page`]; [`experiment`] runs them all.
//!
//! [`shortlist`] makes experts with a smaller output layer, by what [`usage`] counts. [`reading`] hands out text
//! to whoever watches a model read.
//!
//! [`workers`] run several jobs at once; [`hf`] takes models from `transformers` and gives them back. Below
//! them, [`weights`] passes models between files, [`stream`] orders the documents, [`model`] says what a
//! training step computes, and [`backend`] computes it.

#![deny(unsafe_code)]

pub mod assignment;
pub mod average;
pub mod backend;
pub mod card;
pub mod checkpoint;
pub mod corpus;
mod error;
pub mod evaluate;
pub mod experiment;
pub mod hf;
pub mod icl;
pub mod job;
pub mod launch;
pub mod memory;
pub mod model;
pub mod pack;
pub mod page;
pub mod reading;
pub mod report;
pub mod run;
pub mod settings;
pub mod shortlist;
pub mod stream;
pub mod tfidf;
pub mod tokens;
pub mod typology;
pub mod usage;
pub mod vocab;
pub mod weights;
pub mod workers;

pub use error::{Error, Result};
