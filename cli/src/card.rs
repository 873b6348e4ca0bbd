//! `xelm card`

use crate::{Result, print_line};
use std::path::PathBuf;
use xelm_train::card::{Words, write_card, write_cards};
use xelm_train::run::Run;

/// Writes the model card of a set: README.md, with the front matter that model hubs read, the experts and their
/// languages, data, steps and lineage, the figures of eval.json, and how to use the files.
///
/// `xelm pack` and `xelm quantize` write cards, too; this one is for after an evaluation, or when licence or
/// title change. What is said with the flags is kept in the run and goes into every later card.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run directory that the set was made in.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Folder of the set; the default is RUN/set and every RUN/set-* beside it.
    #[arg(long, value_name = "DIR")]
    set: Option<PathBuf>,
    #[command(flatten)]
    words: WordsArgs,
}

/// What only the user can say of a set.
#[derive(Debug, clap::Args)]
pub(crate) struct WordsArgs {
    /// Title of the model card.
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// Licence of the models for the card, such as apache-2.0; without it the card says that it is unknown.
    #[arg(long, visible_alias = "license", value_name = "NAME")]
    licence: Option<String>,
    /// Licence of the training data for the card.
    #[arg(long, visible_alias = "data-license", value_name = "NAME")]
    data_licence: Option<String>,
    /// Published model that the seed was made from, for the card, as hubs name it (owner/name).
    #[arg(long, value_name = "NAME")]
    base_model: Option<String>,
}

impl WordsArgs {
    pub(crate) fn words(self) -> Words {
        let WordsArgs { title, licence, data_licence, base_model } = self;
        Words { title, licence, data_licence, base_model }
    }
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let run = Run::open(&self.run)?;
        self.words.words().record(&run)?;
        let cards = match self.set {
            Some(set) => vec![write_card(&run, &set)?],
            None => write_cards(&run)?,
        };
        for card in cards {
            print_line(card.display())?;
        }
        Ok(())
    }
}
