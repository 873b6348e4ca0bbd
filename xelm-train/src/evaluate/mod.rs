//! Evaluation through the runtime on the exported files: what is reported is what is deployed.
//!
//! The unit of work is a *cell*: a model and the texts of a language. Finished cells are kept in
//! `eval.jsonl` (`journal.rs`), so that an evaluation goes on where it was ended, and measures again only
//! what has changed.

mod cells;
mod forgetting;
pub(crate) mod journal;
pub(crate) mod models;
pub(crate) mod pieces;
mod ppl;
mod quality;
mod texts;

pub use cells::Score;
pub use forgetting::{Forgetting, evaluate_forgetting};
pub use ppl::{PplSettings, Protocol, Table, evaluate_run};
pub use quality::{Compared, QUALITY, QualityLine, evaluate_quality};
pub use texts::MAX_DOCUMENTS;
