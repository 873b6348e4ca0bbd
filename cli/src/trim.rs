//! `xelm trim`

use crate::Result;
use crate::open::open_expert;
use crate::shortlist::{Source, any_expert, print, tokenizer};
use std::path::{Path, PathBuf};
use xelm_runtime::pack::SetFolder;
use xelm_runtime::set::Row;
use xelm_runtime::tokenizer::hex;
use xelm_train::card::carry_card;
use xelm_train::shortlist::{convert_set, trim, trimmed_hash};

/// Makes the vocabulary of a set smaller, the same for all of its experts, and with it their files: tokens that
/// the corpus hardly has are taken out of the tokenizer and of the embedding.
///
/// What they stood for is read and written with shorter tokens, as which the experts have seen it less often:
/// `xelm eval` says what that costs. Every character that the training text of the languages has stays readable
/// and writable; others become <unk>. The files are as standard as they were, record the vocabulary that they
/// come from, and mix with each other alone. A list of tokens that leaves the vocabulary as it is:
/// `xelm shortlist`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// File or folder to write.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Print what was made as JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let source = &self.source;
        let Some(set) = &source.set else {
            let path = source.expert.as_deref().unwrap_or(Path::new(""));
            let file = open_expert(path)?;
            let tokenizer = tokenizer(file.expert())?;
            let usages = source.count(tokenizer, &source.languages(file.expert().languages()))?;
            let (ids, covered) = source.choose(tokenizer, &usages)?;
            let made = trim(path, &self.out, &ids)?;
            return print(self.json, &self.out, &[(file.expert().id().to_owned(), made, covered)]);
        };
        let file = any_expert(set)?;
        let tokenizer = tokenizer(file.expert())?;
        let rows = Row::read(&SetFolder::open(set)?.set()?);
        let all = source.languages(rows.into_iter().flat_map(|row| row.languages));
        let usages = source.count(tokenizer, &all)?;
        let (ids, covered) = source.choose(tokenizer, &usages)?;
        let hash = hex(&trimmed_hash(tokenizer, &ids, set)?);
        let mut made = Vec::new();
        let each = |entry: xelm_runtime::set::Entry<'_>, from: &Path, to: &Path| {
            made.push((entry.id.to_owned(), trim(from, to, &ids)?, covered.clone()));
            Ok(())
        };
        convert_set(set, &self.out, each, Some(&hash))?;
        carry_card(set, &self.out)?;
        print(self.json, &self.out, &made)
    }
}
