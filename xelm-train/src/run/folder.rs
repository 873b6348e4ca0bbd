//! Run directories: begun, derived, opened.

use super::{Derived, MANIFEST, Manifest, Run};
use crate::corpus::{BadInput, Corpus};
use crate::job::write_json;
use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};
use xelm_runtime::format::AtomicFile;

impl Run {
    /// Creates a run directory, or opens one that was created with the same corpus and languages.
    ///
    /// # Errors
    /// The corpus cannot be used, or the directory holds another run.
    pub fn create(
        root: &Path,
        corpus: &Path,
        languages: &[String],
        bad_input: BadInput,
    ) -> Result<Run> {
        let found = Corpus::find(corpus)?;
        let languages = if languages.is_empty() {
            found.languages.keys().cloned().collect()
        } else {
            found.only(languages)?;
            languages.to_vec()
        };
        fs::create_dir_all(root).map_err(Error::io("create", root))?;
        let absolute = |path: &Path| path.canonicalize().map_err(Error::io("find", path));
        let (root_path, corpus) = (absolute(root)?, absolute(corpus)?);
        let corpus = corpus.strip_prefix(&root_path).map(Path::to_owned).unwrap_or(corpus);
        let manifest = Manifest {
            format: 1,
            corpus,
            languages,
            skip_bad_input: bad_input == BadInput::Skip,
            model: None,
        };
        if root.join(MANIFEST).exists() {
            let run = Run::open(root)?;
            let same = run.manifest.corpus == manifest.corpus
                && run.manifest.languages == manifest.languages;
            return if same {
                Ok(run)
            } else {
                Err(Error::usage(format!(
                    "{} holds a run with another corpus or other languages: choose another folder",
                    root.display()
                )))
            };
        }
        let run = Run { root: root.to_owned(), base: root.to_owned(), manifest };
        write_json(&run.path(MANIFEST), &run.manifest)?;
        run.explain()?;
        Ok(run)
    }

    /// Creates a run that divides the corpus of `base` in another way, or opens one that was created so.
    ///
    /// # Errors
    /// `base` is no run; the directory holds another run.
    pub fn derive(root: &Path, base: &Path) -> Result<Run> {
        let base = Run::open(base)?.base;
        fs::create_dir_all(root).map_err(Error::io("create", root))?;
        let absolute = |path: &Path| path.canonicalize().map_err(Error::io("find", path));
        let relative = relative(&absolute(root)?, &absolute(&base)?);
        let path = root.join(MANIFEST);
        if path.exists() {
            let run = Run::open(root)?;
            return if absolute(&run.base)? == absolute(&base)? && run.base != run.root {
                Ok(run)
            } else {
                Err(Error::usage(format!(
                    "{} holds a run that does not derive from {}: choose another folder",
                    root.display(),
                    base.display()
                )))
            };
        }
        write_json(&path, &Derived { format: 1, base: relative })?;
        let run = Run::open(root)?;
        run.explain()?;
        Ok(run)
    }

    fn explain(&self) -> Result<()> {
        let readme = self.path("README.md");
        AtomicFile::write(&readme, README.as_bytes()).map_err(Error::io("write", &readme))
    }

    /// Opens a run directory.
    ///
    /// # Errors
    /// It is none.
    pub fn open(root: &Path) -> Result<Run> {
        let path = root.join(MANIFEST);
        let text = fs::read_to_string(&path).map_err(|_| {
            Error::usage(format!(
                "{} is not a run directory (it has no {MANIFEST}); `xelm tokenizer train --corpus DIR \
                 --run DIR` begins one",
                root.display()
            ))
        })?;
        let wrong = |e: serde_json::Error| Error::usage(format!("{}: {e}", path.display()));
        let value: serde_json::Value = serde_json::from_str(&text).map_err(wrong)?;
        if value.get("base").is_none() {
            let manifest = serde_json::from_value(value).map_err(wrong)?;
            return Ok(Run { root: root.to_owned(), base: root.to_owned(), manifest });
        }
        let derived: Derived = serde_json::from_value(value).map_err(wrong)?;
        let base = root.join(derived.base);
        let of_base = Run::open(&base)?;
        if of_base.base != of_base.root {
            return Err(Error::usage(format!(
                "{}: its base {} is itself derived",
                path.display(),
                base.display()
            )));
        }
        Ok(Run { root: root.to_owned(), base, manifest: of_base.manifest })
    }
}

/// `path` as seen from the folder `from`; both are absolute.
fn relative(from: &Path, path: &Path) -> PathBuf {
    let common = from.components().zip(path.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(common).map(|_| Path::new("..").as_os_str());
    up.chain(path.components().skip(common).map(|c| c.as_os_str())).collect()
}

const README: &str = "\
# A run of xelm

| here | what |
|---|---|
| `run.json` | corpus, languages, dimensions of the model |
| `tokenizer.gguf` | the vocabulary that all models share |
| `tokens/` | the corpus as token ids, by language; made anew when the corpus changes |
| `clusters.json` | which languages, or documents, share an expert |
| `clusters.gguf` | the cluster of every document, where documents are clustered |
| `typology.tsv` | distances between languages, where they come from features of one's own |
| `router.gguf` | the router in full: what words say about the expert |
| `seed/` | the model that everything branches from: settings, log (one JSON line a step), checkpoint |
| `experts/<id>/` | one training job per expert; each can be trained on another machine and copied here |
| `dense/`, `random/` | the baselines: one model on all languages, one on a random part of the documents |
| `adapted.json` | experts for languages that were added later: their donors and parents |
| `lapt/` | the baseline of those: the dense model, trained on all added languages |
| `models/` | seed and baselines as model files |
| `set/` | the experts as model files, with `set.gguf` that says who speaks what |
| `set-q8_0/`, `set-q4_0/` | the same, quantised |
| `eval.json` | bits per byte and perplexity of every model on every language |
| `eval.jsonl` | the scores of which they are made, as they were measured; what is here is not measured again |
| `forgetting.json` | every expert on every language |
| `icl.json`, `icl.jsonl` | accuracies of in-context learning, and what they are made of |

A `run.json` with a `base` derives from another run: vocabulary, tokens, seed and dense model are there.

Model files are GGUF and run in every tool that reads it. What a run is for and how to continue it:
`xelm --help`.
";
