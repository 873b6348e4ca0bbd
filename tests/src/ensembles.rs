//! A small set of four experts with a router, made from a small run: its two experts, its seed and its
//! dense model, which have the same dimensions and vocabulary.

use std::path::Path;
use xelm_runtime::ensemble::Ensemble;
use xelm_runtime::expert::Expert;
use xelm_runtime::format::{Gguf, Writer};
use xelm_runtime::mmap::ExpertFile;
use xelm_runtime::router::{Precision, Router, RouterTensors, Rule, Tables};
use xelm_train::memory::Memory;

/// The files of the experts and of a router that sends German, Japanese and Greek words to
/// different experts, and knows nothing that speaks for the last.
#[derive(Debug)]
pub struct FourExperts {
    /// `de-el`, `ja-ko`, seed, dense.
    pub files: [ExpertFile; 4],
    router: Memory,
    router_len: usize,
}

/// Words and the expert that each speaks for.
const TERMS: [(&str, usize); 10] = [
    ("am", 0),
    ("morgen", 0),
    ("haus", 0),
    ("und", 0),
    ("die", 0),
    ("今", 1),
    ("日", 1),
    ("は", 1),
    ("και", 2),
    ("το", 2),
];

/// A text that speaks for one expert after the other.
pub const SWITCHING: &str =
    "Am Morgen und die Nacht. 今日は、今日は。 Και το και το κείμενο, και το";

impl FourExperts {
    /// Opens the models of a small run.
    pub fn open(run: &Path) -> FourExperts {
        let names = ["set/de-el", "set/ja-ko", "models/seed", "models/dense"];
        let files = names.map(|name| {
            ExpertFile::open(&run.join(format!("{name}.gguf"))).expect("the run is finished")
        });
        let file = router_file();
        let mut router = Memory::new(file.len());
        router.bytes().copy_from_slice(&file);
        FourExperts { files, router_len: file.len(), router }
    }

    /// Calls `work` with the router and the experts for which `is_present` holds.
    pub fn with<T>(
        &mut self,
        is_present: impl Fn(usize) -> bool,
        work: impl FnOnce(&[Option<&Expert<'_>>; 4], Router<'_>) -> T,
    ) -> T {
        let gguf = Gguf::open(&self.router.bytes()[..self.router_len]).expect("a valid file");
        let router = Router::open(&gguf).expect("valid tables").expect("a router");
        let all = self.files.each_ref().map(ExpertFile::expert);
        work(&std::array::from_fn(|i| is_present(i).then_some(all[i])), router)
    }

    /// Calls `work` with all four as an ensemble.
    pub fn ensemble<T>(&mut self, work: impl FnOnce(Ensemble<'_>) -> T) -> T {
        self.with(
            |_| true,
            |experts, router| work(Ensemble::new(experts, Some(router)).expect("they fit")),
        )
    }
}

/// A GGUF file with a router alone.
fn router_file() -> Vec<u8> {
    let terms: Vec<&str> = TERMS.iter().map(|(term, _)| *term).collect();
    let mut projection = vec![0.0; TERMS.len() * 4];
    for (i, (_, expert)) in TERMS.iter().enumerate() {
        // Later words count more, so that each part of the text takes over from the one before.
        projection[i * 4 + expert] = 1.0 + (i * i) as f32;
    }
    let mut centroids = vec![0.05; 16];
    for expert in 0..4 {
        centroids[expert * 4 + expert] = 0.7;
    }
    let tables = Tables {
        rule: Rule::Unicode,
        terms: &terms,
        idf: &[1.5; TERMS.len()],
        projection: &projection,
        centroids: &centroids,
        n_dims: 4,
    };
    let tensors = RouterTensors::new(&tables, Precision::F32).expect("valid tables");
    let mut writer = Writer::new("xelm-set");
    tensors.describe(&mut writer).expect("new names");
    let mut body = writer.begin(Vec::new()).expect("a vector takes everything");
    tensors.write(&mut body).expect("in order");
    body.finish().expect("all tensors are there")
}
