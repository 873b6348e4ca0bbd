//! Token shards: a corpus turned into ids once, memory-mapped afterwards.
//!
//! One GGUF file per language and split, architecture `xelm-tokens`: the tensors `tokens` (I32, the
//! documents' ids one behind the other, without any `</s>`) and `documents` (I64, where each begins,
//! and the end). It records the vocabulary and the corpus files it was made from, and is made anew
//! when these change.

use crate::corpus::{BadInput, Corpus, CorpusFile, LanguageDocuments, Skipped, Split};
use crate::memory::Memory;
use crate::{Error, Result};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use xelm_runtime::arena::Arena;
use xelm_runtime::format::{AtomicFile, Gguf, Value, Writer};
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::quant::DType;
use xelm_runtime::tokenizer::{Scratch, Tokenizer, hex};

/// `general.architecture` of a token shard.
pub const ARCH_TOKENS: &str = "xelm-tokens";

/// Documents tokenised together.
const BATCH: usize = 256;

/// Metadata keys of a shard.
mod key {
    pub(super) const SOURCE: &str = "xelm.tokens.source";
    pub(super) const BYTES: &str = "xelm.tokens.bytes";
    pub(super) const VOCABULARY: &str = "xelm.tokenizer.hash";
}

/// The tokenised documents of one language and split.
#[derive(Debug)]
pub struct TokenShard {
    file: MappedFile,
    /// Where the tensors lie in the file.
    tokens: std::ops::Range<usize>,
    documents: std::ops::Range<usize>,
    /// UTF-8 bytes of all documents.
    pub n_bytes: u64,
}

impl TokenShard {
    /// Opens and checks a shard.
    ///
    /// # Errors
    /// It cannot be read or is not a shard.
    pub fn open(path: &Path) -> Result<TokenShard> {
        let file = MappedFile::open(path).map_err(Error::io("open", path))?;
        let wrong = Error::file(path);
        let (tokens, documents, n_bytes) = {
            let gguf = file.gguf().map_err(&wrong)?;
            gguf.expect_architecture(ARCH_TOKENS).map_err(&wrong)?;
            let start = file.bytes().as_ptr().addr();
            let find = |name: &'static str, dtype: DType| {
                let tensor = gguf.tensor(name).filter(|t| t.dtype == dtype);
                let missing = xelm_runtime::Error::MissingTensor { name };
                let bytes = tensor.ok_or(missing).map_err(&wrong)?.bytes;
                let at = bytes.as_ptr().addr() - start;
                Ok::<_, Error>(at..at + bytes.len())
            };
            let n_bytes = match gguf.get(key::BYTES) {
                Some(Value::U64(n)) => n,
                _ => return Err(wrong(xelm_runtime::Error::MissingKey { key: key::BYTES })),
            };
            (find("tokens", DType::I32)?, find("documents", DType::I64)?, n_bytes)
        };
        let shard = TokenShard { file, tokens, documents, n_bytes };
        let starts = shard.starts();
        let ordered = starts.windows(2).all(|pair| pair[0] <= pair[1]);
        let ends_well = starts.last().is_some_and(|&end| end <= shard.tokens().len() as u64);
        if starts.first() != Some(&0) || !ordered || !ends_well {
            return Err(wrong(xelm_runtime::Error::OutOfRange { what: "documents" }));
        }
        Ok(shard)
    }

    /// All ids.
    pub fn tokens(&self) -> &[u32] {
        // `Gguf::open` aligned the tensors; the cast would fail only on a file changed since.
        bytemuck::try_cast_slice(&self.file.bytes()[self.tokens.clone()]).unwrap_or_default()
    }

    fn starts(&self) -> &[u64] {
        bytemuck::try_cast_slice(&self.file.bytes()[self.documents.clone()]).unwrap_or_default()
    }

    /// Number of documents.
    pub fn n_documents(&self) -> usize {
        self.starts().len().saturating_sub(1)
    }

    /// The ids of document `i`.
    pub fn document(&self, i: usize) -> &[u32] {
        let starts = self.starts();
        &self.tokens()[starts[i] as usize..starts[i + 1] as usize]
    }
}

/// The shard file of a language and split in a run's token folder.
pub fn shard_path(folder: &Path, language: &str, split: Split) -> PathBuf {
    folder.join(format!("{language}.{}.gguf", split.name()))
}

/// What [`tokenize`] did for one language.
#[derive(Clone, Debug)]
pub struct Tokenized {
    /// The language.
    pub language: String,
    /// Whether its shards were there already and nothing had changed.
    pub reused: bool,
    /// Lines that were left out.
    pub skipped: Vec<Skipped>,
}

/// Makes the shards of every language of a corpus that are missing or out of date, in parallel.
///
/// # Errors
/// Unreadable files, bad lines under [`BadInput::Stop`], or a language without training documents.
pub fn tokenize(
    corpus: &Corpus,
    vocabulary: &Path,
    folder: &Path,
    bad_input: BadInput,
) -> Result<Vec<Tokenized>> {
    let file =
        MappedFile::open(vocabulary).map_err(Error::io("open the vocabulary", vocabulary))?;
    let gguf = file.gguf().map_err(Error::file(vocabulary))?;
    let tokenizer = Tokenizer::open(&gguf).map_err(Error::file(vocabulary))?;
    let languages: Vec<_> = corpus.languages.iter().collect();
    languages
        .par_iter()
        .map(|(language, files)| tokenize_language(language, files, &tokenizer, folder, bad_input))
        .collect()
}

fn tokenize_language(
    language: &str,
    files: &[CorpusFile],
    tokenizer: &Tokenizer<'_>,
    folder: &Path,
    bad_input: BadInput,
) -> Result<Tokenized> {
    let source = source_identity(files, tokenizer)?;
    let paths = [Split::Train, Split::Valid].map(|split| shard_path(folder, language, split));
    let up_to_date = |path: &PathBuf| is_made_from(path, &source);
    if paths.iter().all(up_to_date) {
        return Ok(Tokenized { language: language.to_owned(), reused: true, skipped: Vec::new() });
    }
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let mut shards = [ShardWriter::create(folder)?, ShardWriter::create(folder)?];
    let mut documents = LanguageDocuments::new(language, files, bad_input);
    loop {
        let batch: Result<Vec<_>> = documents.by_ref().take(BATCH).collect();
        let batch = batch?;
        if batch.is_empty() {
            break;
        }
        let path = documents.path();
        let ids: Result<Vec<Vec<u32>>> = batch
            .par_iter()
            .map(|(_, document)| {
                // The paper strips trailing spaces; the normaliser drops them too.
                encode(tokenizer, document.text.as_bytes()).map_err(Error::file(path))
            })
            .collect();
        for ((split, document), ids) in batch.iter().zip(ids?) {
            shards[usize::from(*split == Split::Valid)].push(&ids, document.text.len())?;
        }
    }
    let skipped = documents.into_skipped();
    let [train, valid] = shards;
    if train.starts.len() == 1 {
        return Err(Error::usage(format!(
            "the language {language:?} has no training documents in {}",
            files.iter().map(|f| f.path.display().to_string()).collect::<Vec<_>>().join(", ")
        )));
    }
    let vocabulary = hex(&tokenizer.hash());
    train.finish(&paths[0], &source, &vocabulary)?;
    valid.finish(&paths[1], &source, &vocabulary)?;
    Ok(Tokenized { language: language.to_owned(), reused: false, skipped })
}

/// Ids of a text, without any `</s>`.
///
/// # Errors
/// The text is larger than memory addresses allow.
pub fn encode(tokenizer: &Tokenizer<'_>, text: &[u8]) -> xelm_runtime::Result<Vec<u32>> {
    let capacity = tokenizer.normalizer().normalized_len(text);
    let mut plan = Arena::measure();
    Scratch::carve(&mut plan, capacity)?;
    let mut memory = Memory::new(plan.used());
    let mut scratch = Scratch::carve(&mut Arena::new(memory.bytes())?, capacity)?;
    Ok(tokenizer.encode(text, &mut scratch)?.ids.to_vec())
}

/// What a shard depends on: the vocabulary, and name, size and time of every file.
fn source_identity(files: &[CorpusFile], tokenizer: &Tokenizer<'_>) -> Result<String> {
    let mut sha = Sha256::new();
    sha.update(tokenizer.hash());
    for file in files {
        let metadata = std::fs::metadata(&file.path).map_err(Error::io("read", &file.path))?;
        let modified = metadata.modified().ok();
        let modified = modified.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        let name = file.path.file_name().unwrap_or_default();
        sha.update(format!("{name:?} {} {modified:?}\n", metadata.len()));
    }
    Ok(hex(&sha.finalize()))
}

fn is_made_from(path: &Path, source: &str) -> bool {
    let Ok(file) = MappedFile::open(path) else { return false };
    let Ok(gguf) = file.gguf() else { return false };
    gguf.get(key::SOURCE) == Some(Value::String(source))
}

/// Checks that the shards were made with the vocabulary of `tokenizer_hash`.
///
/// # Errors
/// They were not, or cannot be read.
pub fn check_vocabulary(path: &Path, tokenizer_hash: &str) -> Result<()> {
    let file = MappedFile::open(path).map_err(Error::io("open", path))?;
    let gguf: Gguf<'_> = file.gguf().map_err(Error::file(path))?;
    if gguf.get(key::VOCABULARY) == Some(Value::String(tokenizer_hash)) {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{} was made with another vocabulary; remove the folder that holds it to tokenise anew",
        path.display()
    )))
}

/// A shard being written: the ids go to a temporary file, since their number is known last.
struct ShardWriter {
    ids: BufWriter<File>,
    starts: Vec<u64>,
    n_bytes: u64,
    folder: PathBuf,
}

impl ShardWriter {
    fn create(folder: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(folder).map_err(Error::io("write to", folder))?;
        Ok(ShardWriter {
            ids: BufWriter::new(file),
            starts: vec![0],
            n_bytes: 0,
            folder: folder.to_owned(),
        })
    }

    fn push(&mut self, ids: &[u32], n_bytes: usize) -> Result<()> {
        let written = self.ids.write_all(bytemuck::cast_slice(ids));
        written.map_err(Error::io("write to", &self.folder))?;
        self.starts.push(self.starts.last().unwrap_or(&0) + ids.len() as u64);
        self.n_bytes += n_bytes as u64;
        Ok(())
    }

    fn finish(self, path: &Path, source: &str, vocabulary: &str) -> Result<()> {
        let mut writer = Writer::new(ARCH_TOKENS);
        writer.string(key::SOURCE, source);
        writer.string(key::VOCABULARY, vocabulary);
        writer.u64(key::BYTES, self.n_bytes);
        let n_tokens = self.starts.last().copied().unwrap_or(0) as usize;
        let wrong = Error::file(path);
        // A dimension of zero is no GGUF; an empty split has one id that no document covers.
        writer.tensor("documents", DType::I64, &[self.starts.len()]).map_err(&wrong)?;
        writer.tensor("tokens", DType::I32, &[n_tokens.max(1)]).map_err(&wrong)?;
        let file = AtomicFile::create(path).map_err(Error::io("write", path))?;
        let mut body = writer.begin(file).map_err(&wrong)?;
        body.tensor([bytemuck::cast_slice::<u64, u8>(&self.starts)]).map_err(&wrong)?;
        let mut ids =
            self.ids.into_inner().map_err(|e| e.into_error()).map_err(Error::io("write", path))?;
        ids.rewind().map_err(Error::io("read back", path))?;
        let mut ids = BufReader::new(ids);
        let mut failure = None;
        let parts = std::iter::from_fn(|| {
            let mut part = vec![0; 1 << 20];
            match ids.read(&mut part) {
                Ok(0) => None,
                Ok(n) => {
                    part.truncate(n);
                    Some(part)
                }
                Err(e) => {
                    failure = Some(e);
                    None
                }
            }
        });
        let padding = (n_tokens == 0).then(|| vec![0; 4]);
        let written = body.tensor(parts.chain(padding));
        if let Some(error) = failure {
            return Err(Error::io("read back", path)(error));
        }
        written.map_err(&wrong)?;
        body.finish().map_err(&wrong)?.commit().map_err(Error::io("write", path))
    }
}
