//! The command line on a machine with a card: a driver without one runs the kernels on this CPU, and fails
//! in the ways in which drivers and cards do.

use serde_json::Value;
use std::fs;
use std::path::Path;
use xelm_tests::c_abi::{text, tiny_expert};
use xelm_tests::shim::{fake_driver, fake_runtime_driver};
use xelm_tests::xelm::{Xelm, error_line};
use xelm_train::backend::cuda::Precision;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

/// Runs the command with the driver and its settings; what it printed, or its line of error.
fn run(driver: &Path, settings: &[(&str, &str)], args: &[&str]) -> Result<String, String> {
    let mut command = XELM.command(args);
    command.env("LD_LIBRARY_PATH", driver).envs(settings.iter().copied());
    let output = command.output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(error_line(&output))
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// A new run `name` in `folder` with a small vocabulary.
fn begin(folder: &Path, name: &str) -> String {
    let corpus = folder.join("corpus");
    if !corpus.exists() {
        XELM.corpus(&corpus);
    }
    let run = folder.join(name).to_str().unwrap().to_owned();
    let mut args = vec!["tokenizer", "train", "--run", &run, "--languages", "en,es"];
    args.extend(["--corpus", corpus.to_str().unwrap(), "--vocab-size", "400"]);
    XELM.run(&args);
    run
}

/// The recorded algorithms of all shapes: at least one of each product of a step.
fn algorithms(run: &str) -> Vec<String> {
    let path = Path::new(run).join("seed/plans.json");
    let recorded: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(recorded["card"], "Fake card 0");
    assert_eq!(recorded["library"], 130_000);
    let algorithms = recorded["algorithms"].as_object().unwrap();
    assert!(algorithms.len() >= 4 * 3 + 3, "{algorithms:?}");
    algorithms.values().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// With the library for products: those of every operation come out as the CPU's.
#[test]
fn a_card_with_cublaslt() {
    let folder = XELM.folder("cuda_cublaslt");
    let on_cpu = begin(&folder, "cpu");
    fn args(run: &str) -> Vec<&str> {
        XELM.pretrain_args(run, &["--steps", "4", "--valid-every", "0", "--json"])
    }
    let loss = |text: String| json(&text)["loss"].as_f64().unwrap();
    let want = loss(XELM.run(&args(&on_cpu)));
    for (precision, name, bound) in [(Precision::F32, "f32", 1e-5), (Precision::Bf16, "bf16", 0.02)]
    {
        let Some(driver) = fake_driver(precision, true) else { return };
        let devices = run(&driver, &[], &["devices"]).unwrap();
        assert!(devices.contains("cuBLASLt found"), "{devices}");
        let on_card = begin(&folder, name);
        let counts = folder.join(format!("{name}.products"));
        let settings = [("FAKE_PRODUCTS", counts.to_str().unwrap())];
        let device = ["--device", "cuda", "--precision", name];
        let got = run(&driver, &settings, &[&args(&on_card)[..], &device].concat()).unwrap();
        let got = loss(got);
        assert!((got - want).abs() < bound, "{name}: {got}, on the CPU {want}");
        // Two layers of four products, forward and twice backward, and three of the head, a step; each shape
        // is tried once before.
        let products = fs::read_to_string(counts).unwrap();
        let tried = algorithms(&on_card).len();
        assert_eq!(products.trim(), (4 * (2 * 4 * 3 + 3) + tried).to_string(), "{name}");
    }
}

/// Of several algorithms the fastest one multiplies, and goes on multiplying when the job is resumed, whatever is
/// the fastest then. What was tried leaves no trace.
#[test]
fn algorithms_are_timed_once() {
    let Some(driver) = fake_driver(Precision::F32, true) else { return };
    let folder = XELM.folder("cuda_plans");
    let pretrain = |run: &str, settings: &[(&str, &str)]| {
        let mut args = vec!["pretrain", "--run", run, "--batch", "2", "--n-ctx", "16", "--json"];
        args.extend(["--n-layer", "1", "--n-embd", "32", "--n-head", "2"]);
        args.extend(["--steps", "3", "--save-every", "1"]);
        args.extend(["--device", "cuda", "--precision", "f32"]);
        let mut command = XELM.command(&args);
        command.env("LD_LIBRARY_PATH", &driver).envs(settings.iter().copied());
        command.output().unwrap()
    };
    let trained = |name: &str, settings: &[(&str, &str)]| {
        let run = begin(&folder, name);
        let output = pretrain(&run, settings);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        run
    };
    let checkpoint = |run: &str| fs::read(Path::new(run).join("seed/checkpoint.gguf")).unwrap();
    let plans = |run: &str| Path::new(run).join("seed/plans.json");
    // By which algorithm all products are computed.
    let number = |run: &str| {
        let all = algorithms(run)
            .into_iter()
            .map(|text| u64::from_str_radix(&text[7 * 16..], 16).unwrap());
        let mut all: Vec<u64> = all.collect();
        all.dedup();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0]
    };

    let one = trained("one", &[]);
    let first = trained("first", &[("FAKE_CANDIDATES", "3")]);
    assert!(checkpoint(&first) == checkpoint(&one), "the timing has left a trace");
    let old = trained(
        "old",
        &[("FAKE_CANDIDATES", "3"), ("FAKE_FASTEST", "2"), ("FAKE_DRIVER", "12060")],
    );
    assert!(checkpoint(&old) == checkpoint(&one), "a driver that tells no times");

    let fast = [("FAKE_CANDIDATES", "3"), ("FAKE_FASTEST", "2")];
    let whole = trained("whole", &fast);
    assert_eq!(number(&one), 0);
    assert_eq!(number(&whole), 2);
    assert!(checkpoint(&whole) != checkpoint(&one), "all algorithms have the same bits");

    // Broken off in the third step; now another algorithm is faster.
    let begun = |name: &str| {
        let run = begin(&folder, name);
        let output = pretrain(&run, &[&fast[..], &[("FAKE_FAIL_AFTER", "90")]].concat());
        assert!(error_line(&output).contains("CUDA_ERROR_LAUNCH_FAILED"));
        assert!(plans(&run).exists());
        run
    };
    let later = [("FAKE_CANDIDATES", "3"), ("FAKE_FASTEST", "1")];
    let resumed = begun("resumed");
    let output = pretrain(&resumed, &later);
    assert!(output.status.success());
    assert!(!String::from_utf8_lossy(&output.stderr).contains("anew"));
    assert!(checkpoint(&resumed) == checkpoint(&whole), "the algorithms were chosen again");
    assert_eq!(number(&resumed), 2);

    // A record that is of no use: of another library, of an algorithm that is no more, of nothing.
    let moved = begun("moved");
    let other = fs::read_to_string(plans(&moved)).unwrap().replace("130000", "120805");
    fs::write(plans(&moved), other).unwrap();
    let output = pretrain(&moved, &later);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("120805") && said.contains("chosen anew"), "{said}");
    assert_eq!(number(&moved), 1);
    assert!(checkpoint(&moved) != checkpoint(&whole));
    let gone = begun("gone");
    assert!(pretrain(&gone, &[("FAKE_CANDIDATES", "2"), ("FAKE_FASTEST", "1")]).status.success());
    assert_eq!(number(&gone), 1);
    let broken = begun("broken");
    fs::write(plans(&broken), "{}").unwrap();
    let error = error_line(&pretrain(&broken, &later));
    assert!(error.contains("plans.json") && error.contains("remove it"), "{error}");
}

#[test]
fn a_machine_with_a_card() {
    let Some(driver) = fake_driver(Precision::Bf16, false) else { return };
    let driver = driver.as_path();
    let xelm = |settings: &[(&str, &str)], args: &[&str]| run(driver, settings, args);

    let devices = json(&xelm(&[], &["devices", "--json"]).unwrap());
    assert_eq!(devices["cuda"][0]["name"], "Fake card 0");
    assert!(
        xelm(&[], &["devices"]).unwrap().contains("Fake card 0, 1 GiB, compute capability 8.0")
    );
    assert!(xelm(&[("FAKE_CARDS", "0")], &["devices"]).unwrap().contains("shows no card"));
    assert!(xelm(&[("FAKE_COMPUTE", "75")], &["devices"]).unwrap().contains("cannot be used"));

    // A run with a small vocabulary and a tiny model, five times.
    let folder = XELM.folder("cuda_driver");
    let begin = |name: &str| begin(&folder, name);
    let pretrain = |run: &'_ str, settings: &[(&str, &str)], more: &[&str]| {
        let args = XELM.pretrain_args(run, &["--steps", "6", "--save-every", "2", "--json"]);
        xelm(settings, &[&args[..], more].concat())
    };
    let checkpoint = |run: &str| fs::read(Path::new(run).join("seed/checkpoint.gguf")).unwrap();

    // Errors that leave nothing behind.
    let whole = begin("whole");
    for (settings, device, says) in [
        (&[("FAKE_COMPUTE", "75")][..], "cuda", "compute capability 7.5"),
        (&[("FAKE_OLD", "1")], "cuda", "the driver is older than 530"),
        (&[("FAKE_MEMORY", "1000000")], "cuda", "MiB left"),
        (&[], "cuda:5", "there is no card 5: 1 found"),
    ] {
        let error = pretrain(&whole, settings, &["--device", device]).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
    assert!(!Path::new(&whole).join("seed/checkpoint.gguf").exists());

    // A card is as good as the CPU, and the same each time.
    let on_card = ["--device", "cuda"];
    let rehearsal = json(&pretrain(&whole, &[], &[&on_card[..], &["--dry-run"]].concat()).unwrap());
    // Wherever in a step memory runs out, that is what is said.
    let needed = rehearsal["device_bytes"].as_u64().unwrap();
    for missing in [1, 5_000, 1_000_000] {
        let memory = (needed - missing).to_string();
        let error = pretrain(&whole, &[("FAKE_MEMORY", &memory)], &on_card).unwrap_err();
        assert!(error.contains("MiB left"), "{error}");
    }
    let loss = json(&pretrain(&whole, &[], &on_card).unwrap())["loss"].as_f64().unwrap();
    let on_cpu = json(&pretrain(&begin("cpu"), &[], &[]).unwrap())["loss"].as_f64().unwrap();
    assert!((loss - on_cpu).abs() < 0.02, "{loss}, on the CPU {on_cpu}");

    // A card that is lost loses nothing.
    let lost = begin("lost");
    for _ in 0..2 {
        let error = pretrain(&lost, &[("FAKE_FAIL_AFTER", "300")], &on_card).unwrap_err();
        assert!(error.contains("CUDA_ERROR_LAUNCH_FAILED") && error.contains("resume"), "{error}");
    }
    let resumed = json(&pretrain(&lost, &[], &on_card).unwrap());
    assert_eq!((&resumed["new_steps"], resumed["loss"].as_f64()), (&Value::from(2), Some(loss)));
    assert!(checkpoint(&lost) == checkpoint(&whole), "the weights have other bits");

    // Two experts on one card at once.
    xelm(&[], &["cluster", "typology", "--run", &whole, "--k", "2"]).unwrap();
    let train = ["train", "--run", &whole, "--all", "--steps", "2", "--jobs", "2"];
    let done = xelm(&[], &[&train[..], &on_card].concat()).unwrap();
    assert!(done.contains("en: 2 steps") && done.contains("es: 2 steps"), "{done}");
}

/// Several cards that share every batch: what one computes, and errors that say what to do.
#[test]
fn several_cards() {
    let Some(driver) = fake_driver(Precision::F32, true) else { return };
    let three = ("FAKE_CARDS", "3");
    let devices = run(&driver, &[three], &["devices"]).unwrap();
    assert!(devices.contains("cuda:2") && devices.contains("NCCL     found"), "{devices}");

    let folder = XELM.folder("cuda_cards");
    let pretrain = |run_of: &str, settings: &[(&str, &str)], more: &[&str]| {
        let mut args = vec!["pretrain", "--run", run_of, "--n-ctx", "16", "--json"];
        args.extend(["--n-layer", "1", "--n-embd", "32", "--n-head", "2", "--dropout", "0.1"]);
        args.extend(["--steps", "4", "--save-every", "1"]);
        run(&driver, &[&[three], settings].concat(), &[&args[..], more].concat())
    };
    let on = |devices: &'static str, batch: &'static str| {
        ["--device", devices, "--precision", "f32", "--batch", batch, "--micro-batch", "1"]
    };
    let loss = |text: Result<String, String>| json(&text.unwrap())["loss"].as_f64().unwrap();
    let checkpoint = |run: &str| fs::read(Path::new(run).join("seed/checkpoint.gguf")).unwrap();
    let log = |run: &str| fs::read_to_string(Path::new(run).join("seed/log.jsonl")).unwrap();

    // Of five micro-batches one card has fewer.
    let want = loss(pretrain(&begin(&folder, "cpu"), &[], &on("cpu", "5")));
    for (name, devices) in [("one", "cuda"), ("three", "cuda:0,1,2"), ("two", "cuda:2,0")] {
        let got = loss(pretrain(&begin(&folder, name), &[], &on(devices, "5")));
        assert!((got - want).abs() < 1e-5, "{devices}: {got}, on the CPU {want}");
    }

    // The first card tries algorithms, the others take them over: four steps of six micro-batches, one layer.
    let counted = begin(&folder, "counted");
    let counts = folder.join("products");
    let settings = [("FAKE_PRODUCTS", counts.to_str().unwrap())];
    let unscored = [&on("cuda:0,1,2", "6")[..], &["--valid-every", "0"]].concat();
    pretrain(&counted, &settings, &unscored).unwrap();
    let products = fs::read_to_string(counts).unwrap();
    let tried = algorithms(&counted).len();
    let total = 4 * 6 * (4 * 3 + 3) + tried;
    assert_eq!(products.lines().last(), Some(&*total.to_string()), "{tried} were tried");

    // A card that is lost loses nothing, and the rest does not wait for it.
    let fast = [("FAKE_CANDIDATES", "3"), ("FAKE_FASTEST", "2")];
    let six = [&on("cuda:0,1,2", "6")[..], &["--valid-every", "2"]].concat();
    let whole = begin(&folder, "whole");
    pretrain(&whole, &fast, &six).unwrap();
    for (lost, after) in [("0", "700"), ("2", "900")] {
        let settings = [&fast[..], &[("FAKE_LOST", lost), ("FAKE_FAIL_AFTER", after)]].concat();
        let resumed = begin(&folder, &format!("lost{lost}"));
        let error = pretrain(&resumed, &settings, &six).unwrap_err();
        assert!(error.contains("CUDA_ERROR_LAUNCH_FAILED") && error.contains("resume"), "{error}");
        assert!(Path::new(&resumed).join("seed/plans.json").exists(), "lost too early");
        let later = [("FAKE_CANDIDATES", "3"), ("FAKE_FASTEST", "1")];
        pretrain(&resumed, &later, &six).unwrap();
        assert!(checkpoint(&resumed) == checkpoint(&whole), "{lost}: other bits");
        assert_eq!(log(&resumed), log(&whole), "{lost}");
    }

    let broken = begin(&folder, "broken");
    let fails = |settings: &[(&str, &str)], devices: &'static str, batch: &'static str| {
        pretrain(&broken, settings, &on(devices, batch)).unwrap_err()
    };
    for (settings, devices, batch, says) in [
        (&[][..], "cuda:1,1", "6", "card 1 is named twice"),
        (&[], "cuda:0,3", "6", "there is no card 3: 3 found"),
        (&[], "cuda:0,1,2", "2", "fewer micro-batches than cards"),
        (&[("FAKE_OTHER", "1")], "cuda:0,1", "6", "cards of one kind"),
        (&[("FAKE_NCCL_FAIL", "connect")], "cuda:0,1", "6", "NCCL cannot connect the cards"),
        (&[("FAKE_NCCL_FAIL", "sum")], "cuda:0,1", "6", "NCCL cannot begin a sum"),
        (&[("FAKE_NCCL_FAIL", "apart")], "cuda:0,1", "6", "the cards have come apart"),
        (&[("FAKE_MEMORY", "100000")], "cuda:0,1", "6", "MiB left"),
    ] {
        let error = fails(settings, devices, batch);
        assert!(error.contains(says), "{settings:?} {devices}: {error}");
    }
    assert!(!Path::new(&broken).join("seed/checkpoint.gguf").exists());
    let without = fake_driver(Precision::F32, false).unwrap();
    let args = ["pretrain", "--run", &broken, "--steps", "1", "--device", "cuda:0,1"];
    let args = [&args[..], &["--precision", "f32"]].concat();
    let error = run(&without, &[three], &args).unwrap_err();
    // A machine may have the real library.
    assert!(error.contains("libnccl.so.2 is missing") || error.contains("NCCL cannot"), "{error}");

    // Jobs side by side would wait for each other; micro-batches are chosen so that each card has one.
    run(&driver, &[], &["cluster", "typology", "--run", &whole, "--k", "2"]).unwrap();
    let train = ["train", "--run", &whole, "--all", "--steps", "1", "--batch", "8"];
    let train = [&train[..], &["--device", "cuda:0,1", "--precision", "f32"]].concat();
    let error = run(&driver, &[three], &[&train[..], &["--jobs", "2"]].concat()).unwrap_err();
    assert!(error.contains("say --jobs 1"), "{error}");
    let rehearsal =
        run(&driver, &[three], &[&train[..], &["--dry-run", "--json"]].concat()).unwrap();
    assert!(json(&rehearsal)["device_bytes"].as_u64().unwrap() > 0);
    let done = run(&driver, &[three], &train).unwrap();
    assert!(done.contains("en: 1 step") && done.contains("es: 1 step"), "{done}");
}

/// What a command prints on a card, or its line of error.
fn on_card(settings: &[(&str, &str)], args: &[&str]) -> Option<Result<String, String>> {
    let driver = fake_runtime_driver()?;
    Some(run(&driver, settings, &[args, &["--device", "cuda"]].concat()))
}

/// Running experts: what the CPU writes, scores and measures.
#[test]
fn experts_on_a_card() {
    let expert = tiny_expert();
    let expert = text(&expert);
    let args = ["generate", "--expert", expert, "--temperature=0", "--max-tokens=12", "--json"];
    let args = [&args[..], &["--prompt", "Am Morgen"]].concat();
    let Some(written) = on_card(&[], &args) else { return };
    assert_eq!(json(&written.unwrap())["text"], json(&XELM.run(&args))["text"]);

    let args = ["score", "--expert", expert, "--text", "Am Abend ist es kalt.", "--json"];
    let [got, want] = [on_card(&[], &args).unwrap().unwrap(), XELM.run(&args)]
        .map(|printed| json(&printed)["nll_sum"].as_f64().unwrap());
    assert!((got / want - 1.0).abs() < 1e-2, "{got}, on the CPU {want}");

    let args = ["bench", "--expert", expert, "--json", "--repeat=2", "--prompt=9", "--generate=4"];
    let measured = json(&on_card(&[], &args).unwrap().unwrap());
    assert!(measured["card_bytes"].as_u64() > measured["weight_bytes_mapped"].as_u64());
    assert!(measured["decode"]["tokens_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(measured["decode"]["share_of_read"], Value::Null);
    assert_eq!(json(&XELM.run(&args))["card_bytes"], 0);
}

/// Every way in which a card cannot be had or is lost ends in one line that says why.
#[test]
fn experts_without_a_card() {
    let expert = tiny_expert();
    let args = ["generate", "--expert", text(&expert), "--prompt=Am Morgen", "--temperature=0"];
    for (settings, says) in [
        (&[("FAKE_CARDS", "0")][..], "no such card"),
        (&[("FAKE_COMPUTE", "75")], "compute capability 8.0"),
        (&[("FAKE_OLD", "1")], "older than 530"),
        (&[("FAKE_MEMORY", "100000")], "MiB left"),
        // While it is opened, and while it writes.
        (&[("FAKE_FAIL_AFTER", "0")], "CUDA error 719"),
        (&[("FAKE_FAIL_AFTER", "40")], "CUDA error 719"),
    ] {
        let Some(outcome) = on_card(settings, &args) else { return };
        let error = outcome.unwrap_err();
        assert!(error.contains(says), "{settings:?}: {error}");
    }
    // No driver at all: an error, unless anything will do.
    let mut command = XELM.command(&[&args[..], &["--device", "cuda"]].concat());
    let error = error_line(&command.env_remove("LD_LIBRARY_PATH").output().unwrap());
    if !error.contains("CUDA error") {
        assert!(error.contains("no NVIDIA driver on this machine"), "{error}");
        let output = XELM.command(&[&args[..], &["--device", "auto"]].concat()).output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("computing on the CPU"));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), XELM.run(&args));
    }
}
