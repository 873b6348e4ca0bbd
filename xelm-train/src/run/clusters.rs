//! The clusters of a run: which languages, or documents, share an expert.

use super::{ASSIGNMENT, Run};
use crate::assignment::{Assignment, LanguageClusters};
use crate::corpus::Split;
use crate::job::write_json;
use crate::report::Report;
use crate::typology::{Cluster, Distances, cluster};
use crate::{Error, Result};
use std::fs;
use xelm_runtime::rng::philox;

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

    /// Distances between languages: the run's own, or else its base's, where they have some, and the shipped
    /// ones for all other pairs.
    ///
    /// # Errors
    /// The run's own cannot be read.
    pub fn distances(&self) -> Result<Distances> {
        let shipped = Distances::shipped();
        let own = [self.path(TYPOLOGY), self.shared_path(TYPOLOGY)];
        match own.iter().find(|path| path.exists()) {
            Some(path) => Ok(Distances::open(path)?.with(&shipped)),
            None => Ok(shipped),
        }
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
