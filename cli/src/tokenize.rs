//! `xelm tokenize`

use crate::Result;
use crate::open::ExpertArgs;
use std::io::{BufRead, Write};
use xelm_train::tokens::encode;

/// Turns lines of stdin into token ids, one list per line, </s> (2) first.
///
/// Lines end at \n only and are not trimmed; an empty line gives [2]. The ids are SentencePiece's.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    expert: ExpertArgs,
    /// Write a JSON array of ids per line instead of the pieces.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let opened = self.expert.open()?;
        let tokenizer = opened.file.expert().tokenizer().ok_or(xelm_runtime::Error::NoTokenizer)?;
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
