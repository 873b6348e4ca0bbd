//! `xelm imatrix`

use crate::open::open_expert;
use crate::{Result, print_line};
use serde_json::json;
use std::path::{Path, PathBuf};
use xelm_quantize::{Collector, Imatrix};
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::pack::SetFolder;
use xelm_runtime::pool::Pool;
use xelm_runtime::session::{KvType, Options, Session, Want};
use xelm_train::corpus::Corpus;
use xelm_train::memory::Memory;
use xelm_train::reading::training_sequences;

/// Collects what a quantiser should spare: the mean square of what each column of an expert's matrices is
/// multiplied by, while the expert reads training text.
///
/// The file is an importance matrix as llama.cpp's llama-imatrix writes it, and either program takes the
/// other's. `xelm quantize --imatrix` uses it; files of several languages, given there together, are added up.
/// Here the output layer, which is the embedding, is watched too.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Expert file.
    #[arg(long, value_name = "FILE", required_unless_present = "set", conflicts_with = "set")]
    expert: Option<PathBuf>,
    /// Folder of a set: every expert reads its own languages.
    #[arg(long, value_name = "DIR")]
    set: Option<PathBuf>,
    /// Folder of the corpus.
    #[arg(long, value_name = "DIR")]
    corpus: PathBuf,
    /// Languages to read, separated by commas; the default is the expert's own. Of a set, experts that speak
    /// none of them are left out.
    #[arg(long, value_delimiter = ',', value_name = "TAGS")]
    languages: Vec<String>,
    /// Tokens of each language at most; the first documents are taken.
    #[arg(long, default_value_t = 32_768, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Also note how columns go together: what `xelm quantize` rounds a matrix by so that its errors make up for
    /// each other. Takes the square of a width per matrix, a few times the size of the expert.
    #[arg(long)]
    products: bool,
    /// File to write; of a set the folder, for a file per expert under the name of the expert's.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Print what was read as JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self, threads: usize) -> Result<()> {
        let corpus = Corpus::find(&self.corpus)?;
        let pool = Pool::new(threads)?;
        if let Some(path) = &self.expert {
            let own = open_expert(path)?.expert().languages().map(str::to_owned).collect();
            let languages = if self.languages.is_empty() { own } else { self.languages.clone() };
            return self.collect(path, &languages, &self.out, &corpus, &pool);
        }
        let folder = SetFolder::open(self.set.as_deref().unwrap_or(Path::new(".")))?;
        let set = folder.set()?;
        let wanted =
            |tag: &str| self.languages.is_empty() || self.languages.iter().any(|l| l == tag);
        if let Some(tag) = self.languages.iter().find(|tag| set.languages().all(|(_, t)| t != *tag))
        {
            return Err(format!("no expert of the set speaks {tag:?}").into());
        }
        std::fs::create_dir_all(&self.out)
            .map_err(|e| format!("cannot make {}: {e}", self.out.display()))?;
        for (index, entry) in set.entries().enumerate() {
            let own = set.languages().filter(|(expert, tag)| *expert == index && wanted(tag));
            let own: Vec<String> = own.map(|(_, tag)| tag.to_owned()).collect();
            if !own.is_empty() {
                let path = folder.path().join(entry.file);
                self.collect(&path, &own, &self.out.join(entry.file), &corpus, &pool)?;
            }
        }
        Ok(())
    }

    /// Lets an expert read, and writes what was seen.
    fn collect(
        &self,
        path: &Path,
        languages: &[String],
        out: &Path,
        corpus: &Corpus,
        pool: &Pool,
    ) -> Result<()> {
        let file = open_expert(path)?;
        let expert = file.expert();
        let tokenizer = expert.tokenizer().ok_or(xelm_runtime::Error::NoTokenizer)?;
        let n_ctx = expert.config().n_ctx;
        let corpus = corpus.clone().only(languages)?;
        let options = Options {
            n_batch: 64,
            n_logits: 16,
            kv: KvType::F32,
            full_output: true,
            ..Options::default()
        };
        let mut memory = Memory::new(Session::plan(expert, &options)?.total);
        let kernels = Kernels::new(Isa::detect());
        let collector = Collector::new(self.products);
        let mut session = Session::init(expert, &options, memory.bytes(), kernels, pool)?;
        session.set_observer(Some(&collector));
        let (mut datasets, mut tokens) = (Vec::new(), 0);
        for (language, files) in &corpus.languages {
            eprintln!("{}: reads {language}", expert.id());
            let sequences =
                training_sequences(language, files, tokenizer, n_ctx, self.tokens as usize)?;
            for sequence in &sequences {
                session.reset();
                session.run(sequence, Want::All(&mut |_, _| {}))?;
                tokens += sequence.len();
            }
            datasets.push(language.clone());
        }
        let imatrix: Imatrix = collector.into_imatrix().from_text(datasets, n_ctx);
        imatrix.write(out)?;
        if self.json {
            let datasets = imatrix.datasets();
            return print_line(json!({
                "expert": expert.id(), "out": out, "languages": datasets, "tokens": tokens
            }));
        }
        print_line(format_args!("{}\t{tokens} tokens", out.display()))
    }
}
