//! Which cluster every training document belongs to: `clusters.gguf` of a run.

use crate::tokens::TokenShard;
use crate::typology::Cluster;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;
use xelm_runtime::format::{AtomicFile, Gguf, ValueType, Writer};
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::quant::DType;

/// `general.architecture` of the file.
pub const ARCH_CLUSTERS: &str = "xelm-clusters";

const LANGUAGES: &str = "xelm.clusters.languages";
const BYTES: &str = "xelm.clusters.bytes";

/// The clusters of all training documents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Assignment {
    /// By language.
    pub languages: BTreeMap<String, LanguageClusters>,
}

/// The clusters of one language's training documents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LanguageClusters {
    /// The cluster of each document, in the order of the corpus.
    pub clusters: Vec<u32>,
    /// UTF-8 bytes of all these documents: with their number, what tells one corpus from another.
    pub n_bytes: u64,
}

impl LanguageClusters {
    /// Documents of the language in each of `k` clusters.
    pub fn sizes(&self, k: usize) -> Vec<usize> {
        let mut sizes = vec![0; k];
        for &cluster in &self.clusters {
            sizes[cluster as usize] += 1;
        }
        sizes
    }
}

impl Assignment {
    /// The language's clusters, for the documents of its token shard.
    ///
    /// # Errors
    /// The shard holds other documents than were clustered.
    pub fn of(&self, language: &str, shard: &TokenShard) -> Result<&[u32]> {
        self.languages
            .get(language)
            .filter(|l| l.clusters.len() == shard.n_documents() && l.n_bytes == shard.n_bytes)
            .map(|l| l.clusters.as_slice())
            .ok_or_else(|| {
                Error::usage(format!(
                    "the documents of {language:?} are not those that were clustered: the corpus has \
                     changed since; begin another run with `xelm tokenizer train`"
                ))
            })
    }

    /// The languages that have documents in a cluster.
    pub fn languages_in(&self, cluster: usize) -> Vec<String> {
        let has = |(language, l): (&String, &LanguageClusters)| {
            l.clusters.contains(&(cluster as u32)).then(|| language.clone())
        };
        self.languages.iter().filter_map(has).collect()
    }

    /// The cluster that holds most of each language's documents (the first among equals).
    pub fn largest(&self, k: usize) -> BTreeMap<&str, usize> {
        let largest = |l: &LanguageClusters| {
            let sizes = l.sizes(k);
            (0..k).max_by_key(|&cluster| (sizes[cluster], k - cluster)).unwrap_or(0)
        };
        self.languages.iter().map(|(language, l)| (language.as_str(), largest(l))).collect()
    }

    /// The clusters, named by `prefix` and number; the languages of each are those of `languages` that
    /// have more documents there than in any other.
    pub fn clusters(&self, prefix: &str, languages: &[String], k: usize) -> Vec<Cluster> {
        let largest = self.largest(k);
        let cluster = |i: usize| Cluster {
            id: format!("{prefix}-{i}"),
            languages: languages
                .iter()
                .filter(|l| largest.get(l.as_str()) == Some(&i))
                .cloned()
                .collect(),
            distance: 0.0,
            documents: Some(self.languages.values().map(|l| l.sizes(k)[i] as u64).sum()),
        };
        (0..k).map(cluster).collect()
    }

    /// Writes the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let file = AtomicFile::create(path).map_err(Error::io("write", path))?;
        let file = self.write(file).map_err(Error::file(path))?;
        file.commit().map_err(Error::io("write", path))
    }

    fn write<W: std::io::Write>(&self, out: W) -> xelm_runtime::Result<W> {
        let mut writer = Writer::new(ARCH_CLUSTERS);
        writer.strings(LANGUAGES, &self.languages.keys().collect::<Vec<_>>());
        writer.u64s(BYTES, &self.languages.values().map(|l| l.n_bytes).collect::<Vec<_>>());
        for (language, l) in &self.languages {
            writer.tensor(language, DType::I32, &[l.clusters.len()])?;
        }
        let mut body = writer.begin(out)?;
        for l in self.languages.values() {
            body.tensor([bytemuck::cast_slice::<u32, u8>(&l.clusters)])?;
        }
        body.finish()
    }

    /// Reads the file; clusters are below `k`.
    ///
    /// # Errors
    /// It cannot be read, or is of another kind.
    pub fn open(path: &Path, k: usize) -> Result<Assignment> {
        let file = MappedFile::open(path).map_err(Error::io("open", path))?;
        let gguf = file.gguf().map_err(Error::file(path))?;
        read(&gguf, k).map_err(Error::file(path))
    }
}

fn read(gguf: &Gguf<'_>, k: usize) -> xelm_runtime::Result<Assignment> {
    use xelm_runtime::Error;
    gguf.expect_architecture(ARCH_CLUSTERS)?;
    let array =
        |key: &'static str, of| gguf.get(key).ok_or(Error::MissingKey { key })?.array(&[of], key);
    let names = array(LANGUAGES, ValueType::String)?;
    let bytes = array(BYTES, ValueType::U64)?;
    let mut languages = BTreeMap::new();
    for (i, language) in names.strings().enumerate() {
        let missing = Error::MissingTensor { name: "of a language" };
        let tensor = gguf.tensor(language).filter(|t| t.dtype == DType::I32).ok_or(missing)?;
        let numbers = tensor.bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
        let clusters: Vec<u32> = numbers.collect();
        if clusters.iter().any(|&cluster| cluster as usize >= k) {
            return Err(Error::OutOfRange { what: "a cluster" });
        }
        languages
            .insert(language.to_owned(), LanguageClusters { clusters, n_bytes: bytes.bits64(i) });
    }
    Ok(Assignment { languages })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut assignment = Assignment::default();
        for (language, clusters) in [("de", vec![0, 2, 2, 1]), ("zh-Hant", vec![1, 0])] {
            let l = LanguageClusters { clusters, n_bytes: 7 };
            assignment.languages.insert(language.to_owned(), l);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clusters.gguf");
        assignment.save(&path).unwrap();
        assert_eq!(Assignment::open(&path, 3).unwrap(), assignment);
        assert!(Assignment::open(&path, 2).is_err());
        assert!(Assignment::open(&folder.path().join("none"), 3).is_err());
        assert_eq!(assignment.languages_in(0), ["de", "zh-Hant"]);
        assert_eq!(assignment.languages_in(2), ["de"]);
        // Among equals the first.
        assert_eq!(assignment.largest(3), BTreeMap::from([("de", 2), ("zh-Hant", 0)]));
        assert_eq!(assignment.languages["de"].sizes(4), [1, 1, 2, 0]);
    }
}
