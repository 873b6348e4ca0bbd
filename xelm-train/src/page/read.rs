//! The files of a run as far as they are there. What is missing stays empty; what cannot be understood is
//! told on the page.

use crate::corpus::Split;
use crate::run::{DENSE, LAPT, RANDOM, SEED, TOKENIZER};
use crate::settings::ModelSettings;
use crate::tokens::{TokenShard, shard_path};
use crate::typology::Cluster;
use crate::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::tokenizer::Tokenizer;

/// How many runs may build on each other.
const MAX_BASES: usize = 8;

/// A table of numbers by two names. A number may be null.
pub(super) type Numbers = BTreeMap<String, BTreeMap<String, Option<f64>>>;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Manifest {
    languages: Vec<String>,
    model: Option<ModelSettings>,
    /// The run whose seed, baselines and tokens this one uses; relative to it.
    base: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Score {
    pub(super) documents: Option<f64>,
    pub(super) tokens: Option<f64>,
    pub(super) bytes: Option<f64>,
    pub(super) ppl: Option<f64>,
    pub(super) bpb: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Eval {
    /// Language → column → bits per byte.
    pub(super) languages: Numbers,
    /// Language → column → counts and sums.
    pub(super) scores: BTreeMap<String, BTreeMap<String, Score>>,
    pub(super) protocol: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Forgetting {
    pub(super) models: Vec<String>,
    pub(super) languages: Vec<String>,
    pub(super) own: BTreeMap<String, Vec<String>>,
    /// Model → language → score.
    pub(super) scores: BTreeMap<String, BTreeMap<String, Score>>,
    pub(super) share_worse: Option<f64>,
    pub(super) share_worse_off_language: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Accuracy {
    pub(super) accuracy: Option<f64>,
    pub(super) examples: Option<f64>,
    pub(super) stderr: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Task {
    /// Language → model → accuracy.
    pub(super) languages: BTreeMap<String, BTreeMap<String, Accuracy>>,
    pub(super) mean: BTreeMap<String, Option<f64>>,
    pub(super) win_rate: BTreeMap<String, Option<f64>>,
    /// Language → share of the most frequent answer.
    pub(super) majority: BTreeMap<String, Option<f64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Adapted {
    pub(super) id: String,
    pub(super) languages: Vec<String>,
    pub(super) target: String,
    pub(super) donor: String,
    pub(super) parent: String,
    pub(super) round: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct JobFacts {
    pub(super) languages: Vec<String>,
    pub(super) settings: JobSettings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct JobSettings {
    pub(super) steps: u64,
    pub(super) batch: u64,
    pub(super) n_ctx: u64,
    pub(super) lr: f64,
    pub(super) seed: Option<u64>,
}

impl JobSettings {
    pub(super) fn tokens(&self) -> u64 {
        self.steps.saturating_mul(self.batch).saturating_mul(self.n_ctx)
    }
}

/// One run directory.
#[derive(Debug)]
pub(super) struct RunData {
    pub(super) root: PathBuf,
    base: Option<Box<RunData>>,
    manifest: Manifest,
    pub(super) clusters: Vec<Cluster>,
    pub(super) eval: Eval,
    pub(super) forgetting: Option<Forgetting>,
    pub(super) icl: BTreeMap<String, Task>,
    pub(super) adapted: Vec<Adapted>,
    /// Files that cannot be understood.
    pub(super) problems: Vec<String>,
}

impl RunData {
    /// Reads a run and those it builds on.
    ///
    /// # Errors
    /// A directory has no `run.json`, or they build on each other in a circle.
    pub(super) fn open(root: &Path) -> Result<Self> {
        Self::open_based(root, MAX_BASES)
    }

    fn open_based(root: &Path, bases_left: usize) -> Result<Self> {
        let path = root.join("run.json");
        if !path.exists() {
            return Err(Error::usage(format!(
                "{} is not a run directory (it has no run.json): give one with --run",
                root.display()
            )));
        }
        let mut problems = Vec::new();
        let manifest: Manifest = json(&path, &mut problems).unwrap_or_default();
        let base = match (&manifest.base, bases_left) {
            (None, _) => None,
            (Some(_), 0) => {
                return Err(Error::usage(format!(
                    "{}: more than {MAX_BASES} runs build on each other; correct \"base\"",
                    path.display()
                )));
            }
            (Some(base), _) => Some(Box::new(Self::open_based(&root.join(base), bases_left - 1)?)),
        };
        Ok(RunData {
            clusters: json(&root.join("clusters.json"), &mut problems).unwrap_or_default(),
            eval: json(&root.join("eval.json"), &mut problems).unwrap_or_default(),
            forgetting: json(&root.join("forgetting.json"), &mut problems),
            icl: json(&root.join("icl.json"), &mut problems).unwrap_or_default(),
            adapted: json(&root.join("adapted.json"), &mut problems).unwrap_or_default(),
            root: root.to_owned(),
            manifest,
            base,
            problems,
        })
    }

    /// This run and those it builds on.
    pub(super) fn chain(&self) -> impl Iterator<Item = &RunData> {
        std::iter::successors(Some(self), |run| run.base.as_deref())
    }

    /// The languages that the experts were made for.
    pub(super) fn languages(&self) -> &[String] {
        let mut named = self.chain().map(|run| run.manifest.languages.as_slice());
        named.find(|languages| !languages.is_empty()).unwrap_or_default()
    }

    /// Dimensions of the models.
    pub(super) fn model(&self) -> Option<ModelSettings> {
        self.chain().find_map(|run| run.manifest.model)
    }

    /// A file or folder, of this run or of one that it builds on.
    pub(super) fn find(&self, name: &str) -> Option<PathBuf> {
        self.chain().map(|run| run.root.join(name)).find(|path| path.exists())
    }

    /// Bits per byte of a column on a language.
    pub(super) fn bpb(&self, language: &str, column: &str) -> Option<f64> {
        self.chain().find_map(|run| {
            let eval = &run.eval;
            let score = || eval.scores.get(language)?.get(column)?.bpb;
            let listed = eval.languages.get(language).and_then(|row| *row.get(column)?);
            listed.or_else(score).filter(|x| x.is_finite())
        })
    }

    /// Perplexity of a column on a language.
    pub(super) fn ppl(&self, language: &str, column: &str) -> Option<f64> {
        let of = |run: &RunData| run.eval.scores.get(language)?.get(column)?.ppl;
        self.chain().find_map(of).filter(|x| x.is_finite())
    }

    /// All columns of the evaluation.
    pub(super) fn columns(&self) -> Vec<&str> {
        let rows = self.chain().flat_map(|run| {
            let listed = run.eval.languages.values().flat_map(BTreeMap::keys);
            listed.chain(run.eval.scores.values().flat_map(BTreeMap::keys))
        });
        let mut columns: Vec<&str> = rows.map(String::as_str).collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// Languages that were evaluated: the run's own, or all where it names none.
    pub(super) fn evaluated(&self) -> Vec<String> {
        let is_evaluated = |language: &String| {
            let mut evals = self.chain().map(|run| &run.eval);
            evals.any(|e| e.languages.contains_key(language) || e.scores.contains_key(language))
        };
        let own = self.languages();
        if own.is_empty() {
            return self.eval.languages.keys().cloned().collect();
        }
        own.iter().filter(|language| is_evaluated(language)).cloned().collect()
    }

    /// Training tokens of a language, where its shard is at hand.
    pub(super) fn tokens(&self, language: &str) -> Option<u64> {
        let path = shard_path(&self.find("tokens")?, language, Split::Train);
        let shard = TokenShard::open(&path).ok()?;
        let documents = (0..shard.n_documents()).map(|i| shard.document(i).len() as u64);
        Some(documents.sum())
    }

    /// Tokens of the vocabulary, where it is at hand.
    pub(super) fn n_vocab(&self) -> Option<usize> {
        let file = MappedFile::open(&self.find(TOKENIZER)?).ok()?;
        let gguf = file.gguf().ok()?;
        Some(Tokenizer::open(&gguf).ok()?.n_vocab())
    }

    /// The training jobs that have begun: name and folder.
    pub(super) fn jobs(&self) -> Vec<(String, PathBuf)> {
        let shared = [SEED, DENSE, RANDOM, LAPT].map(|name| (name.to_owned(), name.to_owned()));
        let ids = self.clusters.iter().map(|c| &c.id).chain(self.adapted.iter().map(|a| &a.id));
        let experts = ids.map(|id| (id.clone(), format!("experts/{id}")));
        let mut jobs: Vec<(String, PathBuf)> = Vec::new();
        for (name, folder) in shared.into_iter().chain(experts) {
            if let Some(path) = self.find(&format!("{folder}/job.json"))
                && jobs.iter().all(|(known, _)| *known != name)
            {
                jobs.push((name, path.with_file_name("")));
            }
        }
        jobs
    }

    /// What a job's `job.json` says.
    pub(super) fn job(&self, name: &str) -> Option<JobFacts> {
        let (_, folder) = self.jobs().into_iter().find(|(job, _)| job == name)?;
        json(&folder.join("job.json"), &mut Vec::new())
    }
}

/// The value in a file; none where there is no file, and where it cannot be understood, which is a problem.
pub(super) fn json<T: DeserializeOwned>(path: &Path, problems: &mut Vec<String>) -> Option<T> {
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
        result => result.map_err(|e| e.to_string()),
    };
    let value = text.and_then(|text| serde_json::from_str(&text).map_err(|e| e.to_string()));
    value.map_err(|e| problems.push(format!("{}: {e}", path.display()))).ok()
}
