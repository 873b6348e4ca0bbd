//! The rule `sklearn` and TF-IDF against scikit-learn and Python themselves; `tests/sklearn_vectors.py`
//! writes what these compute. On another corpus: `XELM_CORPUS` and `XELM_SKLEARN`, see there.

use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use xelm_runtime::router::Rule;
use xelm_runtime::tokenizer::hex;
use xelm_train::corpus::{BadInput, Corpus, Documents, Split, write_bundled};
use xelm_train::tfidf::svd::svd;
use xelm_train::tfidf::vectorizer::{Counter, count_words};

#[derive(Deserialize)]
struct Fixture {
    words: Vec<Text>,
    languages: Vec<String>,
    documents_per_language: usize,
    stop_words: Vec<String>,
    n_documents: usize,
    n_terms: usize,
    terms_sha256: String,
    singular_values: Vec<f64>,
    share_found: f64,
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    words: Vec<String>,
}

#[derive(Deserialize)]
struct Vector {
    language: String,
    index: usize,
    terms: BTreeMap<String, f64>,
}

fn fixture(path: &Path) -> Fixture {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/sklearn.json")
}

#[test]
fn words_are_pythons() {
    let texts = fixture(&committed()).words;
    assert!(texts.len() > 15);
    for Text { text, mut words } in texts {
        let mut found: Vec<String> = count_words(Rule::Sklearn, &text)
            .into_iter()
            .flat_map(|(word, n)| std::iter::repeat_n(word, n as usize))
            .collect();
        found.sort();
        words.sort();
        assert_eq!(found, words, "{text:?}");
    }
}

fn compare(corpus: &Path, fixture: &Fixture) {
    let corpus = Corpus::find(corpus).unwrap().only(&fixture.languages).unwrap();
    let stop_words = fixture.stop_words.iter().cloned().collect();
    let mut counter = Counter::new(Rule::Sklearn, stop_words);
    let mut rows = HashMap::new();
    for (language, files) in &corpus.languages {
        let file = files.iter().find(|file| file.split == Split::Train).unwrap();
        let documents = Documents::open(file, language, BadInput::Stop).unwrap();
        for (index, document) in documents.take(fixture.documents_per_language).enumerate() {
            rows.insert((language.as_str(), index), counter.n_documents());
            counter.add(&[document.unwrap().text]);
        }
    }
    assert_eq!(counter.n_documents(), fixture.n_documents);
    let (terms, matrix) = counter.finish(usize::MAX);
    assert_eq!(terms.terms.len(), fixture.n_terms);
    let mut sorted = terms.terms.clone();
    sorted.sort();
    assert_eq!(hex(&Sha256::digest(sorted.join("\n"))), fixture.terms_sha256);

    let mut worst = 0.0f64;
    assert!(fixture.vectors.len() >= fixture.languages.len());
    for vector in &fixture.vectors {
        let row = rows[&(vector.language.as_str(), vector.index)];
        let mut wanted = vector.terms.clone();
        for (column, x) in matrix.row(row) {
            let want = wanted.remove(&terms.terms[column as usize]).unwrap();
            worst = worst.max((f64::from(x) - want).abs());
        }
        assert!(wanted.is_empty(), "{wanted:?}");
    }
    println!("{} documents, {} terms, worst error {worst:.1e}", matrix.n_rows(), matrix.n_cols);
    assert!(worst <= 1e-6, "{worst}");

    // A random subspace finds no more of a value than there is, and no less than scikit-learn's does.
    let values = svd(&matrix, fixture.singular_values.len(), 1).values;
    let shares = values.iter().zip(&fixture.singular_values).map(|(got, exact)| got / exact);
    let least = shares.clone().fold(f64::INFINITY, f64::min);
    let Fixture { share_found, .. } = fixture;
    println!("of each singular value at least {least:.3}, scikit-learn {share_found:.3}");
    assert_eq!(values.len(), fixture.singular_values.len());
    assert!(
        least > share_found - 0.01 && shares.clone().all(|share| share < 1.0 + 1e-5),
        "{values:?}"
    );
}

#[test]
fn vectors_are_scikit_learns() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sklearn");
    write_bundled(&folder).unwrap();
    compare(&folder, &fixture(&committed()));
}

#[test]
fn vectors_of_another_corpus_are_scikit_learns() {
    let (Some(corpus), Some(vectors)) =
        (std::env::var_os("XELM_CORPUS"), std::env::var_os("XELM_SKLEARN"))
    else {
        println!("skipped: XELM_CORPUS and XELM_SKLEARN name no corpus and no vectors");
        return;
    };
    compare(Path::new(&corpus), &fixture(Path::new(&vectors)));
}
