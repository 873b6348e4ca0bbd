//! `xelm launch slurm`, `xelm launch kubernetes`

use crate::{Result, print_line, train};
use clap::{FromArgMatches, Subcommand};
use std::path::{Path, PathBuf};
use xelm_runtime::format::AtomicFile;
use xelm_train::launch::{BASELINES, Kubernetes, Launch, Slurm, memory_mib, tasks};
use xelm_train::run::Run;
use xelm_train::settings::TrainSettings;

/// Scripts that train a run's models on many machines.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Slurm(SlurmArgs),
    Kubernetes(KubernetesArgs),
}

/// Writes the script of a SLURM job array that trains a run's experts, one a task.
///
/// Nothing is started: give the script to sbatch.
///
///   xelm launch slurm --run RUN --cpus 16 --time 1440 --out train.sbatch
///     -- --steps 20000 --preset paper
///   sbatch train.sbatch
///   xelm pack --run RUN
///
/// The flags after -- are those of `xelm train`; they are checked here. The run directory lies on
/// a disk that all machines share; where it has another path there, name it with --run-there. Its
/// tokens should be made first (`xelm train --dry-run` does), or every task makes them.
///
/// A task that is preempted, whose machine fails, that ends with an error or comes to its time
/// limit is queued again and goes on from its last checkpoint: --save-every of `xelm train` says
/// how much is lost. So a time limit may be far shorter than the training.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct SlurmArgs {
    #[command(flatten)]
    common: Common,
    /// Partition to queue in.
    #[arg(long, value_name = "NAME")]
    partition: Option<String>,
    /// A further directive, such as `--directive=--account=physics` (may be repeated).
    #[arg(long, value_name = "DIRECTIVE", allow_hyphen_values = true)]
    directive: Vec<String>,
}

/// Writes the manifest of a Kubernetes Job with an index for every expert of a run.
///
/// Nothing is started: give the manifest to kubectl.
///
///   xelm launch kubernetes --run RUN --image IMAGE --claim CLAIM --gpus 1 --out train.yaml
///     -- --steps 20000 --preset paper --device cuda
///   kubectl apply -f train.yaml
///
/// The flags after -- are those of `xelm train`; they are checked here. The volume claim holds the
/// run directory and must be mountable by several pods; by default it is MOUNT/<name of RUN>. Its
/// tokens should be made first (`xelm train --dry-run` does), or every task makes them.
///
/// A pod that fails is begun again after a pause that grows, as often as --retries says, and goes
/// on from its last checkpoint; being preempted does not count. Needs Kubernetes 1.29 or newer.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct KubernetesArgs {
    #[command(flatten)]
    common: Common,
    /// Container image with xelm.
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// Persistent volume claim that holds the run directory.
    #[arg(long, value_name = "NAME")]
    claim: String,
    /// Where the claim is mounted.
    #[arg(long, default_value = "/runs", value_name = "PATH")]
    mount: String,
}

/// What both systems take.
#[derive(Debug, clap::Args)]
struct Common {
    /// Run directory with a finished seed and clusters.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Models to train besides the experts, separated by commas: dense, random.
    #[arg(long, value_delimiter = ',', value_name = "NAMES", value_parser = BASELINES)]
    with: Vec<String>,
    /// CPU cores of a task.
    #[arg(long, default_value_t = 8, value_name = "N")]
    cpus: usize,
    /// Memory of a task in MiB; the default follows from the model and the batch, as the numbers of
    /// `xelm train --dry-run` do.
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
    /// Cards of a task; say `--device cuda` after -- too, or `--device cuda:0,1` where a task has two.
    #[arg(long, default_value_t = 0, value_name = "N")]
    gpus: usize,
    /// Minutes that a task of SLURM may take at a time, or all of a Kubernetes Job; the default is no limit but
    /// the system's own.
    #[arg(long, value_name = "MINUTES")]
    time: Option<u64>,
    /// Tasks at the same time at most.
    #[arg(long, value_name = "N")]
    parallel: Option<usize>,
    /// How often a task is begun again.
    #[arg(long, default_value_t = 20, value_name = "N")]
    retries: u32,
    /// The program, as the tasks find it.
    #[arg(long, default_value = "xelm", value_name = "PATH")]
    program: String,
    /// The run directory's path where the tasks run.
    #[arg(long, value_name = "PATH")]
    run_there: Option<String>,
    /// File to write; the default is standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Flags of `xelm train`, without those that choose the models.
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<String>,
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Command::Slurm(SlurmArgs { common, partition, directive }) => {
                let here = common.run.canonicalize().unwrap_or_else(|_| common.run.clone());
                let launch = common.launch(text(&here)?)?;
                common.write(&launch.slurm(&Slurm { partition, directives: directive })?)
            }
            Command::Kubernetes(KubernetesArgs { common, image, claim, mount }) => {
                let here = common.run.canonicalize().unwrap_or_else(|_| common.run.clone());
                let name = here.file_name().map(Path::new).unwrap_or(&here);
                let launch = common.launch(text(&Path::new(&mount).join(name))?)?;
                common.write(&launch.kubernetes(&Kubernetes { image, claim, mount })?)
            }
        }
    }
}

impl Common {
    fn launch(&self, default_run: String) -> Result<Launch> {
        let run = Run::open(&self.run)?;
        let settings = self.settings(&run)?;
        Ok(Launch {
            tasks: tasks(&run, &self.with)?,
            program: self.program.clone(),
            run: self.run_there.clone().unwrap_or(default_run),
            flags: self.flags.clone(),
            cpus: self.cpus,
            memory_mib: match self.memory {
                Some(memory) => memory,
                None => memory_mib(&run, &settings)?,
            },
            gpus: self.gpus,
            minutes: self.time,
            parallel: self.parallel,
            retries: self.retries,
        })
    }

    /// The settings that the flags after -- mean: read here as a task will read them.
    fn settings(&self, run: &Run) -> Result<TrainSettings> {
        let command = <train::Args as clap::Args>::augment_args(clap::Command::new("xelm train"));
        let words = ["xelm train", "--all", "--run"].into_iter().map(Into::into);
        let words = words.chain([self.run.clone().into_os_string()]);
        let words = words.chain(self.flags.iter().map(Into::into));
        let matches = command.no_binary_name(false).try_get_matches_from(words);
        let args = matches.and_then(|matches| train::Args::from_arg_matches(&matches));
        // The first paragraph says what is wrong; the rest is about this command's own flags.
        let args = args.map_err(|error| {
            let said = error.to_string();
            let first = said.split("\n\n").next().unwrap_or_default();
            let first = first.trim_start_matches("error: ").replace('\n', " ");
            format!("the flags after --: {first}")
        })?;
        args.settings(run)
    }

    fn write(&self, script: &str) -> Result<()> {
        match &self.out {
            Some(path) => {
                AtomicFile::write(path, script.as_bytes())
                    .map_err(|e| format!("cannot write {}: {e}", path.display()))?;
                print_line(path.display())
            }
            None => print_line(script.trim_end()),
        }
    }
}

fn text(path: &Path) -> Result<String> {
    let name = path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()))?;
    Ok(name.to_owned())
}
