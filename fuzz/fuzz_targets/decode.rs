//! A valid expert with a few bytes changed, read, decoded and scored with. The first byte is the
//! number of changes, each being three bytes of position and one to xor; the rest is the text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use xelm_fuzz::{Aligned, use_expert};

/// `fuzz/seeds.sh` makes it.
const EXPERT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/seeds/expert.gguf");

static WHOLE: LazyLock<Vec<u8>> =
    LazyLock::new(|| std::fs::read(EXPERT).expect("fuzz/seeds.sh has been run"));

fuzz_target!(|data: &[u8]| {
    let Some((&n, rest)) = data.split_first() else { return };
    let Some((changes, text)) = rest.split_at_checked(4 * usize::from(n)) else { return };
    let mut file = Aligned::copy(&WHOLE);
    let bytes = file.bytes();
    for &[a, b, c, change] in changes.as_chunks::<4>().0 {
        let at = u32::from_le_bytes([a, b, c, 0]) as usize % bytes.len();
        bytes[at] ^= change;
    }
    let result = use_expert(bytes, text);
    // Unchanged, the expert works for texts that fit into its context.
    assert!(n > 0 || text.len() > 4 || result.is_ok(), "{result:?}");
});
