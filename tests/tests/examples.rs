//! The examples print the same in C, C++ and Rust, and what the command line prints.

use serde_json::Value;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use xelm_tests::c_abi::{text, tiny_expert};
use xelm_tests::examples::{Example, compile, root, static_library};
use xelm_tests::xelm::Xelm;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

/// A set of two experts with a router: German and Greek, Japanese and Korean.
static SET: LazyLock<PathBuf> = LazyLock::new(|| XELM.tiny_run("examples").0.join("set-q8_0"));

fn example(name: &str, rust: &str) -> Example {
    let folder = XELM.folder(&format!("example_{name}"));
    Example::new(name, rust, &folder, &[], &static_library())
}

#[test]
fn generate() {
    let example = example("generate", env!("CARGO_BIN_EXE_example-generate"));
    let (printed, said) = example.run(&[text(&SET), "de-AT", "Am Morgen", "40"], "");
    let mut args = vec!["generate", "--prompt", "Am Morgen", "--max-tokens", "40", "--json"];
    args.extend(["--temperature", "0", "--repeat-penalty", "1.1"]);
    args.extend(["--set", text(&SET), "--lang", "de-AT"]);
    let expected: Value = serde_json::from_str(&XELM.run(&args)).unwrap();
    assert_eq!(printed, format!("Am Morgen{}\n", expected["text"].as_str().unwrap()));
    assert!(said.iter().all(|said| said.contains("de-AT")), "{said:?}");
    // A text that begins has no space before it.
    let (printed, _) = example.run(&[text(&tiny_expert()), "-", "", "5"], "");
    assert!(!printed.starts_with(' '), "{printed}");
    // Errors are told in words.
    example.fails(&["no/such/set", "de", "", "1"], "no/such/set");
    example.fails(&[text(&SET), "xx", "", "1"], "no expert");
}

#[test]
fn best_of() {
    let example = example("best_of", env!("CARGO_BIN_EXE_example-best_of"));
    let texts = [
        "because a thin disc of made metals two pressed",
        "switches itself off because of a thin disc made of two metals",
        "Am Montag",
        "Am Montag",
        "今日は",
        "",
    ];
    let (printed, _) = example.run(&[&[text(&tiny_expert()), "-"], &texts[..]].concat(), "");
    let scored: Vec<(f64, &str)> = printed
        .lines()
        .map(|line| line.split_once("  ").unwrap())
        .map(|(bits, text)| (bits.parse().unwrap(), text))
        .collect();
    assert!(scored.len() == texts.len() && scored.is_sorted_by_key(|(bits, _)| *bits));
    let place = |text: &str| scored.iter().position(|(_, t)| *t == text).unwrap();
    assert!(place(texts[1]) < place(texts[0]), "{printed}");
    // Keys and values in half precision make little difference.
    let expert = tiny_expert();
    let args = ["score", "--expert", text(&expert), "--json", "--text", texts[1]];
    let expected: Value = serde_json::from_str(&XELM.run(&args)).unwrap();
    let bits = scored[place(texts[1])].0;
    assert!((bits - expected["bpb"].as_f64().unwrap()).abs() < 0.02 * bits, "{printed}");
}

#[test]
fn mixed() {
    let example = example("mixed", env!("CARGO_BIN_EXE_example-mixed"));
    let mixed = "Am Morgen und die Nacht. 今日は、今日は。";
    let (printed, _) = example.run(&[text(&SET), mixed, "7"], "");
    let args =
        ["score", "--set", text(&SET), "--ensemble", "2", "--json", "--steps", "--text", mixed];
    let expected: Value = serde_json::from_str(&XELM.run(&args)).unwrap();
    let steps = expected["steps"].as_array().unwrap();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), steps.len() + 1 + 7, "{printed}");
    for (line, step) in lines.iter().zip(steps) {
        let fields: Vec<&str> = line.split("  ").filter(|field| !field.is_empty()).collect();
        let nll: f64 = fields[0].trim().parse().unwrap();
        assert!((nll - step["nll"].as_f64().unwrap()).abs() < 0.05, "{line} {step}");
        let weights = step["experts"].as_object().unwrap();
        for field in &fields[1..fields.len() - 1] {
            let (id, weight) = field.split_once(' ').unwrap();
            let weight: f64 = weight.parse().unwrap();
            assert!((weight - weights[id].as_f64().unwrap()).abs() < 0.0051, "{line} {step}");
        }
        assert_eq!(fields.len(), weights.len() + 2, "{line}");
        assert_eq!(*fields.last().unwrap(), step["piece"].as_str().unwrap());
    }
    let unrouted = XELM.without_router(&SET, "examples_mixed_unrouted");
    example.fails(&[text(&unrouted), mixed, "7"], "the set has no router");
}

/// Lines for both experts, by words and by tags, and some that no expert is for.
const LINES: &str = "Am Morgen und die Nacht\n\
    Guten Tag\n\
    今日は私は\n\
    lang: ko-KR 오늘은\n\
    lang: xx nothing\n\
    lang: el Κάθε\n\
    lang: de\n";

#[test]
fn reply() {
    let example = example("reply", env!("CARGO_BIN_EXE_example-reply"));
    let (printed, said) = example.run(&[text(&SET), "12"], LINES);
    let lines: Vec<&str> = printed.lines().collect();
    let begins = ["Am Morgen und die Nacht", "Guten Tag", "今日は私は", "오늘은", "Κάθε", ""];
    assert_eq!(lines.len(), begins.len(), "{printed}");
    assert!(lines.iter().zip(begins).all(|(line, begin)| line.starts_with(begin)), "{printed}");
    assert!(lines[0].len() > begins[0].len(), "{printed}");
    for said in said {
        let experts: String = said
            .lines()
            .filter_map(|line| line.strip_prefix("expert "))
            .filter_map(|rest| rest.chars().next())
            .collect();
        assert_eq!(experts, "001100", "{said}");
        assert!(said.contains("no expert") && said.contains("weight"), "{said}");
    }
    // The reply to a line does not depend on those before it.
    let (alone, _) = example.run(&[text(&SET), "12"], "lang: ko 오늘은");
    assert_eq!(alone.trim_end(), lines[3]);

    let unrouted = XELM.without_router(&SET, "examples_reply_unrouted");
    let (printed, said) = example.run(&[text(&unrouted), "3"], "Am Morgen\nlang: ja 今日は\n");
    assert!(printed.starts_with("今日は") && printed.lines().count() == 1, "{printed}");
    for said in said {
        assert!(said.contains("the set has no router") && said.contains("lang: TAG"), "{said}");
    }
}

/// An interrupt ends a reply and not the program.
#[cfg(unix)]
#[test]
fn replies_can_be_interrupted() {
    let example = example("reply", env!("CARGO_BIN_EXE_example-reply"));
    for (language, program) in example.programs {
        let mut command = Command::new(program);
        command.args([text(&SET), "50"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child: Child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        // The program is up when it has chosen an expert. Then lines and interrupts until one hits.
        let mut said = String::new();
        let mut bytes = [0; 1 << 16];
        while !said.contains("cancelled") {
            stdin.write_all("lang: de Am Morgen\n".repeat(20).as_bytes()).unwrap();
            let n = stderr.read(&mut bytes).unwrap();
            assert!(n > 0, "{language}: {said}");
            said.push_str(&String::from_utf8_lossy(&bytes[..n]));
            let id = child.id().to_string();
            assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        }
        drop(stdin);
        std::io::copy(&mut stderr, &mut std::io::sink()).unwrap();
        assert!(child.wait().unwrap().success(), "{language}");
    }
}

/// The C library without the standard library, built as `ffi/examples/embedded.c` says.
fn embedded_library() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let mut args =
        vec!["rustc", "-p", "xelm-ffi", "--profile", "embedded", "--no-default-features"];
    args.extend(["--quiet", "--crate-type", "staticlib", "--target-dir", text(target)]);
    let cargo = Command::new(env!("CARGO")).current_dir(root()).args(args).status().unwrap();
    assert!(cargo.success());
    target.join("embedded/libxelm.a")
}

/// Undefined symbols of a file.
fn undefined(file: &Path) -> Vec<String> {
    let output = Command::new("nm").arg("-u").arg(file).output().unwrap();
    let symbols = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !symbols.is_empty());
    let name = |line: &str| Some(line.trim().strip_prefix("U ")?.split('@').next()?.to_owned());
    symbols.lines().filter_map(name).collect()
}

/// Neither the library nor the program in C asks for memory, and the text is the golden one.
#[cfg(target_os = "linux")]
#[test]
fn embedded() {
    let library = embedded_library();
    let folder = XELM.folder("example_embedded");
    let model = format!("-DMODEL=\"{}\"", text(&tiny_expert()));
    let rust = env!("CARGO_BIN_EXE_example-embedded");
    let example = Example::new("embedded", rust, &folder, &[&model], &library);
    let golden = std::fs::read_to_string(root().join("tests/fixtures/tiny/golden.txt")).unwrap();
    let (printed, said) = example.run(&[], "");
    assert_eq!(printed.lines().next(), golden.lines().next());
    assert!(said.iter().all(|said| said.contains("session: ")), "{said:?}");

    let of_c = &example.programs.iter().find(|(language, _)| *language == "c").unwrap().1;
    for file in [&library, of_c] {
        let symbols = undefined(file);
        let allocates = |name: &&String| {
            let names = ["malloc", "calloc", "realloc", "free", "posix_memalign", "aligned_alloc"];
            names.contains(&name.as_str())
                || ["__rust_alloc", "__rust_realloc", "_Znw", "_Zna"]
                    .iter()
                    .any(|p| name.contains(p))
        };
        let found: Vec<_> = symbols.iter().filter(allocates).collect();
        assert!(found.is_empty(), "{}: {found:?}", file.display());
        // What is looked at are symbols.
        assert!(symbols.iter().any(|name| name == "abort" || name == "fwrite"), "{symbols:?}");
    }
}

/// `xelm.hpp`: ownership, memory, lists, exceptions through callbacks.
#[test]
fn the_cpp_wrapper() {
    let folder = XELM.folder("cpp_wrapper");
    for standard in ["-std=c++17", "-std=c++20"] {
        let program = folder.join(standard);
        let source = root().join("tests/c/wrapper.cpp");
        if compile(&source, &program, standard, &[], &static_library()) {
            let output =
                Command::new(&program).args([text(&tiny_expert()), text(&SET)]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
