//! Any string as a language tag; two of them where there is a line feed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use xelm_runtime::lang::{MAX_TAG, Tag};

fuzz_target!(|data: &str| {
    let (a, b) = data.split_once('\n').unwrap_or((data, data));
    let (Ok(a), Ok(b)) = (Tag::new(a), Tag::new(b)) else { return };
    assert!(a.as_str().is_ascii() && a.as_str().len() <= MAX_TAG);
    assert!(a.matches(&a));
    assert_eq!(a.matches(&b), b.matches(&a));
    let mut previous = MAX_TAG + 1;
    for prefix in a.prefixes() {
        assert!(prefix.as_str().len() < previous);
        previous = prefix.as_str().len();
        assert!(a.as_str().starts_with(prefix.as_str()));
        assert!(Tag::new(prefix.as_str()).is_ok());
        assert_eq!(prefix.language(), a.language());
    }
    assert!(Tag::new(a.language()).is_ok());
});
