//! `xelm quantize`

use crate::{Result, print_line};
use serde_json::json;
use std::path::PathBuf;
use xelm_quantize::{Recipe, quantize_file, quantize_set};
use xelm_train::card::carry_card;

/// Quantises an expert file, or every expert of a set.
///
/// q8_0 stores 8.5 bits per weight, q4_0 4.5 (and the embedding in q8_0), f16 16. The blocks are ggml's,
/// bit for bit. Vectors and the position table stay in full precision.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Expert file to quantise.
    #[arg(long, value_name = "FILE", required_unless_present = "set", conflicts_with = "set")]
    expert: Option<PathBuf>,
    /// Folder of the set to quantise.
    #[arg(long, value_name = "DIR")]
    set: Option<PathBuf>,
    /// How to store the weights: f32, f16, q8_0 or q4_0.
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_recipe)]
    recipe: Recipe,
    /// File or folder to write.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
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
        let sizes = match (&self.expert, &self.set) {
            (Some(file), _) => quantize_file(file, &self.out, self.recipe)?,
            (None, set) => {
                let set = set.as_deref().unwrap_or(&self.out);
                let sizes = quantize_set(set, &self.out, self.recipe)?;
                carry_card(set, &self.out)?;
                sizes
            }
        };
        if self.json {
            return print_line(json!({
                "out": self.out, "bytes_before": sizes.before, "bytes": sizes.after
            }));
        }
        let share = 100.0 * sizes.after as f64 / sizes.before as f64;
        print_line(format_args!(
            "{}\t{} bytes ({share:.0} % of {})",
            self.out.display(),
            sizes.after,
            sizes.before
        ))
    }
}
