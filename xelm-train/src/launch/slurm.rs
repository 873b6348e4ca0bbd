//! A job array of SLURM.

use super::{Launch, quoted};
use crate::Result;

/// What only SLURM wants to know.
#[derive(Clone, Debug, Default)]
pub struct Slurm {
    /// The partition.
    pub partition: Option<String>,
    /// More directives, such as `--account=physics`.
    pub directives: Vec<String>,
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
        let directives: String = directives.iter().map(|d| format!("#SBATCH {d}\n")).collect();
        Ok(format!(
            r#"#!/bin/bash
{directives}set -u

{tasks}
# A task that is preempted, fails or comes to its time limit is queued again and goes on
# from its last checkpoint.
again() {{
    [ "${{SLURM_RESTART_COUNT:-0}}" -lt {retries} ] || return
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
}}
# The signal that the time limit is near only ends the waiting.
trap : USR1

{command} &
wait $!
status=$?
[ $status -eq 0 ] || again
exit $status
"#,
            tasks = self.choice("", "SLURM_ARRAY_TASK_ID"),
            retries = self.retries,
            command = self.command(),
        ))
    }

    fn limit(&self) -> String {
        self.parallel.map_or_else(String::new, |n| format!("%{n}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn slurm_scripts() {
        assert_eq!(
            example().slurm(&Slurm::default()).unwrap(),
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
        let more = Launch { gpus: 2, minutes: Some(90), parallel: Some(2), ..example() };
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
}
