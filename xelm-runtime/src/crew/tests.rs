use super::*;
use crate::parallel::split_rows;
use std::sync::Barrier;
use std::thread::{current, scope, sleep};

/// Miri runs the same tests, a thousand times more slowly.
const N_PHASES: usize = if cfg!(miri) { 30 } else { 3_000 };

/// Runs phases of 0 to 16 tasks, every one of which must run once, with what `between` does
/// between them.
fn run_phases(crew: &dyn Parallel, n_phases: usize, between: impl Fn(usize)) {
    for phase in 0..n_phases {
        let n_tasks = phase % 17;
        // Plain bytes: Miri sees what the gate does not order.
        let mut hits = [0u8; 17];
        split_rows(crew, &mut hits[..n_tasks], 1, 1, |_, hit| hit[0] += 1);
        assert!(hits.iter().enumerate().all(|(i, &n)| n == u8::from(i < n_tasks)));
        between(phase);
    }
}

/// Closes the crew when a test ends, also by a failure: its threads would wait for ever.
fn closing(crew: &Crew) -> Defer<impl Fn()> {
    Defer(|| crew.close())
}

#[test]
fn every_task_once_in_every_phase() {
    for n_workers in [0, 1, 2, 7] {
        let crew = Crew::new(n_workers);
        scope(|scope| {
            let _closing = closing(&crew);
            for _ in 0..n_workers {
                scope.spawn(|| assert!(crew.work()));
            }
            crew.wait_for_workers(n_workers);
            run_phases(&crew, N_PHASES, |_| {});
            // Long enough for the workers to fall asleep.
            run_phases(&crew, N_PHASES / 30, |_| sleep(5 * SPIN));
            run_phases(&crew, N_PHASES / 10, |phase| sleep(SPIN * (phase % 3) as u32));
        });
    }
}

#[test]
fn threads_come_and_go_in_the_middle() {
    for round in 0..N_PHASES / 30 {
        let crew = Crew::new(8);
        scope(|scope| {
            for i in 0..round % 8 {
                let crew = &crew;
                scope.spawn(move || {
                    sleep(SPIN * (i * round % 5) as u32);
                    crew.work()
                });
            }
            scope.spawn(|| {
                sleep(SPIN * (round % 11) as u32);
                crew.close();
            });
            run_phases(&crew, 100, |phase| {
                if phase % 10 == 0 {
                    sleep(SPIN * (round % 3) as u32);
                }
            });
        });
        assert!(!crew.work());
        run_phases(&crew, 17, |_| {});
    }
}

#[test]
fn several_callers_share_a_crew() {
    let crew = Crew::new(2);
    scope(|all| {
        let _closing = closing(&crew);
        all.spawn(|| crew.work());
        all.spawn(|| crew.work());
        scope(|callers| {
            for _ in 0..4 {
                callers.spawn(|| run_phases(&crew, N_PHASES / 3, |_| {}));
            }
        });
        // From inside a task, too.
        crew.run(3, &|_| run_phases(&crew, 17, |_| {}));
    });
}

#[test]
fn there_is_room_for_so_many_and_none_after_closing() {
    assert!(!Crew::new(0).work());
    let crew = Crew::new(1);
    scope(|scope| {
        let lent = scope.spawn(|| crew.work());
        crew.wait_for_workers(1);
        assert!(!crew.work());
        crew.close();
        assert!(lent.join().unwrap());
        assert!(!crew.work());
    });
}

#[test]
fn a_panic_reaches_the_caller_and_nobody_else() {
    let crew = Crew::new(1);
    scope(|scope| {
        let _closing = closing(&crew);
        let lent = scope.spawn(|| crew.work());
        crew.wait_for_workers(1);
        let caller = current().id();
        for on_caller in [true, false, true, false] {
            // One task on each thread.
            let both = Barrier::new(2);
            let phase = || {
                crew.run(2, &|_| {
                    both.wait();
                    assert!((current().id() == caller) != on_caller, "as planned");
                });
            };
            assert!(catch_unwind(AssertUnwindSafe(phase)).is_err());
            run_phases(&crew, 100, |_| {});
        }
        crew.close();
        assert!(lent.join().unwrap());
    });
}
