//! Which algorithms a device has chosen: a record by which a job goes on with the same bits.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The algorithms of matrix products, which round differently. Another card or another version of the library may
/// understand something else by them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plans {
    /// The card's name.
    pub card: String,
    /// Version of the library, as it tells it.
    pub library: u64,
    /// The library's description of the algorithm for each shape: eight words, hexadecimal.
    pub algorithms: BTreeMap<String, String>,
}

impl Plans {
    /// Whether the plans of `other` were made by the same library for the same kind of card.
    pub fn fit(&self, other: &Plans) -> bool {
        (&self.card, self.library) == (&other.card, other.library)
    }
}
