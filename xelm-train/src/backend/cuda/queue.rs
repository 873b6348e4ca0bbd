//! What was asked of a card and is not handed over yet.

use super::device::{Arg, Product, Ptr};

/// One thing to do; the arguments of launches lie beside the list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Command {
    /// Sets bytes to zero.
    Clear { at: Ptr, n_bytes: usize },
    /// Runs a kernel.
    Launch { kernel: &'static str, grid: [u32; 3], block: u32, n_args: usize },
    /// Multiplies with the vendor's library.
    Multiply(Product),
}

/// Commands in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Commands {
    list: Vec<Command>,
    args: Vec<Arg>,
}

impl Commands {
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn push(&mut self, command: Command) {
        self.list.push(command);
    }

    pub(super) fn launch(
        &mut self,
        kernel: &'static str,
        grid: [u32; 3],
        block: u32,
        args: &[Arg],
    ) {
        self.list.push(Command::Launch { kernel, grid, block, n_args: args.len() });
        self.args.extend_from_slice(args);
    }

    /// Every command with its arguments.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Command, &[Arg])> {
        let mut rest = &self.args[..];
        self.list.iter().map(move |&command| {
            let n_args = if let Command::Launch { n_args, .. } = command { n_args } else { 0 };
            let (args, later) = rest.split_at(n_args);
            rest = later;
            (command, args)
        })
    }
}
