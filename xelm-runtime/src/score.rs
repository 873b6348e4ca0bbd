//! Scoring and generating text.

use crate::ensemble::Active;
use crate::error::{Error, Result};
use crate::sampler::Sampler;
use crate::session::Session;
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

/// One token of a text that is scored.
#[derive(Clone, Copy, Debug)]
pub struct TokenScore<'a> {
    /// The token.
    pub token: u32,
    /// Its negative log likelihood given everything before it, in nats.
    pub nll: f64,
    /// The experts that predicted it.
    pub experts: &'a [Active],
}

/// A part of a text that is being written.
#[derive(Clone, Copy, Debug)]
pub struct Written<'a> {
    /// The token.
    pub token: u32,
    /// Its text, or a part of it: whole characters.
    pub text: &'a str,
    /// The experts that it was drawn from.
    pub experts: &'a [Active],
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

impl Session<'_> {
    /// Scores a whole document from position 0. Each of `targets` is predicted from everything
    /// before it; `inputs` and `targets` are the same sequence, shifted by one.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn score_tokens(&mut self, inputs: &[u32], targets: &[u32]) -> Result<f64> {
        self.reset();
        self.score_next(inputs, targets)
    }

    /// As [`Session::score_tokens`], but `inputs` follow what the session has read.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn score_next(&mut self, inputs: &[u32], targets: &[u32]) -> Result<f64> {
        if inputs.len() != targets.len() {
            return Err(Error::BadParameter { what: "targets" });
        }
        let mut sum = 0.0;
        self.run_steps([inputs, &[]], &mut |i, step| {
            sum += step.nll(targets.get(i).copied().unwrap_or(u32::MAX));
        })?;
        Ok(sum)
    }

    /// Scores a text from position 0.
    ///
    /// # Errors
    /// As [`Session::encode`] and [`Session::run`].
    pub fn score_text(&mut self, text: &[u8]) -> Result<Score> {
        self.score_text_by_token(text, |_| {})
    }

    /// As [`Session::score_text`]; every token is handed to `each` as it is scored.
    ///
    /// # Errors
    /// As [`Session::score_text`].
    pub fn score_text_by_token(
        &mut self,
        text: &[u8],
        mut each: impl FnMut(TokenScore<'_>),
    ) -> Result<Score> {
        let tokenizer = self.tokenizer()?;
        self.with_encoding(text, |session, encoding| {
            let (bos, eos) = (tokenizer.bos(), tokenizer.eos());
            // Inputs are `</s>` and the ids, targets the ids and `</s>`, both cut to the context.
            let n = session.n_ctx().min(encoding.ids.len() + 1);
            let mut nll_sum = 0.0;
            session.reset();
            session.run_steps([&[bos], &encoding.ids[..n - 1]], &mut |i, step| {
                let token = encoding.ids.get(i).copied().unwrap_or(eos);
                let nll = step.nll(token);
                nll_sum += nll;
                each(TokenScore { token, nll, experts: step.active });
            })?;
            let bytes = if n > encoding.ids.len() {
                text.len()
            } else {
                tokenizer.normalizer().source_len(text, encoding.ends[n - 1] as usize)
            };
            Ok(Score { tokens: n, bytes, nll_sum })
        })
    }

    /// Writes at most `n_max` tokens after what the session has read, handing the text of each to
    /// `emit` in one or more parts; `emit` returns whether to go on. Returns the number of tokens and the reason for
    /// stopping.
    ///
    /// # Errors
    /// Nothing has been read; the expert has no tokenizer; as [`Session::run`].
    pub fn generate(
        &mut self,
        sampler: &mut Sampler,
        n_max: usize,
        mut text: TextStream,
        mut emit: impl FnMut(Written<'_>) -> bool,
    ) -> Result<(usize, Stop)> {
        let tokenizer = self.tokenizer()?;
        for n in 0..n_max {
            let token = self.sample(sampler)?;
            if token == tokenizer.eos() {
                return Ok((n, Stop::EndOfText));
            }
            let mut go_on = true;
            let experts = self.active();
            text.push(tokenizer, token, |text| go_on &= emit(Written { token, text, experts }));
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
