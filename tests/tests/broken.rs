//! What is broken is refused in one clear line: files cut short or with flipped bits, corpora without
//! text, experts that are not there, disks that are full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use xelm_runtime::Error;
use xelm_runtime::expert::{Expert, Layer};
use xelm_runtime::format::Gguf;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::parallel::Serial;
use xelm_runtime::rng::Rng;
use xelm_runtime::router::Router;
use xelm_runtime::sampler::{Sampler, SamplerOptions};
use xelm_runtime::session::{Options, Session};
use xelm_runtime::set::Set;
use xelm_runtime::tokenizer::TextStream;
use xelm_tests::xelm::{LANGUAGES, Xelm, error_line};
use xelm_train::memory::Memory;
use xelm_train::tfidf::nearest;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

static RUN: LazyLock<PathBuf> = LazyLock::new(|| XELM.tiny_run("broken").0);

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Opens bytes as an expert and, where that works, reads, writes and scores with it.
fn use_expert(bytes: &[u8]) -> Result<(), Error> {
    let gguf = Gguf::open(bytes)?;
    let mut layers = vec![Layer::default(); Expert::n_layer(&gguf)?.min(1 << 16)];
    let expert = Expert::open(gguf, &mut layers)?;
    let options = Options { max_text: 256, ..Options::default() };
    let plan = Session::plan(&expert, &options)?;
    // A flipped bit may ask for any size; the caller decides what is too much.
    if plan.total > 1 << 28 {
        return Err(Error::MemoryTooSmall { needed: plan.total });
    }
    let mut memory = Memory::new(plan.total);
    let kernels = Kernels::new(Isa::detect());
    let mut session = Session::init(&expert, &options, memory.bytes(), kernels, &Serial)?;
    session.prefill_text("Am Morgen 今日は".as_bytes())?;
    let mut sampler = Sampler::new(SamplerOptions { temperature: 1.0, ..Default::default() })?;
    session.generate(&mut sampler, 3, TextStream::continuing(), |_| true)?;
    session.score_text("Ένα κείμενο".as_bytes()).map(drop)
}

fn use_set(bytes: &[u8]) -> Result<(), Error> {
    let gguf = Gguf::open(bytes)?;
    let set = Set::open(&gguf)?;
    set.entries().for_each(drop);
    for tag in ["de", "el-CY", "zh", "fr"] {
        let _ = set.select(tag, |i| i > 0);
    }
    if let Some(router) = Router::open(&gguf)? {
        nearest(&router, &["Am Morgen 今日は", "Ένα κείμενο"])?;
    }
    Ok(())
}

/// A file's bytes where a reader wants them: aligned.
fn with_bytes<T>(bytes: &[u8], work: impl FnOnce(&[u8]) -> T) -> T {
    let mut memory = Memory::new(bytes.len());
    memory.bytes().copy_from_slice(bytes);
    work(memory.bytes())
}

/// Opens and uses the bytes of a file.
type Use = fn(&[u8]) -> Result<(), Error>;

fn files() -> Vec<(PathBuf, Use)> {
    let mut files: Vec<(PathBuf, Use)> = Vec::new();
    for set in ["set", "set-q8_0", "set-q4_0"] {
        files.push((RUN.join(set).join("set.gguf"), use_set));
        let entries = fs::read_dir(RUN.join(set)).unwrap().map(|e| e.unwrap().path());
        let expert = entries.filter(|p| !p.ends_with("set.gguf")).min().unwrap();
        files.push((expert, use_expert));
    }
    files
}

#[test]
fn files_cut_anywhere_are_refused() {
    let mut n = 0;
    for (path, open) in files() {
        let whole = fs::read(&path).unwrap();
        with_bytes(&whole, |bytes| assert_eq!(open(bytes), Ok(()), "{}", path.display()));
        // A set file is small: every 10th byte.
        let every = if whole.len() > 100_000 { 1000 } else { 10 };
        for len in (0..whole.len()).step_by(every) {
            let result = with_bytes(&whole[..len], open);
            assert!(result.is_err(), "{} cut to {len} bytes", path.display());
            n += 1;
        }
    }
    println!("{n} cut files");
    assert!(n > 1000);
}

/// 2,000 flips of one bit each: an error or another model, never a panic or a hang.
#[test]
fn flipped_bits_do_no_harm() {
    let mut rng = Rng::new(11, 0);
    let files = files();
    let (mut refused, n) = (0, 2000);
    let whole: Vec<Vec<u8>> = files.iter().map(|(path, _)| fs::read(path).unwrap()).collect();
    for i in 0..n {
        let which = i % files.len();
        let bytes = &whole[which];
        // Half of the flips where the structure is, before the weights.
        let range = if i % 4 < 2 { bytes.len() } else { bytes.len().min(20_000) } as u32;
        let at = rng.below(range) as usize;
        let mut memory = Memory::new(bytes.len());
        memory.bytes().copy_from_slice(bytes);
        memory.bytes()[at] ^= 1 << rng.below(8);
        refused += usize::from((files[which].1)(memory.bytes()).is_err());
    }
    println!("{refused} of {n} refused");
    assert!(refused > 100);
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
