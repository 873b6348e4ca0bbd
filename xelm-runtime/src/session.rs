//! A session: the mutable state of one text being read or written by one expert.
//!
//! A session lives in memory that the caller supplies: [`Session::plan`] says how much,
//! [`Session::init`] takes it. Nothing is allocated afterwards.

use crate::arena::Arena;
use crate::error::{Error, Result};
use crate::expert::Expert;
use crate::forward::{Buffers, forward, head};
use crate::kernels::{Kernels, KvElement};
use crate::parallel::Parallel;
use crate::sampler::{Candidate, Sampler};
use crate::tokenizer::{Encoding, Scratch as TextScratch};
use core::sync::atomic::{AtomicBool, Ordering};

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// Single precision.
    F32,
    /// Half precision: half the memory, the default.
    F16,
}

/// What a session is planned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Positions; 0 means all that the model has.
    pub n_ctx: usize,
    /// Tokens that one pass of a prefill takes at most.
    pub n_batch: usize,
    /// Positions whose logits are computed together when all are wanted.
    pub n_logits: usize,
    /// Storage of keys and values.
    pub kv: KvType,
    /// Longest text that can be tokenised, in bytes after normalisation; 0 for none.
    pub max_text: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { n_ctx: 0, n_batch: 32, n_logits: 1, kv: KvType::F16, max_text: 16 << 10 }
    }
}

/// How much memory a session takes, in bytes. Exactly `total` works; one byte less is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Keys and values.
    pub kv: usize,
    /// Buffers of the forward pass, logits and sampling.
    pub scratch: usize,
    /// Tokenisation.
    pub text: usize,
    /// The sum.
    pub total: usize,
}

/// The keys and values of all positions so far: per layer `[n_head, n_ctx, head_dim]`, twice.
#[derive(Debug)]
pub(crate) enum KvCache<'m> {
    F32(&'m mut [f32]),
    F16(&'m mut [u16]),
}

/// One text in one expert. Used by one thread at a time; any number of sessions share an expert.
pub struct Session<'m> {
    expert: &'m Expert<'m>,
    parallel: &'m dyn Parallel,
    kernels: Kernels,
    n_ctx: usize,
    n_past: usize,
    kv: KvCache<'m>,
    buffers: Buffers<'m>,
    candidates: &'m mut [Candidate],
    text: TextScratch<'m>,
    cancel: Option<&'m AtomicBool>,
}

impl core::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Session")
            .field("expert", &self.expert.id())
            .field("n_ctx", &self.n_ctx)
            .field("n_past", &self.n_past)
            .finish_non_exhaustive()
    }
}

/// Everything that a session takes from its memory, in order.
struct Parts<'m> {
    kv: KvCache<'m>,
    buffers: Buffers<'m>,
    candidates: &'m mut [Candidate],
    text: TextScratch<'m>,
    plan: Plan,
}

impl<'m> Parts<'m> {
    fn carve(expert: &Expert<'_>, options: &Options, arena: &mut Arena<'m>) -> Result<Self> {
        let config = expert.config();
        let n_ctx = n_ctx(expert, options)?;
        if options.n_batch == 0 {
            return Err(Error::BadParameter { what: "n_batch" });
        }
        if options.n_logits == 0 {
            return Err(Error::BadParameter { what: "n_logits" });
        }
        let overflow = Error::OutOfRange { what: "a memory size" };
        let n_kv = n_ctx.checked_mul(2 * config.n_layer * config.n_embd).ok_or(overflow)?;
        let kv = match options.kv {
            KvType::F32 => KvCache::F32(arena.take(n_kv)?),
            KvType::F16 => KvCache::F16(arena.take(n_kv)?),
        };
        let kv_bytes = arena.used();
        let buffers = Buffers::carve(arena, config, options.n_batch.min(n_ctx), options.n_logits)?;
        let candidates = arena.take(config.n_vocab)?;
        let scratch_end = arena.used();
        let text = TextScratch::carve(arena, options.max_text)?;
        let plan = Plan {
            kv: kv_bytes,
            scratch: scratch_end - kv_bytes,
            text: arena.used() - scratch_end,
            total: arena.used(),
        };
        Ok(Parts { kv, buffers, candidates, text, plan })
    }
}

fn n_ctx(expert: &Expert<'_>, options: &Options) -> Result<usize> {
    match options.n_ctx {
        0 => Ok(expert.config().n_ctx),
        n if n <= expert.config().n_ctx => Ok(n),
        _ => Err(Error::BadParameter { what: "n_ctx" }),
    }
}

impl<'m> Session<'m> {
    /// The memory that [`Session::init`] will need, aligned to [`crate::arena::ALIGN`].
    ///
    /// # Errors
    /// Options out of range for this expert.
    pub fn plan(expert: &Expert<'_>, options: &Options) -> Result<Plan> {
        Ok(Parts::carve(expert, options, &mut Arena::measure())?.plan)
    }

    /// A session at position 0 in `memory`, whose former contents do not matter. `parallel` does
    /// the work of every call; it changes no result.
    ///
    /// # Errors
    /// Options out of range, or memory that is too small or misaligned.
    pub fn init(
        expert: &'m Expert<'m>,
        options: &Options,
        memory: &'m mut [u8],
        kernels: Kernels,
        parallel: &'m dyn Parallel,
    ) -> Result<Self> {
        let parts = Parts::carve(expert, options, &mut Arena::new(memory)?)?;
        Ok(Session {
            expert,
            parallel,
            kernels,
            n_ctx: n_ctx(expert, options)?,
            n_past: 0,
            kv: parts.kv,
            buffers: parts.buffers,
            candidates: parts.candidates,
            text: parts.text,
            cancel: None,
        })
    }

    /// The expert.
    pub fn expert(&self) -> &'m Expert<'m> {
        self.expert
    }

    /// The kernels that it computes with.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Positions that this session has room for.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Positions that are filled.
    pub fn n_past(&self) -> usize {
        self.n_past
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.n_past = 0;
    }

    /// Forgets all positions from `n_past` on. What follows is bit for bit as if they had never been.
    ///
    /// # Errors
    /// There are fewer positions than that.
    pub fn rewind(&mut self, n_past: usize) -> Result<()> {
        if n_past > self.n_past {
            return Err(Error::BadParameter { what: "n_past" });
        }
        self.n_past = n_past;
        Ok(())
    }

    /// A flag that any thread or signal handler may set: the call in progress then ends with
    /// [`Error::Cancelled`] before its next layer, and the session stays at the position it had
    /// before that call's current batch.
    pub fn set_cancel(&mut self, flag: Option<&'m AtomicBool>) {
        self.cancel = flag;
    }

    /// Tokenises a text (without the opening `</s>`).
    ///
    /// # Errors
    /// The expert has no tokenizer, or the text is longer than planned.
    pub fn encode(&mut self, text: &[u8]) -> Result<Encoding<'_>> {
        self.expert.tokenizer().ok_or(Error::NoTokenizer)?.encode(text, &mut self.text)
    }

    /// Tokenises `text` and hands the session and the tokens to `work`. The tokens live in the
    /// session's own scratch, which is lent out meanwhile: `work` cannot tokenise.
    pub(crate) fn with_encoding<T>(
        &mut self,
        text: &[u8],
        work: impl FnOnce(&mut Self, Encoding<'_>) -> Result<T>,
    ) -> Result<T> {
        let tokenizer = self.expert.tokenizer().ok_or(Error::NoTokenizer)?;
        let empty = TextScratch::carve(&mut Arena::measure(), 0)?;
        let mut scratch = core::mem::replace(&mut self.text, empty);
        let result = tokenizer.encode(text, &mut scratch).and_then(|tokens| work(self, tokens));
        self.text = scratch;
        result
    }

    /// Reads the opening `</s>` followed by `text`.
    ///
    /// # Errors
    /// As [`Session::encode`] and [`Session::run`].
    pub fn prefill_text(&mut self, text: &[u8]) -> Result<()> {
        let bos = self.expert.tokenizer().ok_or(Error::NoTokenizer)?.bos();
        self.with_encoding(text, |session, tokens| {
            if tokens.ids.is_empty() {
                return session.prefill(&[bos]);
            }
            session.run(&[bos], Want::Nothing)?;
            session.prefill(tokens.ids)
        })
    }

    /// Reads `tokens`; afterwards [`Session::logits`] are those after the last one.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<()> {
        self.run(tokens, Want::Last)
    }

    /// The logits after the last token read by [`Session::prefill`], `[n_vocab]`.
    pub fn logits(&self) -> &[f32] {
        &self.buffers.logits[..self.expert.config().n_vocab]
    }

    /// Chooses the next token from the logits.
    pub fn sample(&mut self, sampler: &mut Sampler) -> u32 {
        let n_vocab = self.expert.config().n_vocab;
        sampler.sample(&self.buffers.logits[..n_vocab], self.candidates)
    }

    /// Reads `tokens` and hands the logits that are wanted to `want`.
    ///
    /// # Errors
    /// [`Error::ContextFull`] and [`Error::BadToken`] before anything is computed;
    /// [`Error::Cancelled`].
    pub fn run(&mut self, tokens: &[u32], mut want: Want<'_>) -> Result<()> {
        let config = self.expert.config();
        if tokens.len() > self.n_ctx - self.n_past {
            return Err(Error::ContextFull { n_ctx: self.n_ctx });
        }
        if let Some(&token) = tokens.iter().find(|&&t| t as usize >= config.n_vocab) {
            return Err(Error::BadToken { token });
        }
        let n_batch = self.buffers.n_batch();
        let mut done = 0;
        for batch in tokens.chunks(n_batch) {
            match &mut self.kv {
                KvCache::F32(kv) => pass(
                    self.expert,
                    kv,
                    self.n_ctx,
                    &mut self.buffers,
                    batch,
                    self.n_past,
                    &self.kernels,
                    self.parallel,
                    self.cancel,
                )?,
                KvCache::F16(kv) => pass(
                    self.expert,
                    kv,
                    self.n_ctx,
                    &mut self.buffers,
                    batch,
                    self.n_past,
                    &self.kernels,
                    self.parallel,
                    self.cancel,
                )?,
            }
            self.n_past += batch.len();
            done += batch.len();
            match &mut want {
                Want::Nothing => {}
                Want::Last if done < tokens.len() => {}
                Want::Last => {
                    let last = batch.len() - 1..batch.len();
                    head(self.expert, &mut self.buffers, last, &self.kernels, self.parallel);
                }
                Want::All(each) => {
                    let n_logits = self.buffers.logits.len() / config.n_vocab;
                    for start in (0..batch.len()).step_by(n_logits) {
                        let rows = start..batch.len().min(start + n_logits);
                        let first = done - batch.len() + start;
                        head(self.expert, &mut self.buffers, rows, &self.kernels, self.parallel);
                        let logits = self.buffers.logits.chunks_exact(config.n_vocab);
                        for (i, logits) in logits.take(batch.len() - start).enumerate() {
                            each(first + i, logits);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Which positions' logits a call of [`Session::run`] computes.
pub enum Want<'a> {
    /// None: the cache is filled and nothing else.
    Nothing,
    /// Those after the last token, left in [`Session::logits`].
    Last,
    /// Those after every token, handed over as (index of the token, `[n_vocab]`) in order.
    All(&'a mut dyn FnMut(usize, &[f32])),
}

impl core::fmt::Debug for Want<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Want::Nothing => "Nothing",
            Want::Last => "Last",
            Want::All(_) => "All",
        })
    }
}

#[allow(clippy::too_many_arguments, reason = "the parts of a session, borrowed apart")]
fn pass<E: KvElement>(
    expert: &Expert<'_>,
    kv: &mut [E],
    n_ctx: usize,
    buffers: &mut Buffers<'_>,
    batch: &[u32],
    past: usize,
    kernels: &Kernels,
    parallel: &dyn Parallel,
    cancel: Option<&AtomicBool>,
) -> Result<()> {
    let cancelled = || cancel.is_some_and(|flag| flag.load(Ordering::Relaxed));
    forward(expert, kv, n_ctx, buffers, batch, past, kernels, parallel, &cancelled)
}
