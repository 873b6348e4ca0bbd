//! Clustering a run's documents by their words.

use super::embed::{Embedded, Settings, embed};
use super::file::Fitted;
use super::kmeans;
use super::route::{nearest, with_router};
use super::sample::for_each_batch;
use crate::assignment::{Assignment, LanguageClusters};
use crate::corpus::{BadInput, Corpus};
use crate::report::Report;
use crate::run::{ASSIGNMENT, ROUTER, Run};
use crate::typology::Cluster;
use crate::{Error, Result};
use rayon::prelude::*;
use std::collections::BTreeMap;
use xelm_runtime::router::Router;

/// What [`cluster`] found.
#[derive(Clone, Debug)]
pub struct Clusters {
    /// The clusters; their languages are those that have more documents there than in any other.
    pub clusters: Vec<Cluster>,
    /// Training documents of each language in each cluster.
    pub documents: BTreeMap<String, Vec<usize>>,
}

/// Divides the training documents of a run among `k` experts: fits a router to a sample of them, its
/// centroids by balanced k-means, and gives every document to the nearest centroid. Writes router, clusters
/// and the cluster of each document into the run.
///
/// # Errors
/// The corpus cannot be read or has fewer documents than clusters; the run has other clusters already.
pub fn cluster(
    run: &Run,
    k: usize,
    settings: &Settings,
    report: &mut dyn Report,
) -> Result<Clusters> {
    // What is there already is compared at the end; what cannot be the same is told at once.
    if run.has_clusters() && run.clusters()?.iter().filter(|c| c.documents.is_some()).count() != k {
        return Err(run.other_clusters());
    }
    let (corpus, bad_input) = (run.corpus()?, run.bad_input());
    let Embedded { embedding, vectors, languages, sample } =
        embed(&corpus, settings, true, bad_input, report)?;
    report.note(&format!(
        "fitted to {} of {} documents: {} words, {} dimensions",
        languages.len(),
        sample.documents.values().sum::<usize>(),
        embedding.terms.terms.len(),
        embedding.n_dims
    ));
    let centroids = kmeans::fit(&vectors, embedding.n_dims, k, settings.seed)?;
    drop(vectors);
    let fitted = Fitted { embedding, centroids };
    let path = run.path(ROUTER);
    let tensors = fitted.tensors().map_err(Error::file(&path))?;
    let assigned = with_router(&tensors, |router| Ok(assign(&corpus, router, bad_input)));
    let assignment = assigned.map_err(Error::file(&path))??;
    let documents: BTreeMap<String, Vec<usize>> =
        assignment.languages.iter().map(|(name, l)| (name.clone(), l.sizes(k))).collect();
    let clusters = assignment.clusters("tfidf", run.languages(), k);
    let path = run.path(ASSIGNMENT);
    // The clusters are written last: with them, the others are there.
    run.check_clusters(&clusters)?;
    if run.has_clusters() && Assignment::open(&path, k)? != assignment {
        return Err(run.other_clusters());
    }
    fitted.save(&run.path(ROUTER))?;
    assignment.save(&path)?;
    run.save_clusters(&clusters)?;
    Ok(Clusters { clusters, documents })
}

/// The nearest expert of every training document.
fn assign(corpus: &Corpus, router: &Router<'_>, bad_input: BadInput) -> Result<Assignment> {
    let languages: Vec<_> = corpus.languages.iter().collect();
    let languages: Result<BTreeMap<_, _>> = languages
        .par_iter()
        .map(|(language, files)| {
            let mut l = LanguageClusters::default();
            for_each_batch(
                language,
                files,
                bad_input,
                |_| true,
                |texts| {
                    l.clusters.extend(nearest(router, texts).map_err(Error::file(&files[0].path))?);
                    l.n_bytes += texts.iter().map(|text| text.len() as u64).sum::<u64>();
                    Ok(())
                },
            )?;
            if l.clusters.is_empty() {
                return Err(Error::usage(format!(
                    "the language {language:?} has no training documents"
                )));
            }
            Ok(((*language).clone(), l))
        })
        .collect();
    Ok(Assignment { languages: languages? })
}
