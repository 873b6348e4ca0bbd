//! Work shared with threads that come and go.
//!
//! A phase of work belongs to the thread that calls [`Crew::run`](Parallel::run). Other threads are
//! lent: they sit in [`Crew::work`], enter a phase while it is open, and take tasks from it. The
//! caller never waits for a thread to arrive. It takes tasks itself, closes the phase when none is
//! left, and waits only for those that entered: a thread that the operating system has taken off
//! its core misses the phase and costs nothing. On a phone the cores are shared.

mod shares;

use crate::parallel::Parallel;
use core::cell::UnsafeCell;
use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use core::time::Duration;
use shares::{MAX_TASKS, Shares};
use std::panic::catch_unwind;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How long a thread that has just worked watches for the next phase before it goes to sleep, and a
/// caller for the last tasks to end. It covers the short serial steps between two phases: with 20 µs
/// threads slept seven times per token of a model of 33M parameters, with 50 µs twice, and slowed
/// beside busy processes no more than with 20.
const SPIN: Duration = Duration::from_micros(50);

/// The gate: one word, so that a thread enters a phase and the caller closes it in one order.
/// The number of the phase is in the upper half; then the flags; then how many threads are inside.
const PHASE: u32 = 1 << 16;
/// Threads may enter.
const OPEN: u32 = 1 << 15;
/// The caller sleeps until nobody is inside.
const AWAITED: u32 = 1 << 14;
/// Threads that entered and have not left.
const INSIDE: u32 = AWAITED - 1;
/// Threads that can be inside at most.
pub(crate) const MAX_WORKERS: usize = INSIDE as usize;
/// A phase that no gate shows.
const NO_PHASE: u32 = u32::MAX;

/// The shared state of phases of work. It has a fixed size; nothing is allocated after
/// [`Crew::new`].
///
/// One phase runs at a time. A caller that finds another one's phase in progress runs its tasks on
/// its own thread: it has a core already, and waiting would leave that idle.
#[derive(Debug)]
pub struct Crew {
    gate: Line<AtomicU32>,
    /// The tasks of the phase.
    shares: Shares,
    /// Set while a caller has a phase: it alone opens and closes the gate.
    taken: AtomicBool,
    /// The work of the phase. Written by the caller while the gate is closed and nobody inside,
    /// read by threads inside.
    job: UnsafeCell<Job>,
    /// A task panicked on a lent thread.
    panicked: AtomicBool,
    /// Threads in [`Crew::work`], changed under `lock`.
    n_workers: AtomicUsize,
    max_workers: usize,
    /// Threads asleep that nobody has woken, or more; changed under `lock`.
    n_asleep: AtomicUsize,
    closed: AtomicBool,
    lock: Mutex<()>,
    /// A phase has opened, or the crew is closed.
    wake: Condvar,
    /// The last thread has left an awaited phase, or `n_workers` has changed.
    left: Condvar,
}

/// Something with a cache line of its own: both lines are written by every thread in every phase.
#[derive(Debug)]
#[repr(align(64))]
struct Line<T>(T);

/// A borrowed task function, whose lifetime [`Crew::run`](Parallel::run) guarantees by waiting.
#[derive(Clone, Copy, Debug)]
struct Job {
    task: *const (dyn Fn(usize) + Sync),
    n_shares: usize,
}

// SAFETY: `job` is the only part that is not `Sync`. The caller that has `taken` set writes it while
// the gate is closed with nobody inside; threads read it only between entering and leaving, and its
// function is `Sync`.
unsafe impl Sync for Crew {}
// SAFETY: a pointer is left in `job` after a phase, but used only during one.
unsafe impl Send for Crew {}

impl Crew {
    /// A crew that has room for `max_workers` lent threads at a time, 16,383 at most.
    pub fn new(max_workers: usize) -> Self {
        let crew = Crew {
            gate: Line(AtomicU32::new(0)),
            shares: Shares::new(),
            taken: AtomicBool::new(false),
            job: UnsafeCell::new(Job { task: &|_| {}, n_shares: 1 }),
            panicked: AtomicBool::new(false),
            n_workers: AtomicUsize::new(0),
            max_workers: max_workers.min(MAX_WORKERS),
            n_asleep: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            left: Condvar::new(),
        };
        // Where the standard library makes these on the heap, it does so at their first use.
        drop(crew.lock());
        crew.wake.notify_all();
        crew.left.notify_all();
        crew
    }

    /// Lends the calling thread, which helps with phases until [`Crew::close`]. False at once where
    /// the crew has no room or is closed. A task that panics is reported to the phase's caller; the
    /// lent thread goes on.
    pub fn work(&self) -> bool {
        {
            let _lock = self.lock();
            let n = self.n_workers.load(Ordering::Relaxed);
            if n >= self.max_workers || self.closed.load(Ordering::Relaxed) {
                return false;
            }
            self.n_workers.store(n + 1, Ordering::Relaxed);
        }
        self.left.notify_all();
        let _gone = Defer(|| {
            let _lock = self.lock();
            self.n_workers.fetch_sub(1, Ordering::Relaxed);
            self.left.notify_all();
        });
        let mut seen = NO_PHASE;
        let mut spin = true;
        while !self.closed.load(Ordering::Relaxed) {
            let entered = if spin { self.watch(|| self.enter(seen)) } else { self.enter(seen) };
            // Spinning is for those whom it lets arrive in time.
            spin = entered.is_some();
            match entered {
                Some(gate) => {
                    seen = gate / PHASE;
                    // Share 0 is the caller's; the first to come finds nobody inside.
                    self.help(1 + (gate & INSIDE) as usize);
                }
                None => self.sleep(seen),
            }
        }
        true
    }

    /// Sends all lent threads back, for good, and returns when none is left in [`Crew::work`]; a
    /// phase in progress is finished before. The crew goes on to run phases, on their caller's
    /// thread alone. Must not be called by a task or a lent thread: it would wait for itself.
    pub fn close(&self) {
        let mut lock = self.lock();
        self.closed.store(true, Ordering::Relaxed);
        self.wake.notify_all();
        while self.n_workers.load(Ordering::Relaxed) > 0 {
            lock = self.left.wait(lock).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Returns when at least `n` threads have come to [`Crew::work`].
    pub(crate) fn wait_for_workers(&self, n: usize) {
        let mut lock = self.lock();
        while self.n_workers.load(Ordering::Relaxed) < n {
            lock = self.left.wait(lock).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Enters the phase that is open, unless it is `seen`; returns the gate as it was. The exchange
    /// succeeds only on an open gate, so whoever is inside was counted before the caller closed it.
    fn enter(&self, seen: u32) -> Option<u32> {
        let mut gate = self.gate.0.load(Ordering::Relaxed);
        while open_after(gate, seen) {
            // Acquire: the job was written before the gate was opened.
            let entry = self.gate.0.compare_exchange_weak(
                gate,
                gate + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            match entry {
                Ok(_) => return Some(gate),
                Err(now) => gate = now,
            }
        }
        None
    }

    /// What a thread does inside a phase.
    fn help(&self, own: usize) {
        let result = catch_unwind(AssertUnwindSafe(|| self.take_tasks(own)));
        if result.is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
        // Release: what the tasks wrote is the caller's when it sees nobody inside.
        let gate = self.gate.0.fetch_sub(1, Ordering::AcqRel);
        if gate & (AWAITED | INSIDE) == AWAITED | 1 {
            drop(self.lock());
            self.left.notify_all();
        }
    }

    /// Runs tasks until none is left, first those of share `own`. For the caller of a phase, and threads inside.
    fn take_tasks(&self, own: usize) {
        // SAFETY: nobody writes the job while a phase lasts.
        let Job { task, n_shares } = unsafe { *self.job.get() };
        while let Some(tasks) = self.shares.claim(own, n_shares) {
            for i in tasks {
                // SAFETY: `run` does not return, so the function lives, until everybody has left.
                unsafe { (*task)(i) };
            }
        }
    }

    /// Sleeps until a phase other than `seen` is open, or the crew is closed.
    ///
    /// No wake-up is lost. This thread adds itself to `n_asleep`, then looks at the gate; a caller
    /// opens the gate, then looks at `n_asleep`. All four are sequentially consistent, so at least
    /// one of the two sees the other. If this thread sees an open gate it does not sleep. If the
    /// caller sees the sleeper it takes `lock` before it notifies: this thread holds that from
    /// before it looked until it sleeps.
    fn sleep(&self, seen: u32) {
        let mut lock = self.lock();
        while !self.closed.load(Ordering::Relaxed) {
            // Whoever wakes a thread subtracts it. One that wakes by itself stays counted: a
            // notification too many.
            self.n_asleep.fetch_add(1, Ordering::SeqCst);
            if open_after(self.gate.0.load(Ordering::SeqCst), seen) {
                self.n_asleep.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            lock = self.wake.wait(lock).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes as many sleepers as a phase can use.
    fn wake(&self, n_tasks: usize) {
        if self.n_asleep.load(Ordering::SeqCst) == 0 {
            return;
        }
        let n = {
            let _lock = self.lock();
            let n_asleep = self.n_asleep.load(Ordering::Relaxed);
            let n = n_asleep.min(n_tasks - 1);
            self.n_asleep.store(n_asleep - n, Ordering::Relaxed);
            n
        };
        for _ in 0..n {
            self.wake.notify_one();
        }
    }

    /// Closes the gate and waits for those who are inside.
    fn finish(&self) {
        let empty = |gate: u32| (gate & INSIDE == 0).then_some(());
        if empty(self.gate.0.fetch_and(!OPEN, Ordering::AcqRel)).is_some()
            || self.watch(|| empty(self.gate.0.load(Ordering::Acquire))).is_some()
        {
            return;
        }
        // The last thread to leave either does so before this flag is set, and nobody is inside, or
        // sees it, and takes `lock` before it notifies.
        let mut lock = self.lock();
        let mut gate = self.gate.0.fetch_or(AWAITED, Ordering::AcqRel);
        while empty(gate).is_none() {
            lock = self.left.wait(lock).unwrap_or_else(PoisonError::into_inner);
            gate = self.gate.0.load(Ordering::Acquire);
        }
    }

    /// Asks again and again for as long as [`SPIN`].
    fn watch<T>(&self, ask: impl Fn() -> Option<T>) -> Option<T> {
        let start = Instant::now();
        loop {
            // Reading the clock takes longer than asking.
            for _ in 0..32 {
                let answer = ask();
                if answer.is_some() {
                    return answer;
                }
                core::hint::spin_loop();
            }
            if start.elapsed() > SPIN {
                return None;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // Nothing panics while it is held.
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a gate is open for a thread that has been in phase `seen`. Phases are numbered modulo
/// 2¹⁶: a thread that sleeps through so many may miss one, which is no harm.
fn open_after(gate: u32, seen: u32) -> bool {
    gate & OPEN != 0 && gate / PHASE != seen
}

/// Does something when dropped.
struct Defer<F: Fn()>(F);

impl<F: Fn()> Drop for Defer<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

// SAFETY: `shares` hands out each index once. `finish` keeps this function from returning, or from
// unwinding, before everybody who entered has left, and nobody enters after that.
unsafe impl Parallel for Crew {
    fn run(&self, n_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let n_workers = self.n_workers.load(Ordering::Relaxed);
        let alone = !(2..=MAX_TASKS).contains(&n_tasks) || n_workers == 0;
        if alone || self.taken.swap(true, Ordering::Acquire) {
            (0..n_tasks).for_each(task);
            return;
        }
        // Both also when a task of this thread panics, the second one first.
        let _taken = Defer(|| self.taken.store(false, Ordering::Release));
        let finish = Defer(|| self.finish());
        // SAFETY: only the lifetime is dropped; `finish` outlasts every use of the function.
        let task: &'static (dyn Fn(usize) + Sync) = unsafe { core::mem::transmute(task) };
        let n_shares = self.shares.divide(n_tasks, n_workers + 1);
        // SAFETY: this thread has `taken`, the gate is closed, and the phase before left nobody
        // inside.
        unsafe { *self.job.get() = Job { task, n_shares } };
        self.panicked.store(false, Ordering::Relaxed);
        let phase = self.gate.0.load(Ordering::Relaxed) / PHASE;
        self.gate.0.store(phase.wrapping_add(1).wrapping_mul(PHASE) | OPEN, Ordering::SeqCst);
        self.wake(n_tasks);
        self.take_tasks(0);
        drop(finish);
        assert!(!self.panicked.load(Ordering::Relaxed), "a task panicked on another thread");
    }
}

#[cfg(test)]
mod tests;
