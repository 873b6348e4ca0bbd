//! The command line of xelm: one file per subcommand, which reads its flags, calls the libraries and
//! prints. Results go to stdout, everything else to stderr; every failure is one line and exit code 1.

#![deny(unsafe_code)]

mod adapt;
mod average;
mod bench;
mod card;
mod cluster;
mod compute;
mod demo;
mod device;
mod eval;
mod experiment;
mod export;
mod generate;
mod imatrix;
mod import;
mod inspect;
mod launch;
mod logits;
mod model;
mod open;
mod pack;
mod pretrain;
mod progress;
mod quantize;
mod repack;
mod report;
mod score;
mod set;
mod shortlist;
mod tokenize;
mod tokenizer;
mod train;
mod trim;
mod verify;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Anything that ends a command, as its one line.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Cross-lingual expert language models: train whole models for groups of related languages, pack them
/// for a device, run the one that speaks the language.
///
/// `xelm demo --out DIR` shows everything in a few minutes. The stages one by one:
///
///   xelm tokenizer train --corpus CORPUS --run RUN --vocab-size 8000
///   xelm pretrain        --run RUN --steps 600
///   xelm cluster typology --run RUN --k 4
///   xelm train           --run RUN --all --steps 1200
///   xelm pack            --run RUN
///   xelm quantize        --set RUN/set --type q8_0 --out RUN/set-q8_0
///   xelm eval ppl        --run RUN
///   xelm report          --run RUN --out report.html
///   xelm generate        --set RUN/set-q8_0 --lang de --prompt "Am Morgen"
#[derive(Debug, Parser)]
#[command(name = "xelm", version, verbatim_doc_comment, max_term_width = 100)]
struct Cli {
    /// Threads to compute with; the default is one per core. No result depends on it.
    #[arg(long, global = true, value_name = "N")]
    threads: Option<usize>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    #[command(subcommand)]
    Tokenizer(tokenizer::Command),
    Pretrain(pretrain::Args),
    Import(import::Args),
    Export(export::Args),
    #[command(subcommand)]
    Cluster(cluster::Command),
    Train(train::Args),
    Adapt(adapt::Args),
    Average(average::Args),
    Experiment(experiment::Args),
    #[command(subcommand)]
    Launch(launch::Command),
    Pack(pack::Args),
    Card(card::Args),
    Imatrix(imatrix::Args),
    Quantize(quantize::Args),
    Shortlist(shortlist::Args),
    Trim(trim::Args),
    Repack(repack::Args),
    #[command(subcommand)]
    Set(set::Command),
    Verify(verify::Args),
    #[command(subcommand)]
    Eval(eval::Command),
    Report(report::Args),
    Generate(generate::Args),
    Score(score::Args),
    Tokenize(tokenize::Args),
    Logits(logits::Args),
    Bench(bench::Args),
    Inspect(inspect::Args),
    Devices(device::Args),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A reader that has seen enough (`xelm … | head`) is no failure worth a word.
            let closed = error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe);
            if !closed {
                eprintln!("xelm: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let threads = match cli.threads {
        Some(0) => return Err("--threads must be at least 1".into()),
        Some(n) => n,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    match cli.command {
        Command::Demo(args) => args.run(threads),
        Command::Tokenizer(command) => command.run(),
        Command::Pretrain(args) => args.run(),
        Command::Import(args) => args.run(),
        Command::Export(args) => args.run(),
        Command::Cluster(command) => command.run(),
        Command::Train(args) => args.run(),
        Command::Adapt(args) => args.run(),
        Command::Average(args) => args.run(),
        Command::Experiment(args) => args.run(threads),
        Command::Launch(command) => command.run(),
        Command::Pack(args) => args.run(),
        Command::Card(args) => args.run(),
        Command::Imatrix(args) => args.run(threads),
        Command::Quantize(args) => args.run(),
        Command::Shortlist(args) => args.run(),
        Command::Trim(args) => args.run(),
        Command::Repack(args) => args.run(),
        Command::Set(command) => command.run(),
        Command::Verify(args) => args.run(),
        Command::Eval(command) => command.run(),
        Command::Report(args) => args.run(),
        Command::Generate(args) => args.run(threads),
        Command::Score(args) => args.run(threads),
        Command::Tokenize(args) => args.run(),
        Command::Logits(args) => args.run(threads),
        Command::Bench(args) => args.run(threads),
        Command::Inspect(args) => args.run(threads),
        Command::Devices(args) => args.run(threads),
    }
}

/// Prints one line on stdout; an error rather than a panic where nobody reads it.
fn print_line(text: impl std::fmt::Display) -> Result<()> {
    use std::io::Write;
    writeln!(std::io::stdout().lock(), "{text}")?;
    Ok(())
}
