//! The examples: one program in C, C++ and Rust, compiled and run.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The folder of the whole project.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package lies in a folder of it")
}

/// The static library, which cargo builds beside a test's own dependencies.
pub fn static_library() -> PathBuf {
    let test = std::env::current_exe().expect("a test is a file");
    test.with_file_name("libxelm.a")
}

/// Compiles a source in C or C++ against the committed headers and a library, warnings being errors.
/// False, and a word on stdout, where there is no compiler for C++.
pub fn compile(source: &Path, program: &Path, standard: &str, flags: &[&str], xelm: &Path) -> bool {
    let is_cpp = source.extension().is_some_and(|e| e == "cpp");
    let (variable, usual) = if is_cpp { ("CXX", "c++") } else { ("CC", "cc") };
    let compiler = std::env::var_os(variable).unwrap_or_else(|| usual.into());
    let status = Command::new(compiler)
        .args([standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1"])
        .args(flags)
        .arg("-I")
        .arg(root().join("include"))
        .arg(source)
        .arg(xelm)
        .args(["-lpthread", "-lm", "-ldl", "-o"])
        .arg(program)
        .status();
    match status {
        Ok(status) => assert!(status.success(), "{} as {standard}", source.display()),
        Err(_) if is_cpp => {
            println!("skipped: no compiler for C++ (c++, or the one that CXX names)")
        }
        Err(error) => panic!("no compiler for C (cc, or the one that CC names): {error}"),
    }
    status.is_ok()
}

/// An example in every language for which there is a compiler.
#[derive(Debug)]
pub struct Example {
    /// Language and program.
    pub programs: Vec<(&'static str, PathBuf)>,
}

impl Example {
    /// Compiles the example `name` into `folder`, with the library `xelm`; `rust` is its program in Rust.
    pub fn new(name: &str, rust: &str, folder: &Path, flags: &[&str], xelm: &Path) -> Example {
        let mut programs = vec![("rust", rust.into())];
        for (language, standard) in
            [("c", "-std=c11"), ("cpp", "-std=c++17"), ("cpp", "-std=c++20")]
        {
            let source = root().join(format!("ffi/examples/{name}.{language}"));
            let program = folder.join(format!("{name}{standard}"));
            if compile(&source, &program, standard, flags, xelm) {
                programs.push((language, program));
            }
        }
        Example { programs }
    }

    /// Runs the example in every language, with `input` on its stdin.
    pub fn outputs(&self, args: &[&str], input: &str) -> Vec<(&'static str, Output)> {
        let run = |program: &Path| {
            let mut command = Command::new(program);
            command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().expect("the example starts");
            let mut stdin = child.stdin.take().expect("a pipe");
            // One that fails reads nothing.
            let _ = stdin.write_all(input.as_bytes());
            drop(stdin);
            child.wait_with_output().expect("the example ends")
        };
        self.programs.iter().map(|(language, program)| (*language, run(program))).collect()
    }

    /// Runs the example in every language: it must succeed, and print the same in all. Returns that, and
    /// what each says on stderr.
    pub fn run(&self, args: &[&str], input: &str) -> (String, Vec<String>) {
        let mut printed: Option<String> = None;
        let mut said = Vec::new();
        for (language, output) in self.outputs(args, input) {
            let stderr = String::from_utf8(output.stderr).expect("UTF-8");
            assert!(output.status.success(), "{language}: {stderr}");
            let stdout = String::from_utf8(output.stdout).expect("UTF-8");
            assert_eq!(&stdout, printed.get_or_insert_with(|| stdout.clone()), "{language}");
            said.push(stderr);
        }
        (printed.unwrap_or_default(), said)
    }

    /// Runs the example in every language: it must fail and say `why`.
    pub fn fails(&self, args: &[&str], why: &str) {
        for (language, output) in self.outputs(args, "") {
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{language}: {stderr}");
            assert!(stderr.contains(why), "{language}: {stderr}");
        }
    }
}
