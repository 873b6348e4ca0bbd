//! `xelm cluster typology`

use crate::progress::Progress;
use crate::{Result, print_line};
use clap::Subcommand;
use std::path::PathBuf;
use xelm_train::run::Run;
use xelm_train::typology::{Distances, cluster};

/// Which languages share an expert.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Typology(Typology),
}

/// Groups languages by how alike their grammars are: single linkage and greedy matching over the shipped
/// distances of 20 languages, as the X-ELM paper's clusters were made.
#[derive(Debug, clap::Args)]
pub(crate) struct Typology {
    /// Run directory whose languages are grouped; the clusters are written there.
    #[arg(long, value_name = "DIR", required_unless_present = "languages")]
    run: Option<PathBuf>,
    /// Languages to group without a run directory, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "TAGS", conflicts_with = "run")]
    languages: Vec<String>,
    /// Number of experts.
    #[arg(long, value_name = "N")]
    k: usize,
    /// Print the clusters as JSON.
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        let Command::Typology(args) = self;
        let clusters = match &args.run {
            Some(root) => Run::open(root)?.cluster_typology(args.k, &mut Progress::new())?,
            None => {
                let (clusters, carried) = cluster(&Distances::shipped(), &args.languages, args.k)?;
                for id in carried {
                    eprintln!("{id} found no partner and was carried up as it is");
                }
                clusters
            }
        };
        if args.json {
            return print_line(serde_json::to_string(&clusters)?);
        }
        for (i, cluster) in clusters.iter().enumerate() {
            print_line(format_args!("{i}\t{}\t{:.4}", cluster.id, cluster.distance))?;
        }
        Ok(())
    }
}
