//! What quantising costs: models beside the one that they were made from, token by token on held-out text.

use super::models::{ModelFile, SetModels};
use super::pieces::in_pieces;
use super::texts::{Texts, held_out_of};
use crate::corpus::{BadInput, Corpus};
use crate::job::write_json;
use crate::memory::Memory;
use crate::report::Report;
use crate::tokens::encode;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::parallel::Serial;
use xelm_runtime::session::{KvType, Options, Session, Want};

/// The table of a set, in its folder.
pub const QUALITY: &str = "quality.json";

/// Positions whose logits are held at once.
const N_LOGITS: usize = 16;

/// A model beside the one that it was made from, on the held-out text of a language.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QualityLine {
    /// The model: name of the expert, or path of its file where single files were compared.
    pub expert: String,
    /// The language.
    pub language: String,
    /// Tokens that were predicted.
    pub tokens: usize,
    /// Perplexity per token of the model that it was made from.
    pub ppl_before: f64,
    /// Its own.
    pub ppl: f64,
    /// Mean over the tokens of the KL divergence from the former's probabilities to its own, in nats.
    pub kld: f64,
    /// Share of the tokens at which both find the same one most probable.
    pub top1: f64,
    /// Bits per weight of its matrices, the embedding among them.
    pub bits_per_weight: f64,
}

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub enum Compared<'a> {
    /// Expert files.
    Experts {
        /// What they were made from.
        before: &'a Path,
        /// The files.
        after: &'a [PathBuf],
    },
    /// The experts of a set; the table is written into its folder.
    Set {
        /// The folder that it was made from.
        before: &'a Path,
        /// Its folder.
        after: &'a Path,
    },
}

/// Compares models with those that they were made from, on the held-out text of `languages`, or else of all
/// that they speak and the corpus has.
///
/// # Errors
/// A file cannot be read or does not fit its counterpart; the corpus lacks a language.
pub fn evaluate_quality(
    compared: Compared<'_>,
    corpus: &Path,
    languages: &[String],
    max_documents: usize,
    report: &mut (dyn Report + Send),
) -> Result<Vec<QualityLine>> {
    let corpus = Corpus::find(corpus)?;
    let texts = |own: Vec<String>| -> Result<Vec<Texts>> {
        let wanted = |tag: &String| match languages {
            [] => corpus.languages.contains_key(tag),
            _ => languages.contains(tag),
        };
        let own: Vec<String> = own.into_iter().filter(wanted).collect();
        held_out_of(&corpus.clone().only(&own)?, BadInput::Skip, max_documents)
    };
    let mut lines = Vec::new();
    match compared {
        Compared::Experts { before, after } => {
            let before = ModelFile::open(before)?;
            let files = after.iter().map(|path| ModelFile::open(path));
            let files = files.collect::<Result<Vec<_>>>()?;
            let names = after.iter().map(|path| path.display().to_string());
            let after: Vec<_> = names.zip(&files).collect();
            let own = if languages.is_empty() { before.languages() } else { languages.to_vec() };
            for texts in texts(own)? {
                lines.extend(compare(&before, &after, &texts, report)?);
            }
        }
        Compared::Set { before, after } => {
            let (before, folder) = (SetModels::open(before)?, after);
            let after = SetModels::open(folder)?;
            for (id, own, before) in before.members()? {
                let same = after.members()?.into_iter().find(|(other, ..)| *other == id);
                let (_, _, after) = same.ok_or_else(|| {
                    Error::usage(format!("{} has no expert {id}", folder.display()))
                })?;
                let after = [(id, after)];
                for texts in texts(own)? {
                    lines.extend(compare(before, &after, &texts, report)?);
                }
            }
            write_json(&folder.join(QUALITY), &lines)?;
        }
    }
    if lines.is_empty() {
        return Err(Error::usage("the corpus has no held-out text that the models speak"));
    }
    Ok(lines)
}

/// What is added up over tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    tokens: usize,
    nll_before: f64,
    nll: f64,
    kld: f64,
    same: usize,
}

impl Sums {
    /// Adds a position: the logits of both models, and the token that follows.
    fn push(&mut self, before: &[f32], after: &[f32], target: usize) {
        let (a, b) = (LogSoftmax::new(before), LogSoftmax::new(after));
        self.tokens += 1;
        self.nll_before -= a.of(before[target]);
        self.nll -= b.of(after[target]);
        let divergence = before.iter().zip(after).map(|(&x, &y)| {
            let (log_p, log_q) = (a.of(x), b.of(y));
            log_p.exp() * (log_p - log_q)
        });
        self.kld += divergence.sum::<f64>();
        self.same += usize::from(a.best == b.best);
    }

    fn add(&mut self, other: &Sums) {
        self.tokens += other.tokens;
        self.nll_before += other.nll_before;
        self.nll += other.nll;
        self.kld += other.kld;
        self.same += other.same;
    }
}

/// ln Σ exp of some logits, and the place of the largest.
struct LogSoftmax {
    log_sum: f64,
    best: usize,
}

impl LogSoftmax {
    fn new(logits: &[f32]) -> Self {
        let best = (1..logits.len()).fold(0, |b, i| if logits[i] > logits[b] { i } else { b });
        let max = f64::from(logits[best]);
        let sum: f64 = logits.iter().map(|&x| (f64::from(x) - max).exp()).sum();
        LogSoftmax { log_sum: max + sum.ln(), best }
    }

    /// The log probability of a token with this logit.
    fn of(&self, logit: f32) -> f64 {
        f64::from(logit) - self.log_sum
    }
}

/// Compares models with the one that they were made from on the texts of a language: a line for each.
fn compare(
    before: &ModelFile,
    after: &[(String, &ModelFile)],
    texts: &Texts,
    report: &mut (dyn Report + Send),
) -> Result<Vec<QualityLine>> {
    for (name, model) in after {
        if model.expert().config() != before.expert().config() {
            return Err(Error::usage(format!("{name} has other dimensions than what it is from")));
        }
    }
    report.note(&format!("{}: {}", before.id(), texts.language));
    let mut sums = vec![Sums::default(); after.len()];
    let documents: Vec<&String> = texts.documents.iter().collect();
    let add = |_, parts: Vec<Vec<Sums>>| {
        for part in parts {
            sums.iter_mut().zip(&part).for_each(|(sum, part)| sum.add(part));
        }
        Ok(())
    };
    in_pieces(vec![documents], |_, text| compare_on(before, after, text), add)?;
    let line = |((name, model), sums): (&(String, &ModelFile), &Sums)| {
        let per_token = |sum: f64| sum / sums.tokens.max(1) as f64;
        QualityLine {
            expert: name.clone(),
            language: texts.language.clone(),
            tokens: sums.tokens,
            ppl_before: per_token(sums.nll_before).exp(),
            ppl: per_token(sums.nll).exp(),
            kld: per_token(sums.kld),
            top1: per_token(sums.same as f64),
            bits_per_weight: model.expert().bits_per_weight(),
        }
    };
    Ok(after.iter().zip(&sums).map(line).collect())
}

/// Compares on one document, which is read as for [`xelm_runtime::session::Session::score_text`].
fn compare_on(before: &ModelFile, after: &[(String, &ModelFile)], text: &str) -> Result<Vec<Sums>> {
    let expert = before.expert();
    let fail = Error::file(Path::new(expert.id()));
    let tokenizer = expert.tokenizer().ok_or(xelm_runtime::Error::NoTokenizer).map_err(&fail)?;
    let ids = encode(tokenizer, text.as_bytes()).map_err(&fail)?;
    // What is read, and what follows each of it.
    let n = expert.config().n_ctx.min(ids.len() + 1);
    let read: Vec<u32> = std::iter::once(tokenizer.bos()).chain(ids.iter().copied()).collect();
    let next: Vec<u32> = ids.iter().copied().chain([tokenizer.eos()]).collect();
    let options = Options {
        n_batch: N_LOGITS,
        n_logits: N_LOGITS,
        kv: KvType::F32,
        full_output: true,
        ..Options::default()
    };
    let plan = Session::plan(expert, &options).map_err(&fail)?;
    let models = || std::iter::once(before).chain(after.iter().map(|(_, model)| *model));
    let mut memories: Vec<Memory> = models().map(|_| Memory::new(plan.total)).collect();
    let mut sessions = Vec::new();
    for (model, memory) in models().zip(&mut memories) {
        let kernels = Kernels::new(Isa::detect());
        let session = Session::init(model.expert(), &options, memory.bytes(), kernels, &Serial);
        sessions.push(session.map_err(&fail)?);
    }
    let (first, others) = sessions.split_first_mut().ok_or_else(|| Error::usage("no model"))?;
    let mut sums = vec![Sums::default(); others.len()];
    let mut logits = Vec::new();
    for (read, next) in read[..n].chunks(N_LOGITS).zip(next.chunks(N_LOGITS)) {
        logits.clear();
        let keep = &mut |_: usize, row: &[f32]| logits.extend_from_slice(row);
        first.run(read, Want::All(keep)).map_err(&fail)?;
        let n_vocab = expert.config().n_vocab;
        for (session, sums) in others.iter_mut().zip(&mut sums) {
            let compare = &mut |i: usize, row: &[f32]| {
                sums.push(&logits[i * n_vocab..][..n_vocab], row, next[i] as usize);
            };
            session.run(read, Want::All(compare)).map_err(&fail)?;
        }
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_perplexity_and_agreement() {
        // Probabilities 1/2, 1/4, 1/4 and 1/4, 1/4, 1/2, from logits that are shifted.
        let before = [3.0 + 2f32.ln(), 3.0, 3.0];
        let after = [-1.0, -1.0, -1.0 + 2f32.ln()];
        let mut sums = Sums::default();
        sums.push(&before, &after, 1);
        assert!((sums.kld - 0.25 * 2f64.ln()).abs() < 1e-6, "{}", sums.kld);
        assert!((sums.nll - 4f64.ln()).abs() < 1e-6 && (sums.nll_before - 4f64.ln()).abs() < 1e-6);
        assert_eq!((sums.tokens, sums.same), (1, 0));
        sums.push(&before, &before, 0);
        assert!((sums.kld - 0.25 * 2f64.ln()).abs() < 1e-6);
        assert!((sums.nll - sums.nll_before).abs() < 1e-6);
        assert_eq!((sums.tokens, sums.same), (2, 1));
    }
}
