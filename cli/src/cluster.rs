//! `xelm cluster typology`, `xelm cluster tfidf`

use crate::progress::Progress;
use crate::{Result, print_line};
use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;
use serde_json::json;
use std::path::PathBuf;
use xelm_runtime::router::Rule;
use xelm_train::run::Run;
use xelm_train::tfidf::{self, Clusters, Settings};
use xelm_train::typology::{Distances, Explanation, Features, cluster};

/// Which languages, or documents, share an expert.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Typology(Typology),
    Tfidf(Tfidf),
    Random(Random),
}

/// The run whose corpus is divided.
#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Run directory; clusters are written there.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Begin --run as another division of this run's corpus: it uses vocabulary, tokens, seed and dense
    /// model from there, and has clusters, experts and sets of its own.
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
}

impl RunArgs {
    fn open(&self) -> xelm_train::Result<Run> {
        match &self.base {
            Some(base) => Run::derive(&self.run, base),
            None => Run::open(&self.run),
        }
    }
}

/// Divides a run's training documents among experts at random: the control that shows what a division by
/// kinship or content is worth.
#[derive(Debug, clap::Args)]
pub(crate) struct Random {
    #[command(flatten)]
    run: RunArgs,
    /// Number of experts.
    #[arg(long, value_name = "N")]
    k: usize,
    /// Seed of the division.
    #[arg(long, default_value_t = Settings::default().seed, value_name = "N")]
    seed: u64,
}

/// Groups languages by how alike their grammars are: single linkage and greedy matching, as the X-ELM paper's
/// clusters were made. Without --features the distances are the shipped ones of 20 languages.
///
/// A file of features has one row per language, beginning with its code (BCP 47 or ISO 639-3), and one column
/// per feature, as lang2vec prints them; columns named like WALS's (81A), and columns of anything but numbers,
/// are categories. Or it is WALS's long form (CLDF's values.csv, with languages.csv beside it, or
/// any table with the columns Language_ID, Parameter_ID and Value). Commas or tabs; an empty cell, -- and NaN
/// are unknown. A feature that is the same for all languages is left out. The distance is 1 minus the cosine,
/// where each norm is over all that is known of a language and the product over what is known of both.
///
/// Where the number of languages is not --k times a power of two, some cluster finds no partner in a round and
/// is carried up as it is; it is named on stderr.
#[derive(Debug, clap::Args)]
pub(crate) struct Typology {
    /// Run directory whose languages are grouped; the clusters are written there, and with --features the
    /// distances, for `xelm pack` to say which expert stands in for which language.
    #[arg(long, value_name = "DIR", required_unless_present = "languages")]
    run: Option<PathBuf>,
    /// Begin --run as another division of this run's corpus: it uses vocabulary, tokens, seed and dense
    /// model from there, and has clusters, experts and sets of its own.
    #[arg(long, value_name = "DIR", requires = "run")]
    base: Option<PathBuf>,
    /// Languages to group without a run directory, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "TAGS", conflicts_with = "run")]
    languages: Vec<String>,
    /// Number of experts.
    #[arg(long, value_name = "N")]
    k: usize,
    /// Features to take the distances from.
    #[arg(long, value_name = "FILE")]
    features: Option<PathBuf>,
    /// Languages outside the grouping whose distances are recorded too, separated by commas: those that
    /// the experts may stand in for, or be adapted to.
    #[arg(long, value_delimiter = ',', value_name = "TAGS", requires = "features")]
    also: Vec<String>,
    /// Known features that a language must have at least.
    #[arg(long, default_value_t = 10, value_name = "N", requires = "features")]
    min_features: usize,
    /// Print the rounds of merging, the distances, and how many features are known, before the clusters.
    #[arg(long)]
    explain: bool,
    /// Print the clusters as JSON; with --explain, an object of `clusters` and `explanation`.
    #[arg(long)]
    json: bool,
}

/// Divides a run's training documents among experts by their words, whatever their language: TF-IDF,
/// a projection to a few dimensions, balanced k-means. Stop words do not count.
///
/// Fitted to a sample of the documents; then every document goes to the nearest centroid, so that the
/// clusters are only about equally large. Prints how many documents of each language each cluster has. An
/// expert is the one for a language that has more documents there than in any other cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct Tfidf {
    #[command(flatten)]
    run: RunArgs,
    /// Number of experts.
    #[arg(long, value_name = "N")]
    k: usize,
    /// What is a word: `unicode` keeps combining marks and takes scripts without spaces by characters and
    /// pairs of characters, `sklearn` is scikit-learn's and the X-ELM paper's.
    #[arg(long, default_value = Rule::default().name(), value_name = "RULE", value_parser = rules())]
    rule: Rule,
    /// Words that count at most, the most frequent ones.
    #[arg(long, default_value_t = Settings::default().max_terms, value_name = "N")]
    max_terms: usize,
    /// Dimensions that the words are projected to.
    #[arg(long, default_value_t = Settings::default().dims, value_name = "N")]
    dims: usize,
    /// Documents that are fitted to at most. Takes some 5 kB of memory each.
    #[arg(long, default_value_t = Settings::default().sample, value_name = "N")]
    sample: usize,
    /// Seed of everything random.
    #[arg(long, default_value_t = Settings::default().seed, value_name = "N")]
    seed: u64,
    /// Print clusters and table as JSON.
    #[arg(long)]
    json: bool,
}

fn rules() -> impl TypedValueParser<Value = Rule> {
    PossibleValuesParser::new([Rule::Unicode, Rule::Sklearn].map(Rule::name))
        .map(|name| Rule::from_name(&name).unwrap_or_default())
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Command::Typology(args) => args.run(),
            Command::Tfidf(args) => args.run(),
            Command::Random(args) => args.run(),
        }
    }
}

impl Random {
    fn run(self) -> Result<()> {
        let clusters = self.run.open()?.cluster_random(self.k, self.seed, &mut Progress::new())?;
        for cluster in clusters {
            print_line(format_args!(
                "{}	{} documents",
                cluster.id,
                cluster.documents.unwrap_or(0)
            ))?;
        }
        Ok(())
    }
}

impl Typology {
    fn run(self) -> Result<()> {
        let run = |run: &PathBuf| RunArgs { run: run.clone(), base: self.base.clone() }.open();
        let run = self.run.as_ref().map(run).transpose()?;
        let languages = run.as_ref().map_or(&self.languages[..], Run::languages);
        let features = self.features.as_deref();
        let features = features
            .map(|path| Features::read(path, languages, &self.also, self.min_features))
            .transpose()?;
        let own = features.as_ref().map(Features::distances);
        let shipped = Distances::shipped();
        let distances = own.as_ref().unwrap_or(&shipped);
        let explain = || Explanation::new(distances, features.as_ref(), languages, self.k);
        let explanation = self.explain.then(explain).transpose()?;
        let report = &mut Progress::new();
        let clusters = match (&run, &own) {
            (Some(run), Some(own)) => run.cluster_by_own(own, self.k, report)?,
            (Some(run), None) => run.cluster_typology(self.k, report)?,
            (None, _) => {
                let (clusters, carried) = cluster(distances, languages, self.k)?;
                for id in carried {
                    eprintln!("{id} found no partner and was carried up as it is");
                }
                clusters
            }
        };
        if self.json {
            return match explanation {
                Some(explanation) => {
                    print_line(json!({"clusters": clusters, "explanation": explanation}))
                }
                None => print_line(serde_json::to_string(&clusters)?),
            };
        }
        if let Some(explanation) = explanation {
            print_line(explanation.to_string().trim_end())?;
        }
        for (i, cluster) in clusters.iter().enumerate() {
            print_line(format_args!("{i}\t{}\t{:.4}", cluster.id, cluster.distance))?;
        }
        Ok(())
    }
}

impl Tfidf {
    fn run(self) -> Result<()> {
        let Tfidf { run, k, rule, max_terms, dims, sample, seed, json } = self;
        let settings = Settings { rule, max_terms, dims, sample, seed };
        let run = run.open()?;
        let Clusters { clusters, documents } =
            tfidf::cluster(&run, k, &settings, &mut Progress::new())?;
        if json {
            return print_line(json!({"clusters": clusters, "documents": documents}));
        }
        let languages: Vec<&str> = documents.keys().map(String::as_str).collect();
        print_line(format_args!("cluster\t{}\tdocuments\texpert for", languages.join("\t")))?;
        for (i, cluster) in clusters.iter().enumerate() {
            let row: Vec<String> = documents.values().map(|sizes| sizes[i].to_string()).collect();
            print_line(format_args!(
                "{}\t{}\t{}\t{}",
                cluster.id,
                row.join("\t"),
                cluster.documents.unwrap_or(0),
                cluster.languages.join(",")
            ))?;
        }
        Ok(())
    }
}
