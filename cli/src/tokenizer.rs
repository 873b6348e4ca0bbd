//! `xelm tokenizer train` and `xelm tokenizer import`

use crate::progress::Progress;
use crate::{Result, print_line};
use clap::Subcommand;
use serde_json::json;
use std::path::PathBuf;
use xelm_train::corpus::{BadInput, Corpus};
use xelm_train::run::{Run, report_skipped};
use xelm_train::vocab::{self, VocabSettings};

/// Vocabularies.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Train(Train),
    Import(Import),
}

/// Makes a vocabulary of a SentencePiece unigram model (spm.model, sentencepiece.bpe.model), with XGLM's order
/// of ids: <s>, <pad>, </s>, <unk>, then the pieces.
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// The model.
    #[arg(long, value_name = "FILE")]
    sentencepiece: PathBuf,
    /// File to write the vocabulary to.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Learns a vocabulary from a corpus: XGLM's kind, a unigram model over NFKC-normalised text.
///
/// With --run it also begins a run directory, which the later stages use; with --out it writes the
/// vocabulary alone. The corpus is a folder of <language>[.train|.valid].txt, .jsonl, .jsonl.gz or
/// .jsonl.zst; a blank line separates the documents of a .txt, every line of a .jsonl is a record with
/// a "text". The same corpus gives the same vocabulary, byte for byte.
#[derive(Debug, clap::Args)]
pub(crate) struct Train {
    /// Folder of the corpus.
    #[arg(long, value_name = "DIR")]
    corpus: PathBuf,
    /// Run directory to begin.
    #[arg(long, value_name = "DIR", required_unless_present = "out")]
    run: Option<PathBuf>,
    /// File to write the vocabulary to, without a run directory.
    #[arg(long, value_name = "FILE", conflicts_with = "run")]
    out: Option<PathBuf>,
    /// Languages to use, separated by commas; the default is all.
    #[arg(long, value_delimiter = ',', value_name = "TAGS")]
    languages: Vec<String>,
    /// Languages of the corpus that the vocabulary learns from besides: those that `xelm adapt` will add
    /// to the run's experts one day. A vocabulary that has not seen a script has no tokens for it.
    #[arg(long, value_delimiter = ',', value_name = "TAGS", requires = "run")]
    later: Vec<String>,
    /// Tokens in the vocabulary.
    #[arg(long, default_value_t = 16_000, value_name = "N")]
    vocab_size: usize,
    /// Share of all characters that get tokens of their own; the rarest others become <unk>.
    #[arg(long, default_value_t = 0.9995, value_name = "SHARE")]
    character_coverage: f64,
    /// Characters of distinct words to learn from: of the rare words of a larger corpus, a sample
    /// stands for all. A million takes about a minute.
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    max_chars: usize,
    #[command(flatten)]
    bad_input: BadInputArg,
    /// Print what was made as JSON.
    #[arg(long)]
    json: bool,
}

/// What to do with bad lines.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct BadInputArg {
    /// Lines of the corpus that are not UTF-8, not JSON, or no records: stop at the first one, or skip
    /// them and say which.
    #[arg(long, value_enum, default_value = "stop")]
    bad_input: Policy,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Policy {
    Stop,
    Skip,
}

impl From<BadInputArg> for BadInput {
    fn from(arg: BadInputArg) -> Self {
        match arg.bad_input {
            Policy::Stop => BadInput::Stop,
            Policy::Skip => BadInput::Skip,
        }
    }
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        let args = match self {
            Command::Train(args) => args,
            Command::Import(args) => {
                let vocabulary = vocab::sentencepiece::read(&args.sentencepiece)?;
                vocab::save(&vocabulary, &args.out)?;
                return print_line(format_args!("{}", args.out.display()));
            }
        };
        let bad_input = args.bad_input.into();
        if !(0.0..=1.0).contains(&args.character_coverage) {
            return Err("--character-coverage is a share between 0 and 1".into());
        }
        let settings = VocabSettings {
            n_vocab: args.vocab_size,
            character_coverage: args.character_coverage,
            max_chars: args.max_chars,
            bad_input,
        };
        let (path, skipped) = match (&args.run, &args.out) {
            (Some(root), _) => {
                let run = Run::create(root, &args.corpus, &args.languages, bad_input)?;
                (run.tokenizer_path(), run.train_vocabulary(&settings, &args.later)?)
            }
            (None, out) => {
                let path = out.clone().unwrap_or_default();
                let mut corpus = Corpus::find(&args.corpus)?;
                if !args.languages.is_empty() {
                    corpus = corpus.only(&args.languages)?;
                }
                let (vocabulary, skipped) = vocab::train(&corpus, &settings)?;
                vocab::save(&vocabulary, &path)?;
                (path, skipped)
            }
        };
        report_skipped(&skipped, &mut Progress::new());
        if args.json {
            print_line(json!({ "file": path, "skipped": skipped.len() }))
        } else {
            print_line(format_args!("{}", path.display()))
        }
    }
}
