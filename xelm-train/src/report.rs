//! What a long-running stage tells whoever watches it.

/// State after a step of training.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Steps done.
    pub step: u64,
    /// Loss of the last one, nats per token.
    pub loss: f64,
    /// Its learning rate.
    pub lr: f32,
    /// Mean rate since the job was started or resumed.
    pub tokens_per_s: f64,
}

/// A listener. All methods may do nothing.
pub trait Report {
    /// Work on `name` begins with `done` of `total` steps done.
    fn begin(&mut self, name: &str, done: u64, total: u64) {
        let _ = (name, done, total);
    }
    /// A step is done.
    fn step(&mut self, step: &StepReport) {
        let _ = step;
    }
    /// The work begun last is done.
    fn end(&mut self) {}
    /// Something that a person should know.
    fn note(&mut self, text: &str) {
        let _ = text;
    }
}

/// A listener that ignores everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Report for Silent {}
