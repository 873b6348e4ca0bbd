//! `xelm shortlist`

use crate::open::open_expert;
use crate::progress::Progress;
use crate::tokenizer::BadInputArg;
use crate::{Result, print_line};
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use xelm_runtime::expert::Expert;
use xelm_runtime::mmap::ExpertFile;
use xelm_runtime::pack::SetFolder;
use xelm_runtime::set::Row;
use xelm_runtime::tokenizer::Tokenizer;
use xelm_train::card::carry_card;
use xelm_train::corpus::Corpus;
use xelm_train::run::report_skipped;
use xelm_train::shortlist::{Restricted, convert_set, write_shortlist};
use xelm_train::usage::{Amount, Coverage, Usage, choose, count, coverage};

/// Makes an expert faster and smaller in memory where its vocabulary has far more tokens than its languages
/// use: logits are computed for the tokens of a list alone, the others are never written. Texts are read as
/// before.
///
/// The list holds the tokens that the training text of the languages has most often, all special tokens, and
/// as tokens of their own every character of these texts and every printable one of ASCII, so that any word of
/// theirs can be written. What it covers of the held-out text is printed. The file carries the rows of the list
/// a second time, side by side, and only xelm reads it; without the list (generate --full-output, score, eval)
/// it computes what it computed before, bit for bit.
///
/// Of a set, each expert gets the list of its own languages, or all get that of --lang; mixed experts give
/// the tokens that are on no list of theirs probability 0.
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

/// What is restricted, and by which text.
#[derive(Debug, clap::Args)]
pub(crate) struct Source {
    /// Expert file.
    #[arg(long, value_name = "FILE", required_unless_present = "set", conflicts_with = "set")]
    pub(crate) expert: Option<PathBuf>,
    /// Folder of a set.
    #[arg(long, value_name = "DIR")]
    pub(crate) set: Option<PathBuf>,
    /// Folder of the corpus.
    #[arg(long, value_name = "DIR")]
    corpus: PathBuf,
    /// Languages of the corpus, separated by commas; the default is those that the expert or the set speaks.
    #[arg(long, value_delimiter = ',', value_name = "TAGS")]
    lang: Vec<String>,
    /// Tokens to keep.
    #[arg(long, value_name = "N", conflicts_with = "coverage")]
    size: Option<usize>,
    /// Keep as many tokens as make up this share of every language's training text.
    #[arg(long, default_value_t = 0.9999, value_name = "SHARE")]
    coverage: f64,
    #[command(flatten)]
    bad_input: BadInputArg,
}

impl Source {
    fn amount(&self) -> Amount {
        self.size.map_or(Amount::Share(self.coverage), Amount::Tokens)
    }

    /// What was asked for, or else what is spoken.
    pub(crate) fn languages<S: Into<String>>(
        &self,
        spoken: impl IntoIterator<Item = S>,
    ) -> BTreeSet<String> {
        match self.lang.is_empty() {
            true => spoken.into_iter().map(Into::into).collect(),
            false => self.lang.iter().cloned().collect(),
        }
    }

    /// Counts the tokens of the languages' text.
    pub(crate) fn count(
        &self,
        tokenizer: &Tokenizer<'_>,
        languages: &BTreeSet<String>,
    ) -> Result<Vec<Usage>> {
        let languages: Vec<_> = languages.iter().cloned().collect();
        let corpus = Corpus::find(&self.corpus)?.only(&languages)?;
        let usages = count(&corpus, tokenizer, self.bad_input.into())?;
        for usage in &usages {
            report_skipped(&usage.skipped, &mut Progress::new());
        }
        Ok(usages)
    }

    /// Chooses tokens, and says what they cover.
    pub(crate) fn choose(
        &self,
        tokenizer: &Tokenizer<'_>,
        usages: &[Usage],
    ) -> Result<(Vec<u32>, Vec<Coverage>)> {
        let ids = choose(tokenizer, usages, self.amount())?;
        let covered = coverage(usages, &ids);
        Ok((ids, covered))
    }
}

/// The tokenizer of an expert.
pub(crate) fn tokenizer<'a>(expert: &'a Expert<'_>) -> Result<&'a Tokenizer<'a>> {
    Ok(expert.tokenizer().ok_or(xelm_runtime::Error::NoTokenizer)?)
}

/// An expert of a set that is present: its vocabulary is that of all.
pub(crate) fn any_expert(folder: &Path) -> Result<ExpertFile> {
    let folder = SetFolder::open(folder)?;
    let n_experts = folder.set()?.len();
    let path = (0..n_experts).filter_map(|i| folder.expert(i)).find(|path| path.exists());
    open_expert(&path.ok_or("no expert of the set is present")?)
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
            let made = write_shortlist(path, &self.out, &ids)?;
            return print(self.json, &self.out, &[(file.expert().id().to_owned(), made, covered)]);
        };
        let file = any_expert(set)?;
        let tokenizer = tokenizer(file.expert())?;
        let rows = Row::read(&SetFolder::open(set)?.set()?);
        let all = source.languages(rows.iter().flat_map(|row| row.languages.clone()));
        let usages = source.count(tokenizer, &all)?;
        let mut experts = Vec::new();
        for row in rows {
            let own = source.languages(row.languages);
            let usages: Vec<_> =
                usages.iter().filter(|usage| own.contains(&usage.language)).cloned().collect();
            experts.push((row.id, source.choose(tokenizer, &usages)?));
        }
        let mut made = Vec::new();
        let mut chosen = experts.into_iter();
        let each = |_: xelm_runtime::set::Entry<'_>, from: &Path, to: &Path| {
            if let Some((id, (ids, covered))) = chosen.next() {
                made.push((id, write_shortlist(from, to, &ids)?, covered));
            }
            Ok(())
        };
        convert_set(set, &self.out, each, None)?;
        carry_card(set, &self.out)?;
        print(self.json, &self.out, &made)
    }
}

/// Says what became of each expert, by its name.
pub(crate) fn print(
    as_json: bool,
    out: &Path,
    made: &[(String, Restricted, Vec<Coverage>)],
) -> Result<()> {
    if as_json {
        let experts: Vec<Json> = made
            .iter()
            .map(|(id, made, covered)| {
                let languages: serde_json::Map<_, _> = covered
                    .iter()
                    .map(|of| {
                        let counts = json!({
                            "tokens": of.tokens, "covered": of.covered, "share": of.share(),
                        });
                        (of.language.clone(), counts)
                    })
                    .collect();
                json!({
                    "id": id, "tokens_before": made.tokens[0], "tokens": made.tokens[1],
                    "output_bytes_before": made.output_bytes[0], "output_bytes": made.output_bytes[1],
                    "bytes_before": made.file_bytes[0], "bytes": made.file_bytes[1],
                    "coverage": languages,
                })
            })
            .collect();
        return print_line(json!({"out": out, "experts": experts}));
    }
    for (id, made, covered) in made {
        let Restricted { tokens, output_bytes, file_bytes } = made;
        print_line(format_args!(
            "{id}\t{} of {} tokens\toutput layer {} of {} bytes\tfile {}, was {} bytes",
            tokens[1], tokens[0], output_bytes[1], output_bytes[0], file_bytes[1], file_bytes[0]
        ))?;
        for of in covered {
            match of.share() {
                Some(share) => print_line(format_args!(
                    "{id}\t{}\t{:.3} % of {} held-out tokens",
                    of.language,
                    100.0 * share,
                    of.tokens
                ))?,
                None => print_line(format_args!("{id}\t{}\tno held-out text", of.language))?,
            }
        }
    }
    Ok(())
}
