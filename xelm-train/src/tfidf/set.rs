//! The router of a set, whatever its experts were clustered by.

use super::embed::{Embedded, Settings, embed};
use super::file::{DeviceSize, Fitted};
use super::route::{mean, nearest, with_router};
use super::sample::for_each_batch;
use crate::corpus::{Corpus, LanguageDocuments, Split};
use crate::evaluate::MAX_DOCUMENTS;
use crate::report::Report;
use crate::run::{ROUTER, Run};
use crate::{Error, Result};
use xelm_runtime::router::{Router, RouterTensors};

/// A set's router and how well it stands for the full one.
#[derive(Clone, Debug)]
pub struct SetRouter {
    /// The tables for `set.gguf`.
    pub tensors: RouterTensors,
    /// Words that it knows.
    pub n_terms: usize,
    /// Words that the full router, `router.gguf` of the run, knows.
    pub n_full_terms: usize,
    /// How held-out documents are routed; absent where the corpus is not at hand.
    pub held_out: Option<Agreement>,
}

/// Held-out documents by where the routers send them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Documents in all.
    pub documents: usize,
    /// Those that the set's and the full router send to the same expert.
    pub same: usize,
    /// Those that the set's router sends to the expert of their language.
    pub own_language: usize,
}

/// The router of a run's set, whose experts speak these languages. Clusters of documents bring theirs; for
/// clusters of languages one is fitted to the training documents, each expert's centroid being the mean of
/// its languages' documents. `None` where neither is possible, which is told.
///
/// # Errors
/// A file cannot be read or written.
pub fn router_for(
    run: &Run,
    speakers: &[Vec<String>],
    size: &DeviceSize,
    settings: &Settings,
    report: &mut dyn Report,
) -> Result<Option<SetRouter>> {
    let path = run.path(ROUTER);
    let corpus = run.corpus_of(&speakers.concat()).ok();
    let clusters = run.clusters()?;
    let of_documents = clusters.iter().any(|cluster| cluster.documents.is_some());
    let fitted = match &corpus {
        _ if of_documents && !path.exists() => {
            report.note("the documents were not clustered by their words: the set has no router");
            return Ok(None);
        }
        _ if of_documents => {
            let mut fitted = Fitted::open(&path)?;
            for languages in &speakers[clusters.len()..] {
                add(&mut fitted, run, languages)?;
            }
            Some(fitted)
        }
        Some(corpus) => {
            let fitted = fit(run, corpus, speakers, settings, report)?;
            fitted.as_ref().map_or(Ok(()), |fitted| fitted.save(&path))?;
            fitted
        }
        None => None,
    };
    let Some(fitted) = fitted else {
        report.note(match corpus {
            None => "the corpus is not at hand: the set has no router and chooses by language only",
            Some(_) => "the corpus has too few words: the set has no router",
        });
        return Ok(None);
    };
    if fitted.centroids.len() != speakers.len() * fitted.embedding.n_dims {
        return Err(Error::usage(format!("{} is of other clusters", path.display())));
    }
    let fail = Error::file(&path);
    let full = fitted.tensors().map_err(&fail)?;
    let tensors = fitted.for_device(size).map_err(|_| {
        Error::usage(format!(
            "a router of {} bytes holds no word: raise --router-bytes",
            size.max_bytes
        ))
    })?;
    let held_out = match &corpus {
        None => None,
        Some(corpus) => {
            let compared = with_router(&full, |full| {
                with_router(&tensors, |small| Ok(compare(run, corpus, speakers, full, small)))
            });
            Some(compared.map_err(&fail)??)
        }
    };
    let n_terms = with_router(&tensors, |small| Ok(small.n_terms())).map_err(&fail)?;
    let n_full_terms = fitted.embedding.terms.terms.len();
    Ok(Some(SetRouter { tensors, n_terms, n_full_terms, held_out }))
}

/// Adds the centroid of an expert that joined clusters of documents: the mean of its languages' documents,
/// in the words that the router knows. Nothing else of it changes.
fn add(fitted: &mut Fitted, run: &Run, languages: &[String]) -> Result<()> {
    let path = run.path(ROUTER);
    let fail = Error::file(&path);
    let mut texts = Vec::new();
    for (language, files) in &run.corpus_of(languages)?.languages {
        let keep = |document| document < MAX_DOCUMENTS;
        for_each_batch(language, files, run.bad_input(), keep, |batch| {
            texts.extend_from_slice(batch);
            Ok(())
        })?;
    }
    let tensors = fitted.tensors().map_err(&fail)?;
    fitted.centroids.extend(with_router(&tensors, |router| mean(router, &texts)).map_err(&fail)?);
    Ok(())
}

/// Fits a router to experts by their languages.
fn fit(
    run: &Run,
    corpus: &Corpus,
    speakers: &[Vec<String>],
    settings: &Settings,
    report: &mut dyn Report,
) -> Result<Option<Fitted>> {
    // What tells languages apart is above all their stop words.
    let Embedded { embedding, vectors, languages, .. } =
        embed(corpus, settings, false, run.bad_input(), report)?;
    let n_dims = embedding.n_dims;
    let expert_of: Vec<Option<usize>> = corpus
        .languages
        .keys()
        .map(|language| speakers.iter().position(|spoken| spoken.contains(language)))
        .collect();
    let mut sums = vec![0.0f64; speakers.len() * n_dims];
    let mut sizes = vec![0u32; speakers.len()];
    for (vector, &language) in vectors.chunks(n_dims.max(1)).zip(&languages) {
        if let Some(expert) = expert_of[language as usize] {
            sizes[expert] += 1;
            let sums = &mut sums[expert * n_dims..][..n_dims];
            sums.iter_mut().zip(vector).for_each(|(sum, &x)| *sum += f64::from(x));
        }
    }
    if n_dims == 0 || sizes.contains(&0) {
        return Ok(None);
    }
    let means = sums.chunks(n_dims).zip(&sizes);
    let centroids = means
        .flat_map(|(sum, &size)| sum.iter().map(move |x| (x / f64::from(size)) as f32))
        .collect();
    Ok(Some(Fitted { embedding, centroids }))
}

/// Routes the held-out documents of every language with both routers.
fn compare(
    run: &Run,
    corpus: &Corpus,
    speakers: &[Vec<String>],
    full: &Router<'_>,
    small: &Router<'_>,
) -> Result<Agreement> {
    let mut agreement = Agreement::default();
    for (language, files) in &corpus.languages {
        let own = speakers.iter().position(|spoken| spoken.contains(language));
        let held_out = LanguageDocuments::new(language, files, run.bad_input())
            .filter(|document| !matches!(document, Ok((Split::Train, _))));
        let texts: Result<Vec<String>> =
            held_out.take(MAX_DOCUMENTS).map(|document| Ok(document?.1.text)).collect();
        let texts = texts?;
        let route = |router| nearest(router, &texts).map_err(Error::file(&files[0].path));
        let (full, small) = (route(full)?, route(small)?);
        agreement.documents += texts.len();
        agreement.same += full.iter().zip(&small).filter(|(a, b)| a == b).count();
        agreement.own_language += small.iter().filter(|&&e| Some(e as usize) == own).count();
    }
    Ok(agreement)
}
