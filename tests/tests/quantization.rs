//! Importance matrices, and what quantising costs, through the command line.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use xelm_tests::xelm::Xelm;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

/// A finished run that the tests of this file share: the experts `de-el` and `ja-ko`.
static RUN: LazyLock<PathBuf> = LazyLock::new(|| XELM.tiny_run("quantization").0);

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(args: &[&str]) -> Value {
    let stdout = XELM.run(args);
    serde_json::from_str(stdout.lines().last().unwrap()).unwrap()
}

fn number(line: &Value, name: &str) -> f64 {
    line[name].as_f64().unwrap_or_else(|| panic!("{name} in {line}"))
}

/// A set is measured in each language of its experts; what is measured before is what `eval ppl` finds, and
/// fewer bits cost more.
#[test]
fn every_language_gets_a_line() {
    let (set, corpus) = (RUN.join("set"), RUN.join("../corpus"));
    let (set, corpus) = (text(&set), text(&corpus));
    let scores = json(&["eval", "ppl", "--run", text(&RUN), "--json"]);
    let mut costs = Vec::new();
    for recipe in ["f32", "q8_0", "q4_0"] {
        let out = XELM.folder("quality").join(recipe);
        let args = ["quantize", "--set", set, "--type", recipe, "--out", text(&out)];
        let made = json(&[&args[..], &["--quality", corpus, "--json"]].concat());
        let lines = made["quality"].as_array().unwrap();
        let written = fs::read_to_string(out.join("quality.json")).unwrap();
        assert_eq!(&serde_json::from_str::<Vec<Value>>(&written).unwrap(), lines);
        let name = |l: &Value| format!("{} {}", l["expert"], l["language"]).replace('"', "");
        let names: Vec<_> = lines.iter().map(name).collect();
        assert_eq!(names, ["de-el de", "de-el el", "ja-ko ja", "ja-ko ko"]);
        let card = fs::read_to_string(out.join("README.md")).unwrap();
        assert!(card.contains("## Cost of quantising"));
        for line in lines {
            let score = &scores["scores"][line["language"].as_str().unwrap()]["expert"];
            assert_eq!(line["tokens"], score["tokens"]);
            let same = number(line, "ppl_before") / number(score, "ppl");
            assert!((same - 1.0).abs() < 1e-5, "{line} {score}");
        }
        let mean = |name: &str| lines.iter().map(|l| number(l, name)).sum::<f64>() / 4.0;
        costs.push((mean("kld"), mean("top1"), mean("bits_per_weight")));
        // Of the same files, measured by themselves.
        let args = ["eval", "quality", "--set", text(&out), "--against", set, "--corpus", corpus];
        assert_eq!(json(&[&args[..], &["--json", "--threads", "1"]].concat()), made["quality"]);
    }
    let [f32, q8_0, q4_0] = costs[..] else { panic!() };
    assert_eq!(f32, (0.0, 1.0, 32.0));
    assert!(f32.0 < q8_0.0 && q8_0.0 < q4_0.0, "{costs:?}");
    assert!(q4_0.1 < q8_0.1 && q8_0.1 <= 1.0 && q8_0.2 == 8.5 && q4_0.2 > 4.5, "{costs:?}");
    // Measured again without being compared: what was there before is gone.
    let out = Path::new(XELM.scratch).join("quality/q4_0");
    XELM.run(&["quantize", "--set", set, "--type", "q8_0", "--out", text(&out)]);
    assert!(!out.join("quality.json").exists());
}

/// Each expert reads its own languages; folders of several languages add up to what one call collects.
#[test]
fn importances_of_a_set() {
    let (set, corpus) = (RUN.join("set"), RUN.join("../corpus"));
    let (set, corpus) = (text(&set), text(&corpus));
    let folder = XELM.folder("imatrix");
    let collect = |name: &str, more: &[&str]| {
        let out = folder.join(name);
        let args = ["imatrix", "--set", set, "--corpus", corpus, "--tokens", "500", "--json"];
        let stdout = XELM.run(&[&args[..], &["--out", text(&out)], more].concat());
        let lines = stdout.lines().map(|line| serde_json::from_str(line).unwrap());
        (out, lines.collect::<Vec<Value>>())
    };
    let (all, lines) = collect("all", &[]);
    let [first, second] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((&first["expert"], &second["expert"]), (&"de-el".into(), &"ja-ko".into()));
    assert_eq!((&first["tokens"], &second["tokens"]), (&1000.into(), &1000.into()));
    assert_eq!(second["languages"], serde_json::json!(["ja", "ko"]));
    let (again, _) = collect("again", &["--threads", "1"]);
    for file in ["de-el.gguf", "ja-ko.gguf"] {
        assert!(fs::read(all.join(file)).unwrap() == fs::read(again.join(file)).unwrap());
    }
    let (de, lines) = collect("de", &["--languages", "de"]);
    assert_eq!((lines.len(), de.join("ja-ko.gguf").exists()), (1, false));
    let (el, _) = collect("el", &["--languages", "el"]);

    let expert = RUN.join("set/de-el.gguf");
    let quantized = |name: &str, imatrix: &[&Path]| {
        let out = folder.join(name);
        let mut args = vec!["quantize", "--expert", text(&expert), "--type", "q4_0", "--out"];
        args.push(text(&out));
        imatrix.iter().for_each(|path| args.extend(["--imatrix", text(path)]));
        XELM.run(&args);
        fs::read(out).unwrap()
    };
    let (with, sum) = (quantized("with", &[&all]), quantized("sum", &[&de, &el]));
    assert!(with != quantized("without", &[]) && with != quantized("one", &[&de]));
    // Sums of languages are rounded before they are added up: next to nothing differs.
    let differ = with.iter().zip(&sum).filter(|(a, b)| a != b).count();
    assert!(differ < with.len() / 1000, "{differ} of {}", with.len());

    let quantize_set = |imatrix: &Path| {
        let out = folder.join("set");
        let args = ["quantize", "--set", set, "--type", "q4_0", "--out", text(&out), "--imatrix"]
            .map(str::to_owned);
        [&args[..], &[text(imatrix).to_owned()]].concat()
    };
    XELM.run(&quantize_set(&all));
    assert!(fs::read(folder.join("set/de-el.gguf")).unwrap() == with);
    // There is nothing for the other expert.
    assert!(XELM.fails(&quantize_set(&de)).contains("ja-ko.gguf"));
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny/llama_imatrix.gguf");
    assert!(XELM.fails(&quantize_set(&tiny)).contains("32 columns, its importance 64"));
    // Our own type, for which products are needed.
    let xq4 = |imatrix: &Path| {
        let out = folder.join("xq4");
        ["quantize", "--set", set, "--type", "xq4", "--out", text(&out), "--imatrix", text(imatrix)]
            .map(str::to_owned)
    };
    assert!(XELM.fails(&xq4(&all)).contains("`xelm imatrix --products`"));
    let (products, _) = collect("products", &["--products"]);
    XELM.run(&xq4(&products));
    let out = folder.join("xq4");
    let args = ["eval", "quality", "--set", text(&out), "--against", set, "--corpus", corpus];
    let lines = json(&[&args[..], &["--json", "--languages", "ja,de"]].concat());
    let bits: Vec<_> =
        lines.as_array().unwrap().iter().map(|l| number(l, "bits_per_weight")).collect();
    assert_eq!(bits, [4.5, 4.5]);
    let args = ["imatrix", "--set", set, "--corpus", corpus, "--languages", "fr", "--out", "x"];
    assert!(XELM.fails(&args).contains("no expert of the set speaks \"fr\""));
}

/// Packed files compute the same numbers, and unpacking gives the files back, byte for byte; their last rows, which
/// fill no panel, and shortlists included.
#[test]
fn packing_changes_no_number_and_is_undone() {
    let folder = XELM.folder("packing");
    let short = folder.join("short");
    let (set, corpus) = (RUN.join("set-q8_0"), RUN.join("../corpus"));
    let args = ["shortlist", "--coverage", "0.9", "--set", text(&set), "--corpus", text(&corpus)];
    XELM.run(&[&args[..], &["--out", text(&short)]].concat());
    for set in [RUN.join("set"), RUN.join("set-q4_0"), short] {
        let (packed, back) = (folder.join("packed"), folder.join("back"));
        let repack = |from: &Path, layout: &str, to: &Path| {
            let args = ["repack", "--set", text(from), "--layout", layout, "--out", text(to)];
            json(&[&args[..], &["--json"]].concat())
        };
        let made = repack(&set, "packed", &packed);
        repack(&packed, "standard", &back);
        for file in ["de-el.gguf", "ja-ko.gguf", "set.gguf"] {
            let [before, after] = [&set, &back].map(|set| fs::read(set.join(file)).unwrap());
            assert!(before == after, "{file} of {}", set.display());
        }
        let grown = number(&made, "bytes") - number(&made, "bytes_before");
        assert!((0.0..10_000.0).contains(&grown), "{grown} bytes more");
        XELM.run(&["verify", "--set", text(&packed)]);
        let [write, score] =
            [&["generate", "--prompt", "Am Morgen"][..], &["score", "--text", "Ξένος"]];
        for task in [write, score] {
            for experts in ["1", "2"] {
                let run = |set: &Path| {
                    let args =
                        ["--set", text(set), "--ensemble", experts, "--threads", "1", "--json"];
                    XELM.run(&[task, &args].concat())
                };
                assert_eq!(run(&packed), run(&set), "{task:?} {}", set.display());
            }
        }
        fs::remove_dir_all(&packed).unwrap();
        fs::remove_dir_all(&back).unwrap();
    }
}

/// What copies or converts rows wants them one after the other.
#[test]
fn packed_weights_are_not_converted() {
    let folder = XELM.folder("packed_once");
    let (expert, packed) = (RUN.join("set-q8_0/de-el.gguf"), folder.join("packed.gguf"));
    XELM.run(&["repack", "--expert", text(&expert), "--out", text(&packed)]);
    let inspected = XELM.run(&["inspect", text(&packed)]);
    assert!(inspected.contains("tensors of type packed q8_0"), "{inspected}");
    let (packed, out, corpus) = (text(&packed), folder.join("out"), RUN.join("../corpus"));
    let restrict = ["--expert", packed, "--corpus", text(&corpus), "--out", text(&out)];
    for args in [
        vec!["quantize", "--expert", packed, "--type", "q4_0", "--out", text(&out)],
        [&["shortlist"], &restrict[..]].concat(),
        [&["trim"], &restrict[..]].concat(),
        vec!["export", "--expert", packed, "--hf", text(&out)],
    ] {
        let error = XELM.fails(&args);
        assert!(error.contains("weights are packed"), "{args:?}: {error}");
        assert!(!out.exists());
    }
    let error = XELM.fails(&["repack", "--expert", packed, "--out", packed]);
    assert!(error.contains("overwrite"), "{error}");
}
