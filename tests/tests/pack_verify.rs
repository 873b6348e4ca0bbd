//! `set.json`, and the check of a whole folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use xelm_runtime::pack::{self, MANIFEST, SetFolder, State};
use xelm_runtime::set::{SET_FILE, file_identity};
use xelm_tests::tiny::{Tiny, write_set};
use xelm_tests::xelm::{Xelm, error_line};

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

/// A whole set of three experts in a new folder.
fn set(name: &str) -> PathBuf {
    let folder = XELM.folder(name);
    write_set(&folder, &Tiny::three(), |_| {}, &[]);
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What verifying finds, by file.
fn states(folder: &Path) -> BTreeMap<String, State> {
    pack::verify(folder).unwrap().into_iter().map(|c| (c.file, c.state)).collect()
}

#[test]
fn the_manifest_says_what_the_set_says() {
    let folder = set("manifest");
    let manifest = || -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(folder.join(MANIFEST)).unwrap()).unwrap()
    };
    let opened = SetFolder::open(&folder).unwrap();
    let check = |manifest: &serde_json::Value| {
        let set = opened.set().unwrap();
        assert_eq!(manifest["format"], 1);
        let (size, sha256) = file_identity(&folder.join(SET_FILE)).unwrap();
        assert_eq!(
            manifest["set"],
            serde_json::json!({"file": SET_FILE, "size": size, "sha256": sha256})
        );
        assert_eq!(manifest["tokenizer_hash"], set.tokenizer_hash());
        assert_eq!(manifest["experts"].as_array().unwrap().len(), set.len());
        for (i, entry) in set.entries().enumerate() {
            let languages: Vec<_> = set.languages().filter(|l| l.0 == i).map(|l| l.1).collect();
            let expected = serde_json::json!({
                "id": entry.id, "languages": languages, "parent": entry.parent,
                "file": entry.file, "size": entry.size, "sha256": entry.sha256,
            });
            assert_eq!(manifest["experts"][i], expected);
        }
    };
    check(&manifest());
    fs::write(folder.join(MANIFEST), "{}").unwrap();
    assert_eq!(states(&folder)[MANIFEST], State::Stale);
    assert!(XELM.fails(&["verify", "--set", text(&folder)]).contains("1 of 5"));
    XELM.run(&["set", "manifest", "--set", text(&folder)]);
    check(&manifest());
    fs::remove_file(folder.join(MANIFEST)).unwrap();
    assert_eq!(states(&folder)[MANIFEST], State::Absent);
    // Names that JSON must escape.
    let odd = folder.with_extension("odd");
    write_set(&odd, &[Tiny::new("quo\"te\n\u{1}é", "de", 1.0)], |_| {}, &[]);
    let text = fs::read_to_string(odd.join(MANIFEST)).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["experts"][0]["id"], "quo\"te\n\u{1}é");
}

#[test]
fn verifying_through_the_command_line() {
    let folder = set("verify");
    let verify = ["verify", "--json", "--set", text(&folder)];
    let good: serde_json::Value = serde_json::from_str(&XELM.run(&verify)).unwrap();
    assert_eq!((&good["bad"], good["files"].as_array().unwrap().len()), (&0.into(), 5));
    let path = folder.join("ja.gguf");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&path, &bytes).unwrap();
    fs::write(folder.join("notes.txt"), "not ours").unwrap();
    let output = XELM.command(&verify).output().unwrap();
    assert!(error_line(&output).contains("1 of 6 files bad"));
    let bad: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let state = |file: &str| {
        let files = bad["files"].as_array().unwrap();
        files.iter().find(|f| f["file"] == file).unwrap()["state"].clone()
    };
    assert_eq!((state("ja.gguf"), state("el.gguf")), ("bad".into(), "good".into()));
    assert_eq!(state("notes.txt"), "unlisted");

    // One expert alone: what is inside, since nothing says what its hash should be.
    XELM.run(&["verify", "--expert", text(&folder.join("el.gguf"))]);
    fs::write(&path, &bytes[..middle]).unwrap();
    assert!(XELM.fails(&["verify", "--expert", text(&path)]).contains("1 of 1"));
    // The tokenizer's tables against its hash: a piece that is another one.
    let expert = fs::read(folder.join("el.gguf")).unwrap();
    let piece = b"\x01\0\0\0\0\0\0\0c\x01\0\0\0\0\0\0\0d";
    let at = expert.windows(piece.len()).position(|w| w == piece).unwrap();
    let mut forged = expert.clone();
    forged[at + 8] = b'x';
    fs::write(&path, &forged).unwrap();
    assert!(XELM.fails(&["verify", "--expert", text(&path)]).contains("1 of 1"));
    // A set file that is broken, and a folder without one.
    fs::write(folder.join(SET_FILE), b"GGUF").unwrap();
    assert!(XELM.fails(&verify).contains("bad"));
    assert!(XELM.fails(&["verify", "--set", "no/such/folder"]).contains("No such file"));
}
