//! `xelm experiment`: one command from a configuration to a report, killed on the way and started again.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use xelm_tests::xelm::Xelm;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

const CONFIG: &str = r#"
title = "A small one"
seeds = [3, 4]
languages = ["de", "en", "ru", "bg"]

[vocabulary]
size = 2000
character_coverage = 0.99

[model]
n_layer = 1
n_embd = 32
n_head = 2
n_ff = 64
n_ctx = 32

[train]
preset = "small"
batch = 4
seed_steps = 8
branch_steps = 8

[[arm]]
kind = "typology"
k = 2
forgetting = true
quantise = true

[[arm]]
kind = "tfidf"
k = 2
ensemble = true

[[arm]]
kind = "random"
k = 2

[adapt]
arm = "typology-2"
languages = ["es"]
steps = 4

[evaluate]
max_documents = 3
ensembles = [1, 0]
"#;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Every checkpoint and every figure below a folder.
fn results(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                folders.push(path);
            } else if ["checkpoint.gguf", "eval.json", "forgetting.json"].contains(&name) {
                found.insert(
                    path.strip_prefix(folder).unwrap().to_owned(),
                    fs::read(&path).unwrap(),
                );
            }
        }
    }
    found
}

#[test]
fn killed_and_started_again_it_ends_the_same() {
    let folder = XELM.folder("experiment");
    let corpus = XELM.corpus(&folder.join("corpus"));
    let config = folder.join("small.toml");
    fs::write(&config, CONFIG).unwrap();
    let (whole, killed) = (folder.join("whole"), folder.join("killed"));
    let args = |out: &Path| {
        let args = ["experiment", "--config", text(&config), "--corpus", text(&corpus), "--out"];
        [&args[..], &[text(out)]].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let report = XELM.run(&args(&whole));
    assert_eq!(report.trim(), text(&whole.join("report.html")));
    let page = fs::read_to_string(whole.join("report.html")).unwrap();
    assert!(page.contains("A small one") && page.contains("tfidf"));

    // Killed ever later, until it is faster than the kill.
    for wait in (1..).map(|n| Duration::from_millis(300 * n * n)) {
        let mut process = XELM.command(&args(&killed)).spawn().unwrap();
        std::thread::sleep(wait);
        if process.try_wait().unwrap().is_some() {
            break;
        }
        process.kill().unwrap();
        process.wait().unwrap();
    }
    XELM.run(&args(&killed));
    let (whole_results, killed_results) = (results(&whole), results(&killed));
    // Per seed: seed, dense, 3 arms of 2, an added expert and its baseline; 3 tables and a matrix.
    assert_eq!(whole_results.len(), 2 * (10 + 4));
    assert!(whole_results.keys().eq(killed_results.keys()));
    for (path, bytes) in &whole_results {
        assert!(*bytes == killed_results[path], "{} differs", path.display());
    }
    let table: Value =
        serde_json::from_slice(&whole_results[Path::new("seed-3/tfidf-2/eval.json")]).unwrap();
    for column in ["seed", "dense", "expert", "ensemble_1", "ensemble_all"] {
        assert!(table["mean"][column].as_f64().is_some(), "{column}: {table}");
    }
    // Another repetition is another draw.
    let seeds = ["seed-3/base/seed/checkpoint.gguf", "seed-4/base/seed/checkpoint.gguf"];
    let [one, two] = seeds.map(|path| &whole_results[Path::new(path)]);
    assert!(one != two);

    // The same folder with other training: refused. With another title: all is there.
    fs::write(&config, CONFIG.replace("branch_steps = 8", "branch_steps = 9")).unwrap();
    assert!(XELM.fails(&args(&whole)).contains("another configuration"));
    fs::write(&config, CONFIG.replace("A small one", "Another title")).unwrap();
    XELM.run(&args(&whole));
    assert!(fs::read_to_string(whole.join("report.html")).unwrap().contains("Another title"));
    fs::write(&config, CONFIG.replace("k = 2", "k = 3")).unwrap();
    assert!(XELM.fails(&args(&whole)).contains("cannot be divided"));
}
