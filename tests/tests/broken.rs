//! What is broken is refused in one clear line: files of another kind or cut short, corpora without text,
//! experts that are not there, disks that are full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use xelm_tests::xelm::{LANGUAGES, Xelm, error_line};

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

static RUN: LazyLock<PathBuf> = LazyLock::new(|| XELM.tiny_run("broken").0);

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Through the command line: one line, exit code 1.
#[test]
fn wrong_files() {
    let folder = XELM.folder("wrong_files");
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        text(&path).to_owned()
    };
    let expert = fs::read(RUN.join("models/seed.gguf")).unwrap();
    let mut no_magic = expert.clone();
    no_magic[0] = b'X';
    let generate = |path: &str| XELM.fails(&["generate", "--expert", path, "--prompt", "a"]);
    assert!(generate(&write("empty.gguf", b"")).contains("not a GGUF file"));
    assert!(generate(&write("magic.gguf", &no_magic)).contains("not a GGUF file"));
    assert!(generate(&write("text.gguf", b"Hello, this is text.")).contains("not a GGUF file"));
    assert!(generate(&write("cut.gguf", &expert[..expert.len() / 2])).contains("ends inside"));
    assert!(generate(text(&folder)).contains("cannot open"));
    assert!(generate("no/such/file").contains("No such file"));
    // Files of ours, but of another kind.
    let set = RUN.join("set/set.gguf");
    assert!(generate(text(&set)).contains("set.gguf"));
    assert!(generate(text(&RUN.join("tokenizer.gguf"))).contains("tokenizer.gguf"));
    let set = XELM.fails(&["generate", "--set", text(&folder), "--lang", "de"]);
    assert!(set.contains("set.gguf"), "{set}");
}

#[test]
fn missing_experts_and_languages() {
    let folder = XELM.folder("missing");
    for entry in fs::read_dir(RUN.join("set-q8_0")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    let generate = |lang: &str| {
        ["generate", "--json", "--set", text(&folder), "--lang", lang].map(String::from)
    };
    let used = |lang: &str| -> serde_json::Value {
        serde_json::from_str(&XELM.run(&generate(lang))).unwrap()
    };
    assert!(XELM.fails(&generate("xx")).contains("the set speaks"));
    assert!(XELM.fails(&generate("not a tag")).contains("language tag"));
    let german = used("de");
    // Its nearest relative that is there stands in, and the user is told.
    fs::remove_file(folder.join(format!("{}.gguf", german["expert"].as_str().unwrap()))).unwrap();
    let stand_in = used("de");
    assert_eq!(stand_in["match"], "related");
    assert_ne!(stand_in["expert"], german["expert"]);
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("set.gguf") {
            fs::remove_file(path).unwrap();
        }
    }
    assert!(XELM.fails(&generate("de")).contains("no expert"));
    let out = folder.join("out");
    let args = ["quantize", "--set", text(&folder), "--type", "q4_0", "--out", text(&out)];
    assert!(XELM.fails(&args).contains("No such file"));
}

#[test]
fn poor_corpora() {
    let folder = XELM.folder("poor");
    let run = folder.join("run");
    let fails = |corpus: &Path, more: &[&str]| {
        let mut args = vec!["demo", "--corpus", text(corpus), "--out", text(&run)];
        args.extend(["--n-layer", "1", "--n-embd", "32", "--n-head", "2"]);
        args.extend(["--n-ctx", "32", "--seed-steps", "2", "--branch-steps", "2", "--batch", "2"]);
        args.extend(more);
        if !more.contains(&"--vocab-size") {
            args.extend(["--vocab-size", "300"]);
        }
        let line = XELM.fails(&args);
        if run.exists() {
            fs::remove_dir_all(&run).unwrap();
        }
        line
    };
    let corpus = |name: &str, files: &[(&str, &[u8])]| {
        let corpus = folder.join(name);
        fs::create_dir_all(&corpus).unwrap();
        for (file, bytes) in files {
            fs::write(corpus.join(file), bytes).unwrap();
        }
        corpus
    };
    println!("{}", fails(&folder.join("nowhere"), &[]));
    println!("{}", fails(&corpus("nothing", &[]), &[]));
    println!(
        "{}",
        fails(&corpus("empty", &[("de.train.txt", b""), ("en.train.txt", b"")]), &["--k", "1"])
    );
    println!(
        "{}",
        fails(
            &corpus("blank", &[("de.train.txt", b"\n\n \n"), ("en.train.txt", b"\n")]),
            &["--k", "1"]
        )
    );
    let one: &[u8] = b"Ein einziges Dokument, und das ist kurz.";
    println!("{}", fails(&corpus("one", &[("de.train.txt", one)]), &["--k", "1"]));
    // A language that is asked for and is not there; one that has a file, but no text in it.
    let bundled = XELM.corpus(&folder.join("bundled"));
    let line = fails(&bundled, &["--languages", "de,fr"]);
    assert!(line.contains("fr"), "{line}");
    fs::write(bundled.join("el.train.txt"), b"").unwrap();
    let line = fails(&bundled, &["--languages", LANGUAGES, "--k", "2", "--vocab-size", "2500"]);
    assert!(line.contains("el"), "{line}");
    // A line that is no JSON, a file that is not UTF-8: named with file and line.
    let json = b"{\"text\": \"gut\"}\n{\"text\": \n";
    let line = fails(&corpus("json", &[("de.train.jsonl", json)]), &["--k", "1"]);
    assert!(line.contains("de.train.jsonl") && line.contains('2'), "{line}");
    let line = fails(&corpus("latin", &[("de.train.txt", b"Gr\xfc\xdfe\n")]), &["--k", "1"]);
    assert!(line.contains("de.train.txt") && line.contains("UTF-8"), "{line}");
}

/// A document is enough to train on, where there is another one to test on.
#[test]
fn a_corpus_of_one_document_trains() {
    let folder = XELM.folder("one_document");
    let corpus = folder.join("corpus");
    fs::create_dir_all(&corpus).unwrap();
    fs::write(corpus.join("de.train.txt"), "Am Morgen geht die Sonne auf. ".repeat(30)).unwrap();
    fs::write(corpus.join("de.valid.txt"), "Am Abend geht die Sonne unter.").unwrap();
    let run = folder.join("run");
    let mut args = vec!["demo", "--json", "--corpus", text(&corpus), "--out", text(&run)];
    args.extend(["--k", "1", "--vocab-size", "40", "--n-layer", "1", "--n-embd", "32"]);
    args.extend(["--n-head", "2", "--n-ctx", "16", "--seed-steps", "2", "--branch-steps", "2"]);
    args.extend(["--batch", "2"]);
    XELM.run(&args);
}

/// A full disk: `/dev/full` for one file, and a limit on file sizes for everything else. What was there
/// before is still whole.
#[cfg(target_os = "linux")]
#[test]
fn full_disks() {
    let expert = RUN.join("models/seed.gguf");
    let args = ["logits", "--expert", text(&expert), "--tokens", "2,3", "--out", "/dev/full"];
    println!("{}", XELM.fails(&args));
    let args =
        format!("'{}' generate --expert '{}' --prompt a > /dev/full", XELM.program, text(&expert));
    let output = Command::new("sh").args(["-c", &args]).output().unwrap();
    assert!(error_line(&output).contains("No space"), "{output:?}");

    let folder = XELM.folder("full");
    for entry in fs::read_dir(RUN.join("set")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    // 64 blocks of 512 bytes; the signal that would end the process is ignored, so that writing fails.
    let limited = |args: &str| {
        let script = format!("trap '' XFSZ; ulimit -f 64; exec '{}' {args}", XELM.program);
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        error_line(&output)
    };
    let out = folder.join("quantised");
    println!(
        "{}",
        limited(&format!(
            "quantize --set '{0}' --type q4_0 --out '{1}'",
            text(&folder),
            text(&out)
        ))
    );
    assert!(!out.join("set.gguf").exists());
    let before = fs::read(RUN.join("seed/checkpoint.gguf")).unwrap();
    let run = XELM.folder("full_run");
    copy(&RUN, &run);
    fs::remove_dir_all(run.join("dense")).unwrap();
    let train = format!("train --run '{}' --dense --steps 4 --save-every 1", text(&run));
    let line = limited(&train);
    println!("{line}");
    assert!(line.contains("checkpoint.gguf") && line.contains("File too large"), "{line}");
    assert!(fs::read(run.join("seed/checkpoint.gguf")).unwrap() == before);
    // With room again, the job does what it could not.
    XELM.run(&["train", "--run", text(&run), "--dense", "--steps", "4", "--save-every", "1"]);
    assert!(
        !fs::read_dir(run.join("dense"))
            .unwrap()
            .any(|e| { e.unwrap().file_name().to_string_lossy().contains(".tmp") })
    );
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}
