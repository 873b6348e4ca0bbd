//! Models on the examples of a language, measured and noted.

use super::score::{Scored, score_examples};
use super::subjects::Subjects;
use super::{Example, IclSettings, Scoring};
use crate::evaluate::journal::Journal;
use crate::evaluate::models::Model;
use crate::evaluate::pieces::in_pieces;
use crate::report::Report;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use xelm_runtime::format::AtomicFile;
use xelm_runtime::tokenizer::hex;

/// Part of every cell's identity: a cell that was measured otherwise is measured again.
const FORMAT: u32 = 1;

/// Examples that one thread scores at a time.
const PIECE: usize = 32;

/// A model on the examples of a language, in one run.
pub(super) struct Cell<'a> {
    pub(super) name: String,
    pub(super) model: Model<'a>,
    pub(super) language: &'a str,
    pub(super) examples: &'a [Example],
    pub(super) run: usize,
    pub(super) demonstrations: &'a [String],
}

impl Cell<'_> {
    fn id(&self, scoring: &Scoring) -> Result<String> {
        let text =
            |e: &Example| (e.shared.clone(), e.candidates.clone(), e.gold, e.routing.clone());
        let examples: Vec<_> = self.examples.iter().map(text).collect();
        let (model, n_ctx) = (self.model.identity(), self.model.n_ctx());
        let all = (FORMAT, model, n_ctx, scoring, self.demonstrations, examples);
        let all = serde_json::to_vec(&all).map_err(|e| Error::usage(format!("icl: {e}")))?;
        Ok(hex(&Sha256::digest(all)))
    }
}

/// A cell's result, as `icl.jsonl` keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    task: String,
    model: String,
    language: String,
    shots: usize,
    run: usize,
    pub(super) correct: usize,
    pub(super) examples: usize,
    pub(super) cut: usize,
}

/// What is told of every example on request.
#[derive(Serialize)]
struct ExampleLine<'a> {
    model: &'a str,
    language: &'a str,
    run: usize,
    line: usize,
    gold: usize,
    prediction: usize,
    scores: &'a [f64],
    cut: bool,
}

/// The results of all cells, in order.
pub(super) fn measure(
    subjects: &Subjects<'_>,
    settings: &IclSettings,
    cells: &[Cell<'_>],
    report: &mut (dyn Report + Send),
) -> Result<Vec<Entry>> {
    let IclSettings { task, shots, scoring, .. } = settings;
    let mut journal = match subjects {
        Subjects::Run(run) => Some(Journal::<Entry>::open(&run.path("icl.jsonl"))?),
        _ => None,
    };
    let ids: Vec<String> = cells.iter().map(|cell| cell.id(scoring)).collect::<Result<_>>()?;
    let mut results: BTreeMap<&str, Entry> = BTreeMap::new();
    if let (Some(journal), None) = (&journal, &settings.examples) {
        results =
            ids.iter().filter_map(|id| Some((id.as_str(), journal.get(id)?.clone()))).collect();
    }
    let mut known: HashSet<&str> = results.keys().copied().collect();
    // For the examples' file every cell is scored, also one that is another by another name.
    let is_new = |id: &str| settings.examples.is_some() || !results.contains_key(id);
    let mut todo: Vec<usize> = (0..cells.len()).filter(|&i| is_new(&ids[i])).collect();
    if settings.examples.is_none() {
        todo.retain(|&i| known.insert(&ids[i]));
    }
    todo.sort_by_key(|&i| std::cmp::Reverse(cells[i].model.cost()));
    report.note(&format!("{} of {} cells are to be measured", todo.len(), cells.len()));
    let pieces = todo.iter().map(|&i| cells[i].examples.chunks(PIECE).collect()).collect();
    let work = |i: usize, examples: &[Example]| {
        let Cell { model, demonstrations, .. } = &cells[todo[i]];
        score_examples(model, demonstrations, examples, scoring)
    };
    let mut lines: BTreeMap<usize, Vec<Scored>> = BTreeMap::new();
    let mut done = 0;
    let finish = |i: usize, parts: Vec<Vec<Scored>>| {
        let Cell { name, language, examples, run, .. } = &cells[todo[i]];
        let scored = parts.concat();
        let right = |(s, e): &(&Scored, &Example)| s.prediction() == e.gold;
        let entry = Entry {
            task: task.name().to_owned(),
            model: name.clone(),
            language: (*language).to_owned(),
            shots: *shots,
            run: *run,
            correct: scored.iter().zip(*examples).filter(right).count(),
            examples: examples.len(),
            cut: scored.iter().filter(|s| s.is_cut).count(),
        };
        done += 1;
        let (n, of) = (todo.len(), entry.examples);
        report.note(&format!("{done}/{n}: {name} on {language}, {} of {of} right", entry.correct));
        if settings.examples.is_some() {
            lines.insert(todo[i], scored);
        }
        results.insert(&ids[todo[i]], entry.clone());
        journal.as_mut().map_or(Ok(()), |journal| journal.append(ids[todo[i]].clone(), entry))
    };
    in_pieces(pieces, work, finish)?;
    if let Some(path) = &settings.examples {
        write_examples(path, cells, &lines)?;
    }
    let result = |id: &String| results.get(id.as_str()).cloned();
    ids.iter().map(|id| result(id).ok_or_else(|| Error::usage("a cell was not measured"))).collect()
}

fn write_examples(
    path: &Path,
    cells: &[Cell<'_>],
    lines: &BTreeMap<usize, Vec<Scored>>,
) -> Result<()> {
    let mut text = String::new();
    for (&i, scored) in lines {
        let Cell { name, language, run, examples, .. } = &cells[i];
        for (scored, example) in scored.iter().zip(*examples) {
            let line = ExampleLine {
                model: name,
                language,
                run: *run,
                line: example.line,
                gold: example.gold,
                prediction: scored.prediction(),
                scores: &scored.scores,
                cut: scored.is_cut,
            };
            let fail = |e| Error::usage(format!("cannot write {}: {e}", path.display()));
            text.push_str(&serde_json::to_string(&line).map_err(fail)?);
            text.push('\n');
        }
    }
    AtomicFile::write(path, text.as_bytes()).map_err(Error::io("write", path))
}
