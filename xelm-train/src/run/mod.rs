//! A run directory: everything that one set of experts was made from, and its stages.
//!
//! ```text
//! run.json          corpus, languages, model dimensions
//! README.md         what is what, in words
//! tokenizer.gguf    the vocabulary
//! tokens/           <lang>.<split>.gguf token shards
//! clusters.json     which languages, or documents, share an expert
//! clusters.gguf     the cluster of every document, where documents are clustered
//! typology.tsv      distances between languages, where they are the run's own
//! router.gguf       the router in full
//! seed/ dense/ random/ experts/<id>/   one folder per training job
//! adapted.json      experts for languages that were added later, and what they branched from
//! lapt/             the baseline of those: the dense model, trained on all added languages
//! models/           seed, dense and random-split model as expert files
//! set/ set-q8_0/ …  the experts, packed and quantised
//! eval.json         the last evaluation
//! eval.jsonl        every score that was ever measured
//! forgetting.json   every expert on every language
//! icl.json icl.jsonl   accuracies of in-context learning, and every one that was measured
//! ```
//!
//! A *derived* run divides the same corpus in another way: vocabulary, tokens, seed and dense model, and
//! scores once measured (`eval.jsonl`) are those of its base, which its `run.json` names; all else is its
//! own.

mod adapt;
mod branch;
mod clusters;
mod import;

pub use adapt::{Adapted, Donor};
pub use branch::Branch;
pub use import::Branches;

use crate::backend::Backend;
use crate::checkpoint::Checkpoint;
use crate::corpus::{BadInput, Corpus, Skipped, Split};
use crate::job::{CHECKPOINT, Cadence, Data, Job, JobResult, JobSpec, Rehearsal, write_json};
use crate::report::Report;
use crate::settings::{ModelSettings, TrainSettings};
use crate::stream::Stream;
use crate::tokens::{TokenShard, check_vocabulary, shard_path, tokenize};
use crate::vocab::{self, VocabSettings};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use xelm_runtime::config::Config;
use xelm_runtime::format::AtomicFile;
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::tokenizer::{Tokenizer, hex};

const MANIFEST: &str = "run.json";
/// The clusters of documents, where it is documents that are clustered.
pub const ASSIGNMENT: &str = "clusters.gguf";
/// The router in full.
pub const ROUTER: &str = "router.gguf";
/// The vocabulary's file.
pub const TOKENIZER: &str = "tokenizer.gguf";
/// The folder of the models beside the experts.
const MODELS: &str = "models";
/// The folder of the token shards.
const TOKENS: &str = "tokens";
/// The folder of the packed f32 set.
pub const SET: &str = "set";

/// What `run.json` records.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    /// The corpus folder; relative to the run directory where it lies inside.
    corpus: PathBuf,
    languages: Vec<String>,
    skip_bad_input: bool,
    model: Option<ModelSettings>,
}

/// What `run.json` of a derived run records.
#[derive(Serialize, Deserialize)]
struct Derived {
    format: u32,
    /// The run that it derives from, relative to the run directory.
    base: PathBuf,
}

/// An open run directory.
#[derive(Debug)]
pub struct Run {
    root: PathBuf,
    /// The folder that has vocabulary, tokens, seed and dense model: `root`, or its base.
    base: PathBuf,
    manifest: Manifest,
}

/// The baselines' names.
pub const DENSE: &str = "dense";
/// See [`DENSE`].
pub const RANDOM: &str = "random";
/// The baseline of added languages: the dense model, trained on all of them (language-adaptive
/// pretraining).
pub const LAPT: &str = "lapt";
/// The seed model's name.
pub const SEED: &str = "seed";

impl Run {
    /// Creates a run directory, or opens one that was created with the same corpus and languages.
    ///
    /// # Errors
    /// The corpus cannot be used, or the directory holds another run.
    pub fn create(
        root: &Path,
        corpus: &Path,
        languages: &[String],
        bad_input: BadInput,
    ) -> Result<Run> {
        let found = Corpus::find(corpus)?;
        let languages = if languages.is_empty() {
            found.languages.keys().cloned().collect()
        } else {
            found.only(languages)?;
            languages.to_vec()
        };
        fs::create_dir_all(root).map_err(Error::io("create", root))?;
        let absolute = |path: &Path| path.canonicalize().map_err(Error::io("find", path));
        let (root_path, corpus) = (absolute(root)?, absolute(corpus)?);
        let corpus = corpus.strip_prefix(&root_path).map(Path::to_owned).unwrap_or(corpus);
        let manifest = Manifest {
            format: 1,
            corpus,
            languages,
            skip_bad_input: bad_input == BadInput::Skip,
            model: None,
        };
        if root.join(MANIFEST).exists() {
            let run = Run::open(root)?;
            let same = run.manifest.corpus == manifest.corpus
                && run.manifest.languages == manifest.languages;
            return if same {
                Ok(run)
            } else {
                Err(Error::usage(format!(
                    "{} holds a run with another corpus or other languages: choose another folder",
                    root.display()
                )))
            };
        }
        let run = Run { root: root.to_owned(), base: root.to_owned(), manifest };
        write_json(&run.path(MANIFEST), &run.manifest)?;
        run.explain()?;
        Ok(run)
    }

    /// Creates a run that divides the corpus of `base` in another way, or opens one that was created so.
    ///
    /// # Errors
    /// `base` is no run; the directory holds another run.
    pub fn derive(root: &Path, base: &Path) -> Result<Run> {
        let base = Run::open(base)?.base;
        fs::create_dir_all(root).map_err(Error::io("create", root))?;
        let absolute = |path: &Path| path.canonicalize().map_err(Error::io("find", path));
        let relative = relative(&absolute(root)?, &absolute(&base)?);
        let path = root.join(MANIFEST);
        if path.exists() {
            let run = Run::open(root)?;
            return if absolute(&run.base)? == absolute(&base)? && run.base != run.root {
                Ok(run)
            } else {
                Err(Error::usage(format!(
                    "{} holds a run that does not derive from {}: choose another folder",
                    root.display(),
                    base.display()
                )))
            };
        }
        write_json(&path, &Derived { format: 1, base: relative })?;
        let run = Run::open(root)?;
        run.explain()?;
        Ok(run)
    }

    fn explain(&self) -> Result<()> {
        let readme = self.path("README.md");
        AtomicFile::write(&readme, README.as_bytes()).map_err(Error::io("write", &readme))
    }

    /// Opens a run directory.
    ///
    /// # Errors
    /// It is none.
    pub fn open(root: &Path) -> Result<Run> {
        let path = root.join(MANIFEST);
        let text = fs::read_to_string(&path).map_err(|_| {
            Error::usage(format!(
                "{} is not a run directory (it has no {MANIFEST}); `xelm tokenizer train --corpus DIR \
                 --run DIR` begins one",
                root.display()
            ))
        })?;
        let wrong = |e: serde_json::Error| Error::usage(format!("{}: {e}", path.display()));
        let value: serde_json::Value = serde_json::from_str(&text).map_err(wrong)?;
        if value.get("base").is_none() {
            let manifest = serde_json::from_value(value).map_err(wrong)?;
            return Ok(Run { root: root.to_owned(), base: root.to_owned(), manifest });
        }
        let derived: Derived = serde_json::from_value(value).map_err(wrong)?;
        let base = root.join(derived.base);
        let of_base = Run::open(&base)?;
        if of_base.base != of_base.root {
            return Err(Error::usage(format!(
                "{}: its base {} is itself derived",
                path.display(),
                base.display()
            )));
        }
        Ok(Run { root: root.to_owned(), base, manifest: of_base.manifest })
    }

    /// A path inside the run directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The path of something that derived runs share with their base.
    pub fn shared_path(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    /// The expert file of a model beside the experts: seed or baseline.
    pub fn model_path(&self, name: &str) -> PathBuf {
        let file = format!("{name}.gguf");
        match name {
            SEED | DENSE => self.shared_path(MODELS).join(file),
            _ => self.path(MODELS).join(file),
        }
    }

    /// The run's vocabulary.
    pub fn tokenizer_path(&self) -> PathBuf {
        self.shared_path(TOKENIZER)
    }

    /// The run's languages.
    pub fn languages(&self) -> &[String] {
        &self.manifest.languages
    }

    /// What to do with bad lines of the corpus.
    pub fn bad_input(&self) -> BadInput {
        if self.manifest.skip_bad_input { BadInput::Skip } else { BadInput::Stop }
    }

    /// The corpus files of the run's languages.
    ///
    /// # Errors
    /// The corpus is not where it was.
    pub fn corpus(&self) -> Result<Corpus> {
        self.corpus_of(&self.manifest.languages)
    }

    /// The files of these languages in the run's corpus, which may hold more than the run's.
    ///
    /// # Errors
    /// The corpus is not where it was, or has no files of a language.
    pub fn corpus_of(&self, languages: &[String]) -> Result<Corpus> {
        self.whole_corpus()?.only(languages)
    }

    /// The corpus with all its languages, the run's and others; and text of added languages that is
    /// elsewhere.
    ///
    /// # Errors
    /// The corpus is not where it was.
    pub fn whole_corpus(&self) -> Result<Corpus> {
        let mut corpus = Corpus::find(&self.base.join(&self.manifest.corpus))?;
        for added in self.adapted()? {
            if let Some(folder) = &added.corpus {
                let files = Corpus::find(folder)?.only(std::slice::from_ref(&added.target))?;
                corpus.languages.extend(files.languages);
            }
        }
        Ok(corpus)
    }

    /// Learns the run's vocabulary, unless it has one; from `later` besides the run's own languages: those
    /// that are to be added to its experts one day.
    ///
    /// # Errors
    /// As [`vocab::train`]; the corpus has no files of a language.
    pub fn train_vocabulary(
        &self,
        settings: &VocabSettings,
        later: &[String],
    ) -> Result<Vec<Skipped>> {
        let path = self.tokenizer_path();
        if path.exists() {
            return Ok(Vec::new());
        }
        let languages = [self.languages(), later].concat();
        let (vocabulary, skipped) = vocab::train(&self.corpus_of(&languages)?, settings)?;
        vocab::save(&vocabulary, &path)?;
        Ok(skipped)
    }

    /// Makes the token shards that are missing or out of date. Where the corpus is not at hand (a job
    /// on another machine), the shards that are there are used as they are.
    ///
    /// # Errors
    /// As [`tokenize`].
    pub fn tokenize(&self, report: &mut dyn Report) -> Result<()> {
        self.tokenize_languages(self.languages(), report)
    }

    fn tokenize_languages(&self, languages: &[String], report: &mut dyn Report) -> Result<()> {
        let folder = self.shared_path(TOKENS);
        let is_there = |language: &String| shard_path(&folder, language, Split::Train).exists();
        let corpus = match self.corpus_of(languages) {
            Err(_) if languages.iter().all(is_there) => return Ok(()),
            corpus => corpus?,
        };
        let vocabulary = self.tokenizer_path();
        for done in tokenize(&corpus, &vocabulary, &folder, self.bad_input())? {
            report_skipped(&done.skipped, report);
        }
        Ok(())
    }

    /// Trains the seed model on all languages.
    ///
    /// # Errors
    /// As [`Job::run`].
    pub fn pretrain(
        &mut self,
        model: ModelSettings,
        settings: TrainSettings,
        cadence: Cadence,
        backend: &mut dyn Backend,
        report: &mut dyn Report,
    ) -> Result<JobResult> {
        self.tokenize(report)?;
        self.check_model(model)?;
        self.manifest.model = Some(model);
        write_json(&self.shared_path(MANIFEST), &self.manifest)?;
        self.with_seed_job(model, settings, cadence, |job, data| job.run(data, backend, report))
    }

    /// What [`Run::pretrain`] would take: nothing is trained or saved, but the tokens are.
    ///
    /// # Errors
    /// As [`Job::rehearse`].
    pub fn rehearse_pretrain(
        &self,
        model: ModelSettings,
        settings: TrainSettings,
        backend: &mut dyn Backend,
        report: &mut dyn Report,
    ) -> Result<Rehearsal> {
        self.tokenize(report)?;
        self.check_model(model)?;
        self.with_seed_job(model, settings, Cadence::default(), |job, data| {
            job.rehearse(data, backend)
        })
    }

    fn check_model(&self, model: ModelSettings) -> Result<()> {
        if self.manifest.model.is_some_and(|m| m != model) {
            return Err(Error::usage(format!(
                "{} was begun with a model of other dimensions",
                self.root.display()
            )));
        }
        Ok(())
    }

    fn with_seed_job<R>(
        &self,
        model: ModelSettings,
        mut settings: TrainSettings,
        cadence: Cadence,
        work: impl FnOnce(&Job, &mut Data<'_>) -> Result<R>,
    ) -> Result<R> {
        let (n_vocab, vocabulary, eos) = self.vocabulary()?;
        let config = model.config(n_vocab)?;
        settings.choose_micro_batch(&config);
        let shards = self.shards(self.languages(), Split::Train, &vocabulary, n_vocab)?;
        let all = |_, _| true;
        let train = Stream::new(&shards, all, eos, settings.seed, settings.n_ctx)?;
        let held_out = self.shards(self.languages(), Split::Valid, &vocabulary, n_vocab)?;
        let valid = Stream::new(&held_out, all, eos, settings.seed, settings.n_ctx).ok();
        let spec = JobSpec {
            name: SEED.to_owned(),
            languages: self.languages().to_vec(),
            parent: String::new(),
            round: 0,
            settings,
        };
        let folder = self.job_folder(SEED);
        let job = Job { spec, folder, config, parent: None, vocabulary, cadence };
        work(&job, &mut Data { train, valid })
    }

    /// The folder of a job by the name of its model.
    pub fn job_folder(&self, name: &str) -> PathBuf {
        match name {
            SEED | DENSE => self.shared_path(name),
            RANDOM | LAPT => self.path(name),
            id => self.path("experts").join(id),
        }
    }

    /// Settings of the seed's job, for branches to take over.
    ///
    /// # Errors
    /// There is no seed yet.
    pub fn seed_settings(&self) -> Result<TrainSettings> {
        let path = self.job_folder(SEED).join("job.json");
        let text = fs::read_to_string(&path).map_err(|_| self.no_seed())?;
        let spec: JobSpec = serde_json::from_str(&text)
            .map_err(|e| Error::usage(format!("{}: {e}", path.display())))?;
        Ok(spec.settings)
    }

    fn no_seed(&self) -> Error {
        Error::usage(format!(
            "the run has no finished seed model yet: `xelm pretrain --run {}` trains it",
            self.root.display()
        ))
    }

    /// Dimensions of the seed model, the vocabulary's identity, and the token that ends documents.
    fn seed_model(&self) -> Result<(Config, String, u32)> {
        let path = self.job_folder(SEED).join(CHECKPOINT);
        if !path.exists() {
            return Err(self.no_seed());
        }
        let info = Checkpoint::open(&path)?.info;
        if info.step < self.seed_settings()?.steps {
            return Err(self.no_seed());
        }
        let (_, vocabulary, eos) = self.vocabulary()?;
        Ok((info.config, vocabulary, eos))
    }

    /// Size and identity of the vocabulary, and the token that ends documents.
    fn vocabulary(&self) -> Result<(usize, String, u32)> {
        let path = self.tokenizer_path();
        let file = MappedFile::open(&path).map_err(|_| {
            Error::usage(format!(
                "the run has no vocabulary yet: `xelm tokenizer train --run {}` learns one",
                self.root.display()
            ))
        })?;
        let gguf = file.gguf().map_err(Error::file(&path))?;
        let tokenizer = Tokenizer::open(&gguf).map_err(Error::file(&path))?;
        Ok((tokenizer.n_vocab(), hex(&tokenizer.hash()), tokenizer.eos()))
    }

    fn shards(
        &self,
        languages: &[String],
        split: Split,
        vocabulary: &str,
        n_vocab: usize,
    ) -> Result<Vec<TokenShard>> {
        let folder = self.shared_path(TOKENS);
        languages
            .iter()
            .map(|language| {
                let path = shard_path(&folder, language, split);
                check_vocabulary(&path, vocabulary)?;
                let shard = TokenShard::open(&path)?;
                let ids_are_known = shard.tokens().iter().all(|&id| (id as usize) < n_vocab);
                let unknown = xelm_runtime::Error::OutOfRange { what: "a token id" };
                if ids_are_known { Ok(shard) } else { Err(Error::file(&path)(unknown)) }
            })
            .collect()
    }
}

/// `path` as seen from the folder `from`; both are absolute.
fn relative(from: &Path, path: &Path) -> PathBuf {
    let common = from.components().zip(path.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(common).map(|_| Path::new("..").as_os_str());
    up.chain(path.components().skip(common).map(|c| c.as_os_str())).collect()
}

/// Tells about lines that were left out: the first few, and how many.
pub fn report_skipped(skipped: &[Skipped], report: &mut dyn Report) {
    const SHOWN: usize = 5;
    for line in skipped.iter().take(SHOWN) {
        report.note(&format!("left out {}:{}: {}", line.path, line.line, line.what));
    }
    if skipped.len() > SHOWN {
        report.note(&format!("left out {} more lines", skipped.len() - SHOWN));
    }
}

const README: &str = "\
# A run of xelm

| here | what |
|---|---|
| `run.json` | corpus, languages, dimensions of the model |
| `tokenizer.gguf` | the vocabulary that all models share |
| `tokens/` | the corpus as token ids, by language; made anew when the corpus changes |
| `clusters.json` | which languages, or documents, share an expert |
| `clusters.gguf` | the cluster of every document, where documents are clustered |
| `typology.tsv` | distances between languages, where they come from features of one's own |
| `router.gguf` | the router in full: what words say about the expert |
| `seed/` | the model that everything branches from: settings, log (one JSON line a step), checkpoint |
| `experts/<id>/` | one training job per expert; each can be trained on another machine and copied here |
| `dense/`, `random/` | the baselines: one model on all languages, one on a random part of the documents |
| `adapted.json` | experts for languages that were added later: their donors and parents |
| `lapt/` | the baseline of those: the dense model, trained on all added languages |
| `models/` | seed and baselines as model files |
| `set/` | the experts as model files, with `set.gguf` that says who speaks what |
| `set-q8_0/`, `set-q4_0/` | the same, quantised |
| `eval.json` | bits per byte and perplexity of every model on every language |
| `eval.jsonl` | the scores of which they are made, as they were measured; what is here is not measured again |
| `forgetting.json` | every expert on every language |
| `icl.json`, `icl.jsonl` | accuracies of in-context learning, and what they are made of |

A `run.json` with a `base` derives from another run: vocabulary, tokens, seed and dense model are there.

Model files are GGUF and run in every tool that reads it. What a run is for and how to continue it:
`xelm --help`.
";
