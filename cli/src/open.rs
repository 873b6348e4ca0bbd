//! Choosing the expert that a command runs.

use crate::Result;
use std::path::{Path, PathBuf};
use xelm_runtime::mmap::{ExpertFile, MappedFile};
use xelm_runtime::pack::SetFolder;
use xelm_runtime::set::Match;

/// Which expert: a file, or the one of a set that speaks a language.
#[derive(Debug, clap::Args)]
pub(crate) struct ExpertArgs {
    /// Expert file.
    #[arg(long, value_name = "FILE", required_unless_present = "set", conflicts_with = "set")]
    pub(crate) expert: Option<PathBuf>,
    /// Folder of a set, from which --lang chooses.
    #[arg(long, value_name = "DIR", requires = "lang")]
    pub(crate) set: Option<PathBuf>,
    /// Language tag (BCP 47), such as de or zh-Hant-TW.
    #[arg(long, value_name = "TAG")]
    pub(crate) lang: Option<String>,
}

/// An open expert and how it was chosen.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: ExpertFile,
    /// Language and reason, where a set was asked.
    pub(crate) choice: Option<(String, Match)>,
}

impl ExpertArgs {
    pub(crate) fn open(&self) -> Result<Opened> {
        if let Some(path) = &self.expert {
            return Ok(Opened { file: open_expert(path)?, choice: None });
        }
        let folder = SetFolder::open(self.set.as_deref().unwrap_or(Path::new(".")))?;
        let set = folder.set()?;
        let tag = self.lang.as_deref().unwrap_or_default();
        let selected = set.select(tag, |i| folder.is_present(i)).map_err(|e| {
            let languages: Vec<_> = set.languages().map(|(_, tag)| tag).collect();
            format!("language {tag:?}: {e}; the set speaks {}", languages.join(", "))
        })?;
        let path = folder.expert(selected.expert).ok_or("the set is inconsistent")?;
        let language = selected.language.to_owned();
        if selected.how != Match::Exact {
            eprintln!("{selected}");
        }
        let file = open_expert(&path)?;
        Ok(Opened { file, choice: Some((language, selected.how)) })
    }
}

pub(crate) fn open_expert(path: &Path) -> Result<ExpertFile> {
    Ok(ExpertFile::open(path).map_err(|e| match e {
        xelm_runtime::Error::Io { errno } => {
            format!("cannot open {}: {}", path.display(), std::io::Error::from_raw_os_error(errno))
        }
        e => format!("{}: {e}", path.display()),
    })?)
}

/// Maps any file.
pub(crate) fn map(path: &Path) -> Result<MappedFile> {
    Ok(MappedFile::open(path).map_err(|e| format!("cannot open {}: {e}", path.display()))?)
}

/// The name of a match in JSON.
pub(crate) fn match_name(how: Match) -> &'static str {
    match how {
        Match::Exact => "exact",
        Match::Alias => "alias",
        Match::Prefix => "prefix",
        Match::Related => "related",
    }
}
