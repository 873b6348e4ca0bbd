//! The clusters of a run: which languages, or documents, share an expert.

use super::Run;
use crate::job::write_json;
use crate::report::Report;
use crate::typology::{Cluster, Distances, cluster};
use crate::{Error, Result};
use std::fs;

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
