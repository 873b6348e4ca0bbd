//! What the tests of this package share.

pub mod operations;
pub mod oracle;
pub mod reference;
pub mod shim;
pub mod tiny;
pub mod xelm;
