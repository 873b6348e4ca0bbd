//! The cache of open experts, and the trimming of a folder.

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use xelm_runtime::Error;
use xelm_runtime::pack::{self, PackCache};
use xelm_runtime::set::SET_FILE;
use xelm_tests::tiny::{Tiny, write_set};
use xelm_tests::xelm::Xelm;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

/// A whole set of three experts in a new folder, and the sizes of their files.
fn set(name: &str) -> (PathBuf, [u64; 3]) {
    let folder = XELM.folder(name);
    write_set(&folder, &Tiny::three(), |_| {}, &[]);
    let size = |file: &str| fs::metadata(folder.join(file)).unwrap().len();
    let sizes = FILES.map(size);
    (folder, sizes)
}

const FILES: [&str; 3] = ["de-en.gguf", "el.gguf", "ja.gguf"];

/// The rule that a failure names.
fn rule<T>(result: pack::Result<T>) -> Error {
    match result {
        Err(pack::Error::File { source, .. }) => source,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("no failure"),
    }
}

/// Says that a file was last used so many days ago.
fn last_used(path: &Path, days: u64) {
    let time = SystemTime::now() - Duration::from_secs(days * 86_400);
    File::open(path).unwrap().set_times(FileTimes::new().set_accessed(time)).unwrap();
}

fn id(cache: &PackCache, index: usize) -> String {
    cache.expert(index).unwrap().expert().id().to_owned()
}

/// Without a budget, what is handed out works and is closed by its last holder.
#[test]
fn nothing_is_kept_without_a_budget() {
    let (folder, [_, el, _]) = set("cache_none");
    let cache = PackCache::open(&folder, 0).unwrap();
    let held = cache.expert(1).unwrap();
    let again = cache.expert(1).unwrap();
    assert!(Arc::ptr_eq(&held, &again));
    assert_eq!((held.expert().id(), cache.mapped_bytes()), ("el", el));
    drop((held, again));
    assert_eq!(cache.mapped_bytes(), 0);
    assert!(matches!(cache.expert(9), Err(pack::Error::Refused(_))));
    // One too large for the budget is handed out all the same.
    let cache = PackCache::open(&folder, el - 1).unwrap();
    assert_eq!((id(&cache, 1).as_str(), cache.mapped_bytes()), ("el", 0));
}

#[test]
fn the_least_recently_used_is_closed() {
    let (folder, [de_en, el, ja]) = set("cache_lru");
    let budget = de_en + el;
    let cache = PackCache::open(&folder, budget).unwrap();
    for i in [1, 0, 1] {
        id(&cache, i);
    }
    assert_eq!(cache.mapped_bytes(), budget);
    id(&cache, 2);
    assert_eq!(cache.mapped_bytes(), el + ja, "0 was used before 1");
    // Held ones are closed when they are let go, and not before.
    let held: Vec<_> = (0..3).map(|i| cache.expert(i).unwrap()).collect();
    assert_eq!(cache.mapped_bytes(), de_en + el + ja);
    assert_eq!(held[0].expert().id(), "de-en");
    drop(held);
    assert_eq!(cache.mapped_bytes(), el + ja);
}

#[test]
fn absent_and_broken_files_are_errors() {
    let (folder, _) = set("cache_errors");
    let cache = PackCache::open(&folder, u64::MAX).unwrap();
    fs::remove_file(folder.join("el.gguf")).unwrap();
    fs::write(folder.join("ja.gguf"), b"GGUF").unwrap();
    assert!(matches!(rule(cache.expert(1)), Error::Io { .. }));
    assert!(matches!(rule(cache.expert(2)), Error::Truncated { .. }));
    assert_eq!(id(&cache, 0), "de-en");
    assert!(PackCache::open(Path::new("no/such/folder"), 0).is_err());
}

#[test]
fn threads_share_it() {
    let (folder, [_, el, _]) = set("cache_threads");
    for budget in [0, el, 2 * el, u64::MAX] {
        let cache = PackCache::open(&folder, budget).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let cache = &cache;
                scope.spawn(move || {
                    for i in 0..300 {
                        let index = (i * (thread + 1) + thread) % 3;
                        let file = cache.expert(index).unwrap();
                        assert_eq!(file.expert().id(), ["de-en", "el", "ja"][index]);
                        assert!(file.expert().weight_bytes() > 0);
                    }
                });
            }
        });
        assert!(cache.mapped_bytes() <= budget);
    }
}

#[test]
fn trimming_deletes_what_was_not_used() {
    let (folder, sizes) = set("trim");
    let total: u64 = sizes.iter().sum();
    for (file, days) in FILES.iter().zip([1, 9, 5]) {
        last_used(&folder.join(file), days);
    }
    let cache = PackCache::open(&folder, u64::MAX).unwrap();
    let trim = |budget, keep: &[usize]| cache.trim(budget, keep).unwrap();
    assert_eq!(trim(total, &[]), [0; 0]);
    assert_eq!(trim(total - 1, &[1]), [2], "1 is older, but kept");
    assert!(matches!(rule(cache.expert(2)), Error::Io { .. }));
    // 1 is still open, but nobody holds it; 0 is held.
    id(&cache, 1);
    let held = cache.expert(0).unwrap();
    assert_eq!(trim(0, &[]), [1]);
    assert_eq!([0, 1, 2].map(|i| cache.folder().is_present(i)), [true, false, false]);
    drop(held);
    assert_eq!(trim(0, &[0]), [0; 0]);
    assert_eq!(trim(0, &[]), [0]);
    assert_eq!(cache.mapped_bytes(), 0);
    assert!(folder.join(SET_FILE).exists());
}

/// The time of the last use survives the process that used it.
#[test]
fn use_is_remembered() {
    let (folder, [_, el, _]) = set("remembered");
    for file in FILES {
        last_used(&folder.join(file), 30);
    }
    PackCache::open(&folder, 0).unwrap().expert(1).unwrap();
    assert_eq!(PackCache::open(&folder, 0).unwrap().trim(el, &[]).unwrap(), [0, 2]);
}
