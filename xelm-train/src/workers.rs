//! Independent jobs side by side: each worker has threads of its own, pinned to cores of their own where the
//! system allows it. Experts need nothing of each other, so k jobs on k cores lose nothing to waiting for one
//! another; a step that is spread over k cores does.

use crate::job::JobResult;
use crate::report::Report;
use crate::run::{Branch, Run};
use crate::{Error, Result};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Time between two looks at a job that another process is at work on.
const RETRY: Duration = Duration::from_secs(2);

/// One job of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// Whose branch.
    pub run: &'a Run,
    /// What is trained.
    pub branch: &'a Branch,
}

/// Runs `work` on every task, on `n_workers` at once; `work` is also given the worker's listener. A task that
/// another process is at work on ([`Error::Claimed`]) is looked at again later: when this returns, all are
/// done.
///
/// # Errors
/// The first failure; tasks that were begun are finished, others are not begun.
pub fn run_all<'a>(
    tasks: Vec<Task<'a>>,
    n_workers: usize,
    listener: &(dyn Fn() -> Box<dyn Report + Send> + Sync),
    work: &(dyn Fn(Task<'a>, &mut dyn Report) -> Result<JobResult> + Sync),
) -> Result<()> {
    let queue = Mutex::new(VecDeque::from(tasks));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let stop = || queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let later = |task| queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(task);
    let worker = || -> Result<()> {
        let mut report = listener();
        let mut told = Vec::new();
        while let Some(task) = next() {
            match work(task, &mut *report) {
                Ok(_) => {}
                Err(Error::Claimed(who)) => {
                    if !told.contains(&who) {
                        report.note(&format!("{who}; waiting"));
                        told.push(who);
                    }
                    later(task);
                    thread::sleep(RETRY);
                }
                Err(error) => {
                    stop();
                    return Err(error);
                }
            }
        }
        Ok(())
    };
    if n_workers <= 1 {
        return worker();
    }
    let threads = (rayon::current_num_threads() / n_workers).max(1);
    let pools = (0..n_workers).map(|i| pool(i, threads)).collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        let workers: Vec<_> =
            pools.iter().map(|pool| scope.spawn(|| pool.install(worker))).collect();
        // Every worker is waited for; the first failure is told.
        let ends: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        ends.into_iter().try_for_each(|end| {
            end.unwrap_or_else(|_| Err(Error::usage("a training job panicked")))
        })
    })
}

/// The threads of worker `index`.
fn pool(index: usize, threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .start_handler(move |thread| pin(index * threads + thread))
        .build()
        .map_err(|e| Error::usage(format!("cannot start {threads} threads: {e}")))
}

/// Pins the calling thread to the `n`th core that this process may use. Where that cannot be, or there are
/// fewer cores, the system chooses.
#[cfg(target_os = "linux")]
fn pin(n: usize) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(allowed) = sched_getaffinity(None) else { return };
    if let Some(core) = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).nth(n) {
        let mut one = CpuSet::new();
        one.set(core);
        // A core that was taken away meanwhile is no reason to stop.
        let _ = sched_setaffinity(None, &one);
    }
}

#[cfg(not(target_os = "linux"))]
fn pin(_: usize) {}

impl Run {
    /// Trains branches as [`Run::train`] does one, `n_workers` of them at once.
    ///
    /// # Errors
    /// As [`run_all`].
    pub fn train_all(
        &self,
        branches: &[Branch],
        n_workers: usize,
        listener: &(dyn Fn() -> Box<dyn Report + Send> + Sync),
        work: &(dyn Fn(&Branch, &mut dyn Report) -> Result<JobResult> + Sync),
    ) -> Result<()> {
        let tasks = branches.iter().map(|branch| Task { run: self, branch }).collect();
        run_all(tasks, n_workers, listener, &|task, report| work(task.branch, report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Silent;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn tasks_run(
        n_workers: usize,
        work: &(dyn Fn(&Branch) -> Result<JobResult> + Sync),
    ) -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("de.txt"), "Text.").unwrap();
        let root = folder.path().join("run");
        let run = Run::create(&root, folder.path(), &[], crate::corpus::BadInput::Stop).unwrap();
        let branches: Vec<Branch> = (0..9).map(|i| Branch::Expert(i.to_string())).collect();
        run.train_all(&branches, n_workers, &|| Box::new(Silent), &|branch, _| work(branch))
    }

    const DONE: JobResult = JobResult { steps: 1, new_steps: 1, loss: None };

    #[test]
    fn every_task_is_done_once() {
        for n_workers in [1, 2, 16] {
            let done = Mutex::new(Vec::new());
            tasks_run(n_workers, &|branch| {
                done.lock().unwrap().push(branch.name().to_owned());
                Ok(DONE)
            })
            .unwrap();
            let mut done = done.into_inner().unwrap();
            done.sort();
            assert_eq!(done.concat(), "012345678");
        }
    }

    #[test]
    fn claimed_tasks_come_again_and_failures_end_all() {
        let tries = AtomicUsize::new(0);
        tasks_run(2, &|branch| {
            let first = branch.name() == "3" && tries.fetch_add(1, Ordering::SeqCst) == 0;
            if first { Err(Error::Claimed("another".into())) } else { Ok(DONE) }
        })
        .unwrap();
        assert_eq!(tries.into_inner(), 2);
        let begun = AtomicUsize::new(0);
        let result = tasks_run(1, &|branch| {
            begun.fetch_add(1, Ordering::SeqCst);
            if branch.name() == "2" { Err(Error::usage("broken")) } else { Ok(DONE) }
        });
        assert_eq!(result.unwrap_err().to_string(), "broken");
        assert_eq!(begun.into_inner(), 3);
    }
}
