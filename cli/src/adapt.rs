//! `xelm adapt`

use crate::pretrain::TrainArgs;
use crate::progress::Progress;
use crate::train::train;
use crate::{Result, print_line};
use std::path::PathBuf;
use xelm_train::run::{Donor, Run};

/// Adds languages to a run's experts: each branches from the expert of a related language, the donor, and is
/// trained on both (hierarchical multi-round training). Nothing that exists changes.
///
/// The donor is the nearest language by typology that has an expert. The new experts are jobs like any other:
/// interrupted, they go on where they were, and several processes or machines may train them. `xelm pack`
/// then adds them to the set; the files of the experts that were there stay the same, byte for byte. Once
/// added, a language can be a donor itself.
///
/// The vocabulary does not change: let it learn from the new languages when it is made (`xelm tokenizer train
/// --later`), or from all languages, as XGLM's has.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run directory with trained experts.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Languages to add, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "TAGS", required = true)]
    languages: Vec<String>,
    /// A language's donor, instead of the nearest: `--donor az=tr` (may be repeated).
    #[arg(long, value_name = "TAG=TAG", value_parser = pair)]
    donor: Vec<(String, String)>,
    /// The expert that a language's expert branches from, instead of the donor's: `--from az=tr-zh`.
    #[arg(long, value_name = "TAG=ID", value_parser = pair)]
    from: Vec<(String, String)>,
    /// Folder with the languages' text, if it is not in the run's corpus.
    #[arg(long, value_name = "DIR")]
    corpus: Option<PathBuf>,
    /// Train the baseline, too: the dense model on all added languages and their donors, with as many
    /// tokens as their experts together.
    #[arg(long)]
    lapt: bool,
    /// Only decide donors and parents and print them.
    #[arg(long)]
    plan: bool,
    /// Sequences per update of all added languages together; the default is the seed's.
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Experts trained at the same time, each on its share of --threads.
    #[arg(long, default_value_t = 1, value_name = "N")]
    jobs: usize,
    #[command(flatten)]
    train: TrainArgs,
}

/// `a=b` as a pair.
fn pair(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((a, b)) if !a.is_empty() && !b.is_empty() => Ok((a.to_owned(), b.to_owned())),
        _ => Err("give LANGUAGE=NAME".into()),
    }
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let named = |pairs: &[(String, String)], target: &str| {
            pairs.iter().find(|(language, _)| language == target).map(|(_, name)| name.clone())
        };
        for (language, _) in self.donor.iter().chain(&self.from) {
            if !self.languages.contains(language) {
                return Err(format!("{language:?} is not among --languages").into());
            }
        }
        let wanted: Vec<Donor> = self
            .languages
            .iter()
            .map(|target| Donor {
                target: target.clone(),
                donor: named(&self.donor, target),
                parent: named(&self.from, target),
            })
            .collect();
        let run = Run::open(&self.run)?;
        let seed = run.seed_settings()?;
        let settings = self.train.settings(self.batch.unwrap_or(seed.batch), seed.n_ctx);
        let report = &mut Progress::new();
        let corpus = self.corpus.as_deref();
        let planned = run.plan_adaptation(&wanted, corpus, settings.batch, report)?;
        if self.plan {
            if self.train.json {
                return print_line(serde_json::to_string(&planned)?);
            }
            for a in &planned {
                let (id, target, donor, parent) = (&a.id, &a.target, &a.donor, &a.parent);
                print_line(format_args!("{target}\tdonor {donor}\tfrom {parent}\texpert {id}"))?;
            }
            return Ok(());
        }
        let branches = Run::adaptation_branches(&planned, self.lapt);
        train(&run, &branches, &settings, &self.train, self.jobs)
    }
}
