//! What the tests of this package share.

pub mod c_abi;
pub mod card;
pub mod counting;
pub mod ensembles;
pub mod examples;
pub mod guarded;
pub mod operations;
pub mod oracle;
pub mod random;
pub mod reference;
pub mod shim;
pub mod tiny;
pub mod xelm;
