//! Writing the tables of `set.gguf` that describe its experts.

use super::{Set, keys};
use crate::format::Writer;
use std::string::String;
use std::vec::Vec;

/// One expert of a set that is being written: an [`Entry`](super::Entry) with its languages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Name within the set.
    pub id: String,
    /// File name within the folder.
    pub file: String,
    /// File size in bytes.
    pub size: u64,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// What it was branched from.
    pub parent: String,
    /// Its languages.
    pub languages: Vec<String>,
}

impl Row {
    /// The keys that [`Row::write`] writes, in this order.
    pub const KEYS: [&str; 7] = [
        keys::IDS,
        keys::FILES,
        keys::SIZES,
        keys::SHA256,
        keys::PARENTS,
        keys::LANGUAGE_EXPERT,
        keys::LANGUAGE_TAG,
    ];

    /// The experts of a set.
    pub fn read(set: &Set<'_>) -> Vec<Row> {
        let mut rows: Vec<Row> = set
            .entries()
            .map(|entry| Row {
                id: entry.id.into(),
                file: entry.file.into(),
                size: entry.size,
                sha256: entry.sha256.into(),
                parent: entry.parent.into(),
                languages: Vec::new(),
            })
            .collect();
        for (expert, language) in set.languages() {
            if let Some(row) = rows.get_mut(expert) {
                row.languages.push(language.into());
            }
        }
        rows
    }

    /// Adds the experts to a file's header.
    pub fn write(rows: &[Row], writer: &mut Writer) {
        let column = |f: fn(&Row) -> &String| rows.iter().map(f).collect::<Vec<_>>();
        writer.strings(keys::IDS, &column(|row| &row.id));
        writer.strings(keys::FILES, &column(|row| &row.file));
        writer.u64s(keys::SIZES, &rows.iter().map(|row| row.size).collect::<Vec<_>>());
        writer.strings(keys::SHA256, &column(|row| &row.sha256));
        writer.strings(keys::PARENTS, &column(|row| &row.parent));
        let languages: Vec<(u32, &String)> = (0u32..)
            .zip(rows)
            .flat_map(|(i, row)| row.languages.iter().map(move |language| (i, language)))
            .collect();
        writer.u32s(keys::LANGUAGE_EXPERT, &languages.iter().map(|l| l.0).collect::<Vec<_>>());
        writer.strings(keys::LANGUAGE_TAG, &languages.iter().map(|l| l.1).collect::<Vec<_>>());
    }
}
