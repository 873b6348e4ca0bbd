//! TF-IDF as scikit-learn computes it: counts of words, weighted by idf(w) = ln((1 + n) / (1 + df(w))) + 1,
//! rows of length 1.

use super::sparse::Sparse;
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};
use xelm_runtime::lang::Tag;
use xelm_runtime::router::{Lexicon, Rule, Words};

/// Counts words, document after document.
#[derive(Debug)]
pub struct Counter {
    rule: Rule,
    stop_words: HashSet<String>,
    ids: HashMap<Box<str>, u32>,
    /// How often each word of a document occurs in it, by provisional id.
    counts: Sparse,
}

/// The words that count, the most frequent first, with their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// What is a word.
    pub rule: Rule,
    /// The words.
    pub terms: Vec<String>,
    /// idf(w) of each.
    pub idf: Vec<f32>,
}

impl Counter {
    /// A counter that leaves out `stop_words`.
    pub fn new(rule: Rule, stop_words: HashSet<String>) -> Self {
        Counter { rule, stop_words, ids: HashMap::new(), counts: Sparse::new(0) }
    }

    /// Counts the words of some documents, in parallel; ids follow the order of the documents.
    pub fn add<S: AsRef<str> + Sync>(&mut self, texts: &[S]) {
        let counted: Vec<Vec<(String, u32)>> =
            texts.par_iter().map(|text| count_words(self.rule, text.as_ref())).collect();
        for words in counted {
            let Counter { stop_words, ids, counts, .. } = self;
            counts.push(words.into_iter().filter(|(word, _)| !stop_words.contains(word)).map(
                |(word, n)| {
                    let next = ids.len() as u32;
                    (*ids.entry(word.into_boxed_str()).or_insert(next), n as f32)
                },
            ));
        }
    }

    /// Documents counted so far.
    pub fn n_documents(&self) -> usize {
        self.counts.n_rows()
    }

    /// The `max_terms` most frequent words (the first in byte order among equals), and the documents' rows
    /// over them. A document without any of them has a row of zeros.
    pub fn finish(self, max_terms: usize) -> (Terms, Sparse) {
        let Counter { rule, ids, counts, .. } = self;
        let n_words = ids.len();
        let mut totals = vec![0.0f64; n_words];
        let mut df = vec![0u32; n_words];
        for (&id, &n) in counts.columns.iter().zip(&counts.values) {
            totals[id as usize] += f64::from(n);
            df[id as usize] += 1;
        }
        let mut words: Vec<(Box<str>, u32)> = ids.into_iter().collect();
        words.sort_unstable_by(|(a, i), (b, j)| {
            totals[*j as usize].total_cmp(&totals[*i as usize]).then_with(|| a.cmp(b))
        });
        words.truncate(max_terms);
        let n = counts.n_rows() as f64;
        let weight = |df: u32| ((1.0 + n) / (1.0 + f64::from(df))).ln() + 1.0;
        let idf: Vec<f64> = words.iter().map(|&(_, id)| weight(df[id as usize])).collect();
        let mut columns = vec![None; n_words];
        for (column, (_, id)) in (0u32..).zip(&words) {
            columns[*id as usize] = Some(column);
        }
        let mut rows = Sparse::new(words.len());
        for document in 0..counts.n_rows() {
            let weighted = || {
                counts.row(document).filter_map(|(id, n)| {
                    let column = columns[id as usize]?;
                    Some((column, f64::from(n) * idf[column as usize]))
                })
            };
            let norm = weighted().map(|(_, x)| x * x).sum::<f64>().sqrt();
            rows.push(weighted().map(|(column, x)| (column, (x / norm) as f32)));
        }
        let terms = Terms {
            rule,
            terms: words.into_iter().map(|(word, _)| word.into_string()).collect(),
            idf: idf.into_iter().map(|x| x as f32).collect(),
        };
        (terms, rows)
    }
}

/// The words of a text in the order in which they first occur, and how often they do.
pub fn count_words(rule: Rule, text: &str) -> Vec<(String, u32)> {
    let mut buffer = Buffer::default();
    let mut words = Words::default();
    words.feed(rule, &mut buffer, text);
    words.finish(&mut buffer);
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut counts: Vec<(String, u32)> = Vec::new();
    for &(start, end) in &buffer.found {
        let word = &buffer.text[start..end];
        match places.get(word) {
            Some(&place) => counts[place].1 += 1,
            None => {
                places.insert(word, counts.len());
                counts.push((word.to_owned(), 1));
            }
        }
    }
    counts
}

/// The lexicon in which every word is found: a node is where a word's characters lie.
#[derive(Default)]
struct Buffer {
    text: String,
    found: Vec<(usize, usize)>,
}

impl Lexicon for Buffer {
    type Node = (usize, usize);

    fn root(&self) -> Option<(usize, usize)> {
        Some((self.text.len(), self.text.len()))
    }

    fn step(&mut self, (start, end): (usize, usize), c: char) -> Option<(usize, usize)> {
        let mut start = start;
        // Only the word that grew last can grow in place; its like with another last letter is copied.
        if end != self.text.len() {
            self.text.extend_from_within(start..end);
            start = self.text.len() - (end - start);
        }
        self.text.push(c);
        Some((start, self.text.len()))
    }

    fn found(&mut self, word: (usize, usize)) {
        self.found.push(word);
    }
}

/// The stop words of some languages (Stopwords ISO, MIT licence, through the crate `stop-words`), as the
/// rule finds them in texts. Languages without a list have none.
pub fn stop_words(rule: Rule, languages: &[String]) -> HashSet<String> {
    let lists = languages.iter().filter_map(|language| {
        // The lists know Norwegian as a whole.
        let code = match Tag::new(language).ok()?.language() {
            "nb" | "nn" => "no",
            code => code,
        };
        stop_words::lookup(code)
    });
    lists
        .flatten()
        .filter_map(|stop_word| {
            // What the rule would cut into several words does not occur in texts as one.
            let n_chars = stop_word.chars().count();
            let mut found = count_words(rule, stop_word).into_iter().map(|(word, _)| word);
            found.find(|word| word.chars().count() == n_chars)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(texts: &[&str], max_terms: usize, stop_words: &[&str]) -> (Terms, Sparse) {
        let stop_words = stop_words.iter().map(|&word| word.to_owned()).collect();
        let mut counter = Counter::new(Rule::Sklearn, stop_words);
        texts.chunks(2).for_each(|batch| counter.add(batch));
        assert_eq!(counter.n_documents(), texts.len());
        counter.finish(max_terms)
    }

    #[test]
    fn words_are_counted_in_order() {
        let counts = count_words(Rule::Sklearn, "Zwei eins zwei ΟΔΟΣ.Α οδοσ zwei 3x");
        let expected = [("zwei", 3), ("eins", 1), ("οδοσ", 2)];
        assert_eq!(counts, expected.map(|(word, n)| (word.to_owned(), n)));
        assert_eq!(count_words(Rule::Unicode, "日本x").len(), 3);
        assert!(count_words(Rule::Unicode, "").is_empty());
    }

    #[test]
    fn weights_as_by_hand() {
        let (terms, rows) = fitted(&["aa bb aa", "bb the cc", "", "the 17"], 10, &["the"]);
        assert_eq!(terms.terms, ["aa", "bb", "cc"]);
        let idf = |df: f64| (5.0 / (1.0 + df)).ln() + 1.0;
        for (got, want) in terms.idf.iter().zip([idf(1.0), idf(2.0), idf(1.0)]) {
            assert!((f64::from(*got) - want).abs() < 1e-6);
        }
        let norm = (2.0 * idf(1.0)).hypot(idf(2.0));
        let row: Vec<_> = rows.row(0).collect();
        assert_eq!((row[0].0, row[1].0), (0, 1));
        assert!((f64::from(row[0].1) - 2.0 * idf(1.0) / norm).abs() < 1e-6);
        assert!((f64::from(row[1].1) - idf(2.0) / norm).abs() < 1e-6);
        assert_eq!((rows.row(2).count(), rows.row(3).count(), rows.n_rows()), (0, 0, 4));
    }

    #[test]
    fn the_most_frequent_words_are_kept() {
        let (terms, rows) = fitted(&["dd cc cc bb bb aa", "zz zz zz"], 3, &[]);
        assert_eq!(terms.terms, ["zz", "bb", "cc"]);
        assert_eq!(rows.row(0).map(|(column, _)| column).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(fitted(&["aa"], 0, &[]).0.terms, [""; 0]);
        assert_eq!(fitted(&[], 5, &[]).1.n_rows(), 0);
    }

    #[test]
    fn stop_words_are_words() {
        let languages = ["en", "de-AT", "zh", "xx"].map(str::to_owned);
        let sklearn = stop_words(Rule::Sklearn, &languages);
        assert!(sklearn.contains("the") && sklearn.contains("und") && sklearn.contains("我们"));
        // Cut in two by the rule, and of one character.
        assert!(!sklearn.iter().any(|word| word.contains('\'') || word.chars().count() < 2));
        assert!(stop_words(Rule::Unicode, &languages).contains("的"));
        assert!(stop_words(Rule::Unicode, &[]).is_empty());
    }
}
