//! Packs: folders of a set that are checked, filled, changed and trimmed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use xelm_runtime::Error;
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::pack::{self, MANIFEST, SetFolder, State};
use xelm_runtime::set::{Match, SET_FILE, file_identity};
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

/// Moves the file of an expert out of a set.
fn take(folder: &Path, file: &str) -> PathBuf {
    let outside = folder.with_extension("outside");
    fs::create_dir_all(&outside).unwrap();
    let target = outside.join(file);
    fs::rename(folder.join(file), &target).unwrap();
    target
}

/// What verifying finds, by file.
fn states(folder: &Path) -> BTreeMap<String, State> {
    pack::verify(folder).unwrap().into_iter().map(|c| (c.file, c.state)).collect()
}

fn is_sound(folder: &Path) -> bool {
    states(folder).values().all(|s| matches!(s, State::Good | State::Absent | State::Unlisted))
}

/// Bytes of every expert file.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let names = files.map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), p));
    let experts = names.filter(|(name, _)| name.ends_with(".gguf") && name != SET_FILE);
    experts.map(|(name, path)| (name, fs::read(path).unwrap())).collect()
}

/// The rule that a failure names.
fn rule<T: std::fmt::Debug>(result: pack::Result<T>) -> Error {
    match result.unwrap_err() {
        pack::Error::File { source, .. } => source,
        other => panic!("{other}"),
    }
}

#[test]
fn a_set_with_some_experts_works() {
    let folder = set("some");
    assert!(states(&folder).values().all(|state| *state == State::Good));
    take(&folder, "el.gguf");
    take(&folder, "ja.gguf");
    let found = states(&folder);
    assert_eq!(found["el.gguf"], State::Absent);
    assert_eq!((found["de-en.gguf"], found[SET_FILE]), (State::Good, State::Good));

    let opened = SetFolder::open(&folder).unwrap();
    let select = |tag| {
        let set = opened.set().unwrap();
        set.select(tag, |i| opened.is_present(i)).map(|s| (s.expert, s.how))
    };
    assert_eq!(select("en-GB"), Ok((0, Match::Prefix)));
    assert_eq!(select("el"), Ok((0, Match::Related)));
    assert_eq!(select("jpn"), Ok((0, Match::Related)));
    assert_eq!(select("tlh"), Err(Error::NoExpert));

    let args = ["generate", "--json", "--max-tokens", "2", "--set", text(&folder), "--lang", "el"];
    let written: serde_json::Value = serde_json::from_str(&XELM.run(&args)).unwrap();
    assert_eq!((&written["expert"], &written["match"]), (&"de-en".into(), &"related".into()));
    let inspected = XELM.run(&["inspect", text(&folder)]);
    assert!(inspected.contains("\"de-en\"\tpresent") && inspected.contains("\"el\"\tabsent"));
    let verified = XELM.run(&["verify", "--set", text(&folder)]);
    assert!(verified.contains("de-en.gguf\tgood") && verified.contains("el.gguf\tabsent"));
}

#[test]
fn installing() {
    let folder = set("install");
    let (el, ja) = (take(&folder, "el.gguf"), take(&folder, "ja.gguf"));
    // What a killed process left: ignored, and removed by the next writer.
    let left_behind = folder.join("el.gguf.tmp-99999");
    fs::write(&left_behind, b"half of a file").unwrap();
    assert!(!SetFolder::open(&folder).unwrap().is_present(1) && is_sound(&folder));
    assert_eq!(pack::install(&folder, 1, &el).unwrap(), folder.join("el.gguf"));
    assert!(!left_behind.exists() && el.exists());
    assert_eq!(states(&folder)["el.gguf"], State::Good);

    // Files of another size, with one bit flipped, of another expert; nothing is put in place.
    let whole = fs::read(&ja).unwrap();
    let bad = ja.with_file_name("bad.gguf");
    fs::write(&bad, &whole[..whole.len() - 1]).unwrap();
    let size = Error::HashMismatch { what: "the size" };
    assert_eq!(rule(pack::install(&folder, 2, &bad)), size);
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&bad, &flipped).unwrap();
    let sha256 = Error::HashMismatch { what: "the SHA-256" };
    assert_eq!(rule(pack::install(&folder, 2, &bad)), sha256);
    // Small experts all have one size; large ones of one architecture nearly do.
    assert_eq!(rule(pack::install(&folder, 2, &el)), sha256);
    assert!(matches!(pack::install(&folder, 3, &ja), Err(pack::Error::Refused(_))));
    assert!(matches!(rule(pack::install(&folder, 2, Path::new("no/file"))), Error::Io { .. }));
    assert!(!folder.join("ja.gguf").exists());

    let install = |file: &Path| {
        ["set", "install", "--set", text(&folder), "--expert"]
            .map(String::from)
            .into_iter()
            .chain([text(file).into()])
            .collect::<Vec<_>>()
    };
    assert!(XELM.fails(&install(&bad)).contains("not a file of this set"));
    XELM.run(&install(&ja));
    assert!(states(&folder).values().all(|state| *state == State::Good));
}

/// The check of one expert needs nothing but bytes.
#[test]
fn bytes_in_memory() {
    let folder = set("bytes");
    let opened = SetFolder::open(&folder).unwrap();
    let set = opened.set().unwrap();
    let file = MappedFile::open(&folder.join("el.gguf")).unwrap();
    assert_eq!(set.verify(1, file.bytes()), Ok(()));
    assert_eq!(set.verify(2, file.bytes()), Err(Error::HashMismatch { what: "the SHA-256" }));
    assert_eq!(set.verify(1, &[]), Err(Error::HashMismatch { what: "the size" }));
    assert_eq!(set.verify(3, file.bytes()), Err(Error::OutOfRange { what: "the index" }));
}

#[test]
fn what_does_not_fit_a_set() {
    let folder = set("unfit");
    let file = folder.with_extension("expert");
    let add = |expert: Tiny<'_>| {
        expert.write(&file);
        pack::add(&folder, &file, None)
    };
    let new = Tiny::new("sv", "sv", 0.4);
    let before = fs::read(folder.join(SET_FILE)).unwrap();
    let vocabulary = Error::ExpertsDiffer { what: "vocabulary" };
    assert_eq!(rule(add(Tiny { pieces: "▁ a b c x", ..new })), vocabulary);
    assert_eq!(rule(add(Tiny { pieces: "▁ a b c d e", ..new })), vocabulary);
    let width = Error::ExpertsDiffer { what: "width" };
    assert_eq!(rule(add(Tiny { n_embd: 64, ..new })), width);
    for refused in [
        Tiny { id: "el", ..new },
        Tiny { id: "", ..new },
        Tiny { id: "../sv", ..new },
        Tiny { languages: "not a tag", ..new },
    ] {
        assert!(matches!(add(refused), Err(pack::Error::Refused(_))), "{refused:?}");
    }
    fs::write(&file, b"no expert").unwrap();
    assert_eq!(rule(pack::add(&folder, &file, None)), Error::BadMagic);
    assert!(matches!(
        pack::replace(&folder, &folder.join("el.gguf"), Some("sv")),
        Err(pack::Error::Refused(_))
    ));
    assert!(matches!(pack::remove(&folder, "sv"), Err(pack::Error::Refused(_))));
    assert!(fs::read(folder.join(SET_FILE)).unwrap() == before);
    assert_eq!(contents(&folder).len(), 3);
}

#[test]
fn adding_replacing_removing() {
    let folder = XELM.folder("edit");
    let more = |writer: &mut xelm_runtime::format::Writer| {
        writer.string("some.other.key", "kept");
        writer.u32("xelm.router.version", 1);
    };
    write_set(&folder, &Tiny::three(), more, &["router.centroids", "other"]);
    let gguf = |folder: &Path| {
        let file = MappedFile::open(&folder.join(SET_FILE)).unwrap();
        let gguf = file.gguf().unwrap();
        let names: Vec<_> = gguf.tensors().map(|t| (t.name.to_owned(), t.bytes.to_vec())).collect();
        let keys: Vec<_> = gguf.metadata().map(|(key, _)| key.to_owned()).collect();
        (names, keys)
    };
    let (tensors, keys) = gguf(&folder);
    assert_eq!(tensors.len(), 2);
    let before = contents(&folder);
    let reader = SetFolder::open(&folder).unwrap();
    let file = folder.with_extension("expert");

    // Replacing keeps the number of experts and with it the router; the rest is byte for byte the same.
    Tiny::new("el", "el,mk", 0.5).write(&file);
    let edited = pack::replace(&folder, &file, None).unwrap();
    let (_, sha256) = file_identity(&file).unwrap();
    assert_eq!(edited.file, format!("el-{}.gguf", &sha256[..8]));
    assert!(!edited.dropped_router && gguf(&folder) == (tensors.clone(), keys.clone()));
    let after = contents(&folder);
    assert!(after["de-en.gguf"] == before["de-en.gguf"] && after["ja.gguf"] == before["ja.gguf"]);
    assert!(after[&edited.file] == fs::read(&file).unwrap() && after.len() == 3);
    assert!(states(&folder).values().all(|state| *state == State::Good));
    let set = SetFolder::open(&folder).unwrap();
    assert_eq!(set.set().unwrap().select("mk", |_| true).unwrap().expert, 1);
    // Who had the old set open has it still, and finds that one file is gone.
    assert_eq!(reader.set().unwrap().entry(1).unwrap().file, "el.gguf");
    assert!(!reader.is_present(1) && reader.is_present(2));
    // Once more the same: nothing is lost.
    assert_eq!(pack::replace(&folder, &file, None).unwrap(), edited);
    assert!(contents(&folder) == after);

    // Adding drops the router and keeps everything else.
    Tiny::new("sv", "sv", 0.6).write(&file);
    let edited = pack::add(&folder, &file, Some("nordic")).unwrap();
    assert!(edited.dropped_router && edited.file.starts_with("nordic-"));
    let (left, left_keys) = gguf(&folder);
    assert_eq!(left, tensors[1..]);
    assert!(
        left_keys.contains(&"some.other.key".into())
            && !left_keys.contains(&"xelm.router.version".into())
    );
    assert!(contents(&folder).len() == 4 && after.iter().all(|(n, b)| contents(&folder)[n] == *b));
    assert!(states(&folder).values().all(|state| *state == State::Good));

    let edited = pack::remove(&folder, "de-en").unwrap();
    assert_eq!((edited.file.as_str(), edited.dropped_router), ("de-en.gguf", false));
    assert!(!folder.join("de-en.gguf").exists() && is_sound(&folder));
    let set = SetFolder::open(&folder).unwrap();
    let ids: Vec<_> = set
        .set()
        .unwrap()
        .entries()
        .map(|e| e.id)
        .collect::<Vec<_>>()
        .into_iter()
        .map(String::from)
        .collect();
    assert_eq!(ids, ["el", "ja", "nordic"]);
    assert_eq!(set.set().unwrap().select("sv", |_| true).unwrap().expert, 2);
    pack::remove(&folder, "el").unwrap();
    pack::remove(&folder, "ja").unwrap();
    assert!(matches!(pack::remove(&folder, "nordic"), Err(pack::Error::Refused(_))));
}

/// A device takes over another version of a set with the one expert that it needs of it.
#[test]
fn updating() {
    let (host, device) = (set("host"), XELM.folder("device"));
    let staging = XELM.folder("staging");
    let fetch = |files: &[&str]| {
        fs::remove_dir_all(&staging).unwrap();
        fs::create_dir_all(&staging).unwrap();
        for file in files.iter().chain(&[SET_FILE]) {
            fs::copy(host.join(file), staging.join(file)).unwrap();
        }
        pack::update(&device, &staging)
    };
    // For the first time.
    assert_eq!(fetch(&["el.gguf", "ja.gguf"]).unwrap(), ["el.gguf", "ja.gguf"]);
    assert_eq!(states(&device), {
        let mut all = states(&host);
        all.insert("de-en.gguf".into(), State::Absent);
        all
    });
    // The host replaces one; the device's other file stays, the replaced one goes.
    let file = host.with_extension("expert");
    Tiny::new("el", "el", 0.8).write(&file);
    let el = pack::replace(&host, &file, None).unwrap().file;
    let edited = fetch(&[&el]).unwrap();
    assert_eq!((edited, is_sound(&device)), (vec![el.clone()], true));
    assert_eq!(contents(&device).into_keys().collect::<Vec<_>>(), [el.as_str(), "ja.gguf"]);
    let (new, old) = (fs::read(host.join(MANIFEST)), fs::read(device.join(MANIFEST)));
    assert!(new.unwrap() == old.unwrap());
    // A file that came damaged changes nothing.
    Tiny::new("el", "el", 0.9).write(&file);
    let next = pack::replace(&host, &file, None).unwrap().file;
    let whole = fs::read(host.join(&next)).unwrap();
    fs::write(host.join(&next), &whole[1..]).unwrap();
    assert_eq!(rule(fetch(&[&next])), Error::HashMismatch { what: "the size" });
    assert!(is_sound(&device) && device.join(&el).exists() && !device.join(&next).exists());
    // A set packed anew has other files under the same names.
    write_set(&host, &[Tiny::new("ja", "ja", 0.7)], |_| {}, &[]);
    assert!(matches!(fetch(&["ja.gguf"]), Err(pack::Error::Refused(_))));
    assert!(is_sound(&device) && device.join("ja.gguf").exists());
}

/// A set that several threads edit at once ends up with every edit.
#[test]
fn writers_take_turns() {
    let folder = set("turns");
    std::thread::scope(|scope| {
        for i in 0..4 {
            let folder = &folder;
            scope.spawn(move || {
                let id = format!("new{i}");
                let file = folder.with_extension(&id);
                Tiny::new(&id, "sv", 1.0 + i as f32).write(&file);
                pack::add(folder, &file, None).unwrap();
            });
        }
    });
    let set = SetFolder::open(&folder).unwrap();
    assert_eq!(set.set().unwrap().len(), 7);
    assert!(states(&folder).values().all(|state| *state == State::Good));
}

/// Killed at any moment, an edit leaves the old set or the new one, and the next edit works.
#[test]
fn killed_edits() {
    let folder = set("killed");
    let files = [folder.with_extension("a"), folder.with_extension("b")];
    for (i, file) in files.iter().enumerate() {
        Tiny::new("el", "el", 10.0 + i as f32).write(file);
    }
    let mut outcomes = BTreeMap::new();
    for i in 0..60u64 {
        let file = &files[(i % 2) as usize];
        let args = ["set", "replace", "--set", text(&folder), "--expert", text(file)];
        let mut child = XELM.command(&args).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(i * 250));
        child.kill().unwrap();
        child.wait().unwrap();
        let found = states(&folder);
        for (name, state) in &found {
            let allowed = matches!(state, State::Good | State::Unlisted)
                || (name == MANIFEST && *state == State::Stale);
            assert!(allowed, "{name}: {state:?}");
        }
        *outcomes.entry(format!("{:?}", found[MANIFEST])).or_insert(0) += 1;
    }
    println!("{outcomes:?}");
    XELM.run(&["set", "replace", "--set", text(&folder), "--expert", text(&files[0])]);
    assert!(is_sound(&folder));
    assert!(!contents(&folder).is_empty());
    let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!names.iter().any(|n| n.to_string_lossy().contains(".tmp-")), "{names:?}");
}

/// A full disk: one clear line, the set as it was, nothing left behind.
#[cfg(target_os = "linux")]
#[test]
fn full_disks() {
    let folder = set("full");
    let ja = take(&folder, "ja.gguf");
    let file = folder.with_extension("expert");
    Tiny::new("sv", "sv", 0.4).write(&file);
    let before = fs::read(folder.join(SET_FILE)).unwrap();
    // 8 blocks of 512 bytes; the signal that would end the process is ignored, so that writing fails.
    let limited = |args: &str| {
        let script = format!("trap '' XFSZ; ulimit -f 8; exec '{}' {args}", XELM.program);
        error_line(&Command::new("sh").args(["-c", &script]).output().unwrap())
    };
    for args in [
        format!("set add --set '{}' --expert '{}'", text(&folder), text(&file)),
        format!("set install --set '{}' --expert '{}'", text(&folder), text(&ja)),
    ] {
        let line = limited(&args);
        assert!(line.contains("File too large") && line.contains(".gguf"), "{line}");
        assert!(fs::read(folder.join(SET_FILE)).unwrap() == before);
        let names: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(!names.iter().any(|n| n.to_string_lossy().contains(".tmp-")), "{names:?}");
        assert!(is_sound(&folder) && contents(&folder).len() == 2);
    }
    XELM.run(&["set", "install", "--set", text(&folder), "--expert", text(&ja)]);
    XELM.run(&["set", "add", "--set", text(&folder), "--expert", text(&file), "--json"]);
    assert!(is_sound(&folder) && contents(&folder).len() == 4);
}
