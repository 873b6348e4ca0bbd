//! Any bytes as a set, and choosing from what opens.

#![no_main]

use libfuzzer_sys::fuzz_target;
use xelm_fuzz::Aligned;
use xelm_runtime::format::Gguf;
use xelm_runtime::set::Set;

fuzz_target!(|data: &[u8]| {
    let mut file = Aligned::copy(data);
    let Ok(gguf) = Gguf::open(file.bytes()) else { return };
    let Ok(set) = Set::open(&gguf) else { return };
    assert_eq!(set.entries().count(), set.len());
    for (expert, language) in set.languages() {
        assert!(expert < set.len());
        // The language may be spoken by several experts; the first that is there is chosen.
        let selected = set.select(language, |i| i == expert).expect("the set speaks it");
        assert_eq!(selected.expert, expert);
    }
    for tag in ["de", "el-CY", "zh-Hant-TW", "fr", "xx"] {
        for present in [|_| true, |i: usize| i % 2 == 1] {
            if let Ok(selected) = set.select(tag, present) {
                assert!(present(selected.expert));
            }
        }
    }
});
