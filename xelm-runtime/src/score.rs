//! Scoring and generating text with one expert.

use crate::error::{Error, Result};
use crate::kernels::{Kernels, LogSumExp};
use crate::sampler::Sampler;
use crate::session::{Session, Want};
use crate::tokenizer::TextStream;

/// The negative log likelihood of a text in the X-ELM paper's protocol: the text is preceded and
/// followed by `</s>`, its first token and the final `</s>` are scored, and what does not fit the
/// context is cut off on the right and not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Tokens that were predicted.
    pub tokens: usize,
    /// UTF-8 bytes of the text that they stand for.
    pub bytes: usize,
    /// Sum of the negative log likelihoods, in nats.
    pub nll_sum: f64,
}

impl Score {
    /// Perplexity per token.
    pub fn ppl(&self) -> f64 {
        libm::exp(self.nll_sum / self.tokens.max(1) as f64)
    }

    /// Bits per UTF-8 byte.
    pub fn bpb(&self) -> f64 {
        self.nll_sum / core::f64::consts::LN_2 / self.bytes.max(1) as f64
    }

    /// Adds another text's score.
    pub fn add(&mut self, other: &Score) {
        self.tokens += other.tokens;
        self.bytes += other.bytes;
        self.nll_sum += other.nll_sum;
    }
}

/// Why [`Session::generate`] stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model ended the document.
    EndOfText,
    /// As many tokens as asked for.
    Limit,
    /// No position is left.
    ContextFull,
    /// The callback asked for it.
    Callback,
}

/// −ln p(target) under logits `[n_vocab]`.
fn nll(kernels: &Kernels, logits: &[f32], target: u32) -> f64 {
    let at_target = logits.get(target as usize).copied().unwrap_or(f32::NEG_INFINITY);
    f64::from(kernels.run(LogSumExp(logits)) - at_target)
}

impl Session<'_> {
    /// Scores a whole document from position 0. Each of `targets` is predicted from everything
    /// before it; `inputs` and `targets` are the same sequence, shifted by one.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn score_tokens(&mut self, inputs: &[u32], targets: &[u32]) -> Result<f64> {
        if inputs.len() != targets.len() {
            return Err(Error::BadParameter { what: "targets" });
        }
        self.reset();
        let kernels = *self.kernels();
        let mut sum = 0.0;
        self.run(
            inputs,
            Want::All(&mut |i, logits| {
                sum += nll(&kernels, logits, targets.get(i).copied().unwrap_or(u32::MAX));
            }),
        )?;
        Ok(sum)
    }

    /// Scores a text from position 0.
    ///
    /// # Errors
    /// As [`Session::encode`] and [`Session::run`].
    pub fn score_text(&mut self, text: &[u8]) -> Result<Score> {
        let tokenizer = self.expert().tokenizer().ok_or(Error::NoTokenizer)?;
        self.with_encoding(text, |session, encoding| {
            let (bos, eos) = (tokenizer.bos(), tokenizer.eos());
            // Inputs are `</s>` and the ids, targets the ids and `</s>`, both cut to the context.
            let n = session.n_ctx().min(encoding.ids.len() + 1);
            let target = |i: usize| encoding.ids.get(i).copied().unwrap_or(eos);
            let mut nll_sum = 0.0;
            session.reset();
            let kernels = *session.kernels();
            let mut add = |i: usize, logits: &[f32]| nll_sum += nll(&kernels, logits, target(i));
            session.run(&[bos], Want::All(&mut |_, logits| add(0, logits)))?;
            let rest = &encoding.ids[..n - 1];
            session.run(rest, Want::All(&mut |i, logits| add(i + 1, logits)))?;
            let bytes = if n > encoding.ids.len() {
                text.len()
            } else {
                tokenizer.normalizer().source_len(text, encoding.ends[n - 1] as usize)
            };
            Ok(Score { tokens: n, bytes, nll_sum })
        })
    }

    /// Writes at most `n_max` tokens after what the session has read, handing each token's text to
    /// `emit`, which returns whether to go on. The logits must be those of the last token read
    /// ([`Session::prefill`] or [`Session::prefill_text`]). Returns the number of tokens and the
    /// reason for stopping.
    ///
    /// # Errors
    /// As [`Session::run`]; the expert has no tokenizer.
    pub fn generate(
        &mut self,
        sampler: &mut Sampler,
        n_max: usize,
        mut text: TextStream,
        mut emit: impl FnMut(u32, &str) -> bool,
    ) -> Result<(usize, Stop)> {
        let tokenizer = self.expert().tokenizer().ok_or(Error::NoTokenizer)?;
        for n in 0..n_max {
            let token = self.sample(sampler);
            if token == tokenizer.eos() {
                return Ok((n, Stop::EndOfText));
            }
            let mut go_on = true;
            text.push(tokenizer, token, |part| go_on &= emit(token, part));
            if !go_on {
                return Ok((n + 1, Stop::Callback));
            }
            if self.n_past() == self.n_ctx() {
                return Ok((n + 1, Stop::ContextFull));
            }
            self.prefill(&[token])?;
        }
        Ok((n_max, Stop::Limit))
    }
}
