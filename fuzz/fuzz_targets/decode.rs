//! A valid expert with a few bytes changed, read, decoded and scored with: changes as
//! [`xelm_fuzz::change`] reads them, then the text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use xelm_fuzz::{Aligned, change, seed, use_expert};

static WHOLE: LazyLock<&[u8]> = LazyLock::new(|| seed("de.gguf"));

fuzz_target!(|data: &[u8]| {
    let mut file = Aligned::copy(&WHOLE);
    let Some(text) = change(file.bytes(), data) else { return };
    let result = use_expert(file.bytes(), text);
    // Unchanged, the expert works for texts that fit into its context.
    assert!(data[0] > 0 || text.len() > 4 || result.is_ok(), "{result:?}");
});
