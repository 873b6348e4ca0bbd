//! The clusters of a run: which languages, or documents, share an expert.

use super::Run;
use crate::job::write_json;
use crate::report::Report;
use crate::typology::{Cluster, Distances, cluster};
use crate::{Error, Result};
use std::fs;

const CLUSTERS: &str = "clusters.json";
/// Distances of the run's own.
const TYPOLOGY: &str = "typology.tsv";

impl Run {
    /// Groups the languages into `k` clusters by the shipped distances.
    ///
    /// # Errors
    /// As [`cluster`]; the run has other clusters already.
    pub fn cluster_typology(&self, k: usize, report: &mut dyn Report) -> Result<Vec<Cluster>> {
        self.cluster_by(&Distances::shipped(), k, report)
    }

    /// Groups the languages into `k` clusters by distances of one's own, and records these for the set's
    /// fallback table and for donors.
    ///
    /// # Errors
    /// As [`Run::cluster_typology`].
    pub fn cluster_by_own(
        &self,
        own: &Distances,
        k: usize,
        report: &mut dyn Report,
    ) -> Result<Vec<Cluster>> {
        let clusters = self.cluster_by(own, k, report)?;
        own.save(&self.path(TYPOLOGY))?;
        Ok(clusters)
    }

    fn cluster_by(
        &self,
        distances: &Distances,
        k: usize,
        report: &mut dyn Report,
    ) -> Result<Vec<Cluster>> {
        let (clusters, carried) = cluster(distances, self.languages(), k)?;
        for id in carried {
            report.note(&format!("{id} found no partner and was carried up as it is"));
        }
        self.check_clusters(&clusters)?;
        self.save_clusters(&clusters)?;
        Ok(clusters)
    }

    /// Distances between languages: the run's own, where it has some, then the shipped ones.
    ///
    /// # Errors
    /// The run's own cannot be read.
    pub fn distances(&self) -> Result<Distances> {
        let path = self.path(TYPOLOGY);
        let shipped = Distances::shipped();
        if path.exists() { Ok(Distances::open(&path)?.with(&shipped)) } else { Ok(shipped) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::BadInput;
    use crate::report::Silent;

    #[test]
    fn own_distances_are_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let corpus = folder.path().join("corpus");
        fs::create_dir(&corpus).unwrap();
        for language in ["ca", "es", "eu"] {
            fs::write(corpus.join(format!("{language}.txt")), "text").unwrap();
        }
        let run = Run::create(&folder.path().join("run"), &corpus, &[], BadInput::Stop).unwrap();
        let shipped = Distances::shipped();
        assert_eq!(run.distances().unwrap(), shipped);
        let refused = run.cluster_typology(2, &mut Silent).unwrap_err().to_string();
        assert!(refused.contains("\"ca\"") && refused.contains("--features"), "{refused}");
        let own = Distances {
            tags: ["ca", "es", "eu"].map(str::to_owned).to_vec(),
            values: vec![0.0, 0.1, 0.5, 0.1, 0.0, 0.6, 0.5, 0.6, 0.0],
        };
        let clusters = run.cluster_by_own(&own, 2, &mut Silent).unwrap();
        assert_eq!([&clusters[0].id, &clusters[1].id], ["ca-es", "eu"]);
        let merged = run.distances().unwrap();
        assert_eq!(merged, own.with(&shipped));
        // Basque has relatives now, and French one more.
        let nearest = |language| {
            let order = merged.nearest(merged.index(language).unwrap());
            order.into_iter().map(|i| merged.tags[i].as_str()).collect::<Vec<_>>()
        };
        assert_eq!(nearest("eu")[..3], ["eu", "ca", "es"]);
        assert!(nearest("fr").contains(&"ca"));
        fs::write(run.path(TYPOLOGY), "").unwrap();
        assert!(run.distances().is_err());
    }
}
