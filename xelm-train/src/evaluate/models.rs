//! What is evaluated: a run's packed models and sets.

use crate::run::{DENSE, LAPT, RANDOM, Run, SEED, SET};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use xelm_runtime::ensemble::Ensemble;
use xelm_runtime::expert::Expert;
use xelm_runtime::mmap::ExpertFile;
use xelm_runtime::pack::SetFolder;
use xelm_runtime::router::Power;
use xelm_runtime::session::{Mixing, Routing};
use xelm_runtime::set::{Match, SET_FILE, Set, file_identity};

/// The models beside the experts that a run has packed, by the names of their columns.
pub(crate) fn baseline_files(run: &Run) -> Vec<(String, PathBuf)> {
    let names = [SEED, DENSE, RANDOM, LAPT];
    names
        .iter()
        .map(|&n| (n.to_owned(), run.model_path(n)))
        .filter(|(_, path)| path.exists())
        .collect()
}

/// A run's packed sets, by the names of their columns.
pub(crate) fn set_folders(run: &Run) -> Result<Vec<(String, PathBuf)>> {
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

/// An open model file and what identifies it.
#[derive(Debug)]
pub(crate) struct ModelFile {
    file: ExpertFile,
    sha256: String,
}

impl ModelFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (_, sha256) = file_identity(path).map_err(Error::io("read", path))?;
        Self::known(path, sha256)
    }

    /// The expert.
    pub(crate) fn expert(&self) -> &Expert<'_> {
        self.file.expert()
    }

    /// The expert's name.
    pub(crate) fn id(&self) -> &str {
        self.file.expert().id()
    }

    /// The languages that it was trained on.
    pub(crate) fn languages(&self) -> Vec<String> {
        self.file.expert().languages().map(str::to_owned).collect()
    }

    fn known(path: &Path, sha256: String) -> Result<Self> {
        let file = ExpertFile::open(path).map_err(Error::file(path))?;
        Ok(ModelFile { file, sha256 })
    }
}

/// A set with all of its experts open.
#[derive(Debug)]
pub(crate) struct SetModels {
    folder: SetFolder,
    experts: Vec<ModelFile>,
    sha256: String,
}

impl SetModels {
    /// Opens a set's folder. The experts' hashes are those that the set records.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let wrong = |e: xelm_runtime::pack::Error| Error::usage(e.to_string());
        let folder = SetFolder::open(path).map_err(wrong)?;
        let name = path.join(SET_FILE);
        let (_, sha256) = file_identity(&name).map_err(Error::io("read", &name))?;
        let mut experts = Vec::new();
        for entry in folder.set().map_err(wrong)?.entries() {
            let path = path.join(entry.file);
            let size = std::fs::metadata(&path).map_err(Error::io("open", &path))?.len();
            if size != entry.size {
                return Err(Error::usage(format!(
                    "{} is not the file that its set means: `xelm verify` says more",
                    path.display()
                )));
            }
            experts.push(ModelFile::known(&path, entry.sha256.to_owned())?);
        }
        Ok(SetModels { folder, experts, sha256 })
    }

    /// The expert for a language.
    pub(crate) fn expert(&self, language: &str) -> Result<&ModelFile> {
        let path = self.folder.path().join(SET_FILE);
        let selected = self.set()?.select(language, |_| true).map_err(Error::file(&path))?;
        Ok(&self.experts[selected.expert])
    }

    /// The expert that speaks a language, where there is one: no relative of the language will do.
    pub(crate) fn speaker(&self, language: &str) -> Result<Option<&ModelFile>> {
        let selected = self.set()?.select(language, |_| true).ok();
        let selected = selected.filter(|selected| selected.how != Match::Related);
        Ok(selected.map(|selected| &self.experts[selected.expert]))
    }

    /// Every expert by name, with its languages.
    pub(crate) fn members(&self) -> Result<Vec<(String, Vec<String>, &ModelFile)>> {
        let set = self.set()?;
        let speaks = |i: usize| {
            let own = set.languages().filter(|(expert, _)| *expert == i);
            own.map(|(_, tag)| tag.to_owned()).collect()
        };
        let named = set.entries().zip(&self.experts).enumerate();
        Ok(named.map(|(i, (entry, file))| (entry.id.to_owned(), speaks(i), file)).collect())
    }

    /// The languages that the experts speak.
    pub(crate) fn languages(&self) -> Result<Vec<String>> {
        Ok(self.set()?.languages().map(|(_, tag)| tag.to_owned()).collect())
    }

    /// Whether the experts can be mixed: a set of one needs no router.
    pub(crate) fn check_router(&self) -> Result<()> {
        Model::Mixture(self, Mixing::default()).with(|_, _| Ok(()))
    }

    fn set(&self) -> Result<Set<'_>> {
        self.folder.set().map_err(|e| Error::usage(e.to_string()))
    }
}

/// What scores a text: one expert, or a mixture of a set's.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Model<'a> {
    One(&'a ModelFile),
    Mixture(&'a SetModels, Mixing),
}

impl Model<'_> {
    /// Calls `work` with the experts and how to mix them.
    pub(crate) fn with<T>(
        &self,
        work: impl FnOnce(Ensemble<'_>, Mixing) -> Result<T>,
    ) -> Result<T> {
        match self {
            Model::One(model) => work(model.file.expert().into(), Mixing::default()),
            Model::Mixture(set, mixing) => {
                let path = set.folder.path().join(SET_FILE);
                let experts: Vec<Option<&Expert<'_>>> =
                    set.experts.iter().map(|e| Some(e.file.expert())).collect();
                let router = set.folder.router().map_err(|e| Error::usage(e.to_string()))?;
                work(Ensemble::new(&experts, router).map_err(Error::file(&path))?, *mixing)
            }
        }
    }

    /// Everything of the model that its numbers depend on, as text.
    pub(crate) fn identity(&self) -> String {
        match self {
            Model::One(model) => model.sha256.clone(),
            Model::Mixture(set, mixing) => {
                let n = set.experts.len();
                let Mixing { top_m, routing, route, lag, .. } = mixing;
                let top_m = if *top_m == 0 { n } else { n.min(*top_m) };
                let power = if route.power == Power::Release { 2 } else { 1 };
                let routing = if *routing == Routing::Token { "token" } else { "prompt" };
                let temperature = route.temperature;
                format!("{} {top_m} {routing} {power} {temperature} {lag}", set.sha256)
            }
        }
    }

    /// Positions that every expert has.
    pub(crate) fn n_ctx(&self) -> usize {
        match self {
            Model::One(model) => model.file.expert().config().n_ctx,
            Model::Mixture(set, _) => {
                let each = set.experts.iter().map(|e| e.file.expert().config().n_ctx);
                each.min().unwrap_or(0)
            }
        }
    }

    /// Bytes of weights that a token passes through: what a text costs in proportion.
    pub(crate) fn cost(&self) -> usize {
        match self {
            Model::One(model) => model.file.expert().weight_bytes(),
            Model::Mixture(set, mixing) => {
                let all: usize = set.experts.iter().map(|e| e.file.expert().weight_bytes()).sum();
                let n = set.experts.len().max(1);
                all / n * if mixing.top_m == 0 { n } else { n.min(mixing.top_m) }
            }
        }
    }
}
