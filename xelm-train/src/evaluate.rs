//! Evaluation through the runtime on the exported files: what is reported is what is deployed.

use crate::corpus::{Corpus, CorpusFile, Documents, Split, is_held_out};
use crate::memory::Memory;
use crate::run::{DENSE, RANDOM, Run, SEED, SET};
use crate::{Error, Result};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use xelm_runtime::expert::Expert;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::mmap::{ExpertFile, MappedFile};
use xelm_runtime::parallel::Serial;
use xelm_runtime::score::Score;
use xelm_runtime::session::{KvType, Options, Session};
use xelm_runtime::set::{SET_FILE, Set};

/// Documents of a language that are scored at most, as in the X-ELM paper.
pub const MAX_DOCUMENTS: usize = 5001;

/// Bits per byte by language and model.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Table {
    /// Language → column → bits per byte. Columns are `seed`, `dense`, `random`, `expert`, and
    /// `expert_<type>` for quantised sets.
    pub languages: BTreeMap<String, BTreeMap<String, f64>>,
    /// Unweighted means over the languages.
    pub mean: BTreeMap<String, f64>,
    /// Languages in which the expert is better than the dense model.
    pub wins: usize,
}

impl Table {
    /// Fills in the summary.
    fn summarise(mut self) -> Table {
        for row in self.languages.values() {
            for (column, bpb) in row {
                *self.mean.entry(column.clone()).or_default() += bpb / self.languages.len() as f64;
            }
            if let (Some(expert), Some(dense)) = (row.get("expert"), row.get(DENSE)) {
                self.wins += usize::from(expert < dense);
            }
        }
        self
    }
}

/// Scores every language's held-out documents under every model of a run.
///
/// # Errors
/// Missing files, or texts that cannot be read.
pub fn evaluate_run(run: &Run) -> Result<Table> {
    let texts = held_out(&run.corpus()?, run)?;
    let mut columns: Vec<(String, Source)> = Vec::new();
    for name in [SEED, DENSE, RANDOM] {
        let path = run.path("models").join(format!("{name}.gguf"));
        if path.exists() {
            columns.push((name.to_owned(), Source::Model(Box::new(open(&path)?))));
        }
    }
    for (column, folder) in set_folders(run)? {
        columns.push((column, Source::Set(SetExperts::open(&folder)?)));
    }
    if columns.is_empty() {
        return Err(Error::usage("the run has no packed models yet: `xelm pack` makes them"));
    }
    let tasks: Vec<_> = texts
        .iter()
        .flat_map(|(language, texts)| {
            columns.iter().map(move |(name, s)| (language, texts, name, s))
        })
        .collect();
    let scores: Result<Vec<_>> = tasks
        .par_iter()
        .map(|(language, texts, column, source)| {
            let score = score_texts(source.expert(language)?.expert(), texts)?;
            Ok(((*language).clone(), (*column).clone(), score.bpb()))
        })
        .collect();
    let mut table = Table::default();
    for (language, column, bpb) in scores? {
        table.languages.entry(language).or_default().insert(column, bpb);
    }
    let table = table.summarise();
    crate::job::write_json(&run.path("eval.json"), &table)?;
    Ok(table)
}

/// Scores documents, each from its own beginning, and adds them up.
///
/// # Errors
/// The file has no tokenizer.
pub fn score_texts(expert: &Expert<'_>, texts: &[String]) -> Result<Score> {
    let tokenizer = expert.tokenizer().ok_or(xelm_runtime::Error::NoTokenizer);
    let fail = Error::file(Path::new(expert.id()));
    let normalizer = tokenizer.map_err(&fail)?.normalizer();
    let longest = texts.iter().map(|t| normalizer.normalized_len(t.as_bytes())).max().unwrap_or(0);
    let options =
        Options { n_logits: 16, kv: KvType::F32, max_text: longest, ..Options::default() };
    let plan = Session::plan(expert, &options).map_err(&fail)?;
    let mut memory = Memory::new(plan.total);
    let kernels = Kernels::new(Isa::detect());
    let mut session =
        Session::init(expert, &options, memory.bytes(), kernels, &Serial).map_err(&fail)?;
    let mut total = Score::default();
    for text in texts {
        total.add(&session.score_text(text.as_bytes()).map_err(&fail)?);
    }
    Ok(total)
}

/// The held-out texts of every language, in file order.
fn held_out(corpus: &Corpus, run: &Run) -> Result<BTreeMap<String, Vec<String>>> {
    let mut texts = BTreeMap::new();
    for (language, files) in &corpus.languages {
        let found = held_out_of(language, files, run)?;
        if found.is_empty() {
            return Err(Error::usage(format!(
                "the language {language:?} has no held-out documents: add a {language}.valid file"
            )));
        }
        texts.insert(language.clone(), found);
    }
    Ok(texts)
}

fn held_out_of(language: &str, files: &[CorpusFile], run: &Run) -> Result<Vec<String>> {
    let has_valid = files.iter().any(|f| f.split == Split::Valid);
    let mut texts = Vec::new();
    for file in files.iter().filter(|f| !has_valid || f.split == Split::Valid) {
        for document in Documents::open(file, language, run.bad_input())? {
            let text = document?.text;
            if (has_valid || is_held_out(&text)) && texts.len() < MAX_DOCUMENTS {
                texts.push(text);
            }
        }
    }
    Ok(texts)
}

/// The run's packed sets with the names of their columns.
fn set_folders(run: &Run) -> Result<Vec<(String, PathBuf)>> {
    let root = run.path("");
    let entries = std::fs::read_dir(&root).map_err(Error::io("read", &root))?;
    let mut folders: Vec<(String, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let column = match name.strip_prefix(SET)? {
                "" => "expert".to_owned(),
                suffix => format!("expert_{}", suffix.strip_prefix('-')?),
            };
            let path = entry.path();
            path.join(SET_FILE).exists().then_some((column, path))
        })
        .collect();
    folders.sort();
    Ok(folders)
}

/// Where a column's model for a language comes from.
enum Source {
    Model(Box<ExpertFile>),
    Set(SetExperts),
}

impl Source {
    fn expert(&self, language: &str) -> Result<&ExpertFile> {
        match self {
            Source::Model(file) => Ok(file),
            Source::Set(set) => set.expert(language),
        }
    }
}

/// A set with all of its experts open.
struct SetExperts {
    folder: PathBuf,
    file: MappedFile,
    experts: Vec<ExpertFile>,
}

impl SetExperts {
    fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(SET_FILE);
        let file = MappedFile::open(&path).map_err(Error::io("open", &path))?;
        let experts = {
            let gguf = file.gguf().map_err(Error::file(&path))?;
            let set = Set::open(&gguf).map_err(Error::file(&path))?;
            let open = |e: xelm_runtime::set::Entry<'_>| open(&folder.join(e.file));
            set.entries().map(open).collect::<Result<Vec<_>>>()?
        };
        Ok(SetExperts { folder: folder.to_owned(), file, experts })
    }

    fn expert(&self, language: &str) -> Result<&ExpertFile> {
        let path = self.folder.join(SET_FILE);
        let gguf = self.file.gguf().map_err(Error::file(&path))?;
        let set = Set::open(&gguf).map_err(Error::file(&path))?;
        let selected = set.select(language, |_| true).map_err(Error::file(&path))?;
        Ok(&self.experts[selected.expert])
    }
}

fn open(path: &Path) -> Result<ExpertFile> {
    ExpertFile::open(path).map_err(Error::file(path))
}
