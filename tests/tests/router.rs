//! Routers fitted to a corpus: whether they send texts where they belong, and what a set carries of them.
//! `XELM_CORPUS` names a larger corpus to try as well.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use xelm_runtime::format::Gguf;
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::router::Router;
use xelm_runtime::set::Set;
use xelm_tests::xelm::{LANGUAGES, Xelm};
use xelm_train::corpus::{BadInput, LanguageDocuments, Split};
use xelm_train::report::Silent;
use xelm_train::run::{ASSIGNMENT, ROUTER, Run};
use xelm_train::tfidf::{
    Agreement, DeviceSize, Fitted, Settings, nearest, router_for, with_router,
};

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

/// Shares, in percent, of held-out texts that the device's router of a typology set sends to the expert of
/// their language, by language: whole texts, and their first 40 characters.
fn accuracy(run: &Run, k: usize) -> (BTreeMap<String, [f64; 2]>, Agreement) {
    let clusters = run.cluster_typology(k, &mut Silent).unwrap();
    let size = DeviceSize::default();
    let speakers: Vec<Vec<String>> = clusters.iter().map(|c| c.languages.clone()).collect();
    let settings = Settings::default();
    let router = router_for(run, &speakers, &size, &settings, &mut Silent).unwrap().unwrap();
    assert!(router.tensors.n_bytes() <= size.max_bytes && router.n_terms <= size.max_terms);
    println!(
        "{} of {} words, {} bytes",
        router.n_terms,
        router.n_full_terms,
        router.tensors.n_bytes()
    );
    let mut shares = BTreeMap::new();
    for (language, files) in &run.corpus().unwrap().languages {
        let own = clusters.iter().position(|c| c.languages.contains(language)).unwrap();
        let documents = LanguageDocuments::new(language, files, BadInput::Stop);
        let texts: Vec<String> = documents
            .map(|document| document.unwrap())
            .filter(|(split, _)| *split == Split::Valid)
            .map(|(_, document)| document.text)
            .collect();
        let share = |texts: &[String]| {
            let found = with_router(&router.tensors, |router| nearest(router, texts)).unwrap();
            let right = found.iter().filter(|&&expert| expert as usize == own).count();
            100.0 * right as f64 / texts.len() as f64
        };
        let short: Vec<String> = texts.iter().map(|text| text.chars().take(40).collect()).collect();
        shares.insert(language.clone(), [share(&texts), share(&short)]);
    }
    for (language, [whole, short]) in &shares {
        println!("{language}: {whole:.1} % of texts, {short:.1} % of their beginnings");
    }
    let agreement = router.held_out.unwrap();
    println!("{agreement:?}");
    (shares, agreement)
}

#[test]
fn held_out_texts_go_to_the_expert_of_their_language() {
    let folder = XELM.folder("router-accuracy");
    let corpus = XELM.corpus(&folder.join("corpus"));
    let run = Run::create(&folder.join("run"), &corpus, &[], BadInput::Stop).unwrap();
    let (shares, agreement) = accuracy(&run, 4);
    assert_eq!(shares.len(), 8);
    for (language, [whole, short]) in shares {
        assert!(whole >= 95.0 && short >= 70.0, "{language}: {whole} {short}");
    }
    assert!(agreement.same * 100 >= agreement.documents * 98, "{agreement:?}");
    assert!(agreement.own_language * 100 >= agreement.documents * 98, "{agreement:?}");
    // The full router is in the run, and is what a second fit gives.
    let full = Fitted::open(&run.path(ROUTER)).unwrap();
    accuracy(&run, 4);
    assert_eq!(Fitted::open(&run.path(ROUTER)).unwrap(), full);
}

#[test]
fn held_out_texts_of_a_larger_corpus() {
    let Some(corpus) = std::env::var_os("XELM_CORPUS") else {
        println!("skipped: XELM_CORPUS names no corpus");
        return;
    };
    let folder = XELM.folder("router-corpus");
    let run = Run::create(&folder, Path::new(&corpus), &[], BadInput::Stop).unwrap();
    let (shares, agreement) = accuracy(&run, 8);
    assert!(shares.values().all(|[whole, _]| *whole >= 85.0));
    assert!(agreement.same * 100 >= agreement.documents * 97, "{agreement:?}");
}

/// A run whose experts have documents of all languages.
static RUN: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = XELM.folder("router-tfidf");
    let corpus = XELM.corpus(&folder.join("corpus"));
    let run = folder.join("run");
    let (run_arg, corpus) = (run.to_str().unwrap(), corpus.to_str().unwrap());
    let vocabulary = ["--vocab-size", "2500", "--languages", LANGUAGES];
    XELM.run(
        &[&["tokenizer", "train", "--corpus", corpus, "--run", run_arg][..], &vocabulary].concat(),
    );
    XELM.run(&XELM.pretrain_args(run_arg, &["--steps", "4"]));
    let cluster = |more: &[&str]| {
        let args = [&["cluster", "tfidf", "--run", run_arg, "--json"][..], more].concat();
        (XELM.run(&args), [ROUTER, ASSIGNMENT].map(|file| std::fs::read(run.join(file)).unwrap()))
    };
    let first = cluster(&["--k", "2", "--threads", "1"]);
    // The same again changes nothing, whatever the threads; another number of clusters would.
    assert!(cluster(&["--k", "2", "--threads", "3"]) == first);
    for other in [&["--k", "3"][..], &["--k", "2", "--seed", "9", "--dims", "3"]] {
        let args = [&["cluster", "tfidf", "--run", run_arg][..], other].concat();
        assert!(XELM.fails(&args).contains("holds other clusters"));
    }
    let (printed, _) = first;
    XELM.run(&["train", "--run", run_arg, "--all", "--steps", "3"]);
    XELM.run(&["pack", "--run", run_arg]);
    std::fs::write(folder.join("clusters.json"), printed).unwrap();
    run
});

#[test]
fn experts_on_documents_make_a_set() {
    let printed = std::fs::read_to_string(RUN.parent().unwrap().join("clusters.json")).unwrap();
    let printed: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let documents = printed["documents"].as_object().unwrap();
    assert_eq!(documents.len(), 4);
    let file = MappedFile::open(&RUN.join("set/set.gguf")).unwrap();
    let gguf = file.gguf().unwrap();
    let set = Set::open(&gguf).unwrap();
    assert_eq!(set.entries().map(|e| e.id).collect::<Vec<_>>(), ["tfidf-0", "tfidf-1"]);
    // Every language has one expert, the one with most of its documents.
    let mut languages: Vec<_> = set.languages().collect();
    languages.sort_by_key(|(_, language)| *language);
    assert_eq!(languages.iter().map(|(_, l)| *l).collect::<Vec<_>>(), ["de", "el", "ja", "ko"]);
    for (expert, language) in languages {
        let sizes: Vec<u64> =
            documents[language].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
        assert_eq!(sizes.iter().max(), Some(&sizes[expert]), "{language}: {sizes:?}");
        assert_eq!(set.select(language, |_| true).unwrap().expert, expert);
    }
    let router = Router::open(&gguf).unwrap().unwrap();
    assert_eq!((router.n_experts(), set.len()), (2, 2));
    // The full router has the same centroids and at least the same words.
    let full = MappedFile::open(&RUN.join(ROUTER)).unwrap();
    let full = Router::open(&full.gguf().unwrap()).unwrap().map(|r| (r.n_terms(), r.n_dims()));
    assert!(full.is_some_and(|(terms, dims)| terms >= router.n_terms() && dims == router.n_dims()));
    // An expert's job names all languages that it has documents of.
    for (i, cluster) in printed["clusters"].as_array().unwrap().iter().enumerate() {
        let path = RUN.join(format!("experts/tfidf-{i}/job.json"));
        let job: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let has = |(l, sizes): (&String, &serde_json::Value)| (sizes[i] != 0).then(|| l.clone());
        let trained: Vec<String> = documents.iter().filter_map(has).collect();
        assert_eq!(job["languages"], serde_json::json!(trained));
        assert!(cluster["documents"].as_u64().unwrap() > 0);
    }
}

#[test]
fn quantising_keeps_the_router() {
    let to = XELM.folder("router-quantised");
    let (from, to_arg) = (RUN.join("set"), to.to_str().unwrap());
    XELM.run(&["quantize", "--set", from.to_str().unwrap(), "--out", to_arg, "--type", "q8_0"]);
    let files = [from, to].map(|set| MappedFile::open(&set.join("set.gguf")).unwrap());
    let [before, after] = files.each_ref().map(|file| file.gguf().unwrap());
    let tensors = |gguf: &Gguf<'_>| -> Vec<(String, Vec<u8>)> {
        gguf.tensors().map(|t| (t.name.to_owned(), t.bytes.to_vec())).collect()
    };
    assert_eq!(tensors(&before).len(), 5);
    assert_eq!(tensors(&before), tensors(&after));
    assert!(Router::open(&after).unwrap().is_some());
}

#[test]
fn a_router_is_as_small_as_asked_for() {
    let run_arg = RUN.to_str().unwrap();
    let pack = |limits: &[&str]| {
        let mut args = vec!["pack", "--run", run_arg, "--json"];
        args.extend(limits);
        let json: serde_json::Value = serde_json::from_str(&XELM.run(&args)).unwrap();
        ["terms", "bytes"].map(|key| json["router"][key].as_u64().unwrap())
    };
    let whole = pack(&[]);
    assert_eq!(pack(&["--router-terms", "100"])[0], 100);
    let [terms, bytes] = pack(&["--router-bytes", "100000"]);
    assert!(terms < whole[0] && bytes <= 100_000 && bytes > 90_000, "{terms} {bytes}");
    XELM.fails(&["pack", "--run", run_arg, "--router-bytes", "1000"]);
    assert_eq!(pack(&[]), whole);
}

#[test]
fn without_the_corpus_a_set_has_no_router() {
    let (run, _) = XELM.tiny_run("router-none");
    let corpus = run.parent().unwrap().join("corpus");
    std::fs::rename(&corpus, corpus.with_extension("away")).unwrap();
    let output = XELM.command(&["pack", "--run", run.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no router"));
    let file = MappedFile::open(&run.join("set/set.gguf")).unwrap();
    let gguf = file.gguf().unwrap();
    assert!(Set::open(&gguf).is_ok() && Router::open(&gguf).unwrap().is_none());
}
