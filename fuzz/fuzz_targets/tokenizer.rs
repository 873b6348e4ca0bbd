//! Any tokenizer tables with any text: the first byte is the text's length, then come the text and
//! the file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use xelm_fuzz::Aligned;
use xelm_runtime::arena::Arena;
use xelm_runtime::format::Gguf;
use xelm_runtime::tokenizer::{Scratch, TextStream, Tokenizer};

/// Bytes of normalised text that there is room for.
const CAPACITY: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let Some((&len, rest)) = data.split_first() else { return };
    let Some((text, file)) = rest.split_at_checked(len.into()) else { return };
    let mut file = Aligned::copy(file);
    let Ok(gguf) = Gguf::open(file.bytes()) else { return };
    let Ok(tokenizer) = Tokenizer::open(&gguf) else { return };
    let _ = tokenizer.verify();
    let needed = tokenizer.normalizer().normalized_len(text);
    let mut memory = Aligned::new(30 * CAPACITY);
    let mut scratch =
        Scratch::carve(&mut Arena::new(memory.bytes()).expect("aligned"), CAPACITY).expect("room");
    match tokenizer.encode(text, &mut scratch) {
        Err(_) => assert!(needed > CAPACITY),
        Ok(encoding) => {
            assert!(needed <= CAPACITY);
            assert_eq!(encoding.ids.len(), encoding.ends.len());
            // Tokens follow each other without gaps and without end.
            assert!(encoding.ends.is_sorted_by(|a, b| a < b));
            let mut stream = TextStream::new();
            for (&id, &end) in encoding.ids.iter().zip(encoding.ends) {
                stream.push(&tokenizer, id, |part| assert!(!part.is_empty()));
                assert!(tokenizer.normalizer().source_len(text, end as usize) <= text.len());
            }
        }
    }
});
