//! Fitting the vectors of texts: vectoriser and projection, from a sample of a corpus.

use super::sample::{Sample, for_each_batch};
use super::svd::svd;
use super::vectorizer::{Counter, Terms, stop_words};
use crate::Result;
use crate::corpus::{BadInput, Corpus};
use crate::report::Report;
use std::collections::HashSet;
use xelm_runtime::router::Rule;

/// How a router is fitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// What is a word.
    pub rule: Rule,
    /// Words that count at most.
    pub max_terms: usize,
    /// Numbers of a text's vector, at most: fewer where documents or words are fewer.
    pub dims: usize,
    /// Training documents that are fitted to, at most.
    pub sample: usize,
    /// Seed of everything random.
    pub seed: u64,
}

impl Default for Settings {
    /// The X-ELM paper's numbers; the sample is a fraction of the paper's shard, so that it fits a laptop.
    fn default() -> Self {
        Settings { rule: Rule::Unicode, max_terms: 500_000, dims: 100, sample: 200_000, seed: 1234 }
    }
}

/// What turns texts into vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// The words that count and their weights.
    pub terms: Terms,
    /// `[terms, n_dims]`, row-major.
    pub projection: Vec<f32>,
    /// Numbers of a text's vector.
    pub n_dims: usize,
}

/// An embedding and the documents it was fitted to.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// What was fitted.
    pub embedding: Embedding,
    /// Unit vectors of the documents, `[documents, n_dims]`. Documents without words that count are left
    /// out.
    pub vectors: Vec<f32>,
    /// The place of each document's language in the corpus.
    pub languages: Vec<u32>,
    /// The sample they were drawn as.
    pub sample: Sample,
}

/// Fits an embedding to a sample of a corpus's training documents. Where stop words are left out, texts are
/// told apart by what they are about, otherwise by their language above all.
///
/// # Errors
/// The corpus cannot be read.
pub fn embed(
    corpus: &Corpus,
    settings: &Settings,
    without_stop_words: bool,
    bad_input: BadInput,
    report: &mut dyn Report,
) -> Result<Embedded> {
    let Settings { rule, max_terms, dims, sample, seed } = *settings;
    let sample = Sample::draw(corpus, sample, seed, bad_input, report)?;
    let names: Vec<String> = corpus.languages.keys().cloned().collect();
    let stop_words = if without_stop_words { stop_words(rule, &names) } else { HashSet::new() };
    let mut counter = Counter::new(rule, stop_words);
    let mut languages = Vec::new();
    for (index, (language, files)) in corpus.languages.iter().enumerate() {
        let keep = |document| sample.contains(index, document);
        for_each_batch(language, files, bad_input, keep, |texts| {
            counter.add(texts);
            languages.resize(counter.n_documents(), index as u32);
            Ok(())
        })?;
    }
    let (terms, rows) = counter.finish(max_terms);
    let svd = svd(&rows, dims, seed);
    let n_dims = svd.values.len();
    let embedding = Embedding { terms, projection: svd.vectors, n_dims };
    let mut vectors = rows.times(&embedding.projection, n_dims);
    drop(rows);
    let mut kept = 0;
    for document in 0..if n_dims == 0 { 0 } else { languages.len() } {
        let range = document * n_dims..(document + 1) * n_dims;
        let norm = vectors[range.clone()].iter().map(|x| x * x).sum::<f32>().sqrt();
        if norm > 0.0 {
            vectors[range.clone()].iter_mut().for_each(|x| *x /= norm);
            vectors.copy_within(range, kept * n_dims);
            languages[kept] = languages[document];
            kept += 1;
        }
    }
    vectors.truncate(kept * n_dims);
    languages.truncate(kept);
    Ok(Embedded { embedding, vectors, languages, sample })
}
