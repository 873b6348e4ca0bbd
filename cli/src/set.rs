//! `xelm set`

use crate::{Result, print_line};
use clap::Subcommand;
use serde_json::json;
use std::path::PathBuf;
use xelm_runtime::pack::{self, Edited, MANIFEST, SetFolder, write_manifest};
use xelm_runtime::set::file_identity;

/// Changes a set: adds, replaces or removes an expert, or fills in a file that the set lists.
///
/// No other file is touched but set.gguf and set.json. Who reads the set meanwhile finds the old one or the
/// new one, and so does everybody after a command that was killed.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Adds an expert. A router, which does not know it, is dropped.
    Add(File),
    /// Puts an expert into the place of the one that has its name.
    Replace(File),
    /// Removes an expert and its file. A router is dropped.
    Remove(Id),
    /// Copies an expert file into the folder of a set that lists it, once its SHA-256 has been found right.
    Install(Install),
    /// Writes set.json anew.
    Manifest(Manifest),
}

/// An expert file and the set that it shall become part of.
#[derive(Debug, clap::Args)]
pub(crate) struct File {
    /// Folder of the set.
    #[arg(long, value_name = "DIR")]
    set: PathBuf,
    /// Expert file; it is copied.
    #[arg(long, value_name = "FILE")]
    expert: PathBuf,
    /// Name of the expert in the set; the default is the one that the file states.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Print what changed as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Id {
    /// Folder of the set.
    #[arg(long, value_name = "DIR")]
    set: PathBuf,
    /// Name of the expert.
    #[arg(long, value_name = "ID")]
    id: String,
    /// Print what changed as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Install {
    /// Folder of the set.
    #[arg(long, value_name = "DIR")]
    set: PathBuf,
    /// Expert file; it is copied.
    #[arg(long, value_name = "FILE")]
    expert: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Manifest {
    /// Folder of the set.
    #[arg(long, value_name = "DIR")]
    set: PathBuf,
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Command::Add(File { set, expert, id, json }) => {
                report("added", pack::add(&set, &expert, id.as_deref())?, json)
            }
            Command::Replace(File { set, expert, id, json }) => {
                report("replaced", pack::replace(&set, &expert, id.as_deref())?, json)
            }
            Command::Remove(Id { set, id, json }) => {
                report("removed", pack::remove(&set, &id)?, json)
            }
            Command::Install(args) => args.run(),
            Command::Manifest(Manifest { set }) => {
                let path = set.join(MANIFEST);
                write_manifest(&set).map_err(|e| format!("{}: {e}", path.display()))?;
                print_line(path.display())
            }
        }
    }
}

fn report(what: &str, edited: Edited, json: bool) -> Result<()> {
    let Edited { id, file, dropped_router } = edited;
    if dropped_router {
        eprintln!("the set's router does not fit another number of experts and was dropped");
    }
    if json {
        return print_line(json!({what: id, "file": file, "dropped_router": dropped_router}));
    }
    print_line(format_args!("{what} {id}\t{file}"))
}

impl Install {
    fn run(self) -> Result<()> {
        let name = self.expert.display();
        let (size, sha256) =
            file_identity(&self.expert).map_err(|e| format!("cannot read {name}: {e}"))?;
        let index = {
            let folder = SetFolder::open(&self.set)?;
            let set = folder.set()?;
            set.entries().position(|e| e.size == size && e.sha256.eq_ignore_ascii_case(&sha256))
        };
        let unknown = || format!("{name}: not a file of this set (its SHA-256 is {sha256})");
        let path = pack::install(&self.set, index.ok_or_else(unknown)?, &self.expert)?;
        print_line(path.display())
    }
}
