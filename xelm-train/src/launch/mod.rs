//! Scripts that train a run's models on many machines, one model a task: a job array for SLURM, an indexed Job
//! for Kubernetes. Both only call `xelm train`; a task that is stopped goes on from its last checkpoint.

mod kubernetes;
mod slurm;

pub use kubernetes::Kubernetes;
pub use slurm::Slurm;

use crate::checkpoint::Checkpoint;
use crate::job::CHECKPOINT;
use crate::model::Model;
use crate::run::{DENSE, LAPT, RANDOM, Run, SEED};
use crate::settings::TrainSettings;
use crate::{Error, Result};

/// The models besides the experts, by the flags with which `xelm train` trains them.
pub const BASELINES: [&str; 3] = [DENSE, RANDOM, LAPT];

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
    settings.choose_micro_batch(&config, 1);
    settings.validate(&config, 1)?;
    let TrainSettings { micro_batch, n_ctx, recompute, .. } = settings;
    let (_, sizes) = Model::plan(config, micro_batch, n_ctx, recompute);
    let bytes = (sizes.total() * size_of::<f32>()) as u64;
    Ok((bytes + bytes / 4).div_ceil(1 << 20) + 1024)
}

impl Launch {
    /// What both systems take as a job's name: small letters, digits and hyphens.
    fn name(&self) -> String {
        const LONGEST: usize = 40;
        let folder = self.run.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let small = folder.chars().map(|c| c.to_ascii_lowercase());
        let small = small.map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
        let name: String = "xelm-".chars().chain(small).take(LONGEST).collect();
        name.trim_end_matches('-').to_owned()
    }

    /// Lines of a shell that set the positional parameters to those of the task whose number is in `variable`.
    fn choice(&self, indent: &str, variable: &str) -> String {
        let mut lines = vec![format!("case \"${variable}\" in")];
        for (i, task) in self.tasks.iter().enumerate() {
            lines.push(format!("    {i}) set -- {} ;;", words(task)));
        }
        lines.push(format!("    *) echo \"there is no task ${variable}\" >&2; exit 2 ;;"));
        lines.push("esac".into());
        lines.iter().map(|line| format!("{indent}{line}\n")).collect()
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

/// Three tasks in a folder with a space.
#[cfg(test)]
fn example() -> Launch {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_shell() {
        assert_eq!(quoted("a/b-c_1.gguf"), "a/b-c_1.gguf");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted(""), "''");
        let broken = Launch { run: "a\nb".into(), ..example() };
        assert!(broken.slurm(&Slurm::default()).is_err());
        let empty = Launch { tasks: Vec::new(), ..example() };
        assert!(empty.slurm(&Slurm::default()).is_err());
        let named = Launch { run: "/x/ÄÖ--/".into(), ..example() };
        assert_eq!(named.name(), "xelm");
    }
}
