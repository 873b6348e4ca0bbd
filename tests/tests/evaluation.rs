//! What evaluation measures, keeps and measures again, through the command line.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use xelm_runtime::format::AtomicFile;
use xelm_tests::xelm::Xelm;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

/// A finished run that the tests of this file copy.
static RUN: LazyLock<PathBuf> = LazyLock::new(|| XELM.tiny_run("evaluation").0);

/// A copy of the run's models, corpus and settings, without anything measured.
fn copy(name: &str) -> PathBuf {
    let to = XELM.folder(name);
    for folder in ["models", "set", "../corpus"] {
        let from = RUN.join(folder);
        let to = to.join(folder.trim_start_matches("../"));
        fs::create_dir_all(&to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
    let mut manifest: Value =
        serde_json::from_str(&fs::read_to_string(RUN.join("run.json")).unwrap()).unwrap();
    manifest["corpus"] = "corpus".into();
    fs::write(to.join("run.json"), manifest.to_string()).unwrap();
    to
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&XELM.run(args)).unwrap()
}

/// Runs `eval ppl` with more arguments; returns the table and how many cells were measured.
fn ppl(run: &Path, more: &[&str]) -> (Value, usize) {
    let args = [&["eval", "ppl", "--json", "--run", text(run)], more].concat();
    let output = XELM.command(&args).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let line = stderr.lines().find(|line| line.contains("cells are to be measured")).unwrap();
    let n = line.split(' ').next().unwrap().parse().unwrap();
    (serde_json::from_slice(&output.stdout).unwrap(), n)
}

/// The documents of a language that the run holds out.
fn documents(run: &Path, language: &str) -> Vec<String> {
    let text = fs::read_to_string(run.join(format!("corpus/{language}.valid.txt"))).unwrap();
    let documents = text.split("\n\n").map(str::trim).filter(|d| !d.is_empty());
    documents.map(str::to_owned).collect()
}

/// Sums of `xelm score` over a language's documents: tokens, bytes, nats.
fn scored(run: &Path, language: &str, model: &[&str]) -> (usize, u64, f64) {
    let mut sum = (0, 0, 0.0);
    for document in documents(run, language) {
        let file = run.join("document.txt");
        fs::write(&file, document).unwrap();
        let score = json(&[&["score", "--json", "--file", text(&file)], model].concat());
        sum.0 += score["tokens"].as_u64().unwrap() as usize;
        sum.1 += score["bytes"].as_u64().unwrap();
        sum.2 += score["nll_sum"].as_f64().unwrap();
    }
    sum
}

/// The table is what scoring each document by itself adds up to, for a file, a set's choice and a mixture; and
/// it does not depend on threads.
#[test]
fn the_table_is_a_sum_over_documents() {
    let run = copy("ppl");
    let ensemble = ["--ensemble", "1,all", "--languages", "ja"];
    let (table, n) = ppl(&run, &ensemble);
    assert_eq!(n, 6);
    let (seed, set) = (run.join("models/seed.gguf"), run.join("set"));
    for (column, model) in [
        ("seed", vec!["--expert", text(&seed)]),
        ("expert", vec!["--set", text(&set), "--lang", "ja"]),
        ("ensemble_1", vec!["--set", text(&set), "--ensemble", "1"]),
        ("ensemble_all", vec!["--set", text(&set), "--ensemble", "0"]),
    ] {
        let score = &table["scores"]["ja"][column];
        let (tokens, bytes, nll_sum) = scored(&run, "ja", &model);
        assert_eq!(score["documents"], documents(&run, "ja").len());
        assert_eq!(
            (&score["tokens"], &score["bytes"]),
            (&tokens.into(), &bytes.into()),
            "{column}"
        );
        let close = |name: &str, want: f64| {
            let got = score[name].as_f64().unwrap();
            assert!((got / want - 1.0).abs() < 1e-9, "{column} {name}: {got} {want}");
        };
        close("nll_sum", nll_sum);
        close("ppl", (nll_sum / tokens as f64).exp());
        close("bpb", nll_sum / std::f64::consts::LN_2 / bytes as f64);
        assert_eq!(table["languages"]["ja"][column], score["bpb"]);
        assert_eq!(table["mean_ppl"][column], score["ppl"]);
    }
    assert_eq!(table["protocol"]["n_ctx"]["expert"], 64);
    // The router, token by token, is neither the expert of the language nor all of them.
    let row = &table["languages"]["ja"];
    assert!(row["ensemble_1"] != row["ensemble_all"] && row["ensemble_1"] != row["seed"]);
    fs::remove_file(run.join("eval.jsonl")).unwrap();
    let (again, n) = ppl(&run, &[&ensemble[..], &["--threads", "1"]].concat());
    assert_eq!((again, n), (table, 6));
    // The written file is the table, too.
    let written = fs::read_to_string(run.join("eval.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), ppl(&run, &ensemble).0);
}

/// What is in the journal is not measured again; what has changed is, and nothing else.
#[test]
fn cells_are_measured_once() {
    let run = copy("cells");
    let (table, n) = ppl(&run, &[]);
    assert_eq!(n, 16);
    assert_eq!(ppl(&run, &[]), (table.clone(), 0));
    let journal = run.join("eval.jsonl");
    let whole = fs::read(&journal).unwrap();
    assert_eq!(whole.iter().filter(|&&b| b == b'\n').count(), 16);
    // A torn last line, and the one before it lost.
    let lines: Vec<&[u8]> = whole.split_inclusive(|&b| b == b'\n').collect();
    let torn = [&lines[..14].concat(), &lines[14][..20]].concat();
    fs::write(&journal, torn).unwrap();
    assert_eq!(ppl(&run, &[]), (table.clone(), 2));
    // The seed is another file.
    fs::copy(run.join("models/dense.gguf"), run.join("models/seed.gguf")).unwrap();
    let (changed, n) = ppl(&run, &[]);
    assert_eq!(n, 0, "the dense model's cells are the seed's now");
    assert_eq!(changed["languages"]["de"]["seed"], table["languages"]["de"]["dense"]);
    // One language has another text.
    let corpus = run.join("corpus/ko.valid.txt");
    let more = fs::read_to_string(&corpus).unwrap() + "\n\n새 문서입니다.\n";
    AtomicFile::write(&corpus, more.as_bytes()).unwrap();
    let (changed, n) = ppl(&run, &[]);
    assert_eq!(n, 3);
    let documents = |table: &Value| table["scores"]["ko"]["expert"]["documents"].as_u64().unwrap();
    assert_eq!(documents(&changed), documents(&table) + 1);
    assert_eq!(changed["languages"]["el"], {
        let mut row = table["languages"]["el"].clone();
        row["seed"] = row["dense"].clone();
        row
    });
    // An expert that is not the one its set means.
    let expert = run.join("set/ja-ko.gguf");
    fs::write(&expert, [fs::read(&expert).unwrap(), vec![0]].concat()).unwrap();
    let error = XELM.fails(&["eval", "ppl", "--run", text(&run)]);
    assert!(error.contains("ja-ko.gguf") && error.contains("xelm verify"), "{error}");
}

/// A killed evaluation goes on and ends with the same numbers; two at once are refused.
#[test]
fn a_killed_evaluation_goes_on() {
    let (run, whole) = (copy("killed"), copy("whole"));
    let ensemble = ["--ensemble", "1,2"];
    let (table, all) = ppl(&whole, &ensemble);
    let mut child = XELM
        .command(&[&["--threads", "1", "eval", "ppl", "--run", text(&run)], &ensemble[..]].concat())
        .spawn()
        .unwrap();
    let journal = run.join("eval.jsonl");
    let clock = Instant::now();
    while fs::read_to_string(&journal).map_or(0, |text| text.lines().count()) < 2 {
        assert!(clock.elapsed() < Duration::from_secs(120), "the evaluation does not advance");
        std::thread::sleep(Duration::from_millis(1));
    }
    if child.try_wait().unwrap().is_none() {
        let other = XELM.command(&["eval", "ppl", "--run", text(&run)]).output().unwrap();
        let said = String::from_utf8_lossy(&other.stderr).into_owned();
        // Unless the first ended meanwhile.
        assert!(other.status.success() || said.contains("another process"), "{said}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let (again, n) = ppl(&run, &ensemble);
    assert!(n <= all - 2, "{n} of {all} were measured again");
    assert_eq!(again["scores"], table["scores"]);
}

#[test]
fn what_cannot_be_evaluated_is_said() {
    let run = copy("refused");
    let fails = |more: &[&str]| XELM.fails(&[&["eval", "ppl", "--run", text(&run)], more].concat());
    let error = fails(&["--languages", "de,xx"]);
    assert!(error.contains("\"xx\"") && error.contains("de, el, "), "{error}");
    fs::write(run.join("corpus/ja.valid.txt"), "").unwrap();
    let error = fails(&[]);
    assert!(error.contains("\"ja\" has no held-out documents"), "{error}");
    // Without a router several experts cannot be mixed.
    let set = XELM.without_router(&run.join("set"), "refused-set");
    fs::remove_dir_all(run.join("set")).unwrap();
    fs::rename(set, run.join("set")).unwrap();
    let error = fails(&["--languages", "de", "--ensemble", "2"]);
    assert!(error.contains("router"), "{error}");
    fs::remove_dir_all(run.join("set")).unwrap();
    let error = fails(&["--languages", "de", "--ensemble", "2"]);
    assert!(error.contains("set.gguf is missing"), "{error}");
}

/// Every expert on every language; the cells are shared with `eval ppl`.
#[test]
fn forgetting() {
    let run = copy("forgetting");
    let (table, _) = ppl(&run, &[]);
    let found = json(&["eval", "forgetting", "--json", "--run", text(&run)]);
    assert_eq!(found["models"].to_string(), r#"["seed","dense","de-el","ja-ko"]"#);
    assert_eq!(found["languages"].to_string(), r#"["de","el","ja","ko"]"#);
    assert_eq!(found["own"]["ja-ko"].to_string(), r#"["ja","ko"]"#);
    for language in ["de", "el", "ja", "ko"] {
        let own = if language < "ja" { "de-el" } else { "ja-ko" };
        for (model, column) in [("seed", "seed"), ("dense", "dense"), (own, "expert")] {
            assert_eq!(found["scores"][model][language], table["scores"][language][column]);
        }
    }
    let (mut worse, mut off) = (0, 0);
    for expert in ["de-el", "ja-ko"] {
        for language in ["de", "el", "ja", "ko"] {
            let bpb = |model: &str| found["scores"][model][language]["bpb"].as_f64().unwrap();
            let is_worse = usize::from(bpb(expert) > bpb("seed"));
            worse += is_worse;
            off += if (language < "ja") == (expert == "de-el") { 0 } else { is_worse };
        }
    }
    assert_eq!(found["share_worse"], worse as f64 / 8.0);
    assert_eq!(found["share_worse_off_language"], off as f64 / 4.0);
    // Four cells beyond those of the table: two experts on two languages each that are not theirs.
    let lines = fs::read_to_string(run.join("eval.jsonl")).unwrap().lines().count();
    assert_eq!(lines, 16 + 4);
    let written = fs::read_to_string(run.join("forgetting.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), found);
    fs::remove_file(run.join("models/seed.gguf")).unwrap();
    let error = XELM.fails(&["eval", "forgetting", "--run", text(&run)]);
    assert!(error.contains("xelm pack"), "{error}");
}

/// A few examples in the form of XNLI, in two languages.
fn xnli(path: &Path, n: usize) {
    let mut text = String::from("language\tgold_label\tsentence1\tsentence2\n");
    for i in 0..n {
        let label = ["entailment", "neutral", "contradiction"][i % 3];
        text += &format!("en\t{label}\tThe {i} birds sing.\tBird {i} sings.\n");
        text += &format!("de\t{label}\tDie {i} Vögel singen.\tVogel {i} singt.\n");
    }
    fs::write(path, text).unwrap();
}

/// Accuracies follow from the examples' scores; demonstrations change them; cells are kept.
#[test]
fn in_context_learning() {
    let run = copy("icl");
    let (data, lines) = (run.join("xnli.tsv"), run.join("examples.jsonl"));
    xnli(&data, 40);
    let base = ["eval", "icl", "--json", "--task", "xnli", "--data", text(&data)];
    let of_run = [&base[..], &["--run", text(&run), "--ensemble", "1,all"]].concat();
    let with_examples = [&of_run[..], &["--examples", text(&lines)]].concat();
    let table = json(&with_examples);
    assert_eq!(table["majority"]["de"], 14.0 / 40.0);
    let examples: Vec<Value> = fs::read_to_string(&lines)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let models = ["seed", "dense", "expert", "ensemble_1", "ensemble_all"];
    for language in ["de", "en"] {
        for model in models {
            let of = |e: &&Value| e["model"] == model && e["language"] == language;
            let mine: Vec<&Value> = examples.iter().filter(of).collect();
            assert_eq!(mine.len(), 40);
            for example in &mine {
                let scores: Vec<f64> = example["scores"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|s| s.as_f64().unwrap())
                    .collect();
                let lowest = scores.iter().copied().fold(f64::INFINITY, f64::min);
                let first = scores.iter().position(|&s| s == lowest).unwrap();
                assert_eq!(example["prediction"], first);
                // Line 2 is the first English example, line 3 its German form.
                let line = example["line"].as_u64().unwrap();
                assert_eq!(example["gold"], (line - 2) / 2 % 3);
                assert_eq!(language == "en", line % 2 == 0);
            }
            let right = mine.iter().filter(|e| e["gold"] == e["prediction"]).count();
            let accuracy = &table["languages"][language][model];
            assert_eq!(accuracy["accuracy"], right as f64 / 40.0, "{model} on {language}");
            assert_eq!(accuracy["examples"], 40);
            let p = right as f64 / 40.0;
            let stderr = accuracy["stderr"].as_f64().unwrap();
            assert!((stderr - (p * (1.0 - p) / 40.0).sqrt()).abs() < 1e-12);
        }
    }
    // No expert speaks English: there is no model of it.
    assert!(table["languages"]["de"].get("expert_en").is_none());
    // A set and a file give the numbers of the run, and so does the run without measuring again.
    assert_eq!(json(&of_run), table);
    let set = run.join("set");
    let of_set = json(&[&base[..], &["--set", text(&set), "--ensemble", "1,all"]].concat());
    for model in &models[2..] {
        assert_eq!(of_set["languages"]["de"][*model], table["languages"]["de"][*model]);
    }
    let expert = set.join("de-el.gguf");
    let of_file = json(&[&base[..], &["--expert", text(&expert)]].concat());
    assert_eq!(of_file["languages"]["de"]["de-el"], table["languages"]["de"]["expert"]);

    // Two demonstrations; with one thread the same.
    let demos = run.join("demos.tsv");
    xnli(&demos, 9);
    let few = ["--shots", "2", "--runs", "3", "--demos", text(&demos), "--max-examples", "10"];
    let few = [&of_run[..], &few].concat();
    let shots = json(&few);
    assert_eq!((&shots["runs"], &shots["shots"]), (&3.into(), &2.into()));
    assert_eq!(shots["languages"]["de"]["seed"]["examples"], 10);
    fs::remove_file(run.join("icl.jsonl")).unwrap();
    assert_eq!(json(&[&few[..], &["--threads", "1"]].concat()), shots);
    let kept: Value =
        serde_json::from_str(&fs::read_to_string(run.join("icl.json")).unwrap()).unwrap();
    assert_eq!((&kept["xnli-0"], &kept["xnli-2"]), (&table, &shots));

    let too_many = [&of_run[..], &["--shots", "10", "--demos", text(&demos)]].concat();
    let error = XELM.fails(&too_many);
    assert!(error.contains("10 demonstrations") && error.contains("9 English"), "{error}");
    assert!(XELM.fails(&[&of_run[..], &["--shots", "2"]].concat()).contains("--demos"));
    fs::write(&data, "language\tgold_label\tsentence1\tsentence2\nde\tja\tA\tB\n").unwrap();
    let error = XELM.fails(&of_run);
    assert!(error.contains("xnli.tsv:2: \"ja\" is no gold_label"), "{error}");
}

/// Sums and logits are other scores; one expert has the same logits and probabilities.
#[test]
fn ways_of_scoring() {
    let run = copy("scoring");
    let (data, lines) = (run.join("xnli.tsv"), run.join("examples.jsonl"));
    xnli(&data, 6);
    let set = run.join("set");
    let scores = |more: &[&str]| -> Vec<(String, Vec<f64>)> {
        let args = ["eval", "icl", "--task", "xnli", "--data", text(&data), "--set", text(&set)];
        let args = [&args[..], &["--ensemble", "1,2", "--examples", text(&lines)], more].concat();
        XELM.run(&args);
        let text = fs::read_to_string(&lines).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .map(|line| {
                let scores = line["scores"].as_array().unwrap();
                let scores = scores.iter().map(|s| s.as_f64().unwrap()).collect();
                (line["model"].as_str().unwrap().to_owned(), scores)
            })
            .collect()
    };
    let (mean, sum, logits) =
        (scores(&[]), scores(&["--normalise", "sum"]), scores(&["--mix", "logits"]));
    let mut n_mixed = 0;
    for ((m, s), l) in mean.iter().zip(&sum).zip(&logits) {
        for ((mean, sum), logit) in m.1.iter().zip(&s.1).zip(&l.1) {
            let tokens = sum / mean;
            assert!((tokens - tokens.round()).abs() < 1e-6 && tokens > 1.5, "{tokens}");
            match m.0.as_str() {
                "ensemble_2" => n_mixed += usize::from((mean - logit).abs() > 1e-9),
                _ => assert!((mean - logit).abs() < 1e-5, "{}: {mean} {logit}", m.0),
            }
            assert!((mean - logit).abs() < 0.2);
        }
    }
    assert!(n_mixed > 0, "mixed logits are mixed probabilities");
}
