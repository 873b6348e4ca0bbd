//! Reading, writing and scoring text with a session.

use crate::ensemble::xelm_active;
use crate::params::{self, Params, xelm_params};
use crate::pointer::{self, Buffer, Out};
use crate::session::{with, xelm_session};
use crate::status::{Failure, xelm_status};
use core::ffi::{c_char, c_void};
use xelm_runtime::Error;
use xelm_runtime::ensemble::Active;
use xelm_runtime::score::{Score, Stop};
use xelm_runtime::tokenizer::TextStream;

/// Why `xelm_session_generate` stopped.
pub type xelm_stop = i32;
/// The model ended the text.
pub const XELM_STOP_END: xelm_stop = 0;
/// As many tokens as asked for.
pub const XELM_STOP_LIMIT: xelm_stop = 1;
/// No position is left.
pub const XELM_STOP_CONTEXT: xelm_stop = 2;
/// The callback asked for it.
pub const XELM_STOP_CALLBACK: xelm_stop = 3;

/// A part of a text that is being written. Pointers are valid during the call.
#[derive(Debug)]
#[repr(C)]
pub struct xelm_written {
    /// The token. It may come in several parts.
    pub token: u32,
    /// Its text, or a part of it: whole UTF-8 characters, not NUL-terminated.
    pub text: *const c_char,
    /// Its length in bytes.
    pub text_len: usize,
    /// The experts that the token was drawn from, by index, with their weights.
    pub experts: *const xelm_active,
    /// How many they are.
    pub n_experts: usize,
}

/// Receives generated text. Returns 0 to go on, anything else to stop.
pub type xelm_on_text =
    Option<unsafe extern "C" fn(user: *mut c_void, written: *const xelm_written) -> i32>;

/// A token of a text that is scored. Pointers are valid during the call.
#[derive(Debug)]
#[repr(C)]
pub struct xelm_token_score {
    /// The token.
    pub token: u32,
    /// Its negative log likelihood given everything before it, in nats.
    pub nll: f64,
    /// The experts that predicted it, by index, with their weights.
    pub experts: *const xelm_active,
    /// How many they are.
    pub n_experts: usize,
}

/// Receives the tokens of a text as they are scored.
pub type xelm_on_token =
    Option<unsafe extern "C" fn(user: *mut c_void, score: *const xelm_token_score)>;

/// Takes how tokens are chosen, and the seed, from `params`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_set_sampling(
    session: *mut xelm_session,
    params: *mut xelm_params,
) -> xelm_status {
    let mut sampler = None;
    let read = |params: &mut Params| {
        sampler = Some(params.sampler()?);
        Ok(())
    };
    // SAFETY: the header's rule for params.
    let status = unsafe { params::with(params, read) };
    let Some(sampler) = sampler else { return status };
    // SAFETY: the header's rule for handles.
    unsafe {
        with(session, |_, state| {
            *state = sampler;
            Ok(())
        })
    }
}

/// Turns a text into token ids, without the `</s>` that opens every text. `ids` has room for
/// `capacity` ids; `n_ids` is how many the text has. With `ids` NULL and `capacity` 0 they are only
/// counted; a capacity that is too small is XELM_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_tokenize(
    session: *mut xelm_session,
    text: *const c_char,
    text_len: usize,
    ids: *mut u32,
    capacity: usize,
    n_ids: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles, inputs and outputs.
    unsafe {
        with(session, |session, _| {
            let ids = Buffer::new(ids, capacity, n_ids, "ids")?;
            ids.set(session.encode(pointer::bytes(text.cast(), text_len, "text")?)?.ids)
        })
    }
}

/// Reads tokens. Afterwards the logits are those after the last one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_prefill(
    session: *mut xelm_session,
    ids: *const u32,
    n_ids: usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles and inputs.
    unsafe {
        with(session, |session, _| {
            // Longer than any context: no size of an array.
            if n_ids > session.n_ctx() {
                return Err(Error::ContextFull { n_ctx: session.n_ctx() }.into());
            }
            Ok(session.prefill(pointer::items(ids, n_ids, "ids")?)?)
        })
    }
}

/// Reads the opening `</s>` and a text. Afterwards the logits are those after its last token.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_prefill_text(
    session: *mut xelm_session,
    text: *const c_char,
    text_len: usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles and inputs.
    unsafe {
        with(session, |session, _| {
            Ok(session.prefill_text(pointer::bytes(text.cast(), text_len, "text")?)?)
        })
    }
}

/// Makes `</s>` and a text what the session has read, going back to where its tokens and the text's
/// part; `n_reused` is how many tokens needed not be read again. For prompts that share a beginning,
/// and chats that grow.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_prefill_text_again(
    session: *mut xelm_session,
    text: *const c_char,
    text_len: usize,
    n_reused: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles, inputs and outputs.
    unsafe {
        with(session, |session, _| {
            let n_reused = Out::new(n_reused, "n_reused")?;
            let text = pointer::bytes(text.cast(), text_len, "text")?;
            n_reused.set(session.prefill_text_again(text)?);
            Ok(())
        })
    }
}

/// The logits after the last token that was read, one for each entry of the vocabulary: an expert's own,
/// or the log probabilities of a mixture. Valid until the next call with this session. XELM_BAD_PARAMETER
/// where only the tokens of a shortlist have logits: `xelm_session_output_logits` gives those.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_logits(
    session: *mut xelm_session,
    logits: *mut *const f32,
    n_vocab: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles and outputs.
    unsafe {
        with(session, |session, _| {
            let (logits, n_vocab) = (Out::new(logits, "logits")?, Out::new(n_vocab, "n_vocab")?);
            if session.outputs().ids().is_some() {
                return Err(Error::BadParameter { what: "full_output (not set)" }.into());
            }
            let found = session.logits()?;
            logits.set(found.as_ptr());
            n_vocab.set(found.len());
            Ok(())
        })
    }
}

/// As `xelm_session_logits`, of the tokens that have logits: `ids` are these tokens, ascending, or NULL where
/// all have, so that a token's id is the index of its logit. The ids are valid until the session is closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_output_logits(
    session: *mut xelm_session,
    logits: *mut *const f32,
    ids: *mut *const u32,
    n_logits: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles and outputs.
    unsafe {
        with(session, |session, _| {
            let (logits, ids) = (Out::new(logits, "logits")?, Out::new(ids, "ids")?);
            let n_logits = Out::new(n_logits, "n_logits")?;
            let found = session.logits()?;
            logits.set(found.as_ptr());
            n_logits.set(found.len());
            ids.set(session.outputs().ids().map_or(core::ptr::null(), <[u32]>::as_ptr));
            Ok(())
        })
    }
}

/// Chooses the next token from the logits. It is not read: `xelm_session_prefill` does that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_next(
    session: *mut xelm_session,
    token: *mut u32,
) -> xelm_status {
    // SAFETY: the header's rules for handles and outputs.
    unsafe {
        with(session, |session, sampler| {
            let token = Out::new(token, "token")?;
            token.set(session.sample(sampler)?);
            Ok(())
        })
    }
}

/// Writes at most `n_max` tokens after what the session has read, and hands their text to `on_text`
/// as it comes. `n_tokens` is how many were written, `why` one of XELM_STOP_*. After
/// XELM_STOP_CALLBACK and XELM_STOP_CONTEXT the last token has not been read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_generate(
    session: *mut xelm_session,
    n_max: usize,
    on_text: xelm_on_text,
    user: *mut c_void,
    n_tokens: *mut usize,
    why: *mut xelm_stop,
) -> xelm_status {
    // SAFETY: the header's rules for handles, callbacks and outputs.
    unsafe {
        with(session, |session, sampler| {
            let (n_tokens, why) = (Out::new(n_tokens, "n_tokens")?, Out::new(why, "why")?);
            let on_text = on_text.ok_or(Failure::Null("on_text"))?;
            // After `</s>` alone a text begins, and its first space is dropped.
            let begins = session.n_past() == 1;
            let stream = if begins { TextStream::new() } else { TextStream::continuing() };
            let (n, stop) = session.generate(sampler, n_max, stream, |written| {
                let (experts, n_experts) = shared(written.experts);
                let written = xelm_written {
                    token: written.token,
                    text: written.text.as_ptr().cast(),
                    text_len: written.text.len(),
                    experts,
                    n_experts,
                };
                on_text(user, &raw const written) == 0
            })?;
            n_tokens.set(n);
            why.set(match stop {
                Stop::EndOfText => XELM_STOP_END,
                Stop::Limit => XELM_STOP_LIMIT,
                Stop::ContextFull => XELM_STOP_CONTEXT,
                Stop::Callback => XELM_STOP_CALLBACK,
            });
            Ok(())
        })
    }
}

/// Experts as C reads them; the types have one layout, as asserted beside `xelm_active`.
fn shared(active: &[Active]) -> (*const xelm_active, usize) {
    (active.as_ptr().cast(), active.len())
}

/// How probable the expert, or the mixture, finds a text, read from position 0 as a whole document: the `</s>` after
/// it is scored too, and what exceeds the context is cut off. `nll` is the negative log likelihood
/// in nats of `n_tokens` tokens, which stand for `n_bytes` bytes of the text; perplexity is
/// exp(nll / n_tokens), bits per byte nll / ln 2 / n_bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_score(
    session: *mut xelm_session,
    text: *const c_char,
    text_len: usize,
    nll: *mut f64,
    n_tokens: *mut usize,
    n_bytes: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles, inputs and outputs.
    unsafe {
        with(session, |session, _| {
            let out = ScoreOut::new(nll, n_tokens, n_bytes)?;
            out.set(session.score_text(pointer::bytes(text.cast(), text_len, "text")?)?);
            Ok(())
        })
    }
}

/// As `xelm_session_score`, and hands every token to `on_token` as it is scored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_session_score_by_token(
    session: *mut xelm_session,
    text: *const c_char,
    text_len: usize,
    on_token: xelm_on_token,
    user: *mut c_void,
    nll: *mut f64,
    n_tokens: *mut usize,
    n_bytes: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles, inputs, callbacks and outputs.
    unsafe {
        with(session, |session, _| {
            let out = ScoreOut::new(nll, n_tokens, n_bytes)?;
            let on_token = on_token.ok_or(Failure::Null("on_token"))?;
            let text = pointer::bytes(text.cast(), text_len, "text")?;
            out.set(session.score_text_by_token(text, |scored| {
                let (experts, n_experts) = shared(scored.experts);
                let (token, nll) = (scored.token, scored.nll);
                let scored = xelm_token_score { token, nll, experts, n_experts };
                on_token(user, &raw const scored);
            })?);
            Ok(())
        })
    }
}

/// The places for a score.
struct ScoreOut {
    nll: Out<f64>,
    n_tokens: Out<usize>,
    n_bytes: Out<usize>,
}

impl ScoreOut {
    /// # Safety
    /// As [`Out::new`].
    unsafe fn new(
        nll: *mut f64,
        n_tokens: *mut usize,
        n_bytes: *mut usize,
    ) -> Result<Self, Failure<'static>> {
        // SAFETY: the caller's promise is ours.
        unsafe {
            let (nll, n_tokens) = (Out::new(nll, "nll")?, Out::new(n_tokens, "n_tokens")?);
            Ok(ScoreOut { nll, n_tokens, n_bytes: Out::new(n_bytes, "n_bytes")? })
        }
    }

    fn set(self, score: Score) {
        self.nll.set(score.nll_sum);
        self.n_tokens.set(score.tokens);
        self.n_bytes.set(score.bytes);
    }
}
