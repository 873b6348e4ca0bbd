//! Runs that derive from another, languages that are added to trained experts, and jobs that several
//! processes share.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use xelm_runtime::format::Gguf;
use xelm_runtime::mmap::{ExpertFile, MappedFile};
use xelm_runtime::pack::SetFolder;
use xelm_tests::xelm::Xelm;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The bytes of every expert file of a set.
fn experts(set: &Path) -> BTreeMap<String, Vec<u8>> {
    let folder = SetFolder::open(set).unwrap();
    let entries = folder.set().unwrap();
    entries.entries().map(|e| (e.file.to_owned(), fs::read(set.join(e.file)).unwrap())).collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A run that derives from a finished one: two typological experts of its own, the base's everything else.
fn derived(name: &str) -> (PathBuf, PathBuf) {
    let (base, _) = XELM.tiny_run(&format!("{name}-base"));
    let run = base.parent().unwrap().join("derived");
    XELM.run(&["cluster", "typology", "--run", text(&run), "--base", text(&base), "--k", "2"]);
    XELM.run(&["train", "--run", text(&run), "--all", "--steps", "8", "--lr", "3e-3"]);
    (base, run)
}

#[test]
fn languages_join_and_nothing_else_changes() {
    let (base, run) = derived("adapt");
    let run_arg = text(&run);
    assert!(!run.join("tokens").exists() && !run.join("seed").exists());
    XELM.run(&["pack", "--run", run_arg]);
    let before = experts(&run.join("set"));
    assert_eq!(before.len(), 2);
    // The same clusters of the same seed: the same experts as the base's, but for the learning rate's
    // warm-up.
    assert_eq!(json(&run.join("clusters.json")), json(&base.join("clusters.json")));

    let adapt = ["adapt", "--run", run_arg, "--languages", "en,es", "--steps", "6"];
    let plan = XELM.run(&[&adapt[..], &["--donor", "es=de", "--plan", "--json"]].concat());
    let plan: Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan[0]["donor"], "de");
    let parent = plan[0]["parent"].as_str().unwrap();
    assert!(parent.split('-').any(|l| l == "de"), "{parent}");
    assert!(!run.join("experts/en-de").exists());
    let adapt = [&adapt[..], &["--donor", "es=de", "--lapt", "--jobs", "2"]].concat();
    let said = XELM.run(&adapt);
    assert_eq!(said.lines().count(), 3, "{said}");
    // Again: everything is done.
    assert_eq!(XELM.run(&adapt).matches("done before").count(), 3);
    let spec = json(&run.join("experts/en-de/job.json"));
    assert_eq!((spec["round"].as_u64(), spec["parent"].as_str()), (Some(2), Some(parent)));
    // Both languages' experts together see as many tokens as the baseline.
    let batch = |job: &str| json(&run.join(job).join("job.json"))["settings"]["batch"].as_u64();
    assert_eq!(batch("experts/en-de").map(|n| 2 * n), batch("lapt"));

    XELM.run(&["pack", "--run", run_arg]);
    let after = experts(&run.join("set"));
    assert_eq!(after.len(), 4);
    for (file, bytes) in &before {
        assert!(after[file] == *bytes, "{file} has changed");
    }
    assert!(run.join("models/lapt.gguf").exists());
    let set = SetFolder::open(&run.join("set")).unwrap();
    let opened = set.set().unwrap();
    let selected = opened.select("en-GB", |_| true).unwrap();
    let entry = opened.entries().nth(selected.expert).unwrap();
    assert_eq!((entry.id, entry.parent), ("en-de", parent));
    // The donor's own expert stays what it was.
    let donor = opened.select("de", |_| true).unwrap();
    assert_eq!(opened.entries().nth(donor.expert).unwrap().id, parent);
    assert!(set.router().unwrap().is_some());
    let file = ExpertFile::open(&set.expert(selected.expert).unwrap()).unwrap();
    assert_eq!(file.expert().id(), "en-de");

    // A language that was added can be a donor in its turn.
    let again =
        ["adapt", "--run", run_arg, "--languages", "bg", "--donor", "bg=en", "--steps", "2"];
    XELM.run(&again);
    let spec = json(&run.join("experts/bg-en/job.json"));
    assert_eq!((spec["round"].as_u64(), spec["parent"].as_str()), (Some(3), Some("en-de")));
}

#[test]
fn what_cannot_be_added() {
    let (_, run) = derived("adapt-errors");
    let fails = |more: &[&str]| {
        let adapt = ["adapt", "--run", text(&run), "--steps", "2", "--languages"];
        XELM.fails(&[&adapt[..], more].concat())
    };
    for (args, expected) in [
        (&["de"][..], "already"),
        (&["pl"], "no files for the language"),
        (&["en", "--donor", "en=fr"], "no expert of the run speaks"),
        (&["en", "--from", "en=none"], "no expert"),
        (&["en", "--donor", "ru=de"], "not among"),
        (&["tlh"], "--donor"),
        (&["en,es,bg"], "cannot be divided"),
    ] {
        let error = fails(args);
        assert!(error.contains(expected), "{args:?}: {error}");
    }
    // The baseline needs something to be the baseline of, and a dense model.
    let error = XELM.fails(&["train", "--run", text(&run), "--lapt", "--steps", "2"]);
    assert!(error.contains("added") || error.contains("divided"), "{error}");
}

#[test]
fn derived_runs_know_their_base() {
    let (base, run) = derived("derive");
    let other = run.parent().unwrap().join("other");
    // A run that is no derived one, a base that is none, and a base that is derived itself.
    let cluster = |run: &Path, base: &Path| {
        XELM.command(&["cluster", "typology", "--run", text(run), "--base", text(base), "--k", "2"])
            .output()
            .unwrap()
    };
    assert!(!cluster(&base, &base).status.success());
    assert!(!cluster(&other, &other.join("none")).status.success());
    // Deriving from a derived run derives from its base.
    assert!(cluster(&other, &run).status.success());
    assert_eq!(json(&other.join("run.json"))["base"], json(&run.join("run.json"))["base"]);
    // Documents divided at random: every one has a cluster, and another seed divides differently.
    let random = |name: &str, seed: &str| {
        let folder = run.parent().unwrap().join(name);
        let (run, base) = (text(&folder), text(&base));
        XELM.run(&["cluster", "random", "--run", run, "--base", base, "--k", "3", "--seed", seed]);
        fs::read(folder.join("clusters.gguf")).unwrap()
    };
    let (one, two) = (random("random-1", "1"), random("random-2", "2"));
    assert!(one != two && one == random("random-1", "1"));
}

/// Two processes that are given the same experts: each is trained by one of them, and both end when all are
/// done.
#[test]
fn two_processes_share_the_work() {
    let (base, whole) = derived("share");
    let run = base.parent().unwrap().join("shared");
    XELM.run(&["cluster", "typology", "--run", text(&run), "--base", text(&base), "--k", "2"]);
    let train = ["train", "--run", text(&run), "--all", "--steps", "8", "--lr", "3e-3"];
    let processes = [(); 2].map(|()| XELM.command(&train).spawn().unwrap());
    for process in processes {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    for expert in json(&run.join("clusters.json")).as_array().unwrap() {
        let id = expert["id"].as_str().unwrap();
        let file = |run: &Path, name: &str| fs::read(run.join("experts").join(id).join(name));
        let checkpoint = |run: &Path| file(run, "checkpoint.gguf").unwrap();
        assert!(checkpoint(&run) == checkpoint(&whole), "{id}");
        let log = String::from_utf8(file(&run, "log.jsonl").unwrap()).unwrap();
        assert_eq!(log.matches("\"grad_norm\"").count(), 8);
        assert!(log.contains("valid_loss"));
    }
}

/// The mean of two experts, number by number; of one, the expert itself.
#[test]
fn averages_are_means_of_parameters() {
    let (base, _) = XELM.tiny_run("average");
    let clusters = json(&base.join("clusters.json"));
    let id = |cluster: &Value| cluster["id"].as_str().unwrap().to_owned();
    let ids: Vec<String> = clusters.as_array().unwrap().iter().map(id).collect();
    let mean = |name: &str, args: &[&str]| {
        let out = base.join(format!("{name}.gguf"));
        let average = ["average", "--run", text(&base), "--name", name, "--out", text(&out)];
        XELM.run(&[&average[..], args].concat());
        MappedFile::open(&out).unwrap()
    };
    let expert = |id: &str| MappedFile::open(&base.join(format!("set/{id}.gguf"))).unwrap();
    let (a, b) = (expert(&ids[0]), expert(&ids[1]));
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let check = |file: &MappedFile, share: f32| {
        let (mean, a, b) = (file.gguf().unwrap(), a.gguf().unwrap(), b.gguf().unwrap());
        let mut n = 0;
        for tensor in mean.tensors() {
            let of = |gguf: &Gguf<'_>| floats(gguf.tensor(tensor.name).unwrap().bytes);
            for ((mean, a), b) in floats(tensor.bytes).into_iter().zip(of(&a)).zip(of(&b)) {
                let expected = share * a + (1.0 - share) * b;
                assert!(
                    (mean - expected).abs() <= 1e-6 * (1.0 + expected.abs()),
                    "{}",
                    tensor.name
                );
                n += 1;
            }
        }
        assert!(n > 50_000, "{n}");
    };
    check(&mean("half", &[]), 0.5);
    check(&mean("first", &["--experts", &ids[0]]), 1.0);
    let both = ids.join(",");
    check(&mean("quarter", &["--experts", &both, "--weights", "1,3"]), 0.25);
    let half = base.join("half.gguf");
    assert!(!XELM.run(&["generate", "--expert", text(&half), "--prompt", "Der"]).is_empty());
    for (args, expected) in [
        (&["--experts", "none"][..], "none"),
        (&["--experts", &both, "--weights", "1"], "as many weights"),
        (&["--lang", "de"], "clusters of languages"),
    ] {
        let average = ["average", "--run", text(&base), "--checkpoint", "average.gguf"];
        let error = XELM.fails(&[&average[..], args].concat());
        assert!(error.contains(expected), "{args:?}: {error}");
    }
}
