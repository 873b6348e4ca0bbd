//! Progress on stderr: a bar with rate and remaining time on a terminal, a line now and then elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use xelm_train::report::{Report, StepReport};

/// Time between lines where stderr is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// A listener for people.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    is_terminal: bool,
    name: String,
    total: u64,
    last_line: Instant,
    began: Instant,
    began_at: u64,
}

impl Progress {
    /// Lines in any case: for several jobs at once.
    pub(crate) fn lines() -> Self {
        Progress { is_terminal: false, ..Progress::new() }
    }

    pub(crate) fn new() -> Self {
        Progress {
            bar: None,
            is_terminal: std::io::stderr().is_terminal(),
            name: String::new(),
            total: 0,
            last_line: Instant::now(),
            began: Instant::now(),
            began_at: 0,
        }
    }
}

impl Report for Progress {
    fn begin(&mut self, name: &str, done: u64, total: u64) {
        self.name = name.to_owned();
        self.total = total;
        (self.began, self.began_at, self.last_line) = (Instant::now(), done, Instant::now());
        if self.is_terminal {
            let bar = ProgressBar::new(total).with_position(done);
            let style =
                ProgressStyle::with_template("{prefix:>12} {bar:30} {pos}/{len} {msg} ETA {eta}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(self.name.clone());
            bar.reset_eta();
            self.bar = Some(bar);
        } else if done > 0 {
            eprintln!("{name}: resumes at step {done} of {total}");
        }
    }

    fn step(&mut self, step: &StepReport) {
        let message = format!("loss {:.3} {:.0} tok/s", step.loss, step.tokens_per_s);
        if let Some(bar) = &self.bar {
            bar.set_position(step.step);
            bar.set_message(message);
        } else if self.last_line.elapsed() >= LINE_EVERY || step.step == self.total {
            self.last_line = Instant::now();
            let done = (step.step - self.began_at).max(1) as f64;
            let left = self.began.elapsed().as_secs_f64() / done * (self.total - step.step) as f64;
            eprintln!("{}: step {}/{} {message} ETA {left:.0} s", self.name, step.step, self.total);
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }

    fn note(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}
