//! Cells divided among threads.

use crate::Result;
use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};

/// Works on the pieces of several cells with all threads; as the last piece of a cell ends, `finish` gets the
/// results of all of them in order.
///
/// Threads take the pieces in order, so that cells end one after the other and an interrupted evaluation
/// loses little. Which thread does a piece changes nothing.
///
/// # Errors
/// The first of `work` or `finish`, which ends everything.
pub(crate) fn in_pieces<P: Send, R: Send>(
    cells: Vec<Vec<P>>,
    work: impl Fn(usize, P) -> Result<R> + Sync,
    finish: impl FnMut(usize, Vec<R>) -> Result<()> + Send,
) -> Result<()> {
    let open: Vec<(Vec<Option<R>>, usize)> =
        cells.iter().map(|pieces| (pieces.iter().map(|_| None).collect(), pieces.len())).collect();
    let shared = Mutex::new((open, finish));
    let pieces = cells.into_iter().enumerate().flat_map(|(cell, pieces)| {
        pieces.into_iter().enumerate().map(move |(part, piece)| (cell, part, piece))
    });
    let pieces: Vec<_> = pieces.collect();
    pieces.into_iter().par_bridge().try_for_each(|(cell, part, piece)| {
        let result = work(cell, piece)?;
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let (open, finish) = &mut *shared;
        let (parts, left) = &mut open[cell];
        parts[part] = Some(result);
        *left -= 1;
        if *left > 0 {
            return Ok(());
        }
        let parts = std::mem::take(parts);
        finish(cell, parts.into_iter().flatten().collect())
    })
}
