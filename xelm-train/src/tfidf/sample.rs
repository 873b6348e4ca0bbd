//! Which training documents a router is fitted to, and reading them: corpora are larger than memory.

use crate::Result;
use crate::corpus::{BadInput, Corpus, CorpusFile, LanguageDocuments, Split};
use crate::report::Report;
use crate::run::report_skipped;
use rayon::prelude::*;
use std::collections::{BTreeMap, BinaryHeap};
use xelm_runtime::rng::philox;

/// Distinguishes the draw from other uses of a seed.
const KEY: u32 = 0x7361_6d70;
/// Documents handed on together.
const BATCH: usize = 1024;

/// A uniform sample of the training documents of all languages together.
///
/// A document's number is drawn from (seed, language, index) alone, and those with the smallest numbers are
/// in: so the sample does not depend on the order of reading.
#[derive(Clone, Debug)]
pub struct Sample {
    seed: u64,
    /// The largest number that is in.
    limit: u64,
    /// Training documents of each language.
    pub documents: BTreeMap<String, usize>,
}

impl Sample {
    /// At most `size` of the training documents of a corpus. Reads the corpus once, to count them.
    ///
    /// # Errors
    /// The corpus cannot be read.
    pub fn draw(
        corpus: &Corpus,
        size: usize,
        seed: u64,
        bad_input: BadInput,
        report: &mut dyn Report,
    ) -> Result<Sample> {
        let languages: Vec<_> = corpus.languages.iter().collect();
        let counted: Result<Vec<_>> = languages
            .par_iter()
            .map(|(language, files)| {
                let mut n = 0;
                let mut documents = LanguageDocuments::new(language, files, bad_input);
                for document in &mut documents {
                    n += usize::from(document?.0 == Split::Train);
                }
                Ok(((*language).clone(), n, documents.into_skipped()))
            })
            .collect();
        let mut smallest = BinaryHeap::new();
        let mut documents = BTreeMap::new();
        for (index, (language, n, skipped)) in counted?.into_iter().enumerate() {
            report_skipped(&skipped, report);
            for document in 0..n {
                smallest.push(number(seed, index, document));
                if smallest.len() > size {
                    smallest.pop();
                }
            }
            documents.insert(language, n);
        }
        let all = documents.values().sum::<usize>() <= size;
        let limit = if all { u64::MAX } else { smallest.peek().copied().unwrap_or(0) };
        Ok(Sample { seed, limit, documents })
    }

    /// Whether a document is in: by the place of its language in the corpus, and its own in the language.
    pub fn contains(&self, language: usize, document: usize) -> bool {
        number(self.seed, language, document) <= self.limit
    }
}

fn number(seed: u64, language: usize, document: usize) -> u64 {
    let key = [seed as u32 ^ KEY, (seed >> 32) as u32];
    let [low, high, ..] = philox(document as u64, language as u64, key);
    u64::from(high) << 32 | u64::from(low)
}

/// Hands the training documents of a language that `keep` wants to `work`, in order and in batches.
///
/// # Errors
/// The files cannot be read, or `work` fails.
pub(super) fn for_each_batch(
    language: &str,
    files: &[CorpusFile],
    bad_input: BadInput,
    keep: impl Fn(usize) -> bool,
    mut work: impl FnMut(&[String]) -> Result<()>,
) -> Result<()> {
    let mut batch = Vec::new();
    let mut index = 0;
    for document in LanguageDocuments::new(language, files, bad_input) {
        let (split, document) = document?;
        if split == Split::Train {
            if keep(index) {
                batch.push(document.text);
            }
            index += 1;
        }
        if batch.len() == BATCH {
            work(&batch)?;
            batch.clear();
        }
    }
    work(&batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Silent;

    fn corpus() -> (tempfile::TempDir, Corpus) {
        let folder = tempfile::tempdir().unwrap();
        for (language, n) in [("de", 700), ("en", 2300)] {
            let text: Vec<String> = (0..n).map(|i| format!("{language} {i}\n\n")).collect();
            std::fs::write(folder.path().join(format!("{language}.txt")), text.concat()).unwrap();
            std::fs::write(folder.path().join(format!("{language}.valid.txt")), "held out")
                .unwrap();
        }
        let corpus = Corpus::find(folder.path()).unwrap();
        (folder, corpus)
    }

    #[test]
    fn a_sample_is_uniform_and_of_the_size_asked_for() {
        let (_folder, corpus) = corpus();
        let draw = |size| Sample::draw(&corpus, size, 5, BadInput::Stop, &mut Silent).unwrap();
        for (size, expected) in [(1000, 1000), (3000, 3000), (9999, 3000), (1, 1)] {
            let sample = draw(size);
            assert_eq!(sample.documents.values().copied().collect::<Vec<_>>(), [700, 2300]);
            let count = |index, n| (0..n).filter(|&d| sample.contains(index, d)).count();
            let (de, en) = (count(0, 700), count(1, 2300));
            assert_eq!(de + en, expected);
            if size == 1000 {
                assert!((190..280).contains(&de), "{de}");
            }
        }
    }

    #[test]
    fn batches_hold_what_is_kept_in_order() {
        let (_folder, corpus) = corpus();
        let mut read = Vec::new();
        for_each_batch(
            "en",
            &corpus.languages["en"],
            BadInput::Stop,
            |i| i % 2 == 1,
            |batch| {
                read.extend_from_slice(batch);
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(read.len(), 1150);
        assert_eq!((read[0].as_str(), read[1149].as_str()), ("en 1", "en 2299"));
    }
}
