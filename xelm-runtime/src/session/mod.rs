//! A session: the mutable state of one text being read or written by an expert, or by a mixture of
//! experts.
//!
//! A session lives in memory that the caller supplies: [`Session::plan`] says how much,
//! [`Session::init`] takes it. Nothing is allocated afterwards.
//!
//! Keys and values depend on the tokens alone, not on when they were computed. So an expert that joins
//! a mixture late reads what it has missed and is then where it would have been, bit for bit; rewinding,
//! reusing a prefix and restoring a saved state rest on the same.
//!
//! Passes are computed by this processor, or by a [`Device`] that the session was opened on.

mod read;
mod state;

use crate::arena::Arena;
use crate::cache::Cache;
pub use crate::cache::KvType;
use crate::config::Config;
use crate::device::{Device, Lane, Needs};
use crate::ensemble::{Active, Ensemble};
use crate::error::{Error, Result};
use crate::expert::Expert;
use crate::forward::Buffers;
use crate::kernels::Kernels;
pub use crate::mixture::{Mixing, Routing};
use crate::mixture::{Mixture, top_m};
use crate::observe::Observer;
use crate::parallel::Parallel;
use crate::sampler::{Candidate, Sampler};
pub use crate::shortlist::Outputs;
use crate::tokenizer::{Encoding, Scratch as TextScratch, Tokenizer};
use core::sync::atomic::AtomicBool;

/// What a session is planned for.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// How several experts are mixed.
    pub mixing: Mixing,
    /// Whether every token of the vocabulary has a logit also where all experts that are present have a
    /// shortlist. Otherwise the tokens on any of the shortlists have one, each expert gives the others
    /// probability 0, and a text that has them scores infinitely badly.
    pub full_output: bool,
    /// Whether a device computes the passes: [`Session::init_on`] takes it. Keys, values and the buffers of the
    /// forward pass are then in its memory.
    pub on_device: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            n_ctx: 0,
            n_batch: 32,
            n_logits: 1,
            kv: KvType::F16,
            max_text: 16 << 10,
            mixing: Mixing::default(),
            full_output: false,
            on_device: false,
        }
    }
}

/// How much memory a session takes, in bytes; a device's is planned apart. Exactly `total` works; one byte less is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Keys and values of the experts that can be resident at once.
    pub kv: usize,
    /// Buffers of the forward pass, logits and sampling.
    pub scratch: usize,
    /// Tokenisation, and the tokens read.
    pub text: usize,
    /// Choosing experts.
    pub routing: usize,
    /// The sum.
    pub total: usize,
    /// Experts whose keys and values fit at once.
    pub n_resident: usize,
    /// Not in the sum: bytes of weights that are mapped from files.
    pub mapped: usize,
}

/// One text. Used by one thread at a time; any number of sessions share their experts.
pub struct Session<'m> {
    ensemble: Ensemble<'m>,
    parallel: &'m dyn Parallel,
    kernels: Kernels,
    /// Who computes the passes, where this processor does not.
    device: Option<&'m mut dyn Device>,
    options: Options,
    n_past: usize,
    /// Whether `logits` are those after the last token.
    has_logits: bool,
    parts: Parts<'m>,
    /// Lanes of the current step and, among them, of the current pass.
    n_lanes: usize,
    n_group: usize,
    cancel: Option<&'m AtomicBool>,
    observer: Option<&'m dyn Observer>,
}

impl core::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Session")
            .field("expert", &self.expert().id())
            .field("n_ctx", &self.n_ctx())
            .field("n_past", &self.n_past)
            .finish_non_exhaustive()
    }
}

/// Everything that a session takes from its memory, in order.
struct Parts<'m> {
    cache: Cache<'m>,
    outputs: Outputs<'m>,
    buffers: Buffers<'m>,
    candidates: &'m mut [Candidate], // [n_out]
    lanes: &'m mut [Lane],           // [m]
    group: &'m mut [Lane],           // [m]
    steps: &'m mut [Active],         // [n_batch, m] of the positions of one pass
    text: TextScratch<'m>,
    tokens: &'m mut [u32], // [n_ctx]
    mixture: Mixture<'m>,
    plan: Plan,
}

impl<'m> Parts<'m> {
    /// `options` are resolved.
    fn carve(ensemble: &Ensemble<'_>, options: &Options, arena: &mut Arena<'m>) -> Result<Self> {
        let Options { max_text, mixing, on_device, .. } = *options;
        let Needs { n_ctx, n_batch, n_lanes, n_slots, n_logits, kv, full_output } =
            options.needs(ensemble)?;
        let config = ensemble.config();
        let slot_len = if on_device { 0 } else { options.slot_len(config) };
        let cache = Cache::carve(arena, kv, slot_len, n_slots)?;
        let kv_end = arena.used();
        let (outputs, n_out) = match ensemble.shortlists().filter(|_| !full_output) {
            Some(lists) => Outputs::carve(arena, lists, config.n_vocab)?,
            None => (Outputs::all(config.n_vocab), config.n_vocab),
        };
        let buffers = Buffers::carve(arena, config, n_lanes, n_batch, n_logits, n_out, on_device)?;
        let candidates = arena.take(n_out)?;
        let (lanes, group) = (arena.take(n_lanes)?, arena.take(n_lanes)?);
        let steps = arena.take(n_batch.saturating_mul(n_lanes))?;
        let scratch_end = arena.used();
        let text = TextScratch::carve(arena, max_text)?;
        let tokens = arena.take(n_ctx)?;
        let text_end = arena.used();
        let mixture = Mixture::carve(arena, ensemble, &mixing)?;
        let total = arena.used();
        let plan = Plan {
            kv: kv_end,
            scratch: scratch_end - kv_end,
            text: text_end - scratch_end,
            routing: total - text_end,
            total,
            n_resident: n_slots,
            mapped: ensemble.weight_bytes(),
        };
        Ok(Parts {
            cache,
            outputs,
            buffers,
            candidates,
            lanes,
            group,
            steps,
            text,
            tokens,
            mixture,
            plan,
        })
    }
}

impl Options {
    /// These options with every default filled in for an ensemble.
    fn resolved(&self, ensemble: &Ensemble<'_>) -> Result<Options> {
        let n_ctx = match self.n_ctx {
            0 => ensemble.n_ctx(),
            n if n <= ensemble.n_ctx() => n,
            _ => return Err(Error::BadParameter { what: "n_ctx" }),
        };
        if self.n_batch == 0 {
            return Err(Error::BadParameter { what: "n_batch" });
        }
        if self.n_logits == 0 {
            return Err(Error::BadParameter { what: "n_logits" });
        }
        Ok(Options { n_ctx, n_batch: self.n_batch.min(n_ctx), ..*self })
    }

    /// Numbers of a slot of the cache; these options are resolved.
    fn slot_len(&self, config: &Config) -> usize {
        self.n_ctx.saturating_mul(2 * config.n_layer * config.n_embd)
    }

    /// What passes need; these options are resolved.
    fn needs(&self, ensemble: &Ensemble<'_>) -> Result<Needs> {
        let Options { n_ctx, n_batch, n_logits, kv, mixing, full_output, .. } = *self;
        let n_lanes = top_m(ensemble, &mixing);
        let config = ensemble.config();
        if !kv.takes(config.n_embd / config.n_head) {
            return Err(Error::BadParameter {
                what: "kv (8 bits need heads of a multiple of 32 numbers)",
            });
        }
        let slot_bytes = kv.bytes(self.slot_len(config)).max(1);
        let n_slots = match mixing.kv_budget {
            0 => ensemble.n_present(),
            bytes => (bytes / slot_bytes).min(ensemble.n_present()),
        };
        if n_slots < n_lanes {
            return Err(Error::BadParameter {
                what: "kv_budget (it holds fewer than top_m experts)",
            });
        }
        let n_logits = n_logits.max(n_lanes);
        Ok(Needs { n_ctx, n_batch, n_lanes, n_slots, n_logits, kv, full_output })
    }
}

impl<'m> Session<'m> {
    /// The memory that [`Session::init`] will need, aligned to [`crate::arena::ALIGN`].
    ///
    /// # Errors
    /// Options out of range for these experts.
    pub fn plan<'e>(experts: impl Into<Ensemble<'e>>, options: &Options) -> Result<Plan> {
        let ensemble = experts.into();
        let options = options.resolved(&ensemble)?;
        Ok(Parts::carve(&ensemble, &options, &mut Arena::measure())?.plan)
    }

    /// What a device must have room for, to compute the passes of such a session.
    ///
    /// # Errors
    /// As [`Session::plan`].
    pub fn needs<'e>(experts: impl Into<Ensemble<'e>>, options: &Options) -> Result<Needs> {
        let ensemble = experts.into();
        options.resolved(&ensemble)?.needs(&ensemble)
    }

    /// A session at position 0 in `memory`, whose former contents do not matter. `parallel` does
    /// the work of every call; it changes no result.
    ///
    /// # Errors
    /// Options out of range, or memory that is too small or misaligned.
    pub fn init(
        experts: impl Into<Ensemble<'m>>,
        options: &Options,
        memory: &'m mut [u8],
        kernels: Kernels,
        parallel: &'m dyn Parallel,
    ) -> Result<Self> {
        Session::new(experts.into(), options, memory, kernels, parallel, None)
    }

    /// As [`Session::init`], with a device that computes the passes; `parallel` mixes.
    ///
    /// # Errors
    /// As [`Session::init`]; a device that was opened for other experts or for another [`Session::needs`].
    pub fn init_on(
        device: &'m mut dyn Device,
        experts: impl Into<Ensemble<'m>>,
        options: &Options,
        memory: &'m mut [u8],
        kernels: Kernels,
        parallel: &'m dyn Parallel,
    ) -> Result<Self> {
        let ensemble = experts.into();
        if device.fingerprint() != ensemble.fingerprint() {
            return Err(Error::ExpertsDiffer { what: "weights from those on the device" });
        }
        if device.needs() != Session::needs(ensemble, options)? {
            return Err(Error::BadParameter { what: "device (it was opened for another session)" });
        }
        Session::new(ensemble, options, memory, kernels, parallel, Some(device))
    }

    fn new(
        ensemble: Ensemble<'m>,
        options: &Options,
        memory: &'m mut [u8],
        kernels: Kernels,
        parallel: &'m dyn Parallel,
        device: Option<&'m mut dyn Device>,
    ) -> Result<Self> {
        let options = options.resolved(&ensemble)?;
        if options.on_device != device.is_some() {
            return Err(Error::BadParameter { what: "on_device" });
        }
        let parts = Parts::carve(&ensemble, &options, &mut Arena::new(memory)?)?;
        Ok(Session {
            ensemble,
            parallel,
            kernels,
            device,
            options,
            n_past: 0,
            has_logits: false,
            parts,
            n_lanes: 0,
            n_group: 0,
            cancel: None,
            observer: None,
        })
    }

    /// The experts that the session runs.
    pub fn ensemble(&self) -> &Ensemble<'m> {
        &self.ensemble
    }

    /// The expert; of several the first that is present.
    pub fn expert(&self) -> &'m Expert<'m> {
        self.ensemble.first()
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// The experts have none.
    pub fn tokenizer(&self) -> Result<&'m Tokenizer<'m>> {
        self.ensemble.tokenizer().ok_or(Error::NoTokenizer)
    }

    /// What the session was planned for, every default filled in.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Positions that this session has room for.
    pub fn n_ctx(&self) -> usize {
        self.options.n_ctx
    }

    /// Positions that are filled.
    pub fn n_past(&self) -> usize {
        self.n_past
    }

    /// The tokens that were read.
    pub fn tokens(&self) -> &[u32] {
        &self.parts.tokens[..self.n_past]
    }

    /// The experts of the last step and their weights, by index: what the logits were mixed from.
    pub fn active(&self) -> &[Active] {
        self.parts.mixture.active()
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.n_past = 0;
        self.has_logits = false;
        self.parts.cache.rewind(0);
        self.parts.mixture.reset();
    }

    /// Forgets all positions from `n_past` on. What follows is bit for bit as if they had never been.
    ///
    /// # Errors
    /// There are fewer positions than that.
    pub fn rewind(&mut self, n_past: usize) -> Result<()> {
        if n_past > self.n_past {
            return Err(Error::BadParameter { what: "n_past" });
        }
        self.rewind_to(n_past);
        Ok(())
    }

    fn rewind_to(&mut self, n_past: usize) {
        self.has_logits &= n_past == self.n_past;
        self.n_past = n_past;
        self.parts.cache.rewind(n_past);
        self.parts.mixture.rewind(n_past);
    }

    /// Goes back to where the tokens read so far and `tokens` part, leaving at least one of `tokens`
    /// to be read, and returns how many need not be read again.
    pub fn reuse_prefix(&mut self, tokens: &[u32]) -> usize {
        let same = self.tokens().iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let same = same.min(tokens.len().saturating_sub(1));
        self.rewind_to(same);
        same
    }

    /// A flag that any thread or signal handler may set: the call in progress then ends with
    /// [`Error::Cancelled`] before its next layer, and the session keeps what it had read completely
    /// by then.
    pub fn set_cancel(&mut self, flag: Option<&'m AtomicBool>) {
        self.cancel = flag;
    }

    /// Somebody who sees the inputs of every product from now on, in the order in which they are computed.
    /// It changes no result. A device shows nothing: with one, every pass is an error while there is an observer.
    pub fn set_observer(&mut self, observer: Option<&'m dyn Observer>) {
        self.observer = observer;
    }

    /// Tokenises a text (without the opening `</s>`).
    ///
    /// # Errors
    /// The expert has no tokenizer, or the text is longer than planned.
    pub fn encode(&mut self, text: &[u8]) -> Result<Encoding<'_>> {
        self.tokenizer()?.encode(text, &mut self.parts.text)
    }

    /// Tokenises `text` and hands the session and the tokens to `work`. The tokens live in the
    /// session's own scratch, which is lent out meanwhile: `work` cannot tokenise.
    pub(crate) fn with_encoding<T>(
        &mut self,
        text: &[u8],
        work: impl FnOnce(&mut Self, Encoding<'_>) -> Result<T>,
    ) -> Result<T> {
        let tokenizer = self.tokenizer()?;
        let empty = TextScratch::carve(&mut Arena::measure(), 0)?;
        let mut scratch = core::mem::replace(&mut self.parts.text, empty);
        let result = tokenizer.encode(text, &mut scratch).and_then(|tokens| work(self, tokens));
        self.parts.text = scratch;
        result
    }

    /// Reads the opening `</s>` followed by `text`.
    ///
    /// # Errors
    /// As [`Session::encode`] and [`Session::run`].
    pub fn prefill_text(&mut self, text: &[u8]) -> Result<()> {
        let bos = self.tokenizer()?.bos();
        self.with_encoding(text, |session, tokens| {
            session.run_parts([&[bos], tokens.ids], Want::Last)
        })
    }

    /// Makes `</s>` and `text` what the session has read, going back to where its tokens and the
    /// text's part; returns how many tokens needed not be read again.
    ///
    /// # Errors
    /// As [`Session::encode`] and [`Session::run`].
    pub fn prefill_text_again(&mut self, text: &[u8]) -> Result<usize> {
        let bos = self.tokenizer()?.bos();
        self.with_encoding(text, |session, tokens| {
            let known = session.tokens();
            let opens = known.first() == Some(&bos);
            let same = known.iter().skip(1).zip(tokens.ids).take_while(|(a, b)| a == b).count();
            let same = if opens { (same + 1).min(tokens.ids.len()) } else { 0 };
            session.rewind_to(same);
            let (opening, rest) = match same.checked_sub(1) {
                None => (&[bos][..], tokens.ids),
                Some(n) => (&[][..], &tokens.ids[n..]),
            };
            session.run_parts([opening, rest], Want::Last)?;
            Ok(same)
        })
    }

    /// Reads `tokens`; afterwards [`Session::logits`] are those after the last one.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<()> {
        self.run(tokens, Want::Last)
    }

    /// The tokens that have logits, in the order of these: all, or those of the experts' shortlists.
    pub fn outputs(&self) -> Outputs<'_> {
        self.parts.outputs
    }

    /// The logits after the last token read, one for each of [`Session::outputs`]: an expert's own, or the
    /// log probabilities of a mixture. They are computed where they are not at hand, such as after
    /// [`Session::rewind`].
    ///
    /// # Errors
    /// Nothing has been read; [`Error::Cancelled`].
    pub fn logits(&mut self) -> Result<&[f32]> {
        if self.n_past == 0 {
            return Err(Error::BadParameter { what: "n_past (nothing has been read)" });
        }
        if !self.has_logits {
            self.read_last()?;
        }
        Ok(&self.parts.buffers.logits[..self.parts.outputs.len()])
    }

    /// Chooses the next token from the logits.
    ///
    /// # Errors
    /// As [`Session::logits`].
    pub fn sample(&mut self, sampler: &mut Sampler) -> Result<u32> {
        let n_out = self.logits()?.len();
        let (logits, outputs) = (&self.parts.buffers.logits[..n_out], self.parts.outputs);
        // The opening `</s>` is no word that could be repeated.
        let recent = self.parts.tokens[..self.n_past].get(1..).unwrap_or_default();
        Ok(sampler.sample_from(logits, outputs, recent, self.parts.candidates))
    }

    /// Reads `tokens` and hands the logits that are wanted to `want`.
    ///
    /// # Errors
    /// [`Error::ContextFull`] and [`Error::BadToken`] before anything is computed;
    /// [`Error::Cancelled`].
    pub fn run(&mut self, tokens: &[u32], want: Want<'_>) -> Result<()> {
        self.run_parts([tokens, &[]], want)
    }
}

/// Which positions' logits a call of [`Session::run`] computes.
pub enum Want<'a> {
    /// None: the caches are filled and nothing else.
    Nothing,
    /// Those after the last token, left in [`Session::logits`].
    Last,
    /// Those after every token, handed over as (index of the token, logits as
    /// [`Session::logits`] gives them) in order.
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
