//! Goes on with every line of its input in the language of the line: the words choose the expert, or a
//! tag does where a line begins with "lang: TAG ". At most one expert is open at a time. An interrupt
//! from the keyboard ends the reply in progress, the end of the input the program.
//!
//!     cargo run --release -p xelm-runtime --example reply -- RUN/set-q8_0 20

mod common;

use common::{GREEDY, Result, memory, open_expert};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use xelm_runtime::arena::Arena;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::pack::SetFolder;
use xelm_runtime::parallel::Serial;
use xelm_runtime::router::{Context, RouteOptions};
use xelm_runtime::sampler::Sampler;
use xelm_runtime::session::{Options, Session};
use xelm_runtime::tokenizer::TextStream;

/// Ends the reply in progress.
static CANCEL: AtomicBool = AtomicBool::new(false);

// C's own way to hear of an interrupt.
const SIGINT: i32 = 2;
unsafe extern "C" {
    safe fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
}

extern "C" fn on_interrupt(_: i32) {
    CANCEL.store(true, Ordering::Relaxed);
}

/// A line, and the expert for it.
struct Request {
    text: String,
    expert: usize,
}

/// Chooses the expert for a line, and says why.
fn choose(folder: &SetFolder, line: &str) -> Result<Request> {
    let is_present = |i| folder.is_present(i);
    if let Some(rest) = line.strip_prefix("lang: ") {
        let (tag, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let set = folder.set()?;
        let selected = set.select(tag, is_present)?;
        eprintln!("expert {}: {selected}", selected.expert);
        return Ok(Request { text: text.trim_start_matches(' ').into(), expert: selected.expert });
    }
    let no_router = "the set has no router: begin the line with \"lang: TAG \"";
    let router = folder.router()?.ok_or(no_router)?;
    let mut arena = Arena::measure();
    Context::carve(&mut arena, Some(&router))?;
    let (mut vec, mut weights) = (Vec::new(), vec![0.0; router.n_experts()]);
    let mut arena = Arena::new(memory(&mut vec, arena.used()))?;
    let mut context = Context::carve(&mut arena, Some(&router))?;
    context.feed(&router, line);
    let options = RouteOptions::default();
    router.weights(context.vector(&router), &options, &is_present, &mut weights)?;
    // Of equals the first.
    let expert = (0..weights.len()).rev().max_by(|&a, &b| weights[a].total_cmp(&weights[b]));
    let expert = expert.ok_or("the set is empty")?;
    eprintln!("expert {expert}, by its words, with the weight {:.2}", weights[expert]);
    Ok(Request { text: line.into(), expert })
}

fn reply(session: &mut Session<'_>, text: &str, n_tokens: usize) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    let mut sampler = Sampler::new(GREEDY)?;
    write!(stdout, "{text}")?;
    CANCEL.store(false, Ordering::Relaxed);
    session.reset();
    let stream = if text.is_empty() { TextStream::new() } else { TextStream::continuing() };
    let result = session.prefill_text(text.as_bytes()).and_then(|()| {
        session.generate(&mut sampler, n_tokens, stream, |written| {
            write!(stdout, "{}", written.text).and_then(|()| stdout.flush()).is_ok()
        })
    });
    if let Err(error) = result {
        eprintln!("{error}");
    }
    Ok(writeln!(stdout)?)
}

fn main() -> ExitCode {
    common::run(|args| {
        let [path, n_tokens] = *args else { return Err("usage: reply SET N_TOKENS".into()) };
        let n_tokens = n_tokens.parse()?;
        signal(SIGINT, on_interrupt);
        let folder = SetFolder::open(Path::new(path))?;
        let mut requests = std::io::stdin().lines().filter_map(|line| {
            let chosen = line.map_err(Into::into).and_then(|line| choose(&folder, &line));
            chosen.inspect_err(|error| eprintln!("{error}")).ok()
        });

        let mut next = requests.next();
        while let Some(mut request) = next {
            let file = open_expert(&folder, request.expert)?;
            let options = Options::default();
            let mut vec = Vec::new();
            let memory = memory(&mut vec, Session::plan(file.expert(), &options)?.total);
            let kernels = Kernels::new(Isa::detect());
            let mut session = Session::init(file.expert(), &options, memory, kernels, &Serial)?;
            session.set_cancel(Some(&CANCEL));
            next = loop {
                reply(&mut session, &request.text, n_tokens)?;
                match requests.next() {
                    Some(next) if next.expert == request.expert => request = next,
                    next => break next,
                }
            };
        }
        Ok(())
    })
}
