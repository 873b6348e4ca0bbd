//! `xelm demo`: the whole pipeline on the bundled corpus, or on one of the user's.

use crate::compute::ComputeArgs;
use crate::eval::render;
use crate::generate::generate;
use crate::pack::router_line;
use crate::progress::Progress;
use crate::{Result, print_line};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;
use xelm_quantize::{Recipe, quantize_set};
use xelm_runtime::mmap::ExpertFile;
use xelm_runtime::sampler::SamplerOptions;
use xelm_runtime::score::Written;
use xelm_runtime::session::Mixing;
use xelm_train::card::write_cards;
use xelm_train::corpus::{BadInput, write_bundled};
use xelm_train::evaluate::{PplSettings, Table, evaluate_run};
use xelm_train::job::Cadence;
use xelm_train::pack::{PackOptions, pack};
use xelm_train::report::{Report, Silent};
use xelm_train::run::{Branch, Run, SET};
use xelm_train::settings::{ModelSettings, Preset, Schedule, TrainSettings};
use xelm_train::typology::Cluster;
use xelm_train::vocab::VocabSettings;

/// Trains experts on text in eight languages, packs and quantises them, compares them with one dense model
/// trained on as many tokens, and lets each write a little: the whole system in a few minutes on two cores.
///
/// Everything lands in one run directory that explains itself. Interrupted and started again, it goes on
/// where it was.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run directory to make.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A corpus of your own instead of the bundled one (see `xelm tokenizer train --help`).
    #[arg(long, value_name = "DIR")]
    corpus: Option<PathBuf>,
    /// Languages of that corpus to use, separated by commas; the default is all.
    #[arg(long, value_delimiter = ',', value_name = "TAGS", requires = "corpus")]
    languages: Vec<String>,
    /// Number of experts.
    #[arg(long, default_value_t = 4, value_name = "N")]
    k: usize,
    /// Tokens in the vocabulary.
    #[arg(long, default_value_t = 3072, value_name = "N")]
    vocab_size: usize,
    /// Share of all characters that get tokens of their own.
    #[arg(long, default_value_t = 0.998, value_name = "SHARE")]
    character_coverage: f64,
    #[command(flatten)]
    model: crate::pretrain::ModelArgs,
    /// Sequences per update of seed and dense model; an expert's is this divided by --k.
    #[arg(long, default_value_t = 12, value_name = "N")]
    batch: usize,
    /// Updates of the seed.
    #[arg(long, default_value_t = 160, value_name = "N")]
    seed_steps: u64,
    /// Updates of each model that branches from it.
    #[arg(long, default_value_t = 320, value_name = "N")]
    branch_steps: u64,
    /// Peak learning rate.
    #[arg(long, default_value_t = 3e-3, value_name = "RATE")]
    lr: f32,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1234, value_name = "N")]
    seed: u64,
    #[command(flatten)]
    device: crate::device::DeviceArgs,
    /// Print one JSON object with the table as the last line.
    #[arg(long)]
    json: bool,
}

/// Set types that the demo makes besides f32.
const RECIPES: [Recipe; 2] = [Recipe::Q8_0, Recipe::Q4_0];

impl Args {
    pub(crate) fn run(self, threads: usize) -> Result<()> {
        let clock = Instant::now();
        let mut report = Progress::new();
        let mut times: Vec<(&str, f64)> = Vec::new();
        let mut lap = Instant::now();
        let mut done = |stage: &'static str, report: &mut Progress| {
            let seconds = lap.elapsed().as_secs_f64();
            report.note(&format!("{stage}: {seconds:.1} s"));
            times.push((stage, seconds));
            lap = Instant::now();
        };

        // First of all: a device that is missing should cost nobody a vocabulary.
        let backend = &mut *self.device.open()?;
        let mut run = self.begin()?;
        let vocabulary = VocabSettings {
            n_vocab: self.vocab_size,
            character_coverage: self.character_coverage,
            ..VocabSettings::default()
        };
        run.train_vocabulary(&vocabulary, &[])?;
        run.tokenize(&mut report)?;
        done("vocabulary and tokens", &mut report);

        let model: ModelSettings = self.model.settings(128);
        let base = TrainSettings {
            seed: self.seed,
            ..TrainSettings::preset(Preset::Small, self.seed_steps, self.batch, model.n_ctx)
        };
        let base = TrainSettings { lr: self.lr, ..base };
        let settings = TrainSettings { schedule: Schedule::Constant, ..base.clone() };
        run.pretrain(model, settings, Cadence::default(), backend, &mut report)?;
        done("seed", &mut report);

        let clusters = run.cluster_typology(self.k, &mut report)?;
        let settings = TrainSettings { steps: self.branch_steps, warmup: 0, ..base };
        let mut train = |branch: &Branch, report: &mut Progress| {
            run.train(branch, settings.clone(), Cadence::default(), backend, report)
        };
        for cluster in &clusters {
            train(&Branch::Expert(cluster.id.clone()), &mut report)?;
        }
        done("experts", &mut report);
        train(&Branch::Dense, &mut report)?;
        train(&Branch::Random, &mut report)?;
        done("baselines", &mut report);

        let packed = pack(&run, &PackOptions::default(), &mut report)?;
        if let Some(router) = &packed.router {
            report.note(&router_line(router));
        }
        let mut sizes = vec![("set".to_owned(), folder_size(&packed.folder)?)];
        for recipe in RECIPES {
            let name = format!("{SET}-{}", recipe.name());
            quantize_set(&packed.folder, &run.path(&name), recipe)?;
            sizes.push((name.clone(), folder_size(&run.path(&name))?));
        }
        done("packing and quantising", &mut report);
        let table = evaluate_run(&run, &PplSettings::default(), &mut Silent)?;
        write_cards(&run)?;
        done("evaluation", &mut report);
        let samples = self.samples(&run, &clusters, threads)?;
        done("samples", &mut report);

        let seconds = clock.elapsed().as_secs_f64();
        let screen = self.screen(&table, &sizes, &times, &samples, seconds);
        if self.json {
            eprintln!("{screen}");
            let line =
                json!({"languages": table.languages, "wins": table.wins, "seconds": seconds});
            return print_line(line);
        }
        print_line(screen)
    }

    /// Creates the run directory around the corpus.
    fn begin(&self) -> Result<Run> {
        let corpus = match &self.corpus {
            Some(folder) => folder.clone(),
            None => {
                let folder = self.out.join("corpus");
                if !folder.exists() {
                    write_bundled(&folder)?;
                }
                folder
            }
        };
        Ok(Run::create(&self.out, &corpus, &self.languages, BadInput::Stop)?)
    }

    /// A short text in every language, by its expert in Q8_0.
    fn samples(
        &self,
        run: &Run,
        clusters: &[Cluster],
        threads: usize,
    ) -> Result<BTreeMap<String, String>> {
        let mut samples = BTreeMap::new();
        let sampler = SamplerOptions {
            temperature: 0.7,
            top_k: 40,
            top_p: 0.95,
            seed: self.seed,
            ..SamplerOptions::default()
        };
        for cluster in clusters {
            let path = run.path("set-q8_0").join(format!("{}.gguf", cluster.id));
            let file = ExpertFile::open(&path)?;
            for language in &cluster.languages {
                let prompt = prompt(language);
                let mut text = prompt.to_owned();
                let expert = file.expert();
                let mut emit = |written: Written<'_>| {
                    text.push_str(written.text);
                    true
                };
                generate(
                    expert,
                    Mixing::default(),
                    false,
                    prompt,
                    40,
                    sampler,
                    ComputeArgs::CPU,
                    threads,
                    &mut emit,
                )?;
                samples.insert(language.clone(), text);
            }
        }
        Ok(samples)
    }

    fn screen(
        &self,
        table: &Table,
        sizes: &[(String, u64)],
        times: &[(&str, f64)],
        samples: &BTreeMap<String, String>,
        seconds: f64,
    ) -> String {
        let out = self.out.display();
        let mut lines = vec![String::new(), render(table)];
        lines.push("What each expert writes (Q8_0, the first words given):".into());
        lines.extend(samples.iter().map(|(language, text)| format!("  {language}  {text}")));
        lines.push(String::new());
        let sizes: Vec<String> =
            sizes.iter().map(|(name, n)| format!("{name} {:.1} MB", *n as f64 / 1e6)).collect();
        lines.push(format!("Sizes: {}", sizes.join(", ")));
        let times: Vec<String> = times.iter().map(|(name, s)| format!("{name} {s:.0} s")).collect();
        lines.push(format!("Times: {}; {seconds:.0} s in all", times.join(", ")));
        lines.push(format!("Files: {out} (its README.md says what is what)"));
        lines.push(String::new());
        lines.push("Next:".into());
        let (language, prompt) = match samples.keys().next_back() {
            Some(language) => (language.as_str(), prompt(language)),
            None => ("en", ""),
        };
        lines.push(format!(
            "  xelm generate --set {out}/set-q8_0 --lang {language} --prompt \"{prompt}\""
        ));
        lines.push(format!("  xelm eval ppl --run {out} --json"));
        lines.push(format!("  xelm inspect {out}/set"));
        lines.join("\n")
    }
}

/// First words for a sample.
fn prompt(language: &str) -> &'static str {
    match language {
        "bg" => "Когато",
        "de" => "Am Morgen",
        "el" => "Κάθε μέρα",
        "en" => "In the morning",
        "es" => "Por la mañana",
        "ja" => "今日は",
        "ko" => "오늘은",
        "ru" => "Каждый день",
        _ => "",
    }
}

fn folder_size(folder: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in std::fs::read_dir(folder)? {
        size += entry?.metadata()?.len();
    }
    Ok(size)
}
