//! Any bytes as a file of any kind.

#![no_main]

use libfuzzer_sys::fuzz_target;
use xelm_fuzz::{Aligned, use_expert, walk};
use xelm_runtime::format::Gguf;

fuzz_target!(|data: &[u8]| {
    let mut file = Aligned::copy(data);
    if let Ok(gguf) = Gguf::open(file.bytes()) {
        walk(&gguf);
    }
    let _ = use_expert(file.bytes(), b"ab c");
});
