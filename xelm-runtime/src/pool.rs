//! A fixed pool of threads, created once. A waiting thread spins for a few microseconds, then
//! sleeps: on a phone the cores are shared.

use crate::parallel::Parallel;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::vec::Vec;

/// Checks of the shared state before a waiting thread goes to sleep (a few microseconds).
const SPINS: u32 = 2_000;

/// Threads that wait for phases of work. Nothing is allocated after [`Pool::new`].
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// One phase at a time: sessions on several threads take turns.
    turn: Mutex<()>,
}

struct Shared {
    /// Phase number · 2 + "stop".
    epoch: AtomicU64,
    /// The work of the current phase.
    job: Mutex<Option<Job>>,
    /// Next task of the phase.
    next: AtomicUsize,
    /// Helpers that have not yet finished the phase.
    busy: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    done: Condvar,
}

impl core::fmt::Debug for Shared {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Shared").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// A borrowed task function whose lifetime `Pool::run` guarantees by waiting.
#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize) + Sync),
    n_tasks: usize,
}
// SAFETY: the function is `Sync`, and `Pool::run` does not return while a thread may still call it.
unsafe impl Send for Job {}

impl Pool {
    /// A pool that works with `n_threads` threads in all, the calling one included.
    ///
    /// # Errors
    /// The operating system cannot start a thread.
    pub fn new(n_threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            epoch: AtomicU64::new(0),
            job: Mutex::new(None),
            next: AtomicUsize::new(0),
            busy: AtomicUsize::new(n_threads.max(1) - 1),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            done: Condvar::new(),
        });
        let mut pool = Pool { shared, threads: Vec::new(), turn: Mutex::new(()) };
        for i in 1..n_threads.max(1) {
            let shared = Arc::clone(&pool.shared);
            let builder = std::thread::Builder::new().name(std::format!("xelm-{i}"));
            pool.threads.push(builder.spawn(move || {
                drop(Leave(&shared));
                shared.help();
            })?);
        }
        // A thread allocates while it starts; nothing may do so later.
        let shared = &*pool.shared;
        shared.wait_until(&shared.done, || shared.busy.load(Ordering::Acquire) == 0);
        Ok(pool)
    }

    /// Threads that work on a phase.
    pub fn n_threads(&self) -> usize {
        self.threads.len() + 1
    }
}

// SAFETY: `next` hands out each index once, and `Finish` waits for every helper.
unsafe impl Parallel for Pool {
    fn run(&self, n_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if self.threads.is_empty() || n_tasks <= 1 {
            (0..n_tasks).for_each(task);
            return;
        }
        // A task that panicked poisons nothing that matters: the phase is over.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        // SAFETY: only the lifetime is dropped; this function waits below until no helper is left
        // in the phase.
        let task: &'static (dyn Fn(usize) + Sync) = unsafe { core::mem::transmute(task) };
        let job = Job { task, n_tasks };
        *shared.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
        shared.next.store(0, Ordering::Relaxed);
        shared.busy.store(self.threads.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(2, Ordering::Release);
        {
            let _sleepers = shared.sleep.lock().unwrap_or_else(PoisonError::into_inner);
            shared.wake.notify_all();
        }
        // Waits even when a task of this thread panics.
        struct Finish<'a>(&'a Shared);
        impl Drop for Finish<'_> {
            fn drop(&mut self) {
                self.0.wait_until(&self.0.done, || self.0.busy.load(Ordering::Acquire) == 0);
            }
        }
        let _finish = Finish(shared);
        shared.work(job);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.epoch.fetch_or(1, Ordering::Release);
        {
            let _sleepers = self.shared.sleep.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.wake.notify_all();
        }
        for thread in self.threads.drain(..) {
            // A helper ends only by returning; a panic inside a task has been reported already.
            let _ = thread.join();
        }
    }
}

/// Reports, when dropped, that a helper is no longer busy: also when a task panics, so that nobody waits
/// for ever.
struct Leave<'a>(&'a Shared);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if self.0.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            let _waiter = self.0.sleep.lock().unwrap_or_else(PoisonError::into_inner);
            self.0.done.notify_all();
        }
    }
}

impl Shared {
    /// Takes tasks until none is left.
    fn work(&self, job: Job) {
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= job.n_tasks {
                return;
            }
            // SAFETY: `Pool::run` keeps the function alive until every helper has left the phase.
            unsafe { (*job.task)(i) };
        }
    }

    /// The life of a helper thread.
    fn help(&self) {
        let mut seen = 0;
        loop {
            self.wait_until(&self.wake, || self.epoch.load(Ordering::Acquire) != seen);
            seen = self.epoch.load(Ordering::Acquire);
            if seen & 1 == 1 {
                return;
            }
            let job = *self.job.lock().unwrap_or_else(PoisonError::into_inner);
            let _leave = Leave(self);
            if let Some(job) = job {
                self.work(job);
            }
        }
    }

    /// Spins briefly, then sleeps until `ready`. Whoever makes it ready locks `sleep` before
    /// notifying, so no wake-up is lost.
    fn wait_until(&self, condition: &Condvar, ready: impl Fn() -> bool) {
        for _ in 0..SPINS {
            if ready() {
                return;
            }
            core::hint::spin_loop();
        }
        let mut guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        while !ready() {
            guard = condition.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_once_in_every_phase() {
        for n_threads in [1, 2, 5] {
            let pool = Pool::new(n_threads).unwrap();
            for phase in 0..500usize {
                let n_tasks = phase % 17;
                let hits: [AtomicUsize; 17] = core::array::from_fn(|_| AtomicUsize::new(0));
                pool.run(n_tasks, &|i| {
                    hits[i].fetch_add(1, Ordering::Relaxed);
                });
                for (i, hit) in hits.iter().enumerate() {
                    assert_eq!(hit.load(Ordering::Relaxed), usize::from(i < n_tasks));
                }
                if phase % 100 == 0 {
                    // Long enough for the helpers to fall asleep.
                    std::thread::sleep(core::time::Duration::from_millis(5));
                }
            }
        }
    }

    #[test]
    fn several_callers_take_turns() {
        let pool = Pool::new(3).unwrap();
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.run(8, &|_| {
                            total.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::Relaxed), 4 * 100 * 8);
    }
}
