//! The clusters of a run: which languages, or documents, share an expert.

use super::{ASSIGNMENT, Run};
use crate::corpus::Split;
use crate::job::write_json;
use crate::report::Report;
use crate::tfidf::{Assignment, LanguageClusters};
use crate::typology::{Cluster, Distances, cluster};
use crate::{Error, Result};
use std::fs;
use xelm_runtime::rng::philox;

const CLUSTERS: &str = "clusters.json";

impl Run {
    /// Groups the languages into `k` clusters by typology.
    ///
    /// # Errors
    /// As [`cluster`]; the run has other clusters already.
    pub fn cluster_typology(&self, k: usize, report: &mut dyn Report) -> Result<Vec<Cluster>> {
        let (clusters, carried) = cluster(&Distances::shipped(), self.languages(), k)?;
        for id in carried {
            report.note(&format!("{id} found no partner and was carried up as it is"));
        }
        self.check_clusters(&clusters)?;
        self.save_clusters(&clusters)?;
        Ok(clusters)
    }

    /// Divides the training documents of all languages among `k` experts at random: the control that
    /// shows what a division by kinship or content is worth.
    ///
    /// # Errors
    /// The run has other clusters; the corpus cannot be tokenised.
    pub fn cluster_random(
        &self,
        k: usize,
        seed: u64,
        report: &mut dyn Report,
    ) -> Result<Vec<Cluster>> {
        if k == 0 {
            return Err(Error::usage("a corpus cannot be divided among 0 experts"));
        }
        self.tokenize(report)?;
        let (n_vocab, vocabulary, _) = self.vocabulary()?;
        let shards = self.shards(self.languages(), Split::Train, &vocabulary, n_vocab)?;
        let key = [seed as u32, 0x7261_6e64];
        let mut assignment = Assignment::default();
        for (s, (language, shard)) in self.languages().iter().zip(&shards).enumerate() {
            let draw = |d: usize| philox(d as u64, s as u64, key)[0] % k as u32;
            let clusters = (0..shard.n_documents()).map(draw).collect();
            let of_language = LanguageClusters { clusters, n_bytes: shard.n_bytes };
            assignment.languages.insert(language.clone(), of_language);
        }
        let clusters = assignment.clusters("random", self.languages(), k);
        self.check_clusters(&clusters)?;
        assignment.save(&self.path(ASSIGNMENT))?;
        self.save_clusters(&clusters)?;
        Ok(clusters)
    }

    /// The experts of the run's set, each with the languages that it speaks: those of the clusters, then
    /// those that were added.
    ///
    /// # Errors
    /// There are no clusters yet.
    pub fn experts(&self) -> Result<Vec<(String, Vec<String>)>> {
        let clusters = self.clusters()?.into_iter().map(|c| (c.id, c.languages));
        Ok(clusters.chain(self.adapted()?.into_iter().map(|a| (a.id, vec![a.target]))).collect())
    }

    /// Whether the run has clusters.
    pub(crate) fn has_clusters(&self) -> bool {
        self.path(CLUSTERS).exists()
    }

    /// Checks that the run has no clusters but `clusters`.
    pub(crate) fn check_clusters(&self, clusters: &[Cluster]) -> Result<()> {
        if self.has_clusters() && self.clusters()? != clusters {
            return Err(self.other_clusters());
        }
        Ok(())
    }

    pub(crate) fn other_clusters(&self) -> Error {
        Error::usage(format!(
            "{} holds other clusters, and experts may have been trained on them: remove it first",
            self.path(CLUSTERS).display()
        ))
    }

    pub(crate) fn save_clusters(&self, clusters: &[Cluster]) -> Result<()> {
        write_json(&self.path(CLUSTERS), &clusters)
    }

    /// The run's clusters.
    ///
    /// # Errors
    /// There are none yet.
    pub fn clusters(&self) -> Result<Vec<Cluster>> {
        let path = self.path(CLUSTERS);
        let text = fs::read_to_string(&path).map_err(|_| {
            Error::usage(format!(
                "the run has no clusters yet: `xelm cluster typology --run {0} --k N` makes them of \
                 languages, `xelm cluster tfidf --run {0} --k N` of documents",
                self.root.display()
            ))
        })?;
        serde_json::from_str(&text).map_err(|e| Error::usage(format!("{}: {e}", path.display())))
    }
}
