//! Routing by words, offline: fitting what [`xelm_runtime::router`] reads, and clustering documents by it.
//!
//! [`vectorizer`] → [`svd`] → [`kmeans`], each the X-ELM paper's, with its own seed and the same bits for any
//! number of threads; `embed` runs the first two on a sample of a corpus. `cluster` divides a run's
//! documents among experts, `set` makes the router of a set.

mod balanced;
mod cluster;
mod embed;
mod file;
pub mod kmeans;
mod route;
mod sample;
mod set;
mod sparse;
pub mod svd;
pub mod vectorizer;

pub use balanced::assign;
pub use cluster::{Clusters, cluster};
pub use embed::{Embedded, Embedding, Settings, embed};
pub use file::{ARCH_ROUTER, DeviceSize, Fitted};
pub use route::{nearest, with_router};
pub use sample::Sample;
pub use set::{Agreement, SetRouter, router_for};
pub use sparse::Sparse;
