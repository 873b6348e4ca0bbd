//! The scripts of `xelm launch` as shells and YAML readers take them; nothing is queued anywhere.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use xelm_tests::xelm::Xelm;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

/// A finished run in a folder whose name a shell would take apart.
static RUN: LazyLock<PathBuf> = LazyLock::new(|| {
    let (run, _) = XELM.tiny_run("launch");
    let odd = run.with_file_name("a run's $HOME");
    fs::rename(run, &odd).unwrap();
    odd
});

const FLAGS: [&str; 5] = ["--", "--steps", "8", "--lr", "1e-4"];

fn launch<'a>(system: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let run = RUN.to_str().unwrap();
    [&["launch", system, "--run", run], more, &FLAGS[..]].concat()
}

/// A program that writes its arguments down and ends with the status `status`.
fn stand_in(name: &str, status: u8) -> (PathBuf, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let folder = XELM.folder(name);
    let (program, said) = (folder.join("stand in"), folder.join("said"));
    let text = format!("#!/bin/sh\nprintf '%s\\n' \"$@\" > '{}'\nexit {status}\n", said.display());
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    (program, said)
}

fn expected(task: &[&str], cpus: &str, run: &str) -> Vec<String> {
    let words = [&["--threads", cpus, "train", "--run", run], task, &FLAGS[1..]].concat();
    words.into_iter().map(str::to_owned).collect()
}

#[test]
fn a_job_array_runs_one_model_a_task() {
    for status in [0, 3] {
        let (program, said) = stand_in(&format!("launch-slurm-{status}"), status);
        let script = program.with_file_name("train.sbatch");
        let (program_arg, script_arg) = (program.to_str().unwrap(), script.to_str().unwrap());
        let more = ["--with", "dense,random", "--cpus", "3", "--time", "60"];
        let more = [&more[..], &["--program", program_arg, "--out", script_arg]].concat();
        XELM.run(&launch("slurm", &more));
        // `scontrol` of no cluster: it writes down what would be queued again.
        let queue = program.with_file_name("scontrol");
        let queued = program.with_file_name("queued");
        fs::copy(&program, &queue).unwrap();
        let text = fs::read_to_string(&queue).unwrap().replace("/said'", "/queued'");
        fs::write(&queue, text.replace("exit 3", "exit 0")).unwrap();
        let path = format!("{}:/usr/bin:/bin", program.parent().unwrap().display());
        let tasks: [&[&str]; 4] =
            [&["--expert", "de-el"], &["--expert", "ja-ko"], &["--dense"], &["--random"]];
        assert!(Command::new("bash").arg("-n").arg(&script).status().unwrap().success());
        for (i, task) in tasks.into_iter().enumerate() {
            let restarts = if i == 3 { "20" } else { "0" };
            let ended = Command::new("bash")
                .arg(&script)
                .env("PATH", &path)
                .env("SLURM_ARRAY_JOB_ID", "7")
                .env("SLURM_ARRAY_TASK_ID", i.to_string())
                .env("SLURM_RESTART_COUNT", restarts)
                .status()
                .unwrap();
            assert_eq!(ended.code(), Some(i32::from(status)));
            let words = fs::read_to_string(&said).unwrap();
            assert!(words.lines().eq(expected(task, "3", RUN.to_str().unwrap())), "{words}");
            // Only what failed is queued again, and not for ever.
            let again = fs::read_to_string(&queued).ok();
            let wanted = (status != 0 && i != 3).then(|| format!("requeue\n7_{i}\n"));
            assert_eq!(again, wanted);
            let _ = fs::remove_file(&queued);
        }
    }
}

#[test]
fn an_indexed_job_runs_one_model_a_pod() {
    let more = ["--image", "registry/xelm:1", "--claim", "runs", "--cpus", "2", "--gpus", "1"];
    let (program, said) = stand_in("launch-kubernetes", 0);
    let more = [&more[..], &["--program", program.to_str().unwrap(), "--parallel", "1"]].concat();
    let manifest = XELM.run(&launch("kubernetes", &more));
    let Some(job) = read_yaml(&manifest) else {
        println!("skipped: python3 has no module yaml");
        return;
    };
    assert_eq!(
        (&job["kind"], &job["metadata"]["name"]),
        (&"Job".into(), &"xelm-a-run-s--home".into())
    );
    let spec = &job["spec"];
    assert_eq!((&spec["completions"], &spec["parallelism"]), (&2.into(), &1.into()));
    assert_eq!(spec["completionMode"], "Indexed");
    assert_eq!(
        spec["podFailurePolicy"]["rules"][0]["onPodConditions"][0]["type"],
        "DisruptionTarget"
    );
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["restartPolicy"], "Never");
    assert_eq!(pod["volumes"][0]["persistentVolumeClaim"]["claimName"], "runs");
    let container = &pod["containers"][0];
    assert_eq!(container["image"], "registry/xelm:1");
    assert_eq!(container["volumeMounts"][0]["mountPath"], "/runs");
    for kind in ["requests", "limits"] {
        let resources = &container["resources"][kind];
        assert_eq!((&resources["cpu"], &resources["nvidia.com/gpu"]), (&2.into(), &1.into()));
        let memory = resources["memory"].as_str().unwrap().strip_suffix("Mi").unwrap();
        assert!((1024..2048).contains(&memory.parse::<u32>().unwrap()), "{memory}");
    }
    let script = container["args"][0].as_str().unwrap();
    for (i, id) in ["de-el", "ja-ko"].into_iter().enumerate() {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script]).env("JOB_COMPLETION_INDEX", i.to_string());
        assert!(shell.status().unwrap().success());
        let words = fs::read_to_string(&said).unwrap();
        assert!(
            words.lines().eq(expected(&["--expert", id], "2", "/runs/a run's $HOME")),
            "{words}"
        );
    }
    let mut shell = Command::new("/bin/sh");
    let shell = shell.args(["-c", script]).env("JOB_COMPLETION_INDEX", "2").stderr(Stdio::null());
    assert_eq!(shell.status().unwrap().code(), Some(2));
}

/// A YAML document as JSON, by Python; `None` where it has no reader.
fn read_yaml(text: &str) -> Option<Value> {
    let path = Path::new(XELM.scratch).join("launch.yaml");
    fs::write(&path, text).unwrap();
    let program = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let mut import = Command::new("python3");
    import.args(["-c", "import yaml"]).stderr(Stdio::null());
    if !import.status().is_ok_and(|status| status.success()) {
        return None;
    }
    let output = Command::new("python3").args(["-c", program]).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn wrong_flags_are_told_here() {
    let run = RUN.to_str().unwrap();
    let begin = ["launch", "slurm", "--run", run];
    let error = XELM.fails(&[&begin[..], &["--", "--stepps", "8"]].concat());
    assert!(error.contains("after --") && error.contains("--stepps"), "{error}");
    let error = XELM.fails(&[&begin[..], &["--", "--lr", "1e-3"]].concat());
    assert!(error.contains("--steps"), "{error}");
    let error = XELM.fails(&[&begin[..], &["--", "--steps", "8", "--dropout", "2"]].concat());
    assert!(error.contains("--dropout"), "{error}");
    let error = XELM.fails(&launch("slurm", &["--cpus", "0"]));
    assert!(error.contains("CPU"), "{error}");
    let error = XELM.fails(&["launch", "slurm", "--run", "/nowhere", "--", "--steps", "8"]);
    assert!(error.contains("is not a run directory"), "{error}");
}
