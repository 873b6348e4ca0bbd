//! `xelm average`

use crate::{Result, print_line};
use serde_json::json;
use std::path::PathBuf;
use xelm_train::average::{average, shares, shares_of_language};
use xelm_train::run::Run;

/// Makes one model of several experts of a run: the weighted mean of their parameters. It runs at the cost of
/// one of them, and knows a little of what each knows: experts of one seed can be averaged, others cannot.
///
/// Writes an expert file, or with --checkpoint a checkpoint to branch from (`xelm export` takes both).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run directory with trained experts.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Experts, separated by commas; the default is all.
    #[arg(long, value_delimiter = ',', value_name = "IDS")]
    experts: Vec<String>,
    /// Their weights, separated by commas; the default is equal ones.
    #[arg(long, value_delimiter = ',', value_name = "WEIGHTS")]
    weights: Option<Vec<f32>>,
    /// Weigh each expert by its share of this language's training documents, where documents were
    /// clustered.
    #[arg(long, value_name = "TAG", conflicts_with_all = ["experts", "weights"])]
    lang: Option<String>,
    /// With --lang: the experts with the largest shares.
    #[arg(long, default_value_t = 2, value_name = "M", requires = "lang")]
    top: usize,
    /// Name of the model.
    #[arg(long, default_value = "average", value_name = "NAME")]
    name: String,
    /// Expert file to write.
    #[arg(long, value_name = "FILE", required_unless_present = "checkpoint")]
    out: Option<PathBuf>,
    /// Checkpoint to write.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Print the shares as JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let run = Run::open(&self.run)?;
        let shares = match &self.lang {
            Some(language) => shares_of_language(&run, language, self.top)?,
            None => {
                let all = || Ok::<_, xelm_train::Error>(run.experts()?.into_iter().map(|e| e.0));
                let experts = if self.experts.is_empty() { all()?.collect() } else { self.experts };
                shares(&experts, self.weights.as_deref())?
            }
        };
        average(&run, &self.name, &shares, self.checkpoint.as_deref(), self.out.as_deref())?;
        if self.json {
            let shares: serde_json::Map<_, _> =
                shares.into_iter().map(|(id, share)| (id, json!(share))).collect();
            return print_line(json!({"name": self.name, "shares": shares}));
        }
        for (id, share) in shares {
            print_line(format_args!("{share:.4}\t{id}"))?;
        }
        Ok(())
    }
}
