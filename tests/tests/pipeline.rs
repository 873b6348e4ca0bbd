//! The stages from corpus to evaluated set through the command line: what they write, that they can
//! be interrupted, and that nothing depends on threads.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use xelm_tests::xelm::{LANGUAGES, Xelm};

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

/// A finished run that the tests of this file only read.
static RUN: LazyLock<(PathBuf, Value)> = LazyLock::new(|| XELM.tiny_run("pipeline"));

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Every number of the demo's table comes again out of the packed files alone.
#[test]
fn eval_ppl_recomputes_the_demo() {
    let (run, demo) = &*RUN;
    // Without what the demo noted.
    fs::remove_file(run.join("eval.jsonl")).unwrap();
    let table: Value =
        serde_json::from_str(&XELM.run(&["eval", "ppl", "--run", text(run), "--json"])).unwrap();
    assert_eq!(table["languages"], demo["languages"]);
    assert_eq!(table["wins"], demo["wins"]);
    let rows = table["languages"].as_object().unwrap();
    assert_eq!(rows.keys().map(String::as_str).collect::<Vec<_>>().join(","), LANGUAGES);
    for row in rows.values() {
        for column in ["seed", "dense", "random", "expert", "expert_q8_0", "expert_q4_0"] {
            let bpb = row[column].as_f64().unwrap();
            assert!(bpb > 0.5 && bpb < 12.0, "{column}: {bpb}");
        }
    }
    assert!(demo["seconds"].as_f64().unwrap() > 0.0);
}

/// Where there is no card, asking for one is an error that says what to do; `auto` trains on the CPU.
#[test]
fn a_missing_card_is_said() {
    let devices: Value = serde_json::from_str(&XELM.run(&["devices", "--json"])).unwrap();
    if !devices["cuda"].as_array().unwrap().is_empty() {
        return;
    }
    let (run, _) = &*RUN;
    let pretrain = XELM.pretrain_args(text(run), &["--steps", "12", "--lr", "3e-3", "--device"]);
    let error = XELM.fails(&[&pretrain[..], &["cuda"]].concat());
    assert!(error.contains("driver") && error.contains("--device cpu"), "{error}");
    assert!(XELM.run(&[&pretrain[..], &["auto"]].concat()).contains("done before"));
}

/// The same commands one by one, on one thread, two experts at a time, give the files of the demo, byte
/// for byte; dry runs leave nothing.
#[test]
fn stages_one_by_one_equal_the_demo() {
    let (demo, _) = &*RUN;
    let folder = XELM.folder("stages");
    let corpus = XELM.corpus(&folder.join("corpus"));
    let run = folder.join("run");
    let run_arg = text(&run);
    let one_thread = |args: &[&str]| XELM.run(&[&["--threads", "1"], args].concat());
    let mut args = vec!["tokenizer", "train", "--corpus", text(&corpus), "--run", run_arg];
    args.extend(["--languages", LANGUAGES, "--vocab-size", "2500"]);
    args.extend(["--character-coverage", "0.998"]);
    one_thread(&args);
    let pretrain = XELM.pretrain_args(run_arg, &["--steps", "12", "--lr", "3e-3"]);
    let rehearsal = one_thread(&[&pretrain[..], &["--dry-run", "--json"]].concat());
    let rehearsal: Value = serde_json::from_str(&rehearsal).unwrap();
    assert!(rehearsal["device_bytes"].as_u64().unwrap() > 0 && !run.join("seed").exists());
    one_thread(&pretrain);
    let checkpoint = fs::metadata(run.join("seed/checkpoint.gguf")).unwrap().len();
    assert!(checkpoint.abs_diff(rehearsal["checkpoint_bytes"].as_u64().unwrap()) < 10_000);
    one_thread(&["cluster", "typology", "--run", run_arg, "--k", "2"]);
    let branch = ["train", "--run", run_arg, "--steps", "8", "--lr", "3e-3", "--warmup", "0"];
    let all = [&branch[..], &["--all", "--dense", "--random", "--jobs", "2"]].concat();
    one_thread(&[&all[..], &["--dry-run"]].concat());
    assert!(!run.join("experts").exists());
    one_thread(&all);
    one_thread(&["pack", "--run", run_arg]);
    let (set, q4_0) = (run.join("set"), run.join("set-q4_0"));
    one_thread(&["quantize", "--set", text(&set), "--type", "q4_0", "--out", text(&q4_0)]);
    let mut n_files = 0;
    for name in ["tokenizer.gguf", "models", "set", "set-q4_0"] {
        let mut files = vec![PathBuf::from(name)];
        if run.join(name).is_dir() {
            let entries = fs::read_dir(run.join(name)).unwrap();
            files = entries.map(|e| Path::new(name).join(e.unwrap().file_name())).collect();
        }
        // A set's card names its run, and what was measured in it.
        files.retain(|file| !file.ends_with("README.md"));
        for file in files {
            let same = fs::read(run.join(&file)).unwrap() == fs::read(demo.join(&file)).unwrap();
            assert!(same, "{} differs", file.display());
            n_files += 1;
        }
    }
    assert_eq!(n_files, 1 + 3 + 4 + 4);
}

/// Killed in the middle of a step, a training job goes on from its last checkpoint to the same bits.
#[test]
fn killed_jobs_resume_to_the_same_bits() {
    let folder = XELM.folder("kill");
    let corpus = XELM.corpus(&folder.join("corpus"));
    let begin = |name: &str| {
        let run = folder.join(name);
        let mut args = vec!["tokenizer", "train", "--corpus", text(&corpus), "--run", text(&run)];
        args.extend(["--languages", LANGUAGES, "--vocab-size", "2500"]);
        XELM.run(&args);
        run
    };
    let (whole, killed) = (begin("whole"), begin("killed"));
    let vocabulary = |run: &Path| fs::read(run.join("tokenizer.gguf")).unwrap();
    assert!(vocabulary(&whole) == vocabulary(&killed), "two vocabularies of one corpus differ");

    let steps = ["--steps", "60", "--save-every", "7"];
    XELM.run(&XELM.pretrain_args(text(&whole), &steps));
    let mut kills = 0;
    for wait_for in [3, 17, 30, 44] {
        let mut child = XELM.command(&XELM.pretrain_args(text(&killed), &steps)).spawn().unwrap();
        let log = killed.join("seed/log.jsonl");
        let clock = Instant::now();
        loop {
            let lines = fs::read_to_string(&log).map_or(0, |text| text.lines().count());
            if lines >= wait_for || child.try_wait().unwrap().is_some() {
                break;
            }
            assert!(clock.elapsed() < Duration::from_secs(60), "the job does not advance");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        kills += usize::from(!child.wait().unwrap().success());
    }
    assert!(kills >= 2, "the job was too fast to be killed");
    XELM.run(&XELM.pretrain_args(text(&killed), &steps));
    for name in ["checkpoint.gguf", "log.jsonl"] {
        let read = |run: &Path| fs::read(run.join("seed").join(name)).unwrap();
        assert!(read(&whole) == read(&killed), "{name} differs after resuming");
    }
    // Done is done.
    let again = XELM.run(&XELM.pretrain_args(text(&killed), &[&steps[..], &["--json"]].concat()));
    assert_eq!(serde_json::from_str::<Value>(&again).unwrap()["new_steps"], 0);
}

/// A job that is begun again with other settings, or that another process works on, is refused.
#[test]
fn a_job_keeps_its_settings_and_its_owner() {
    let folder = XELM.folder("settings");
    let corpus = XELM.corpus(&folder.join("corpus"));
    let run = folder.join("run");
    let mut args = vec!["tokenizer", "train", "--corpus", text(&corpus), "--run", text(&run)];
    args.extend(["--languages", LANGUAGES, "--vocab-size", "2500"]);
    XELM.run(&args);
    let pretrain = |more: &[&str]| {
        XELM.pretrain_args(run.to_str().unwrap(), more).iter().map(|s| s.to_string()).collect()
    };
    let long: Vec<String> = pretrain(&["--steps", "5000", "--save-every", "2"]);
    let mut child = XELM.command(&long).spawn().unwrap();
    let clock = Instant::now();
    while !run.join("seed/checkpoint.gguf").exists() {
        assert!(clock.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
    let busy = XELM.fails(&long);
    assert!(busy.contains("another process"), "{busy}");
    child.kill().unwrap();
    child.wait().unwrap();
    let other: Vec<String> = pretrain(&["--steps", "5000", "--save-every", "2", "--lr", "1e-5"]);
    let changed = XELM.fails(&other);
    assert!(changed.contains("settings"), "{changed}");
}

/// `xelm generate` and `xelm score` on every kind of file, by set and by file.
#[test]
fn experts_write_and_score() {
    let (run, _) = &*RUN;
    for set in ["set", "set-q8_0", "set-q4_0"] {
        let set = run.join(set);
        let select = ["--set", text(&set), "--lang", "de-AT"];
        let generate = [&["generate", "--json", "--prompt", "Am Morgen"], &select[..]].concat();
        let one = XELM.run(&[&["--threads", "1"], &generate[..]].concat());
        assert_eq!(one, XELM.run(&[&["--threads", "2"], &generate[..]].concat()));
        let one: Value = serde_json::from_str(&one).unwrap();
        assert_eq!((one["language"].as_str(), one["match"].as_str()), (Some("de"), Some("prefix")));
        assert!(!one["text"].as_str().unwrap().is_empty());
        let score = [&["score", "--json", "--text", "Am Morgen scheint die Sonne."], &select[..]];
        let score: Value = serde_json::from_str(&XELM.run(&score.concat())).unwrap();
        assert_eq!(score["bytes"], 28);
        let (n, nll) = (score["tokens"].as_f64().unwrap(), score["nll_sum"].as_f64().unwrap());
        assert!(((nll / n).exp() / score["ppl"].as_f64().unwrap() - 1.0).abs() < 1e-12);
    }
    let inspected = XELM.run(&["inspect", text(&run.join("set")), "--json"]);
    assert!(serde_json::from_str::<Value>(&inspected).unwrap().is_object());
}
