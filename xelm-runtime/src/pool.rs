//! A crew with threads of its own, created once.

use crate::crew::{Crew, MAX_WORKERS};
use crate::parallel::Parallel;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::vec::Vec;

/// Stack of a pool's thread, in bytes. Attention needs the most, about 24 KiB.
pub const THREAD_STACK: usize = 64 << 10;

/// Threads that wait for phases of work. Nothing is allocated after [`Pool::new`], and nothing at all
/// where there is but one. Dropping it ends them.
#[derive(Debug)]
pub struct Pool {
    crew: Home,
    threads: Vec<JoinHandle<()>>,
}

/// Where the crew lives: threads of our own need it at one address.
#[allow(clippy::large_enum_variant, reason = "the small one is the one that allocates")]
#[derive(Debug)]
enum Home {
    Here(Crew),
    Shared(Arc<Crew>),
}

impl Pool {
    /// A pool that works with `n_threads` threads in all, the calling one included, or as many as
    /// a crew has room for.
    ///
    /// # Errors
    /// The operating system cannot start a thread.
    pub fn new(n_threads: usize) -> std::io::Result<Self> {
        Pool::with_room(n_threads, 0)
    }

    /// The same, with room for `n_lent` threads more, which may come and go ([`Crew::work`]).
    ///
    /// # Errors
    /// The operating system cannot start a thread.
    pub fn with_room(n_threads: usize, n_lent: usize) -> std::io::Result<Self> {
        let n_workers = (n_threads.max(1) - 1).min(MAX_WORKERS);
        let crew = Crew::new(n_workers.saturating_add(n_lent));
        if n_workers == 0 {
            return Ok(Pool { crew: Home::Here(crew), threads: Vec::new() });
        }
        let crew = Arc::new(crew);
        let mut pool = Pool { crew: Home::Shared(Arc::clone(&crew)), threads: Vec::new() };
        for i in 1..=n_workers {
            let crew = Arc::clone(&crew);
            let builder = std::thread::Builder::new();
            let builder = builder.name(std::format!("xelm-{i}")).stack_size(THREAD_STACK);
            pool.threads.push(builder.spawn(move || {
                crew.work();
            })?);
        }
        // A thread allocates while it starts; nothing may do so later.
        crew.wait_for_workers(n_workers);
        Ok(pool)
    }

    /// The crew, to which threads may be lent.
    pub fn crew(&self) -> &Crew {
        match &self.crew {
            Home::Here(crew) => crew,
            Home::Shared(crew) => crew,
        }
    }

    /// Threads of its own that work on a phase, the calling one included.
    pub fn n_threads(&self) -> usize {
        self.threads.len() + 1
    }
}

// SAFETY: the crew keeps the promise.
unsafe impl Parallel for Pool {
    fn run(&self, n_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        self.crew().run(n_tasks, task);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.crew().close();
        for thread in self.threads.drain(..) {
            // A worker ends only by returning; a panic inside a task has been reported already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_thread_works() {
        for n_threads in [0, 1, 2, 5] {
            let pool = Pool::new(n_threads).unwrap();
            let n = pool.n_threads();
            assert_eq!(n, n_threads.max(1));
            // No task ends before all threads have one.
            let started = AtomicUsize::new(0);
            pool.run(n, &|_| {
                started.fetch_add(1, Ordering::Relaxed);
                while started.load(Ordering::Relaxed) < n {
                    std::thread::yield_now();
                }
            });
            assert_eq!(started.load(Ordering::Relaxed), n);
        }
    }
}
