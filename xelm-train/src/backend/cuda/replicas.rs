//! One model on several cards (data parallelism). Every card holds all of it; micro-batches go to one card after the
//! other, which compute at the same time; before an update the gradients are added up, once, and every card makes the
//! same update.
//!
//! Cards of one kind that multiply by the same algorithms stay equal bit for bit, which every step checks.

use super::cards::cards;
use super::nccl::{self, Nccl};
use super::{Cuda, Device, Driver, Precision};
use crate::backend::{AdamW, Backend, Operations, Plans, Sizes, Span, StepStats};
use crate::{Error, Result};
use std::thread;
use std::time::Duration;

/// Time between two looks at cards that are at work.
const LOOK: Duration = Duration::from_micros(50);

/// Several cards as one training device.
#[derive(Debug)]
pub struct Replicas {
    /// Ends before the cards, which it may keep waiting for each other.
    nccl: Nccl,
    cards: Vec<Cuda<Driver>>,
    /// The card that computes this micro-batch.
    turn: usize,
    /// Algorithms of the first card that the others know of.
    n_known: usize,
    /// The first failure to add up.
    failed: Option<Error>,
}

impl Replicas {
    /// Opens cards by their numbers. Sets a variable of the environment (`NCCL_NVLS_ENABLE`): to be called before
    /// other threads use NVIDIA's or other C libraries.
    ///
    /// # Errors
    /// Those of [`Driver::open`]; a card is named twice; they are of several kinds; there is no NCCL.
    pub fn open(numbers: &[usize], precision: Precision) -> Result<Self> {
        if let Some(twice) = (1..numbers.len()).find(|&i| numbers[..i].contains(&numbers[i])) {
            return Err(Error::usage(format!("card {} is named twice", numbers[twice])));
        }
        nccl::keep_out_of_switches();
        let drivers = numbers.iter().map(|&i| Driver::open(i, precision));
        let drivers = drivers.collect::<Result<Vec<_>>>()?;
        let all = cards()?;
        let kind = |&i: &usize| (&all[i].name, all[i].compute);
        if let Some(other) = numbers.iter().find(|&i| kind(i) != kind(&numbers[0])) {
            return Err(Error::Device(format!(
                "card {} is {}, card {other} is {}: one model trains on cards of one kind, which round alike",
                numbers[0], all[numbers[0]].name, all[*other].name
            )));
        }
        let nccl = Nccl::new(numbers)?;
        let cards = drivers.into_iter().map(Cuda::new).collect();
        Ok(Replicas { nccl, cards, turn: 0, n_known: 0, failed: None })
    }

    /// The first card has timed algorithms; the others take them over.
    fn share_plans(&mut self) {
        if let Some(plans) = self.cards[0].plans()
            && plans.algorithms.len() > self.n_known
        {
            for card in &mut self.cards[1..] {
                let fits = card.repeat(&plans);
                debug_assert!(fits, "cards of one kind");
            }
            self.n_known = plans.algorithms.len();
        }
    }

    /// Adds up the cards' gradients, unless one of them has failed: the others would wait for it.
    fn add_up(&mut self, grads: Span) {
        let mut parts = Vec::with_capacity(self.cards.len());
        for card in &mut self.cards {
            card.device.submit();
            if card.failed.is_some() || card.device.has_failed() {
                return;
            }
            parts.push((card.address(grads), card.device.stream()));
        }
        if let Err(error) = self.nccl.add_up(&parts, grads.len) {
            self.nccl.abort();
            self.failed.get_or_insert(error);
        }
    }

    /// Waits for all cards, or until one has failed: the others might then never be done.
    fn wait(&mut self) -> Result<()> {
        let mut outcome = self.failed.take().map_or(Ok(()), Err);
        let mut at_work = true;
        while at_work && outcome.is_ok() {
            at_work = false;
            for card in &mut self.cards {
                match card.device.is_done() {
                    Ok(done) => at_work |= !done,
                    Err(error) => outcome = outcome.and(Err(error)),
                }
            }
            if at_work {
                thread::sleep(LOOK);
            }
        }
        if outcome.is_err() {
            self.nccl.abort();
        }
        outcome
    }
}

impl Backend for Replicas {
    fn allocate(&mut self, sizes: Sizes) -> Result<()> {
        self.cards.iter_mut().try_for_each(|card| card.allocate(sizes))
    }

    fn n_bytes(&self) -> usize {
        self.cards.iter().map(Backend::n_bytes).max().unwrap_or(0)
    }

    fn n_parallel(&self) -> usize {
        self.cards.len()
    }

    fn plans(&self) -> Option<Plans> {
        self.cards[0].plans()
    }

    fn repeat(&mut self, plans: &Plans) -> bool {
        // Cards of one kind: all of them, or already the first does not.
        let fits = self.cards.iter_mut().all(|card| card.repeat(plans));
        self.n_known = if fits { plans.algorithms.len() } else { 0 };
        fits
    }

    fn write(&mut self, to: Span, values: &[f32]) {
        self.cards.iter_mut().for_each(|card| card.write(to, values));
    }

    /// Those of the first card: parameters are the same on all.
    fn read(&mut self, from: Span, values: &mut [f32]) -> Result<()> {
        self.cards[0].read(from, values)
    }

    fn begin_step(&mut self, grads: Span) {
        self.cards.iter_mut().for_each(|card| card.begin_step(grads));
        // The next micro-batch is the first card's.
        self.turn = self.cards.len() - 1;
    }

    fn load_batch(&mut self, inputs: &[u32], targets: &[u32]) {
        self.turn = (self.turn + 1) % self.cards.len();
        // The first card has had its turn.
        if self.turn == 1 {
            self.share_plans();
        }
        self.cards[self.turn].load_batch(inputs, targets);
    }

    fn operations(&mut self) -> &mut dyn Operations {
        self.cards[self.turn].operations()
    }

    fn grad_norm(&mut self, grads: Span) {
        self.add_up(grads);
        self.cards.iter_mut().for_each(|card| card.grad_norm(grads));
    }

    fn adamw(&mut self, params: Span, settings: AdamW) {
        self.cards.iter_mut().for_each(|card| card.adamw(params, settings));
    }

    fn finish_step(&mut self) -> Result<StepStats> {
        self.wait()?;
        let gathered = self.cards.iter_mut().map(Cuda::gather).collect::<Result<Vec<_>>>()?;
        let norm = gathered[0].grad_norm;
        let equal = |other: f64| other == norm || (other.is_nan() && norm.is_nan());
        if let Some(i) = gathered.iter().position(|card| !equal(card.grad_norm)) {
            return Err(Error::Device(format!(
                "the cards have come apart: the gradients' norm is {norm} on the first and {} on card {} of them; \
                 the last checkpoint is kept: run the command again to resume",
                gathered[i].grad_norm,
                i + 1
            )));
        }
        let loss: f64 = gathered.iter().map(|card| card.loss_sum).sum();
        let n_targets: u64 = gathered.iter().map(|card| card.n_targets).sum();
        Ok(StepStats { loss: loss / n_targets as f64, grad_norm: norm })
    }

    /// Of the first card: parameters and summed gradients are the same on all.
    fn first_non_finite(&mut self, spans: &[Span]) -> Result<Option<usize>> {
        self.cards[0].first_non_finite(spans)
    }
}
