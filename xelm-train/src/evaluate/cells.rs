//! Scoring: a model on the texts of a language.

use super::journal::Journal;
use super::models::Model;
use super::pieces::in_pieces;
use super::texts::Texts;
use crate::memory::Memory;
use crate::report::Report;
use crate::run::Run;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::parallel::Serial;
use xelm_runtime::score;
use xelm_runtime::session::{KvType, Options, Session};
use xelm_runtime::tokenizer::hex;

/// Part of every cell's identity: a cell that was measured otherwise is measured again.
const FORMAT: u32 = 1;

/// The finished cells of a run.
pub(crate) const JOURNAL: &str = "eval.jsonl";

/// Bytes of text that one thread scores at a time.
const PIECE: usize = 64 << 10;

/// Bytes of text that no token is longer than on average: where a document exceeds the context, this much
/// of it counts as work.
const BYTES_PER_TOKEN: usize = 8;

/// What a model finds of the texts of a language.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Documents.
    pub documents: usize,
    /// Tokens that were predicted.
    pub tokens: usize,
    /// UTF-8 bytes that they stand for.
    pub bytes: usize,
    /// Sum of the negative log likelihoods, in nats.
    pub nll_sum: f64,
    /// Perplexity per token.
    pub ppl: f64,
    /// Bits per UTF-8 byte.
    pub bpb: f64,
}

impl Score {
    fn new(documents: usize, parts: impl Iterator<Item = score::Score>) -> Self {
        let mut sum = score::Score::default();
        parts.for_each(|part| sum.add(&part));
        let (ppl, bpb) = (sum.ppl(), sum.bpb());
        let score::Score { tokens, bytes, nll_sum } = sum;
        Score { documents, tokens, bytes, nll_sum, ppl, bpb }
    }
}

/// A line of the journal: names for people beside the score.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    model: String,
    language: String,
    #[serde(flatten)]
    score: Score,
}

/// A model and the texts that it is to score.
#[derive(Clone, Debug)]
pub(crate) struct Cell<'a> {
    /// The model's name, for people.
    pub(crate) name: String,
    pub(crate) model: Model<'a>,
    pub(crate) texts: &'a Texts,
}

impl Cell<'_> {
    /// SHA-256 over everything that the score depends on but the program.
    fn id(&self) -> String {
        let (model, n_ctx, texts) = (self.model.identity(), self.model.n_ctx(), &self.texts.sha256);
        hex(&Sha256::digest(format!("xelm eval {FORMAT}\n{model}\n{n_ctx}\n{texts}\n")))
    }

    /// Bytes of a document that are work.
    fn work(&self, document: &str) -> usize {
        document.len().min(self.model.n_ctx() * BYTES_PER_TOKEN)
    }

    fn cost(&self) -> usize {
        let work: usize = self.texts.documents.iter().map(|d| self.work(d)).sum();
        work.saturating_mul(self.model.cost())
    }

    /// The documents in runs of about as much work each.
    fn pieces(&self) -> Vec<&[String]> {
        let (mut pieces, mut work, mut start) = (Vec::new(), 0, 0);
        let documents = &self.texts.documents;
        for (i, document) in documents.iter().enumerate() {
            work += self.work(document);
            if work >= PIECE || i + 1 == documents.len() {
                pieces.push(&documents[start..=i]);
                (work, start) = (0, i + 1);
            }
        }
        pieces
    }
}

/// The scores of cells, in order. Those that the run's journal holds are taken from it, the others are
/// measured, the most expensive first, and noted as they end.
///
/// # Errors
/// A model cannot score the texts; the journal cannot be written.
pub(crate) fn score_cells(
    run: &Run,
    cells: &[Cell<'_>],
    report: &mut (dyn Report + Send),
) -> Result<Vec<Score>> {
    let mut journal = Journal::<Entry>::open(&run.shared_path(JOURNAL))?;
    let ids: Vec<String> = cells.iter().map(Cell::id).collect();
    let mut known: HashSet<&str> = HashSet::new();
    let mut todo: Vec<(&Cell<'_>, &str)> = cells
        .iter()
        .zip(ids.iter().map(String::as_str))
        .filter(|(_, id)| journal.get(id).is_none() && known.insert(id))
        .collect();
    todo.sort_by_key(|(cell, _)| std::cmp::Reverse(cell.cost()));
    let names: HashSet<&str> = ids.iter().map(String::as_str).collect();
    report.note(&format!("{} of {} cells are to be measured", todo.len(), names.len()));
    measure(&todo, &mut journal, report)?;
    let score = |id: &String| journal.get(id).map(|entry| entry.score);
    ids.iter().map(|id| score(id).ok_or_else(|| Error::usage("a cell was not measured"))).collect()
}

fn measure(
    todo: &[(&Cell<'_>, &str)],
    journal: &mut Journal<Entry>,
    report: &mut (dyn Report + Send),
) -> Result<()> {
    let began = Instant::now();
    let mut done = 0;
    let work = |i: usize, texts: &[String]| score_documents(&todo[i].0.model, texts);
    let finish = |i: usize, parts: Vec<score::Score>| {
        let (cell, id): (&Cell<'_>, &str) = todo[i];
        let score = Score::new(cell.texts.documents.len(), parts.into_iter());
        let (model, language) = (cell.name.clone(), cell.texts.language.clone());
        done += 1;
        report.note(&format!(
            "{done}/{} after {:.0} s: {model} on {language}, {:.4} bits per byte",
            todo.len(),
            began.elapsed().as_secs_f64(),
            score.bpb
        ));
        journal.append(id.to_owned(), Entry { model, language, score })
    };
    in_pieces(todo.iter().map(|(cell, _)| cell.pieces()).collect(), work, finish)
}

/// Scores documents, each from its own beginning, and adds them up.
pub(crate) fn score_documents(model: &Model<'_>, texts: &[String]) -> Result<score::Score> {
    model.with(|ensemble, mixing| {
        let fail = Error::file(Path::new(ensemble.first().id()));
        let tokenizer = ensemble.tokenizer().ok_or(xelm_runtime::Error::NoTokenizer);
        let normalizer = tokenizer.map_err(&fail)?.normalizer();
        let max_text =
            texts.iter().map(|t| normalizer.normalized_len(t.as_bytes())).max().unwrap_or(0);
        let options = Options {
            n_batch: 32,
            n_logits: 16,
            kv: KvType::F32,
            max_text,
            mixing,
            full_output: true,
            ..Options::default()
        };
        let mut memory = Memory::new(Session::plan(ensemble, &options).map_err(&fail)?.total);
        let kernels = Kernels::new(Isa::detect());
        let mut session =
            Session::init(ensemble, &options, memory.bytes(), kernels, &Serial).map_err(&fail)?;
        let mut total = score::Score::default();
        for text in texts {
            total.add(&session.score_text(text.as_bytes()).map_err(&fail)?);
        }
        Ok(total)
    })
}
