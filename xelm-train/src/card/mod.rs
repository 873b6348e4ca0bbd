//! Model cards: the README.md of a set, with the front matter that model hubs read.

mod front;
mod text;

use crate::job::write_json;
use crate::run::{Run, SET};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use xelm_runtime::config::Config;
use xelm_runtime::format::{AtomicFile, Gguf, Value, keys};
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::pack::{CARD, SetFolder};
use xelm_runtime::set::SET_FILE;

/// File of a run with what its user has said for the cards.
const WORDS: &str = "card.json";

/// What only the user can say of a set. Empty where it was not said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Words {
    /// Heading.
    pub title: Option<String>,
    /// Licence of the models.
    pub licence: Option<String>,
    /// Licence of what they were trained on.
    pub data_licence: Option<String>,
    /// The published model that the seed was made from.
    pub base_model: Option<String>,
}

impl Words {
    fn open(run: &Run) -> Result<Words> {
        let path = run.path(WORDS);
        if !path.exists() {
            return Ok(Words::default());
        }
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        serde_json::from_str(&text).map_err(|e| Error::usage(format!("{}: {e}", path.display())))
    }

    /// Records in the run what is said here, beside what was said before.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn record(self, run: &Run) -> Result<()> {
        let before = Words::open(run)?;
        let words = Words {
            title: self.title.or_else(|| before.title.clone()),
            licence: self.licence.or_else(|| before.licence.clone()),
            data_licence: self.data_licence.or_else(|| before.data_licence.clone()),
            base_model: self.base_model.or_else(|| before.base_model.clone()),
        };
        if words == before { Ok(()) } else { write_json(&run.path(WORDS), &words) }
    }
}

/// One expert as its file describes it.
struct Member {
    id: String,
    file: String,
    /// Languages that it is chosen for.
    languages: Vec<String>,
    parent: String,
    bytes: u64,
    /// Branches since the seed, and tokens trained on; absent where the file is not there.
    round: Option<u32>,
    tokens: Option<u64>,
}

/// A set as its files describe it.
struct Members {
    members: Vec<Member>,
    /// How the weights are stored, where a file is there.
    weights: Option<String>,
    n_params: Option<usize>,
    n_ctx: Option<usize>,
}

impl Members {
    fn open(folder: &Path) -> Result<Members> {
        let fail = |e: xelm_runtime::pack::Error| Error::usage(e.to_string());
        let set_folder = SetFolder::open(folder).map_err(fail)?;
        let set = set_folder.set().map_err(fail)?;
        let mut found = Members { members: Vec::new(), weights: None, n_params: None, n_ctx: None };
        for (index, entry) in set.entries().enumerate() {
            let speaks = set.languages().filter(|(expert, _)| *expert == index);
            let mut member = Member {
                id: entry.id.to_owned(),
                file: entry.file.to_owned(),
                languages: speaks.map(|(_, language)| language.to_owned()).collect(),
                parent: entry.parent.to_owned(),
                bytes: entry.size,
                round: None,
                tokens: None,
            };
            let path = folder.join(entry.file);
            if path.exists() {
                let file = MappedFile::open(&path).map_err(Error::io("open", &path))?;
                let gguf = file.gguf().map_err(Error::file(&path))?;
                found.describe(&gguf, &mut member).map_err(Error::file(&path))?;
            }
            found.members.push(member);
        }
        Ok(found)
    }

    fn describe(&mut self, gguf: &Gguf<'_>, member: &mut Member) -> xelm_runtime::Result<()> {
        let config = Config::read(gguf)?;
        self.n_params = Some(config.n_params());
        self.n_ctx = Some(config.n_ctx);
        if let Some(Value::U32(number)) = gguf.get(keys::FILE_TYPE) {
            let name = match number {
                0 => "f32".to_owned(),
                1 => "f16".to_owned(),
                2 => "q4_0".to_owned(),
                3 => "q4_1".to_owned(),
                7 => "q8_0".to_owned(),
                15 => "q4_k_m".to_owned(),
                17 => "q5_k_m".to_owned(),
                18 => "q6_k".to_owned(),
                32 => "bf16".to_owned(),
                other => format!("llama.cpp's file type {other}"),
            };
            self.weights = Some(name);
        }
        if let Some(Value::U32(round)) = gguf.get(keys::EXPERT_ROUND) {
            member.round = Some(round);
        }
        if let Some(Value::U64(tokens)) = gguf.get(keys::EXPERT_TRAINED_TOKENS) {
            member.tokens = Some(tokens);
        }
        Ok(())
    }

    fn languages(&self) -> Vec<String> {
        let mut languages: Vec<String> =
            self.members.iter().flat_map(|m| m.languages.clone()).collect();
        languages.sort_unstable();
        languages.dedup();
        languages
    }
}

/// Writes the card of a run's set: of the folder `set`, which may be a quantised one.
///
/// # Errors
/// The set cannot be read, or the card not written.
pub fn write_card(run: &Run, set: &Path) -> Result<PathBuf> {
    let words = Words::open(run)?;
    let members = Members::open(set)?;
    let text = front::front(&words, &members) + &text::body(run, set, &words, &members)?;
    write(set, &text)
}

/// Writes the cards of all sets in a run: `set` and every `set-…`.
///
/// # Errors
/// As [`write_card`]; there is no set.
pub fn write_cards(run: &Run) -> Result<Vec<PathBuf>> {
    let root = run.path("");
    let entries = fs::read_dir(&root).map_err(Error::io("read", &root))?;
    let mut sets: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let rest = name.to_str().and_then(|name| name.strip_prefix(SET));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
        .map(|entry| entry.path())
        .filter(|path| path.join(SET_FILE).exists())
        .collect();
    sets.sort();
    if sets.is_empty() {
        let root = root.display();
        return Err(Error::usage(format!("{root} has no set yet: `xelm pack` makes it")));
    }
    sets.iter().map(|set| write_card(run, set)).collect()
}

/// Gives the set `to`, which was made from the set `from` by quantising, a card: a new one where its run is at
/// hand, or else that of `from` with the weights renamed; none where that has none.
///
/// # Errors
/// As [`write_card`].
pub fn carry_card(from: &Path, to: &Path) -> Result<Option<PathBuf>> {
    let root = from.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned));
    if let Some(run) = root.and_then(|root| Run::open(&root).ok()) {
        return write_card(&run, to).map(Some);
    }
    let path = from.join(CARD);
    if !path.exists() {
        return Ok(None);
    }
    let card = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let weights = text::weights(&Members::open(to)?);
    let lines = card.lines().map(|line| match line.starts_with(text::WEIGHTS) {
        true => weights.trim_end().to_owned(),
        false => line.to_owned(),
    });
    write(to, &(lines.collect::<Vec<_>>().join("\n") + "\n")).map(Some)
}

fn write(set: &Path, text: &str) -> Result<PathBuf> {
    let path = set.join(CARD);
    AtomicFile::write(&path, text.as_bytes()).map_err(Error::io("write", &path))?;
    Ok(path)
}

#[cfg(test)]
mod tests;
