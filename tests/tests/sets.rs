//! Choosing the expert for a language tag.

use std::path::PathBuf;
use std::sync::LazyLock;
use xelm_runtime::Error;
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::set::{Match, Set};
use xelm_tests::xelm::Xelm;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

static RUN: LazyLock<PathBuf> = LazyLock::new(|| XELM.tiny_run("sets").0);

/// The run's set has two experts: German and Greek, Japanese and Korean.
fn with_set(work: impl FnOnce(&Set<'_>)) {
    let file = MappedFile::open(&RUN.join("set/set.gguf")).unwrap();
    let gguf = file.gguf().unwrap();
    work(&Set::open(&gguf).unwrap());
}

#[test]
fn tags_lead_to_experts() {
    with_set(|set| {
        let ids: Vec<_> = set.entries().map(|e| e.id).collect();
        assert_eq!(ids, ["de-el", "ja-ko"]);
        let all = |tag: &str| {
            let s = set.select(tag, |_| true).unwrap();
            (ids[s.expert], s.language, s.how)
        };
        assert_eq!(all("de"), ("de-el", "de", Match::Exact));
        assert_eq!(all("DE"), ("de-el", "de", Match::Exact));
        assert_eq!(all("jpn"), ("ja-ko", "ja", Match::Alias));
        assert_eq!(all("ja-Jpan"), ("ja-ko", "ja", Match::Alias));
        assert_eq!(all("de-AT"), ("de-el", "de", Match::Prefix));
        assert_eq!(all("el-Grek-CY-polyton"), ("de-el", "el", Match::Prefix));
        // Languages of the typology table that the set does not speak.
        assert_eq!(all("sv").0, "de-el");
        assert_eq!(all("sv").2, Match::Related);
        assert_eq!(all("tr").2, Match::Related);
        assert_eq!(set.select("xx", |_| true), Err(Error::NoExpert));
        for bad in ["", "d", "de_AT_", "-de", "de--AT", "ein langer Satz", "ü"] {
            assert_eq!(set.select(bad, |_| true), Err(Error::BadLanguageTag), "{bad:?}");
        }
    });
}

#[test]
fn absent_experts_are_passed_over() {
    with_set(|set| {
        let selected = set.select("de", |expert| expert == 1).unwrap();
        assert_eq!((selected.expert, selected.how), (1, Match::Related));
        assert_eq!(set.select("de", |_| false), Err(Error::NoExpert));
    });
}

/// What the set says of its files is true.
#[test]
fn files_are_what_the_set_says() {
    with_set(|set| {
        assert_eq!(set.len(), 2);
        for entry in set.entries() {
            let path = RUN.join("set").join(entry.file);
            let (size, sha256) = xelm_runtime::set::file_identity(&path).unwrap();
            assert_eq!((size, sha256.as_str()), (entry.size, entry.sha256));
            assert_eq!(entry.parent, "seed");
            assert!(set.entry(2).is_none());
        }
    });
}
