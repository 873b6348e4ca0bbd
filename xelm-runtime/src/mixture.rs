//! Mixing experts: which ones take part in a step, with what weights, and the probabilities of the
//! mixture (X-ELM paper, §4: p(y) = Σ α_e p_e(y), the m largest weights renormalised).

use crate::arena::Arena;
use crate::ensemble::{Active, Ensemble};
use crate::error::{Error, Result};
use crate::isa::Vectorised;
use crate::kernels::{Kernels, LogSumExp};
use crate::math;
use crate::parallel::{Parallel, part_len, split_rows};
use crate::router::{Context, RouteOptions};
use crate::shortlist::Outputs;
use crate::tokenizer::TextStream;

/// How the experts of a set are mixed; of no effect where there is one expert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixing {
    /// Experts that take part in a step; 0 for all that are present. A weight that rounds to nothing
    /// drops out.
    pub top_m: usize,
    /// When they are chosen.
    pub routing: Routing,
    /// How distances become weights.
    pub route: RouteOptions,
    /// Whether a step's weights leave out the token read last, as those of the paper's own program do.
    pub lag: bool,
    /// Bytes for keys and values: as many experts stay resident as fit, `top_m` at least. 0 for all
    /// that are present. An expert that had to leave reads everything again when it is needed.
    pub kv_budget: usize,
}

impl Default for Mixing {
    fn default() -> Self {
        Mixing {
            top_m: 1,
            routing: Routing::Token,
            route: RouteOptions::default(),
            lag: false,
            kv_budget: 0,
        }
    }
}

/// When experts are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// At every token, from all text so far.
    Token,
    /// Once, from the text that is there when the first token is wanted; a text that is scored is
    /// taken as a whole.
    Prompt,
}

/// The text so far as the router sees it, and what follows from it.
#[derive(Debug)]
pub(crate) struct Mixture<'m> {
    mixing: Mixing,
    context: Context<'m>,
    /// Tokens that the context holds.
    n_fed: usize,
    /// α of every expert, `[k]`.
    weights: &'m mut [f32],
    /// The experts of the current step, by index.
    active: &'m mut [Active],
    n_active: usize,
    /// The position from which on the weights stay as they are.
    fixed_at: Option<usize>,
}

impl<'m> Mixture<'m> {
    /// Takes what mixing `top_m` experts of an ensemble needs.
    pub(crate) fn carve(
        arena: &mut Arena<'m>,
        ensemble: &Ensemble<'_>,
        mixing: &Mixing,
    ) -> Result<Self> {
        let RouteOptions { temperature, .. } = mixing.route;
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(Error::BadParameter { what: "route_temperature" });
        }
        let context = Context::carve(arena, ensemble.router())?;
        let mut mixture = Mixture {
            mixing: *mixing,
            context,
            n_fed: 0,
            weights: arena.take(ensemble.len())?,
            active: arena.take(top_m(ensemble, mixing))?,
            n_active: 0,
            fixed_at: None,
        };
        mixture.reset();
        Ok(mixture)
    }

    /// The experts of the last step, by index.
    pub(crate) fn active(&self) -> &[Active] {
        &self.active[..self.n_active]
    }

    /// Forgets the text.
    pub(crate) fn reset(&mut self) {
        self.context.reset();
        self.n_fed = 0;
        self.n_active = 0;
        self.fixed_at = None;
    }

    /// Forgets everything from position `n_past` on.
    pub(crate) fn rewind(&mut self, n_past: usize) {
        if self.n_fed > n_past {
            self.context.reset();
            self.n_fed = 0;
        }
        if self.fixed_at.is_some_and(|at| at > n_past) {
            self.fixed_at = None;
        }
    }

    /// Keeps the weights of the last step from position `from` on, where they are chosen once.
    pub(crate) fn fix(&mut self, from: usize) {
        if self.mixing.routing == Routing::Prompt && self.fixed_at.is_none() {
            self.fixed_at = Some(from);
        }
    }

    /// Chooses experts by `tokens` whatever was read, and keeps them for all that is read from now on.
    pub(crate) fn choose_once(&mut self, ensemble: &Ensemble<'_>, tokens: &[u32]) -> Result<()> {
        self.reset();
        self.choose(ensemble, tokens)?;
        self.fixed_at = Some(0);
        Ok(())
    }

    /// The position from which on weights are kept.
    pub(crate) fn fixed_at(&self) -> Option<usize> {
        self.fixed_at
    }

    /// Takes weights as they were saved.
    pub(crate) fn restore(&mut self, fixed_at: Option<usize>, active: &[Active]) {
        self.fixed_at = fixed_at;
        self.n_active = active.len().min(self.active.len());
        self.active[..self.n_active].copy_from_slice(&active[..self.n_active]);
    }

    /// Chooses the experts of the step after `tokens`, which is everything that was read up to there.
    pub(crate) fn choose(&mut self, ensemble: &Ensemble<'_>, tokens: &[u32]) -> Result<()> {
        let (Some(router), Some(tokenizer)) = (ensemble.router(), ensemble.tokenizer()) else {
            // One expert: the one of a session without a set, or the only one that is present.
            let only = (0..ensemble.len()).position(|i| ensemble.get(i).is_some()).unwrap_or(0);
            self.active[0] = Active { expert: only as u32, weight: 1.0 };
            self.n_active = 1;
            return Ok(());
        };
        if self.fixed_at.is_some() {
            return Ok(());
        }
        let seen = &tokens[..tokens.len() - usize::from(self.mixing.lag).min(tokens.len())];
        if self.n_fed > seen.len() {
            self.context.reset();
            self.n_fed = 0;
        }
        // A space more or less at the very beginning belongs to no word.
        let mut text = TextStream::continuing();
        for &token in &seen[self.n_fed..] {
            text.push(tokenizer, token, |part| self.context.feed(router, part));
        }
        self.n_fed = seen.len();
        let is_present = |i: usize| ensemble.get(i).is_some();
        let x = self.context.vector(router);
        router.weights(x, &self.mixing.route, &is_present, self.weights)?;
        self.keep_largest();
        Ok(())
    }

    /// Keeps the m largest weights, the lower index first among equals, and makes them sum to 1.
    fn keep_largest(&mut self) {
        self.n_active = 0;
        for slot in self.active.iter_mut() {
            let mut best = (0.0, None);
            for (i, &weight) in self.weights.iter().enumerate() {
                if weight > best.0 {
                    best = (weight, Some(i));
                }
            }
            let (weight, Some(expert)) = best else { break };
            self.weights[expert] = 0.0;
            *slot = Active { expert: expert as u32, weight };
            self.n_active += 1;
        }
        let active = &mut self.active[..self.n_active];
        // By index, so that sums over experts do not depend on who is ahead.
        active.sort_unstable_by_key(|a| a.expert);
        let sum: f32 = active.iter().map(|a| a.weight).sum();
        for active in active {
            active.weight /= sum;
        }
    }
}

/// Experts that take part in a step at most.
pub(crate) fn top_m(ensemble: &Ensemble<'_>, mixing: &Mixing) -> usize {
    match mixing.top_m {
        0 => ensemble.n_present(),
        m => m.min(ensemble.n_present()),
    }
}

/// The logits of the active experts at one position: rows of `outputs.len()` numbers, `stride` apart.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    pub(crate) logits: &'a mut [f32],
    pub(crate) stride: usize,
    pub(crate) outputs: Outputs<'a>,
    pub(crate) active: &'a [Active],
    pub(crate) kernels: &'a Kernels,
}

impl Step<'_> {
    fn lane(&self, lane: usize) -> &[f32] {
        &self.logits[lane * self.stride..][..self.outputs.len()]
    }

    /// −ln Σ α_e p_e(target), in nats; +∞ for a target without a logit.
    pub(crate) fn nll(&self, target: u32) -> f64 {
        let target = self.outputs.index(target);
        let of = |lane: usize| {
            let logits = self.lane(lane);
            let at_target = target.map_or(f32::NEG_INFINITY, |at| logits[at]);
            f64::from(self.kernels.run(LogSumExp(logits)) - at_target)
        };
        if self.active.len() == 1 {
            return of(0);
        }
        // The larger probability is taken out of each sum, so that none is lost to underflow.
        let mut sum = f64::INFINITY;
        for (lane, active) in self.active.iter().enumerate() {
            let term = of(lane) - libm::log(f64::from(active.weight));
            let (less, more) = (sum.min(term), sum.max(term));
            sum = if more == f64::INFINITY {
                less
            } else {
                less - libm::log1p(libm::exp(less - more))
            };
        }
        sum
    }

    /// The mixture, a number for each output, in the place of the first expert's logits: ln Σ α_e p_e. A single
    /// expert's logits stay as they are.
    pub(crate) fn mix(&mut self, parallel: &dyn Parallel) -> &[f32] {
        let (n_out, stride, kernels) = (self.outputs.len(), self.stride, self.kernels);
        if self.active.len() > 1 {
            let shift = |step: &Self, lane: usize| {
                math::ln(step.active[lane].weight) - kernels.run(LogSumExp(step.lane(lane)))
            };
            let mut first = shift(self, 0);
            for lane in 1..self.active.len() {
                let other = shift(self, lane);
                let (sum, rest) = self.logits.split_at_mut(stride);
                let logits = &rest[(lane - 1) * stride..][..n_out];
                let part = part_len(n_out, 16, n_out * 64);
                split_rows(parallel, &mut sum[..n_out], 1, part, |at, sum| {
                    let logits = &logits[at..at + sum.len()];
                    kernels.run(LogAddExp { sum, first, logits, other });
                });
                // The sum now holds log probabilities.
                first = 0.0;
            }
        }
        &self.logits[..n_out]
    }
}

/// sum = ln(exp(sum + first) + exp(logits + other)), element by element.
struct LogAddExp<'a> {
    sum: &'a mut [f32],
    first: f32,
    logits: &'a [f32],
    other: f32,
}

impl Vectorised for LogAddExp<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for (sum, &logit) in self.sum.iter_mut().zip(self.logits) {
            let (a, b) = (*sum + self.first, logit + self.other);
            // Finite even where both are −∞, so that their difference is a number.
            let max = a.max(b).max(f32::MIN);
            *sum = max + math::ln(math::exp(a - max) + math::exp(b - max));
        }
    }
}
