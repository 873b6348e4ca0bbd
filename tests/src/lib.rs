//! What the tests of this package share.

pub mod oracle;
pub mod reference;
pub mod xelm;
