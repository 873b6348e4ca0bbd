//! `xelm repack`

use crate::{Result, print_line};
use clap::ValueEnum;
use serde_json::json;
use std::path::PathBuf;
use xelm_quantize::{repack_file, repack_set};
use xelm_runtime::layout::Layout;
use xelm_train::card::carry_card;

/// Lays the weights of an expert file, or of every expert of a set, out for the device: eight rows of each
/// quantised matrix interleaved, as vector instructions read them. Such a file is faster, as large, mapped in
/// place like any other, and gives the same bits; only xelm reads it.
///
/// `--layout standard` undoes it: weights, and files that xelm wrote, are again byte for byte what they were.
/// Quantise, shorten and trim before packing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Expert file.
    #[arg(long, value_name = "FILE", required_unless_present = "set", conflicts_with = "set")]
    expert: Option<PathBuf>,
    /// Folder of a set.
    #[arg(long, value_name = "DIR")]
    set: Option<PathBuf>,
    /// How the weights shall lie.
    #[arg(long, value_enum, default_value = "packed")]
    layout: LayoutArg,
    /// File or folder to write.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Print the sizes as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LayoutArg {
    /// Rows interleaved for the kernels.
    Packed,
    /// As ggml has them.
    Standard,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let layout = match self.layout {
            LayoutArg::Packed => Layout::Packed,
            LayoutArg::Standard => Layout::Standard,
        };
        let sizes = match (&self.expert, &self.set) {
            (Some(file), _) => repack_file(file, &self.out, layout)?,
            (None, set) => {
                let set = set.as_deref().unwrap_or(&self.out);
                let sizes = repack_set(set, &self.out, layout)?;
                carry_card(set, &self.out)?;
                sizes
            }
        };
        if self.json {
            let out = &self.out;
            return print_line(
                json!({"out": out, "bytes_before": sizes.before, "bytes": sizes.after}),
            );
        }
        print_line(format_args!("{}\t{} bytes", self.out.display(), sizes.after))
    }
}
