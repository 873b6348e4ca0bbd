//! Scripts that train a run's models on many machines, one model a task: a job array for SLURM, an indexed Job
//! for Kubernetes. Both only call `xelm train`; a task that is stopped goes on from its last checkpoint.

use crate::checkpoint::Checkpoint;
use crate::job::CHECKPOINT;
use crate::model::Model;
use crate::run::{DENSE, RANDOM, Run, SEED};
use crate::settings::TrainSettings;
use crate::{Error, Result};
use serde_json::json;
use std::fmt::Write;

/// The models besides the experts, by the flags with which `xelm train` trains them.
pub const BASELINES: [&str; 2] = [DENSE, RANDOM];

/// What the tasks do, in whatever system.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What chooses the model of each task, as arguments of `xelm train`.
    pub tasks: Vec<Vec<String>>,
    /// The program's name or path where the tasks run.
    pub program: String,
    /// The run directory's path there.
    pub run: String,
    /// More arguments of `xelm train`.
    pub flags: Vec<String>,
    /// CPU cores of a task.
    pub cpus: usize,
    /// Memory of a task in MiB.
    pub memory_mib: u64,
    /// Cards of a task.
    pub gpus: usize,
    /// Most minutes that a task runs at a time (SLURM) or the whole Job takes (Kubernetes).
    pub minutes: Option<u64>,
    /// Tasks at the same time at most.
    pub parallel: Option<usize>,
    /// How often a task that failed or was stopped is begun again.
    pub retries: u32,
}

/// What only SLURM wants to know.
#[derive(Clone, Debug, Default)]
pub struct Slurm {
    /// The partition.
    pub partition: Option<String>,
    /// More directives, such as `--account=physics`.
    pub directives: Vec<String>,
}

/// What only Kubernetes wants to know.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    /// The container image.
    pub image: String,
    /// The volume claim that holds the run directory.
    pub claim: String,
    /// Where it is mounted.
    pub mount: String,
}

/// The tasks of a run: an expert each, then the `baselines`.
///
/// # Errors
/// The run has no clusters, or a baseline is unknown.
pub fn tasks(run: &Run, baselines: &[String]) -> Result<Vec<Vec<String>>> {
    let experts = run.clusters()?.into_iter().map(|c| vec!["--expert".to_owned(), c.id]);
    let mut tasks: Vec<Vec<String>> = experts.collect();
    for name in baselines {
        if !BASELINES.contains(&name.as_str()) {
            let known = BASELINES.join(", ");
            return Err(Error::usage(format!("no baseline {name:?}: there is {known}")));
        }
        tasks.push(vec![format!("--{name}")]);
    }
    Ok(tasks)
}

/// Memory for a model that branches from the run's seed, in MiB: what a dry run reports on a CPU, and a
/// quarter and a gibibyte for the libraries, the tokens and the files being written.
///
/// # Errors
/// There is no seed yet.
pub fn memory_mib(run: &Run, settings: &TrainSettings) -> Result<u64> {
    let config = Checkpoint::open(&run.job_folder(SEED).join(CHECKPOINT))?.info.config;
    let mut settings = settings.clone();
    settings.choose_micro_batch(&config);
    settings.validate(&config)?;
    let TrainSettings { micro_batch, n_ctx, recompute, .. } = settings;
    let (_, sizes) = Model::plan(config, micro_batch, n_ctx, recompute);
    let bytes = (sizes.total() * size_of::<f32>()) as u64;
    Ok((bytes + bytes / 4).div_ceil(1 << 20) + 1024)
}

impl Launch {
    /// The script of a job array.
    ///
    /// # Errors
    /// A name or path has control characters, or there is no task.
    pub fn slurm(&self, slurm: &Slurm) -> Result<String> {
        self.check(slurm.partition.iter().chain(&slurm.directives))?;
        let mut directives = vec![
            format!("--job-name={}", self.name()),
            format!("--array=0-{}{}", self.tasks.len() - 1, self.limit()),
            "--nodes=1".into(),
            "--ntasks=1".into(),
            format!("--cpus-per-task={}", self.cpus),
            format!("--mem={}M", self.memory_mib),
        ];
        if self.gpus > 0 {
            directives.push(format!("--gres=gpu:{}", self.gpus));
        }
        if let Some(minutes) = self.minutes {
            directives.push(format!("--time={minutes}"));
            directives.push("--signal=B:USR1@120".into());
        }
        directives
            .extend(slurm.partition.iter().map(|name| format!("--partition={}", quoted(name))));
        directives.extend(["--requeue".to_owned(), "--open-mode=append".to_owned()]);
        directives.extend(slurm.directives.iter().cloned());
        let mut out = String::from("#!/bin/bash\n");
        for directive in directives {
            line(&mut out, format_args!("#SBATCH {directive}"));
        }
        line(&mut out, "set -u");
        line(&mut out, "");
        self.push_tasks(&mut out, "", "SLURM_ARRAY_TASK_ID");
        line(&mut out, "");
        line(
            &mut out,
            "# A task that is preempted, fails or comes to its time limit is queued again and goes on",
        );
        line(&mut out, "# from its last checkpoint.");
        line(&mut out, "again() {");
        line(
            &mut out,
            format_args!("    [ \"${{SLURM_RESTART_COUNT:-0}}\" -lt {} ] || return", self.retries),
        );
        line(&mut out, "    scontrol requeue \"${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}\"");
        line(&mut out, "}");
        line(&mut out, "# The signal that the time limit is near only ends the waiting.");
        line(&mut out, "trap : USR1");
        line(&mut out, "");
        line(&mut out, format_args!("{} &", self.command()));
        line(&mut out, "wait $!");
        line(&mut out, "status=$?");
        line(&mut out, "[ $status -eq 0 ] || again");
        line(&mut out, "exit $status");
        Ok(out)
    }

    /// The manifest of an indexed Job.
    ///
    /// # Errors
    /// As [`Launch::slurm`].
    pub fn kubernetes(&self, kubernetes: &Kubernetes) -> Result<String> {
        let Kubernetes { image, claim, mount } = kubernetes;
        self.check([image, claim, mount])?;
        let mut script = String::new();
        self.push_tasks(&mut script, INDENT, "JOB_COMPLETION_INDEX");
        line(&mut script, format_args!("{INDENT}exec {}", self.command()));
        let n_tasks = self.tasks.len();
        let parallel = self.parallel.unwrap_or(n_tasks).min(n_tasks);
        // JSON's strings are YAML's.
        let deadline = self.minutes.map(|m| format!("  activeDeadlineSeconds: {}\n", 60 * m));
        let cards = (self.gpus > 0).then(|| format!(", nvidia.com/gpu: {}", self.gpus));
        let resources = format!(
            "{{cpu: {}, memory: {}Mi{}}}",
            self.cpus,
            self.memory_mib,
            cards.unwrap_or_default()
        );
        Ok(format!(
            "\
apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
spec:
  completionMode: Indexed
  completions: {n_tasks}
  parallelism: {parallel}
{deadline}  # A task that is begun again goes on from its last checkpoint.
  backoffLimitPerIndex: {retries}
  maxFailedIndexes: {n_tasks}
  podFailurePolicy:
    rules:
      # Being preempted is no failure.
      - action: Ignore
        onPodConditions: [{{type: DisruptionTarget, status: \"True\"}}]
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: xelm
          image: {image}
          command: [/bin/sh, -c]
          args:
            - |
{script}          resources:
            requests: {resources}
            limits: {resources}
          volumeMounts:
            - name: run
              mountPath: {mount}
      volumes:
        - name: run
          persistentVolumeClaim:
            claimName: {claim}
",
            name = self.name(),
            deadline = deadline.unwrap_or_default(),
            retries = self.retries,
            image = json!(image),
            claim = json!(claim),
            mount = json!(mount),
        ))
    }

    /// What both systems take as a job's name: small letters, digits and hyphens.
    fn name(&self) -> String {
        const LONGEST: usize = 40;
        let folder = self.run.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let small = folder.chars().map(|c| c.to_ascii_lowercase());
        let small = small.map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
        let name: String = "xelm-".chars().chain(small).take(LONGEST).collect();
        name.trim_end_matches('-').to_owned()
    }

    fn limit(&self) -> String {
        self.parallel.map_or_else(String::new, |n| format!("%{n}"))
    }

    /// Sets the positional parameters to those of the task whose number is in `variable`.
    fn push_tasks(&self, out: &mut String, indent: &str, variable: &str) {
        line(out, format_args!("{indent}case \"${variable}\" in"));
        for (i, task) in self.tasks.iter().enumerate() {
            line(out, format_args!("{indent}    {i}) set -- {} ;;", words(task)));
        }
        line(
            out,
            format_args!("{indent}    *) echo \"there is no task ${variable}\" >&2; exit 2 ;;"),
        );
        line(out, format_args!("{indent}esac"));
    }

    fn command(&self) -> String {
        let (program, run) = (quoted(&self.program), quoted(&self.run));
        let flags = words(&self.flags);
        let space = if flags.is_empty() { "" } else { " " };
        format!("{program} --threads {} train --run {run} \"$@\"{space}{flags}", self.cpus)
    }

    fn check<'a>(&'a self, more: impl IntoIterator<Item = &'a String>) -> Result<()> {
        if self.tasks.is_empty() || self.cpus == 0 || self.parallel == Some(0) {
            return Err(Error::usage("there must be a task, and a CPU for it"));
        }
        let own = self.tasks.iter().flatten().chain(&self.flags).chain([&self.program, &self.run]);
        for word in own.chain(more) {
            if word.contains(char::is_control) {
                return Err(Error::usage(format!("{word:?} has control characters")));
            }
        }
        Ok(())
    }
}

/// Where the lines of a container's script begin.
const INDENT: &str = "              ";

fn line(out: &mut String, text: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn words(words: &[String]) -> String {
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch() -> Launch {
        let task = |words: &str| words.split(' ').map(str::to_owned).collect();
        Launch {
            tasks: vec![task("--expert de-en"), task("--expert el"), task("--dense")],
            program: "xelm".into(),
            run: "/data/my runs/Run_1".into(),
            flags: task("--steps 1000 --preset paper"),
            cpus: 8,
            memory_mib: 3000,
            gpus: 0,
            minutes: None,
            parallel: None,
            retries: 5,
        }
    }

    #[test]
    fn slurm_scripts() {
        assert_eq!(
            launch().slurm(&Slurm::default()).unwrap(),
            r#"#!/bin/bash
#SBATCH --job-name=xelm-run-1
#SBATCH --array=0-2
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=3000M
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

case "$SLURM_ARRAY_TASK_ID" in
    0) set -- --expert de-en ;;
    1) set -- --expert el ;;
    2) set -- --dense ;;
    *) echo "there is no task $SLURM_ARRAY_TASK_ID" >&2; exit 2 ;;
esac

# A task that is preempted, fails or comes to its time limit is queued again and goes on
# from its last checkpoint.
again() {
    [ "${SLURM_RESTART_COUNT:-0}" -lt 5 ] || return
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
}
# The signal that the time limit is near only ends the waiting.
trap : USR1

xelm --threads 8 train --run '/data/my runs/Run_1' "$@" --steps 1000 --preset paper &
wait $!
status=$?
[ $status -eq 0 ] || again
exit $status
"#
        );
        let more = Launch { gpus: 2, minutes: Some(90), parallel: Some(2), ..launch() };
        let slurm = Slurm {
            partition: Some("big one".into()),
            directives: vec!["--account=physics".into()],
        };
        let script = more.slurm(&slurm).unwrap();
        for directive in [
            "--array=0-2%2",
            "--gres=gpu:2",
            "--time=90",
            "--signal=B:USR1@120",
            "--partition='big one'",
            "--account=physics",
        ] {
            assert!(script.contains(&format!("\n#SBATCH {directive}\n")), "{directive}: {script}");
        }
    }

    #[test]
    fn kubernetes_manifests() {
        let kubernetes =
            Kubernetes { image: "x/xelm:1".into(), claim: "runs".into(), mount: "/data".into() };
        assert_eq!(
            launch().kubernetes(&kubernetes).unwrap(),
            r#"apiVersion: batch/v1
kind: Job
metadata:
  name: xelm-run-1
spec:
  completionMode: Indexed
  completions: 3
  parallelism: 3
  # A task that is begun again goes on from its last checkpoint.
  backoffLimitPerIndex: 5
  maxFailedIndexes: 3
  podFailurePolicy:
    rules:
      # Being preempted is no failure.
      - action: Ignore
        onPodConditions: [{type: DisruptionTarget, status: "True"}]
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: xelm
          image: "x/xelm:1"
          command: [/bin/sh, -c]
          args:
            - |
              case "$JOB_COMPLETION_INDEX" in
                  0) set -- --expert de-en ;;
                  1) set -- --expert el ;;
                  2) set -- --dense ;;
                  *) echo "there is no task $JOB_COMPLETION_INDEX" >&2; exit 2 ;;
              esac
              exec xelm --threads 8 train --run '/data/my runs/Run_1' "$@" --steps 1000 --preset paper
          resources:
            requests: {cpu: 8, memory: 3000Mi}
            limits: {cpu: 8, memory: 3000Mi}
          volumeMounts:
            - name: run
              mountPath: "/data"
      volumes:
        - name: run
          persistentVolumeClaim:
            claimName: "runs"
"#
        );
        let more = Launch { gpus: 1, minutes: Some(90), parallel: Some(2), ..launch() };
        let manifest = more.kubernetes(&kubernetes).unwrap();
        assert!(manifest.contains("  parallelism: 2\n  activeDeadlineSeconds: 5400\n"));
        assert!(manifest.contains("{cpu: 8, memory: 3000Mi, nvidia.com/gpu: 1}"));
    }

    #[test]
    fn words_of_a_shell() {
        assert_eq!(quoted("a/b-c_1.gguf"), "a/b-c_1.gguf");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted(""), "''");
        let broken = Launch { run: "a\nb".into(), ..launch() };
        assert!(broken.slurm(&Slurm::default()).is_err());
        let empty = Launch { tasks: Vec::new(), ..launch() };
        assert!(empty.slurm(&Slurm::default()).is_err());
        let named = Launch { run: "/x/ÄÖ--/".into(), ..launch() };
        assert_eq!(named.name(), "xelm");
    }
}
