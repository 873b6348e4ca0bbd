//! `xelm eval icl`

use super::{ensemble_size, row};
use crate::progress::Progress;
use crate::{Result, print_line};
use clap::ValueEnum;
use std::fmt::Write;
use std::path::PathBuf;
use xelm_runtime::router::RouteOptions;
use xelm_train::icl::{
    IclSettings, IclTable, Mix, Newline, Normalise, Scoring, Subjects, Task, evaluate_icl,
};
use xelm_train::run::Run;

/// Asks models to complete examples of a test and counts how often the right completion is the most probable.
///
/// The tests are XNLI, XStoryCloze and PAWS-X, in their authors' own tab-separated files. An example is put as
/// text: "<premise>, right?" and the candidates "Yes, <hypothesis>", "Also, …", "No, …"; a story of four
/// sentences and its two endings; "<sentence>, right?" and "Yes, <other sentence>" or "No, …". The words are
/// English in every language. Both parts are tokenised by themselves and open with </s>; a candidate's score is
/// the mean negative log likelihood of its tokens, and the lowest wins.
///
/// The examples of a language are shuffled with a fixed seed and the first --max-examples are taken. With
/// --shots, English demonstrations stand before each: --runs draws of them, the accuracies being averaged. What
/// does not fit the context is left out, the oldest demonstrations first, and counted as "cut". A mixture
/// chooses its weights once per example, from the words of the example alone. The generator is xelm's own: from
/// the same data it takes other examples than the Python library that the X-ELM paper used.
///
/// Of a run, the models are the seed, the baselines, the expert of the tested language ("expert"), the expert of
/// English ("expert_en"), and mixtures; results are noted in icl.jsonl as they are measured, so that a second
/// call goes on, and gathered in icl.json.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("subjects").required(true))]
pub(crate) struct Args {
    /// Run directory with packed models.
    #[arg(long, value_name = "DIR", group = "subjects")]
    run: Option<PathBuf>,
    /// Folder of a set.
    #[arg(long, value_name = "DIR", group = "subjects")]
    set: Option<PathBuf>,
    /// Expert file.
    #[arg(long, value_name = "FILE", group = "subjects")]
    expert: Option<PathBuf>,
    /// Also mix the M experts that suit an example best, or all. Several are separated by commas, such as
    /// 2,all.
    #[arg(long, value_delimiter = ',', value_name = "M", value_parser = ensemble_size)]
    #[arg(conflicts_with = "expert")]
    ensemble: Vec<usize>,
    /// The test.
    #[arg(long, value_name = "NAME")]
    task: TaskName,
    /// Files with the examples, or folders whose .tsv files are taken. Where rows do not name their language,
    /// the file's name does: zh.test_2k.tsv, or zh/test_2k.tsv.
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    data: Vec<PathBuf>,
    /// Languages, separated by commas; the default is all that the files have.
    #[arg(long, value_delimiter = ',', value_name = "TAGS")]
    languages: Vec<String>,
    /// Demonstrations before each example.
    #[arg(long, default_value_t = 0, value_name = "N")]
    shots: usize,
    /// Draws of demonstrations.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Examples of a language at most.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_examples: u32,
    /// Files with the demonstrations, of which the English rows are taken. They should be another part of the
    /// data than the examples.
    #[arg(long, num_args = 1.., value_name = "PATH")]
    demos: Vec<PathBuf>,
    /// A candidate's score: the mean of its tokens' negative log likelihoods, or their sum.
    #[arg(long, default_value = "mean", value_name = "HOW")]
    normalise: NormaliseName,
    /// What stands between demonstrations: a space, which is what the tokenizer makes of a newline, or </s>.
    #[arg(long, default_value = "space", value_name = "WHAT")]
    newline: NewlineName,
    /// What mixtures mix: probabilities, or logits as the X-ELM paper's program does.
    #[arg(long, default_value = "probabilities", value_name = "WHAT")]
    mix: MixName,
    /// Write every example with the scores of its candidates to this file, one JSON object a line. Everything
    /// is then measured anew.
    #[arg(long, value_name = "FILE")]
    examples: Option<PathBuf>,
    /// Print the table as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TaskName {
    Xnli,
    Xstorycloze,
    Pawsx,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum NormaliseName {
    Mean,
    Sum,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum NewlineName {
    Space,
    Eos,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MixName {
    Probabilities,
    Logits,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        if self.shots > 0 && self.demos.is_empty() {
            return Err("--shots needs --demos: files with English examples".into());
        }
        let settings = IclSettings {
            task: match self.task {
                TaskName::Xnli => Task::Xnli,
                TaskName::Xstorycloze => Task::XStoryCloze,
                TaskName::Pawsx => Task::PawsX,
            },
            data: self.data,
            demonstrations: self.demos,
            languages: self.languages,
            shots: self.shots,
            runs: self.runs.into(),
            max_examples: self.max_examples as usize,
            scoring: Scoring {
                normalise: match self.normalise {
                    NormaliseName::Mean => Normalise::Mean,
                    NormaliseName::Sum => Normalise::Sum,
                },
                newline: match self.newline {
                    NewlineName::Space => Newline::Space,
                    NewlineName::Eos => Newline::Eos,
                },
                mix: match self.mix {
                    MixName::Probabilities => Mix::Probabilities,
                    MixName::Logits => Mix::Logits,
                },
            },
            ensembles: self.ensemble,
            route: RouteOptions::default(),
            examples: self.examples,
        };
        let run = self.run.as_deref().map(Run::open).transpose()?;
        let subjects = match (&run, &self.set, &self.expert) {
            (Some(run), ..) => Subjects::Run(run),
            (None, Some(folder), _) => Subjects::Set(folder),
            (None, None, Some(file)) => Subjects::Expert(file),
            (None, None, None) => return Err("one of --run, --set and --expert is needed".into()),
        };
        let table = evaluate_icl(&subjects, &settings, &mut Progress::new())?;
        if self.json {
            print_line(serde_json::to_string(&table)?)
        } else {
            print_line(render(&table).trim_end())
        }
    }
}

/// The table for people.
fn render(table: &IclTable) -> String {
    let majority = "majority".to_owned();
    let models = table.mean.keys().chain([&majority]);
    let columns: Vec<&String> = models.collect();
    let rows = table.languages.iter().map(|(language, row)| {
        let of = table.majority.get(language).map(|&share| (majority.as_str(), share));
        let row = row.iter().map(|(model, a)| (model.as_str(), a.accuracy)).chain(of);
        (language.as_str(), row.collect())
    });
    let all = [("mean", row(&table.mean)), ("win rate", row(&table.win_rate))];
    let mut out = super::table("accuracy", &columns, rows.chain(all));
    let cells = || table.languages.values().flat_map(|row| row.values());
    let stderr = cells().map(|a| a.stderr).fold(0.0, f64::max);
    let examples = cells().map(|a| a.examples);
    let (least, most) = (examples.clone().min().unwrap_or(0), examples.max().unwrap_or(0));
    let cut = cells().map(|a| a.cut).fold(0.0, f64::max);
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{least} to {most} examples a language; standard errors of at most {stderr:.3}; at most {cut:.0} \
         examples of a cell did not fit the context whole."
    );
    out
}
