//! What the tests of this package share.

pub mod ensembles;
pub mod operations;
pub mod oracle;
pub mod random;
pub mod reference;
pub mod shim;
pub mod xelm;
