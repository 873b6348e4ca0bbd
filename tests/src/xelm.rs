//! Running the command line, and a small trained run to test on.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The program and a place for its files: an integration test makes one of
/// `env!("CARGO_BIN_EXE_xelm-under-test")` and `env!("CARGO_TARGET_TMPDIR")`.
#[derive(Clone, Copy, Debug)]
pub struct Xelm {
    /// The program.
    pub program: &'static str,
    /// Folder for scratch folders.
    pub scratch: &'static str,
}

/// Languages of the small run: two clusters, three scripts.
pub const LANGUAGES: &str = "de,el,ja,ko";

/// The small run's model: 4 experts would not learn more of what is tested.
const TINY_MODEL: [&str; 8] =
    ["--n-layer", "2", "--n-embd", "32", "--n-head", "2", "--n-ctx", "64"];

impl Xelm {
    /// An empty folder.
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = Path::new(self.scratch).join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).expect("the old scratch folder can be removed");
        }
        std::fs::create_dir_all(&folder).expect("a scratch folder can be made");
        folder
    }

    /// The command, with arguments, ready to start.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(self.program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the command, which must succeed; returns what it printed on stdout.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> String {
        let output = self.command(args).output().expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("stdout is UTF-8")
    }

    /// Runs the command, which must fail; returns its one line of error.
    pub fn fails<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> String {
        let output = self.command(args).output().expect("the program starts");
        error_line(&output)
    }

    /// A finished run in the scratch folder `name`: a demo of four languages and two experts with
    /// a tiny model, and what its last line said. Takes a few seconds.
    pub fn tiny_run(&self, name: &str) -> (PathBuf, serde_json::Value) {
        let folder = self.folder(name);
        let corpus = self.corpus(&folder.join("corpus"));
        let run = folder.join("run");
        let (run_arg, corpus) = (run.to_str().expect("UTF-8"), corpus.to_str().expect("UTF-8"));
        let mut args = vec!["demo", "--json", "--out", run_arg, "--corpus", corpus];
        args.extend(["--languages", LANGUAGES, "--k", "2", "--vocab-size", "2500"]);
        args.extend(["--batch", "4", "--seed-steps", "12", "--branch-steps", "8"]);
        args.extend(TINY_MODEL);
        let stdout = self.run(&args);
        let last = stdout.lines().last().expect("a last line");
        (run, serde_json::from_str(last).expect("the last line is JSON"))
    }

    /// A copy of a set of several experts, in the scratch folder `name`, without its router.
    pub fn without_router(&self, set: &Path, name: &str) -> PathBuf {
        let copy = self.folder(name);
        for file in std::fs::read_dir(set).expect("the set is there") {
            let path = file.expect("its files can be listed").path();
            let to = copy.join(path.file_name().expect("a file's name"));
            std::fs::copy(&path, to).expect("files can be copied");
        }
        // Changing which experts there are drops the router.
        let copy_arg = copy.to_str().expect("UTF-8");
        let expert = set.join("ja-ko.gguf");
        self.run(&["set", "remove", "--set", copy_arg, "--id", "ja-ko"]);
        let expert_arg = expert.to_str().expect("UTF-8");
        self.run(&["set", "add", "--set", copy_arg, "--expert", expert_arg]);
        copy
    }

    /// The bundled corpus, as files.
    pub fn corpus(&self, folder: &Path) -> PathBuf {
        xelm_train::corpus::write_bundled(folder).expect("the bundled corpus can be written");
        folder.to_owned()
    }

    /// Arguments of `pretrain` for a small run.
    pub fn pretrain_args<'a>(&self, run: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["pretrain", "--run", run, "--batch", "4"];
        args.extend(TINY_MODEL);
        args.extend(more);
        args
    }
}

/// The line that a failed command says why in: the only one of its kind and the last one, the exit
/// code being 1 and nothing having panicked.
pub fn error_line(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let said: Vec<&str> = stderr.lines().filter(|l| l.starts_with("xelm: ")).collect();
    assert_eq!(said.len(), 1, "{stderr}");
    assert_eq!(stderr.lines().last(), Some(said[0]), "{stderr}");
    said[0].to_owned()
}
