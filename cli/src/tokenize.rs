//! `xelm tokenize`

use crate::Result;
use crate::open::{ExpertArgs, map};
use std::io::{BufRead, Write};
use std::path::PathBuf;
use xelm_runtime::tokenizer::Tokenizer;
use xelm_train::tokens::encode;

/// Turns lines of stdin into token ids, one list per line, </s> (2) first.
///
/// Lines end at \n only and are not trimmed; an empty line gives [2]. The ids are SentencePiece's.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Expert file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["set", "vocab"])]
    #[arg(required_unless_present_any = ["set", "vocab"])]
    expert: Option<PathBuf>,
    /// Folder of a set, from which --lang chooses an expert.
    #[arg(long, value_name = "DIR", requires = "lang", conflicts_with = "vocab")]
    set: Option<PathBuf>,
    /// Language tag (BCP 47), such as de or zh-Hant-TW.
    #[arg(long, value_name = "TAG")]
    lang: Option<String>,
    /// File with a vocabulary alone: what `xelm tokenizer` writes, and a run's tokenizer.gguf.
    #[arg(long, value_name = "FILE")]
    vocab: Option<PathBuf>,
    /// Write a JSON array of ids per line instead of the pieces.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let Some(path) = &self.vocab else {
            let Args { expert, set, lang, .. } = &self;
            let (expert, set, lang) = (expert.clone(), set.clone(), lang.clone());
            let opened = ExpertArgs { expert, set, lang }.open()?;
            let tokenizer = opened.file.expert().tokenizer();
            return self.tokenize(tokenizer.ok_or(xelm_runtime::Error::NoTokenizer)?);
        };
        let file = map(path)?;
        let tokenizer = file.gguf().and_then(|gguf| Tokenizer::open(&gguf));
        self.tokenize(&tokenizer.map_err(|e| format!("{}: {e}", path.display()))?)
    }

    fn tokenize(&self, tokenizer: &Tokenizer<'_>) -> Result<()> {
        let mut input = std::io::stdin().lock();
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let mut line = Vec::new();
        while input.read_until(b'\n', &mut line)? > 0 {
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            let mut ids = vec![tokenizer.bos()];
            ids.extend(encode(tokenizer, text)?);
            if self.json {
                serde_json::to_writer(&mut out, &ids)?;
                writeln!(out)?;
            } else {
                let pieces: Vec<_> = ids.iter().map(|&id| tokenizer.piece(id)).collect();
                writeln!(out, "{}", pieces.join(" "))?;
            }
            line.clear();
        }
        Ok(out.flush()?)
    }
}
