//! Any string as a language tag; two of them where there is a line feed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use xelm_runtime::lang::{MAX_TAG, Nearness, Tag};

fuzz_target!(|data: &str| {
    let (a, b) = data.split_once('\n').unwrap_or((data, data));
    let (Ok(a), Ok(b)) = (Tag::new(a), Tag::new(b)) else { return };
    assert!(a.as_str().is_ascii() && a.as_str().len() <= MAX_TAG);
    assert_eq!(a.nearness(&a), Some(Nearness::Same));
    assert_eq!(a.matches(&b), b.matches(&a));
    assert_eq!(a.nearness(&b).is_some(), b.nearness(&a).is_some());
    // The codes that stand for a language are tags themselves, and as near as can be.
    for code in [a.language(), a.family()] {
        let tag = Tag::new(code).expect("a code is a tag");
        assert!(a.nearness(&tag).is_some());
        assert!(tag.family().eq_ignore_ascii_case(a.family()));
    }
    let _ = a.script();
});
