//! `xelm quantize`

use crate::eval::quality::render;
use crate::progress::Progress;
use crate::{Result, print_line};
use serde_json::json;
use std::path::PathBuf;
use xelm_quantize::{
    Options, Override, Plan, Planned, Recipe, Sizes, plan_file, plan_set, quantize_file,
    quantize_set,
};
use xelm_train::card::carry_card;
use xelm_train::evaluate::{Compared, MAX_DOCUMENTS, QUALITY, evaluate_quality};

/// Quantises an expert file, or every expert of a set.
///
/// Bits per weight: f16 and bf16 16, q8_0 8.5, q6_k 6.6, q5_k_m about 5.8, q4_k_m about 5.0, q4_1 5, q4_0 4.5,
/// xq4 4.5.
/// The embedding is in q8_0 with q4_0 and q4_1, in q6_k with the k_m mixes, which also give some other
/// matrices more bits. The blocks are ggml's, bit for bit. Vectors and the position table stay in full
/// precision. xq4, our own, has every matrix in q4_k, the embedding too, and is rounded so that errors make up
/// for each other, for which it needs --imatrix of `xelm imatrix --products`; other types use it as well.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Expert file to quantise.
    #[arg(long, value_name = "FILE", required_unless_present = "set", conflicts_with = "set")]
    expert: Option<PathBuf>,
    /// Folder of the set to quantise.
    #[arg(long, value_name = "DIR")]
    set: Option<PathBuf>,
    /// How to store the weights: f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_1, q4_0 or xq4.
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_recipe)]
    recipe: Recipe,
    /// Store the matrices with such names in another type; * stands for any characters, and of several
    /// patterns that fit the last counts.
    #[arg(long = "tensor", value_name = "PATTERN=TYPE")]
    overrides: Vec<Override>,
    /// Importance matrix of `xelm imatrix` or llama-imatrix: what it says matters loses less. Of a set, the
    /// folder with a file for every expert. Several are added up.
    #[arg(long, value_name = "PATH")]
    imatrix: Vec<PathBuf>,
    /// File or folder to write.
    #[arg(long, value_name = "PATH", required_unless_present = "dry_run")]
    out: Option<PathBuf>,
    /// Folder of a corpus: also compare what was written with what it was made from, on held-out text, as
    /// `xelm eval quality` does.
    #[arg(long, value_name = "CORPUS", conflicts_with = "dry_run")]
    quality: Option<PathBuf>,
    /// Print the type and size of every tensor, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print the sizes as JSON.
    #[arg(long)]
    json: bool,
}

fn parse_recipe(name: &str) -> std::result::Result<Recipe, String> {
    let found = Recipe::ALL.into_iter().find(|recipe| recipe.name() == name);
    found.ok_or_else(|| {
        let names: Vec<_> = Recipe::ALL.iter().map(|recipe| recipe.name()).collect();
        format!("there is {}", names.join(", "))
    })
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let Args { recipe, overrides, imatrix, .. } = &self;
        let options = Options { recipe: *recipe, overrides, imatrix };
        let Some(out) = self.out.as_ref().filter(|_| !self.dry_run) else {
            return self.print_plans(options);
        };
        let (sizes, compared) = match (&self.expert, &self.set) {
            (Some(file), _) => {
                let compared = Compared::Experts { before: file, after: std::slice::from_ref(out) };
                (quantize_file(file, out, options)?, compared)
            }
            (None, set) => {
                let set = set.as_deref().unwrap_or(out);
                // What an earlier set in the folder has cost is not what this one does.
                let _ = std::fs::remove_file(out.join(QUALITY));
                (quantize_set(set, out, options)?, Compared::Set { before: set, after: out })
            }
        };
        let quality = match &self.quality {
            Some(corpus) => {
                evaluate_quality(compared, corpus, &[], MAX_DOCUMENTS, &mut Progress::new())?
            }
            None => Vec::new(),
        };
        if let Compared::Set { before, after } = compared {
            carry_card(before, after)?;
        }
        if self.json {
            let mut made = json!({
                "out": out, "bytes_before": sizes.before, "bytes": sizes.after
            });
            if self.quality.is_some() {
                made["quality"] = serde_json::to_value(quality)?;
            }
            return print_line(made);
        }
        let share = 100.0 * sizes.after as f64 / sizes.before as f64;
        print_line(format_args!(
            "{}\t{} bytes ({share:.0} % of {})",
            out.display(),
            sizes.after,
            sizes.before
        ))?;
        if quality.is_empty() { Ok(()) } else { print_line(render(&quality)) }
    }

    /// A line per tensor and one per file, or an object per file.
    fn print_plans(&self, options: Options<'_>) -> Result<()> {
        let plans = match (&self.expert, &self.set) {
            (Some(file), _) => vec![(file.display().to_string(), plan_file(file, options)?)],
            (None, set) => plan_set(set.as_deref().unwrap_or("".as_ref()), options)?,
        };
        for (file, Plan { tensors, sizes }) in plans {
            if self.json {
                let tensor = |t: &Planned| {
                    json!({
                        "name": t.name, "dims": t.dims, "type_before": t.from.name(),
                        "type": t.to.name(), "bytes": t.bytes
                    })
                };
                print_line(json!({
                    "file": file, "bytes_before": sizes.before, "bytes": sizes.after,
                    "tensors": tensors.iter().map(tensor).collect::<Vec<_>>()
                }))?;
                continue;
            }
            for t in tensors {
                let (from, to) = (t.from.name(), t.to.name());
                print_line(format_args!("{}\t{:?}\t{from}\t{to}\t{}", t.name, t.dims, t.bytes))?;
            }
            let share = 100.0 * sizes.after as f64 / sizes.before as f64;
            let Sizes { before, after } = sizes;
            print_line(format_args!("{file}\t{after} bytes ({share:.0} % of {before})"))?;
        }
        Ok(())
    }
}
