//! Lists of commands that are asked for again and again, as CUDA graphs: the card starts their kernels by itself,
//! where otherwise the host would start one after the other. A small model's kernels are over before the next is
//! started.
//!
//! A graph runs only where a list is the same, word by word, as the one that it was made of: what differs between
//! micro-batches, kernels read from the card's memory.

#![allow(unsafe_code, reason = "the driver is a C library")]

use super::errors::describe;
use super::queue::Commands;
use cudarc::driver::result::{graph, stream};
use cudarc::driver::sys::{CUgraphExec, CUgraphInstantiate_flags, CUstream, CUstreamCaptureMode};

/// Shorter lists are not worth a graph.
const MIN_COMMANDS: usize = 8;
/// Lists that are kept in mind: those of training and of evaluation, and of a change between them.
const MAX_KNOWN: usize = 4;

/// The lists of late, the last one used at the end.
#[derive(Debug, Default)]
pub(super) struct Graphs {
    known: Vec<Known>,
    /// Graphs are not wanted, or cannot be made.
    pub(super) off: bool,
}

#[derive(Debug)]
struct Known {
    commands: Commands,
    /// None for a list that was asked for once.
    graph: Option<CUgraphExec>,
}

impl Graphs {
    /// Carries out commands: by `perform`, or by the graph of the same commands.
    pub(super) fn run(
        &mut self,
        commands: Commands,
        stream: CUstream,
        perform: &mut dyn FnMut(&Commands) -> Result<(), String>,
    ) -> Result<(), String> {
        if self.off || commands.len() < MIN_COMMANDS {
            return perform(&commands);
        }
        let Some(i) = self.known.iter().position(|known| known.commands == commands) else {
            if self.known.len() == MAX_KNOWN {
                self.known.remove(0).destroy();
            }
            // What is asked for the first time also finds kernels, gets memory and times algorithms.
            perform(&commands)?;
            self.known.push(Known { commands, graph: None });
            return Ok(());
        };
        let mut known = self.known.remove(i);
        if known.graph.is_none() {
            known.graph = capture(stream, || perform(&commands));
        }
        let Some(graph) = known.graph else {
            self.off = true;
            return perform(&commands);
        };
        self.known.push(known);
        // SAFETY: the graph was made for this stream's context; its kernels work on memory of the device.
        unsafe { graph::launch(graph, stream) }.map_err(|e| describe("run a graph", e))
    }

    /// Destroys all graphs.
    pub(super) fn clear(&mut self) {
        self.known.drain(..).for_each(Known::destroy);
    }
}

impl Known {
    fn destroy(self) {
        if let Some(graph) = self.graph {
            // SAFETY: this list's own; the driver keeps what still runs.
            let _ = unsafe { graph::exec_destroy(graph) };
        }
    }
}

/// Makes a graph of what `perform` queues; none where it queues what a graph cannot hold.
fn capture(stream: CUstream, perform: impl FnOnce() -> Result<(), String>) -> Option<CUgraphExec> {
    // Other threads may work on other cards, or on this one with streams of their own.
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: the stream is alive, and not captured yet.
    unsafe { stream::begin_capture(stream, mode) }.ok()?;
    let outcome = perform();
    // SAFETY: begun above; it ends even where it has failed.
    let captured = unsafe { stream::end_capture(stream) }.ok()?;
    let ready = outcome.ok().and_then(|()| {
        // SAFETY: just captured.
        unsafe { graph::instantiate(captured, CUgraphInstantiate_flags(0)) }.ok()
    });
    // SAFETY: what is instantiated does not need it any more.
    let _ = unsafe { graph::destroy(captured) };
    ready
}
