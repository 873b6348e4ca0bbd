//! `xelm bench`

use crate::compute::ComputeArgs;
use crate::generate::SamplerArgs;
use crate::model::{Model, ModelArgs};
use crate::{Result, print_line};
use serde_json::{Map, Value as Json, json};
use std::hint::black_box;
use std::time::Instant;
use xelm_runtime::arena::Arena;
use xelm_runtime::ensemble::Ensemble;
use xelm_runtime::expert::Expert;
use xelm_runtime::isa::{Isa, Vectorised};
use xelm_runtime::parallel::Parallel;
use xelm_runtime::pool::Pool;
use xelm_runtime::rng::Rng;
use xelm_runtime::router::Context;
use xelm_runtime::sampler::Sampler;
use xelm_runtime::session::{Options, Session};
use xelm_runtime::tokenizer::{TextStream, Tokenizer};
use xelm_train::memory::Memory;

/// Measures how fast an expert or a mixture of experts reads and writes on this machine, and in how much
/// memory.
///
/// Prefill reads random tokens. Decode does what `xelm generate` does, from the beginning of a text: it
/// chooses a token from the logits and reads it, over and over; a context that is full begins anew. A first
/// prefill and decode that warm up are not counted. Times to open and to the first token are those of files that
/// the system may have in memory already, with a session of its own each time.
///
/// The weights that a token reads are compared with what this machine reads from memory with as many
/// threads just before the decode and just after it: the sum of a buffer of 256 MiB, eight times; on a
/// card they are not compared. The table of positions counts with the one row that is read; keys and values do not count.
///
/// Printed are medians of the repetitions, with the lowest and the highest.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens of the prefill; at most as many as there are positions.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = positive())]
    prompt: u32,
    /// Tokens to decode.
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = positive())]
    generate: u32,
    /// Repetitions.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = positive())]
    repeat: u32,
    /// Positions of the session; 0 for all that the model has.
    #[arg(long, default_value_t = 0, value_name = "N")]
    ctx: usize,
    /// Tokens that a pass of the prefill takes.
    #[arg(long, default_value_t = Options::default().n_batch, value_name = "N")]
    batch: usize,
    #[command(flatten)]
    sampler: SamplerArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Print as one JSON object.
    #[arg(long)]
    json: bool,
}

fn positive() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

/// What was measured, in the order of printing: of what, in which unit, one value per repetition.
type Measured = Vec<(&'static str, &'static str, Vec<f64>)>;
/// What does not vary.
type Facts = Vec<(&'static str, Json)>;

impl Args {
    pub(crate) fn run(self, threads: usize) -> Result<()> {
        let before = anonymous();
        let pool = Pool::new(threads)?;
        let (mut open_ms, mut first_ms) = (Vec::new(), Vec::new());
        for _ in 0..self.repeat {
            let start = Instant::now();
            let model = self.model.open()?;
            open_ms.push(start.elapsed().as_secs_f64() * 1e3);
            self.with_session(&model, &pool, |session, mut sampler, _| {
                session.prefill(&[first_token(session.ensemble())])?;
                session.sample(&mut sampler)?;
                Ok(())
            })?;
            first_ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let model = self.model.open()?;
        let mut measured = vec![("open", "ms", open_ms), ("first_token", "ms", first_ms)];
        let facts = self.with_session(&model, &pool, |session, sampler, on_card| {
            self.measure(session, sampler, &pool, before, on_card, &mut measured)
        })?;
        self.print(&facts, &measured)
    }

    /// Calls `work` with a new session.
    fn with_session<T>(
        &self,
        model: &Model,
        pool: &Pool,
        work: impl FnOnce(&mut Session<'_>, Sampler, usize) -> Result<T>,
    ) -> Result<T> {
        model.with(|ensemble| {
            let mixing = model.mixing;
            let (n_ctx, n_batch) = (self.ctx, self.batch);
            let options = Options { n_ctx, n_batch, max_text: 0, mixing, ..Options::default() };
            let sampler = Sampler::new(self.sampler.into())?;
            self.compute.with_session(ensemble, &options, pool, |session, on_card| {
                work(session, sampler, on_card)
            })
        })
    }

    /// Everything but opening. Returns what is not repeated.
    fn measure(
        &self,
        session: &mut Session<'_>,
        mut sampler: Sampler,
        pool: &Pool,
        before: Option<u64>,
        on_card: usize,
        measured: &mut Measured,
    ) -> Result<Facts> {
        let ensemble = *session.ensemble();
        let n_prompt = (self.prompt as usize).min(session.n_ctx());
        let n_vocab = ensemble.config().n_vocab as u32;
        let mut rng = Rng::new(1, 0);
        let prompt: Vec<u32> = (0..n_prompt).map(|_| rng.below(n_vocab)).collect();

        session.prefill(&prompt)?;
        decode(session, &mut sampler, self.generate.min(16))?;
        let grown = before.zip(anonymous()).map(|(before, now)| now.saturating_sub(before));
        let buffer = vec![1; if on_card == 0 { BUFFER / size_of::<u64>() } else { 0 }];
        let isa = Isa::detect();

        let (mut prefill, mut tokens, mut rates) = (Vec::new(), Vec::new(), Vec::new());
        let (mut shares, mut reads, mut routing) = (Vec::new(), Vec::new(), Vec::new());
        let mut token_bytes = 0;
        for _ in 0..self.repeat {
            session.reset();
            let start = Instant::now();
            session.prefill(&prompt)?;
            prefill.push(n_prompt as f64 / start.elapsed().as_secs_f64());

            // Both at nearly the same moment: what else runs on a machine takes from both.
            let mut read_seconds = read(&buffer, isa, pool);
            let start = Instant::now();
            let bytes = decode(session, &mut sampler, self.generate)?;
            let seconds = start.elapsed().as_secs_f64();
            read_seconds += read(&buffer, isa, pool);
            tokens.push(f64::from(self.generate) / seconds);
            token_bytes = bytes / self.generate as usize;

            let rate = bytes as f64 / seconds;
            rates.push(rate / 1e9);
            if on_card == 0 {
                let bandwidth = (2 * READS * BUFFER) as f64 / read_seconds;
                shares.push(rate / bandwidth);
                reads.push(bandwidth / 1e9);
            }
            routing.extend(route(session, &prompt)?);
        }
        measured.extend([
            ("prefill", "tokens_per_s", prefill),
            ("decode", "tokens_per_s", tokens),
            ("decode", "gb_per_s", rates),
            ("decode", "share_of_read", shares),
            ("read", "gb_per_s", reads),
            ("routing", "us_per_token", routing),
        ]);
        Ok(vec![
            ("threads", json!(pool.n_threads())),
            ("isa", json!(isa.name())),
            ("experts", json!(ensemble.n_present())),
            ("experts_mixed", json!(session.active().len())),
            ("sampler", json!(if self.sampler.is_greedy() { "greedy" } else { "random" })),
            ("prompt_tokens", json!(n_prompt)),
            ("generated_tokens", json!(self.generate)),
            ("repetitions", json!(self.repeat)),
            ("n_ctx", json!(session.n_ctx())),
            ("n_batch", json!(session.options().n_batch)),
            ("weight_bytes_per_token", json!(token_bytes)),
            ("weight_bytes_mapped", json!(ensemble.weight_bytes())),
            ("plan_bytes", json!(Session::plan(ensemble, session.options())?.total)),
            ("card_bytes", json!(on_card)),
            ("rss_anon_bytes", json!(grown)),
        ])
    }

    /// Medians and ranges, then the rest.
    fn print(&self, facts: &Facts, measured: &Measured) -> Result<()> {
        let spreads = measured.iter().filter_map(|(what, unit, values)| {
            let mut values = values.clone();
            values.sort_by(f64::total_cmp);
            let range = [*values.first()?, *values.last()?];
            // Of an even number the mean of the two in the middle.
            let n = values.len();
            Some((*what, *unit, (values[(n - 1) / 2] + values[n / 2]) / 2.0, range))
        });
        if self.json {
            let mut result: Map<String, Json> =
                facts.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
            for (what, unit, median, range) in spreads {
                let test = result.entry(what).or_insert_with(|| json!({}));
                test[unit] = json!(median);
                test[format!("{unit}_range")] = json!(range);
            }
            return print_line(Json::from(result));
        }
        let words = |key: &str| key.replace('_', " ");
        print_line(format_args!(
            "{:24}\t{:>12}\t{:>12}\t{:>12}",
            "", "median", "lowest", "highest"
        ))?;
        for (what, unit, median, [lowest, highest]) in spreads {
            let name = words(&format!("{what}, {unit}")).replace(" per ", "/").replace("gb", "GB");
            print_line(format_args!("{name:24}\t{median:12.3}\t{lowest:12.3}\t{highest:12.3}"))?;
        }
        for (key, value) in facts {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            print_line(format_args!("{:24}\t{value:>12}", words(key)))?;
        }
        Ok(())
    }
}

/// What opens a text; anything where there is no tokenizer.
fn first_token(ensemble: &Ensemble<'_>) -> u32 {
    ensemble.tokenizer().map_or(0, Tokenizer::bos)
}

/// Chooses a token and reads it, `n` times, from the beginning of a text on. Returns the bytes of weights that
/// this reads: of the experts that are mixed at each token.
fn decode(session: &mut Session<'_>, sampler: &mut Sampler, n: u32) -> Result<usize> {
    session.reset();
    session.prefill(&[first_token(session.ensemble())])?;
    let ensemble = *session.ensemble();
    let mut bytes = 0;
    for _ in 0..n {
        let token = session.sample(sampler)?;
        if session.n_past() == session.n_ctx() {
            session.reset();
        }
        session.prefill(&[token])?;
        let experts = session.active().iter().filter_map(|a| ensemble.get(a.expert as usize));
        bytes += experts.map(token_bytes).sum::<usize>();
    }
    Ok(bytes)
}

/// Bytes of weights that one token reads: all but the rows of the other positions.
fn token_bytes(expert: &Expert<'_>) -> usize {
    let positions = expert.gguf().tensor("position_embd.weight");
    let positions = positions.map_or(0, |t| t.bytes.len() - t.bytes.len() / t.n_rows().max(1));
    expert.weight_bytes() - positions
}

/// Microseconds that weighing the experts takes a token, where a router does.
fn route(session: &Session<'_>, tokens: &[u32]) -> Result<Option<f64>> {
    let ensemble = session.ensemble();
    let (Some(router), Some(tokenizer)) = (ensemble.router(), ensemble.tokenizer()) else {
        return Ok(None);
    };
    let mut size = Arena::measure();
    Context::carve(&mut size, Some(router))?;
    let mut memory = Memory::new(size.used());
    let mut context = Context::carve(&mut Arena::new(memory.bytes())?, Some(router))?;
    let mut weights = vec![0.0; router.n_experts()];
    let is_present = |i: usize| ensemble.get(i).is_some();
    let start = Instant::now();
    let mut text = TextStream::continuing();
    for &token in tokens {
        text.push(tokenizer, token, |part| context.feed(router, part));
        let x = context.vector(router);
        router.weights(x, &session.options().mixing.route, &is_present, &mut weights)?;
    }
    Ok(Some(start.elapsed().as_secs_f64() * 1e6 / tokens.len() as f64))
}

/// Bytes that are read to measure memory: many times what caches hold.
const BUFFER: usize = 256 << 20;
/// How many times they are read before the decode, and after it.
const READS: usize = 4;

/// Seconds that all threads together take to read a buffer [`READS`] times.
fn read(buffer: &[u64], isa: Isa, pool: &Pool) -> f64 {
    let tasks: Vec<&[u64]> = buffer.chunks(1 << 16).collect();
    let start = Instant::now();
    for _ in 0..READS {
        pool.run(tasks.len(), &|i| {
            black_box(isa.run(Sum(tasks[i])));
        });
    }
    start.elapsed().as_secs_f64()
}

/// The sum of numbers. Four places are read at a time: one stream alone does not keep memory busy (16 GB/s
/// against 22 on a Zen 3 core).
struct Sum<'a>(&'a [u64]);

impl Vectorised for Sum<'_> {
    type Output = u64;
    #[inline(always)]
    fn run(self) -> u64 {
        let (a, b) = self.0.split_at(self.0.len() / 2);
        let ((a, b), (c, d)) = (a.split_at(a.len() / 2), b.split_at(b.len() / 2));
        let (a, b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
        let (c, d) = (c.as_chunks::<8>().0, d.as_chunks::<8>().0);
        let mut sums = [[0u64; 8]; 4];
        for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
            for i in 0..8 {
                sums[0][i] = sums[0][i].wrapping_add(a[i]);
                sums[1][i] = sums[1][i].wrapping_add(b[i]);
                sums[2][i] = sums[2][i].wrapping_add(c[i]);
                sums[3][i] = sums[3][i].wrapping_add(d[i]);
            }
        }
        sums.as_flattened().iter().fold(0, |sum, x| sum.wrapping_add(*x))
    }
}

/// Bytes of memory that this process has to itself, where the system tells.
fn anonymous() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
