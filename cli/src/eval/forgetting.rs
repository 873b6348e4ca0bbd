//! `xelm eval forgetting`

use super::TextArgs;
use crate::progress::Progress;
use crate::{Result, print_line};
use xelm_train::evaluate::{Forgetting, evaluate_forgetting};
use xelm_train::run::Run;

/// Scores every expert on every language, its own and the others, beside the seed and the baselines: what an
/// expert has forgotten of the languages that it was not trained on.
///
/// The measure is that of `xelm eval ppl`, with which it shares its finished cells. The shares count, over
/// experts and languages, how often an expert is worse than the seed. Everything is written to
/// forgetting.json in the run directory.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    text: TextArgs,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let TextArgs { run, languages, max_documents, json } = self.text;
        let run = Run::open(&run)?;
        let found = evaluate_forgetting(&run, &languages, max_documents, &mut Progress::new())?;
        if json { print_line(serde_json::to_string(&found)?) } else { print_line(render(&found)) }
    }
}

/// The matrix for people: a row per model, a column per language.
fn render(found: &Forgetting) -> String {
    let columns: Vec<&String> = found.languages.iter().collect();
    let rows = found.models.iter().map(|model| {
        let row = found.scores.get(model).into_iter().flatten();
        (model.as_str(), row.map(|(language, score)| (language.as_str(), score.bpb)).collect())
    });
    let table = super::table("bits per byte", &columns, rows);
    let off = match found.share_worse_off_language {
        Some(share) => format!("{:.1} %", share * 100.0),
        None => "no cell".to_owned(),
    };
    format!(
        "{table}Worse than the seed: {:.1} % of the experts' cells, {off} of those of languages that the \
         expert does not speak.",
        found.share_worse * 100.0
    )
}
