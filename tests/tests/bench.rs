//! `xelm bench` on a small expert and a small set: every figure is there and possible.

use serde_json::Value;
use xelm_tests::c_abi::{text, tiny_expert};
use xelm_tests::xelm::Xelm;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

const FEW: [&str; 4] = ["bench", "--json", "--repeat=3", "--threads=2"];

fn bench(args: &[&str]) -> Value {
    serde_json::from_str(&XELM.run(&[&FEW, args].concat())).unwrap()
}

/// The median of a measure, which is a positive number within its range.
fn median(result: &Value, what: &str, unit: &str) -> f64 {
    let number =
        |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{what} {unit}: {result}"));
    let median = number(&result[what][unit]);
    let range = &result[what][format!("{unit}_range")];
    assert!(0.0 < number(&range[0]), "{what} {unit}: {result}");
    assert!(number(&range[0]) <= median && median <= number(&range[1]), "{what} {unit}: {result}");
    median
}

#[test]
fn an_expert_is_measured() {
    let path = tiny_expert();
    let result =
        bench(&["--expert", text(&path), "--temperature=0", "--prompt=16", "--generate=8"]);
    assert!(median(&result, "open", "ms") <= median(&result, "first_token", "ms"));
    median(&result, "prefill", "tokens_per_s");
    let rate = median(&result, "decode", "tokens_per_s");
    let bytes = result["weight_bytes_per_token"].as_f64().unwrap();
    let read = median(&result, "decode", "gb_per_s");
    assert!((rate * bytes / 1e9 / read - 1.0).abs() < 1e-9, "{result}");
    median(&result, "decode", "share_of_read");
    median(&result, "read", "gb_per_s");
    let inspected: Value =
        serde_json::from_str(&XELM.run(&["inspect", "--json", text(&path)])).unwrap();
    let tensors = inspected["tensors"].as_array().unwrap();
    let sum = |skip: &str| -> u64 {
        let tensors = tensors.iter().filter(|t| t["name"] != skip);
        tensors.map(|t| t["bytes"].as_u64().unwrap()).sum()
    };
    assert_eq!(result["weight_bytes_mapped"], sum(""));
    // One row of the position table, whose numbers have four bytes.
    let row = 4 * inspected["metadata"]["gpt2.embedding_length"].as_u64().unwrap();
    assert_eq!(result["weight_bytes_per_token"], sum("position_embd.weight") + row);
    for (key, value) in [("threads", 2), ("prompt_tokens", 16), ("generated_tokens", 8)] {
        assert_eq!(result[key], value);
    }
    assert_eq!((&result["sampler"], &result["routing"]), (&"greedy".into(), &Value::Null));
    let plan = result["plan_bytes"].as_u64().unwrap();
    assert!(plan > 0);
    if cfg!(target_os = "linux") {
        assert!(result["rss_anon_bytes"].as_u64().unwrap() >= plan / 2, "{result}");
    }
}

/// A prompt longer than the context is cut; decoding goes on where the context is full.
#[test]
fn the_context_may_be_short() {
    let path = tiny_expert();
    let result = bench(&["--expert", text(&path), "--ctx=5", "--prompt=99", "--generate=13"]);
    assert_eq!((&result["n_ctx"], &result["prompt_tokens"]), (&5.into(), &5.into()));
    median(&result, "decode", "tokens_per_s");
}

#[test]
fn a_mixture_is_measured() {
    let set = XELM.tiny_run("bench").0.join("set");
    let [one, two] =
        ["1", "2"].map(|m| bench(&["--set", text(&set), "--top-m", m, "--generate=8"]));
    assert_eq!((&one["experts_mixed"], &two["experts_mixed"]), (&1.into(), &2.into()));
    median(&two, "routing", "us_per_token");
    let bytes = |result: &Value| result["weight_bytes_per_token"].as_u64().unwrap();
    assert_eq!(2 * bytes(&one), bytes(&two));
    let table =
        XELM.run(&["bench", "--set", text(&set), "--prompt=4", "--generate=4", "--repeat=2"]);
    let names: Vec<&str> =
        table.lines().map(|line| line.split('\t').next().unwrap().trim()).collect();
    for name in ["decode, tokens/s", "routing, us/token", "plan bytes"] {
        assert!(names.contains(&name), "{table}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let path = tiny_expert();
    assert!(XELM.fails(&["bench", "--expert", "nowhere.gguf"]).contains("nowhere.gguf"));
    let missing = XELM.folder("bench-empty");
    assert!(XELM.fails(&["bench", "--set", text(&missing)]).contains("set.gguf"));
    assert!(XELM.fails(&["bench", "--expert", text(&path), "--batch", "0"]).contains("n_batch"));
    for flag in ["--prompt", "--generate", "--repeat"] {
        let output = XELM.command(&["bench", "--expert", text(&path), flag, "0"]).output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty());
        assert!(String::from_utf8_lossy(&output.stderr).contains(flag));
    }
}
