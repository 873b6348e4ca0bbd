//! Reading tokens: which experts read them, together or later, and what is computed of their logits.

use super::{Session, Want};
use crate::cache::Kv;
use crate::device::Lane;
use crate::error::{Error, Result};
use crate::forward::{Machine, forward, head, spread};
use crate::mixture::{Routing, Step};
use core::sync::atomic::Ordering;

/// A lane that has not got its slot yet.
const NO_SLOT: u32 = u32::MAX;

impl Session<'_> {
    /// Chooses the experts of every step to come by `tokens`, which are not read: by a part of a text, say.
    /// What was read stays; experts that are new to it read it when they are first needed. The choice
    /// holds until [`Session::reset`].
    ///
    /// # Errors
    /// The router's.
    pub fn choose_by(&mut self, tokens: &[u32]) -> Result<()> {
        self.has_logits = false;
        self.parts.mixture.choose_once(&self.ensemble, tokens)
    }

    /// Reads the tokens of both parts.
    pub(super) fn run_parts(&mut self, parts: [&[u32]; 2], want: Want<'_>) -> Result<()> {
        let parallel = self.parallel;
        match want {
            Want::All(each) => self.run_steps(parts, &mut |i, step| each(i, step.mix(parallel))),
            Want::Nothing | Want::Last => {
                let start = self.push(parts)?;
                let result = match want {
                    _ if self.n_past == start => Ok(()),
                    Want::Last => self.read_last(),
                    _ => self.read_all(),
                };
                self.keep_read(start, result)
            }
        }
    }

    /// Reads the tokens of both parts and hands every position's step to `each`, in order.
    pub(crate) fn run_steps(
        &mut self,
        parts: [&[u32]; 2],
        each: &mut dyn FnMut(usize, &mut Step<'_>),
    ) -> Result<()> {
        let start = self.push(parts)?;
        let result = self.read_steps(start, each);
        self.keep_read(start, result)
    }

    /// Appends tokens to those that were read, without computing anything; returns where they begin.
    fn push(&mut self, [first, second]: [&[u32]; 2]) -> Result<usize> {
        let (start, n_ctx) = (self.n_past, self.n_ctx());
        let n_vocab = self.ensemble.config().n_vocab;
        if first.len().saturating_add(second.len()) > n_ctx - start {
            return Err(Error::ContextFull { n_ctx });
        }
        let tokens = first.iter().chain(second);
        if let Some(&token) = tokens.clone().find(|&&t| t as usize >= n_vocab) {
            return Err(Error::BadToken { token });
        }
        for (slot, &token) in self.parts.tokens[start..].iter_mut().zip(tokens) {
            *slot = token;
        }
        self.n_past = start + first.len() + second.len();
        self.has_logits &= self.n_past == start;
        Ok(start)
    }

    /// After a failure, keeps the positions from `start` on that every expert of the step has read.
    fn keep_read(&mut self, start: usize, result: Result<()>) -> Result<()> {
        if result.is_err() {
            let read = self.lanes_cached().min().unwrap_or(start);
            self.rewind_to(read.clamp(start, self.n_past));
        }
        result
    }

    /// Brings the experts of the last position up to date.
    fn read_all(&mut self) -> Result<()> {
        self.choose(self.n_past)?;
        self.enter();
        self.catch_up(self.n_past).map(drop)
    }

    /// Brings the experts of the last position up to date and computes the logits after it.
    pub(super) fn read_last(&mut self) -> Result<()> {
        let end = self.n_past;
        self.choose(end)?;
        self.parts.mixture.fix(end);
        self.enter();
        for lane in &self.parts.lanes[..self.n_lanes] {
            // Where the last position has been read before, it is read again for its logits.
            let cached = self.parts.cache.n_cached(lane.slot);
            self.parts.cache.set_cached(lane.slot, cached.min(end - 1));
        }
        let n = self.catch_up(end)?;
        for (step, &active) in self.parts.steps.iter_mut().zip(self.parts.mixture.active()) {
            *step = active;
        }
        let parallel = self.parallel;
        self.deliver(n, n - 1, &mut |_, step| {
            step.mix(parallel);
        })?;
        self.has_logits = true;
        Ok(())
    }

    /// Reads the positions from `start` on, in runs with the same experts.
    fn read_steps(
        &mut self,
        start: usize,
        each: &mut dyn FnMut(usize, &mut Step<'_>),
    ) -> Result<()> {
        if self.options.mixing.routing == Routing::Prompt && self.n_past > start {
            self.choose(self.n_past)?;
            self.parts.mixture.fix(start);
        }
        let mut at = start;
        while at < self.n_past {
            let end = self.next_run(at)?;
            self.catch_up(at)?;
            self.pass(at, end)?;
            self.deliver(end - at, 0, &mut |i, step| each(at - start + i, step))?;
            at = end;
        }
        Ok(())
    }

    /// Chooses experts from position `at` on for as long as they stay the same and a pass takes, and
    /// notes their weights; returns the end.
    fn next_run(&mut self, at: usize) -> Result<usize> {
        self.choose(at + 1)?;
        self.enter();
        let limit = self.n_past.min(at + self.parts.buffers.n_batch());
        let mut end = at;
        loop {
            let active = self.parts.mixture.active();
            let steps = &mut self.parts.steps[(end - at) * self.n_lanes..][..self.n_lanes];
            steps.copy_from_slice(active);
            end += 1;
            if end == limit {
                return Ok(end);
            }
            self.choose(end + 1)?;
            let lanes = self.parts.lanes[..self.n_lanes].iter().map(|lane| lane.expert);
            if !self.parts.mixture.active().iter().map(|a| a.expert).eq(lanes) {
                return Ok(end);
            }
        }
    }

    /// Chooses the experts of the step after the first `n` tokens.
    fn choose(&mut self, n: usize) -> Result<()> {
        self.parts.mixture.choose(&self.ensemble, &self.parts.tokens[..n])
    }

    /// Gives each chosen expert a lane, and a slot for its keys and values.
    fn enter(&mut self) {
        let active = self.parts.mixture.active();
        self.n_lanes = active.len();
        let lanes = &mut self.parts.lanes[..self.n_lanes];
        let cache = &mut self.parts.cache;
        for (lane, active) in lanes.iter_mut().zip(active) {
            let slot = cache.touch(active.expert).unwrap_or(NO_SLOT);
            *lane = Lane { expert: active.expert, slot };
        }
        for lane in lanes.iter_mut().filter(|lane| lane.slot == NO_SLOT) {
            lane.slot = cache.admit(lane.expert);
        }
    }

    /// Positions that the experts in lanes have read.
    fn lanes_cached(&self) -> impl Iterator<Item = usize> {
        self.parts.lanes[..self.n_lanes].iter().map(|lane| self.parts.cache.n_cached(lane.slot))
    }

    /// Lets the experts in lanes read up to position `end`: those farthest behind first, joined by the
    /// others where they stand. Returns the number of tokens of the last pass. Where no expert was
    /// there before, the last pass is one of all lanes.
    fn catch_up(&mut self, end: usize) -> Result<usize> {
        let mut n = 0;
        while let Some(start) = self.lanes_cached().min().filter(|&start| start < end) {
            let joined = self.lanes_cached().filter(|&n| n > start).min().unwrap_or(end);
            let stop = joined.min(end).min(start + self.parts.buffers.n_batch());
            self.pass(start, stop)?;
            n = stop - start;
        }
        Ok(n)
    }

    /// One pass over positions `start..stop` of the lanes that stand at `start`.
    fn pass(&mut self, start: usize, stop: usize) -> Result<()> {
        let parts = &mut self.parts;
        self.n_group = 0;
        for &lane in &parts.lanes[..self.n_lanes] {
            if parts.cache.n_cached(lane.slot) == start {
                parts.group[self.n_group] = lane;
                self.n_group += 1;
            }
        }
        let group = &parts.group[..self.n_group];
        let machine = Machine {
            ensemble: &self.ensemble,
            kernels: &self.kernels,
            parallel: self.parallel,
            observer: self.observer,
        };
        let cancelled = || self.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed));
        let (tokens, n_ctx, b) =
            (&parts.tokens[start..stop], self.options.n_ctx, &mut parts.buffers);
        match (&mut self.device, &mut parts.cache.kv) {
            (Some(_), _) if self.observer.is_some() => {
                return Err(Error::BadParameter { what: "observer (a device shows nothing)" });
            }
            (Some(device), _) => device.forward(group, tokens, start, &cancelled),
            (None, Kv::F32(kv)) => forward(machine, group, kv, n_ctx, b, tokens, start, &cancelled),
            (None, Kv::F16(kv)) => forward(machine, group, kv, n_ctx, b, tokens, start, &cancelled),
            (None, Kv::Q8_0(kv)) => {
                forward(machine, group, kv, n_ctx, b, tokens, start, &cancelled)
            }
        }?;
        for lane in group {
            parts.cache.set_cached(lane.slot, stop);
        }
        Ok(())
    }

    /// Computes the logits of the rows from `first` on of the last pass, which had `n` tokens, and
    /// hands them to `each` with their index in it.
    fn deliver(
        &mut self,
        n: usize,
        first: usize,
        each: &mut dyn FnMut(usize, &mut Step<'_>),
    ) -> Result<()> {
        let parts = &mut self.parts;
        let outputs = parts.outputs;
        let n_out = outputs.len();
        let group = &parts.group[..self.n_group];
        let at_once = (parts.buffers.logits.len() / n_out / self.n_group).max(1);
        let machine = Machine {
            ensemble: &self.ensemble,
            kernels: &self.kernels,
            parallel: self.parallel,
            observer: self.observer,
        };
        for start in (first..n).step_by(at_once) {
            let rows = start..n.min(start + at_once);
            match &mut self.device {
                None => head(machine, group, &mut parts.buffers, n, rows.clone(), &outputs),
                Some(device) => {
                    let logits = &mut parts.buffers.logits[..group.len() * rows.len() * n_out];
                    device.head(group, n, rows.clone(), logits)?;
                    spread(&self.ensemble, group, logits, &outputs);
                }
            }
            for (i, row) in rows.clone().enumerate() {
                let step = (row - first) * self.n_group;
                each(
                    row,
                    &mut Step {
                        logits: &mut parts.buffers.logits[i * n_out..],
                        stride: rows.len() * n_out,
                        outputs,
                        active: &parts.steps[step..][..self.n_group],
                        kernels: &self.kernels,
                    },
                );
            }
        }
        Ok(())
    }
}
