//! The experts that a session runs: one, or those of a set, mixed by its router.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::expert::{Expert, Layer};
use crate::router::Router;
use crate::shortlist::Shortlist;
use crate::tokenizer::Tokenizer;
use bytemuck::{AnyBitPattern, NoUninit};
use sha2::{Digest, Sha256};

/// Experts that fit each other, and the router that weighs them. Immutable, shared by any number of
/// sessions.
#[derive(Clone, Copy, Debug)]
pub struct Ensemble<'a> {
    members: Members<'a>,
    /// The first that is present: dimensions and vocabulary are the same in all.
    first: &'a Expert<'a>,
    router: Option<Router<'a>>,
    n_ctx: usize,
}

#[derive(Clone, Copy, Debug)]
enum Members<'a> {
    One(&'a Expert<'a>),
    /// By index in the set; `None` where an expert is not present.
    Many(&'a [Option<&'a Expert<'a>>]),
}

/// An expert that takes part in a step, and its share of the mixture.
#[derive(Clone, Copy, Debug, Default, PartialEq, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Active {
    /// Index in the set; 0 where a session runs one expert.
    pub expert: u32,
    /// Weight; those of a step sum to 1.
    pub weight: f32,
}

impl<'a> From<&'a Expert<'a>> for Ensemble<'a> {
    fn from(expert: &'a Expert<'a>) -> Self {
        let n_ctx = expert.config().n_ctx;
        Ensemble { members: Members::One(expert), first: expert, router: None, n_ctx }
    }
}

impl<'a> Ensemble<'a> {
    /// Experts by their index in the set, `None` for those that are not present, and the set's router.
    ///
    /// # Errors
    /// [`Error::NoExpert`] where none is present; [`Error::ExpertsDiffer`] where dimensions,
    /// vocabularies, or the number of experts in the router differ; [`Error::NoRouter`] where several
    /// experts are present and nothing weighs them.
    pub fn new(experts: &'a [Option<&'a Expert<'a>>], router: Option<Router<'a>>) -> Result<Self> {
        let present = || experts.iter().flatten();
        let first = *present().next().ok_or(Error::NoExpert)?;
        for expert in present() {
            fits(first, expert)?;
        }
        match &router {
            Some(router) if router.n_experts() != experts.len() => {
                return Err(Error::ExpertsDiffer { what: "number from their router" });
            }
            None if present().count() > 1 => return Err(Error::NoRouter),
            _ => {}
        }
        let n_ctx = present().map(|e| e.config().n_ctx).min().unwrap_or(0);
        Ok(Ensemble { members: Members::Many(experts), first, router, n_ctx })
    }

    /// Number of experts in the set, present or not.
    pub fn len(&self) -> usize {
        match self.members {
            Members::One(_) => 1,
            Members::Many(experts) => experts.len(),
        }
    }

    /// Whether there is no expert (never true).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of experts that are present.
    pub fn n_present(&self) -> usize {
        (0..self.len()).filter(|&i| self.get(i).is_some()).count()
    }

    /// Expert `index`, if it is present.
    pub fn get(&self, index: usize) -> Option<&'a Expert<'a>> {
        match self.members {
            Members::One(expert) => (index == 0).then_some(expert),
            Members::Many(experts) => experts.get(index).copied().flatten(),
        }
    }

    /// Expert `index`, which a step has chosen among those that are present.
    pub(crate) fn expert(&self, index: u32) -> &'a Expert<'a> {
        self.get(index as usize).unwrap_or(self.first)
    }

    /// Layer `layer` of expert `index`.
    pub(crate) fn layer(&self, index: u32, layer: usize) -> &'a Layer<'a> {
        &self.expert(index).layers[layer]
    }

    /// The first expert that is present.
    pub fn first(&self) -> &'a Expert<'a> {
        self.first
    }

    /// The dimensions, which all experts share but for their contexts.
    pub fn config(&self) -> &'a Config {
        self.first.config()
    }

    /// Positions that every expert has.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// The shortlists of the experts that are present, where each of them has one.
    pub(crate) fn shortlists(&self) -> Option<impl Iterator<Item = Shortlist<'a>> + Clone> {
        let this = *self;
        let present = (0..this.len()).filter_map(move |i| this.get(i));
        let all = present.clone().all(|expert| expert.shortlist().is_some());
        all.then(|| present.filter_map(Expert::shortlist))
    }

    /// The tokenizer, which all experts share.
    pub fn tokenizer(&self) -> Option<&'a Tokenizer<'a>> {
        self.first.tokenizer()
    }

    /// The router, where the experts are weighed by one.
    pub fn router(&self) -> Option<&Router<'a>> {
        self.router.as_ref()
    }

    /// What tells models apart: dimensions, vocabulary, name, and of every tensor its type and its first and
    /// last bytes, which training and quantising change. Every expert that is present counts.
    pub fn fingerprint(&self) -> [u8; 32] {
        const SAMPLE: usize = 64;
        let mut sha = Sha256::new();
        for index in 0..self.len() {
            let Some(expert) = self.get(index) else { continue };
            sha.update((index as u64).to_le_bytes());
            let Config { n_vocab, n_embd, n_layer, n_head, n_ff, activation, norm_eps, .. } =
                *expert.config();
            for n in [n_vocab, n_embd, n_layer, n_head, n_ff, activation as usize] {
                sha.update((n as u64).to_le_bytes());
            }
            sha.update(norm_eps.to_le_bytes());
            sha.update(expert.tokenizer().map_or([0; 32], |t| t.hash()));
            for tensor in expert.gguf().tensors() {
                let bytes = tensor.bytes;
                sha.update((tensor.dtype as u32).to_le_bytes());
                sha.update(&bytes[..bytes.len().min(SAMPLE)]);
                sha.update(&bytes[bytes.len().saturating_sub(SAMPLE)..]);
            }
        }
        sha.finalize().into()
    }

    /// Bytes of all weights that are mapped.
    pub fn weight_bytes(&self) -> usize {
        (0..self.len()).filter_map(|i| self.get(i)).map(Expert::weight_bytes).sum()
    }
}

/// Whether the probabilities of two experts can be mixed, and their work shared.
fn fits(a: &Expert<'_>, b: &Expert<'_>) -> Result<()> {
    let differ = |what| Err(Error::ExpertsDiffer { what });
    let (x, y) = (a.config(), b.config());
    if x.n_vocab != y.n_vocab
        || a.tokenizer().map(Tokenizer::hash) != b.tokenizer().map(Tokenizer::hash)
    {
        return differ("vocabulary");
    }
    let shared = |c: &Config| Config { n_ctx: 0, ..*c };
    if shared(x) != shared(y) { differ("dimensions") } else { Ok(()) }
}
