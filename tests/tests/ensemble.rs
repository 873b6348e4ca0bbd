//! Mixtures of experts: what they must equal, and what must not change them.

use std::sync::LazyLock;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use xelm_runtime::Error;
use xelm_runtime::ensemble::{Active, Ensemble};
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::parallel::{Parallel, Serial};
use xelm_runtime::pool::Pool;
use xelm_runtime::sampler::{Sampler, SamplerOptions};
use xelm_runtime::session::{KvType, Mixing, Options, Routing, Session, Want};
use xelm_runtime::tokenizer::TextStream;
use xelm_tests::ensembles::{FourExperts, SWITCHING};
use xelm_tests::xelm::Xelm;
use xelm_train::memory::Memory;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

static EXPERTS: LazyLock<Mutex<FourExperts>> =
    LazyLock::new(|| Mutex::new(FourExperts::open(&XELM.tiny_run("ensemble").0)));

/// Calls `work` with the four experts as an ensemble, and each alone.
fn with(work: impl FnOnce(Ensemble<'_>)) {
    EXPERTS.lock().unwrap_or_else(|e| e.into_inner()).ensemble(work);
}

fn options(top_m: usize) -> Options {
    let mixing = Mixing { top_m, ..Mixing::default() };
    Options { n_batch: 5, n_logits: 3, kv: KvType::F32, mixing, ..Options::default() }
}

/// Runs `work` in a new session.
fn session<'e, T>(
    experts: impl Into<Ensemble<'e>>,
    options: &Options,
    work: impl FnOnce(&mut Session<'_>) -> T,
) -> T {
    let ensemble = experts.into();
    session_on(ensemble, options, &Serial, work)
}

fn session_on<T>(
    ensemble: Ensemble<'_>,
    options: &Options,
    parallel: &dyn Parallel,
    work: impl FnOnce(&mut Session<'_>) -> T,
) -> T {
    let mut memory = Memory::new(Session::plan(ensemble, options).unwrap().total);
    memory.bytes().fill(0xa5);
    let kernels = Kernels::new(Isa::detect());
    work(&mut Session::init(ensemble, options, memory.bytes(), kernels, parallel).unwrap())
}

/// `</s>` and the tokens of the switching text.
fn tokens(ensemble: Ensemble<'_>) -> Vec<u32> {
    session(ensemble, &options(1), |session| {
        let mut tokens = vec![session.tokenizer().unwrap().bos()];
        tokens.extend(session.encode(SWITCHING.as_bytes()).unwrap().ids);
        assert!(tokens.len() > 20 && tokens.len() < session.n_ctx() - 12, "{}", tokens.len());
        tokens
    })
}

/// Logits after every token, and the active experts, the tokens being read one by one.
fn one_by_one(session: &mut Session<'_>, tokens: &[u32]) -> Vec<(Vec<f32>, Vec<Active>)> {
    let mut steps = Vec::new();
    for &token in tokens {
        session.prefill(&[token]).unwrap();
        steps.push((session.logits().unwrap().to_vec(), session.active().to_vec()));
    }
    steps
}

/// Logits after every token, all read in one call.
fn at_once(session: &mut Session<'_>, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut steps = Vec::new();
    session
        .run(
            tokens,
            Want::All(&mut |i, logits| {
                assert_eq!(i, steps.len());
                steps.push(logits.to_vec());
            }),
        )
        .unwrap();
    steps
}

/// ln p of every token of the vocabulary, in double precision.
fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
    logits.iter().map(|&l| f64::from(l - max) - sum.ln()).collect()
}

/// What each expert says alone after every token: `[expert][position][n_vocab]`.
fn alone(ensemble: Ensemble<'_>, tokens: &[u32]) -> Vec<Vec<Vec<f32>>> {
    (0..4).map(|i| session(ensemble.get(i).unwrap(), &options(1), |s| at_once(s, tokens))).collect()
}

#[test]
fn m_1_is_the_expert_of_the_largest_weight_bit_for_bit() {
    with(|ensemble| {
        let tokens = tokens(ensemble);
        let alone = alone(ensemble, &tokens);
        let all = session(ensemble, &options(4), |s| one_by_one(s, &tokens));
        let top = session(ensemble, &options(1), |s| one_by_one(s, &tokens));
        let mut seen = [0; 4];
        for (i, ((logits, active), (_, weights))) in top.iter().zip(&all).enumerate() {
            // Of equal weights the first counts.
            let best = weights
                .iter()
                .fold(weights[0], |best, &a| if a.weight > best.weight { a } else { best });
            assert_eq!(active[..], [Active { expert: best.expert, weight: 1.0 }]);
            // Experts that join late are where they would have been.
            assert_eq!(*logits, alone[best.expert as usize][i], "position {i}");
            seen[best.expert as usize] += 1;
        }
        // The text switches three times.
        assert!(seen[0] > 2 && seen[1] > 2 && seen[2] > 2, "{seen:?}");
    });
}

#[test]
fn the_mixture_is_the_weighted_sum_of_probabilities() {
    with(|ensemble| {
        let tokens = tokens(ensemble);
        let alone = alone(ensemble, &tokens);
        for m in [2, 3, 4, 9] {
            let steps = session(ensemble, &options(m), |s| one_by_one(s, &tokens));
            for (i, (logits, active)) in steps.iter().enumerate() {
                assert!(active.len() <= m && active.is_sorted_by_key(|a| a.expert));
                let sum: f32 = active.iter().map(|a| a.weight).sum();
                assert!((sum - 1.0).abs() < 1e-6);
                let mut mixed = vec![0.0f64; logits.len()];
                for a in active {
                    let p = log_probabilities(&alone[a.expert as usize][i]);
                    mixed.iter_mut().zip(p).for_each(|(m, p)| *m += f64::from(a.weight) * p.exp());
                }
                let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
                if active.len() > 1 {
                    assert!((total - 1.0).abs() < 1e-6, "{total}");
                }
                let off = if active.len() > 1 { 0.0 } else { total.ln() };
                for (&l, p) in logits.iter().zip(mixed) {
                    assert!((f64::from(l) - off - p.ln()).abs() < 1e-5, "{l} {}", p.ln());
                }
            }
        }
    });
}

/// The weights are the router's, the m largest of them made to sum to 1; with the lag, those of the
/// token before.
#[test]
fn weights_follow_the_text() {
    with(|ensemble| {
        let tokens = tokens(ensemble);
        let all = session(ensemble, &options(4), |s| one_by_one(s, &tokens));
        let two = session(ensemble, &options(2), |s| one_by_one(s, &tokens));
        let mut lagging = options(4);
        lagging.mixing.lag = true;
        let lagged = session(ensemble, &lagging, |s| one_by_one(s, &tokens));
        assert!(all[0].1.iter().all(|a| a.weight == 0.25), "nothing is known of an empty text");
        for i in 0..tokens.len() {
            let mut largest = all[i].1.clone();
            largest.sort_by(|a, b| b.weight.total_cmp(&a.weight).then(a.expert.cmp(&b.expert)));
            largest.truncate(2);
            let sum: f32 = largest.iter().map(|a| a.weight).sum();
            for a in &two[i].1 {
                let full = largest.iter().find(|b| b.expert == a.expert).unwrap();
                assert!((a.weight - full.weight / sum).abs() < 1e-6);
            }
            if i > 0 {
                assert_eq!(lagged[i].1, all[i - 1].1);
            }
        }
        let weight = |i: usize, expert: u32| {
            all[i].1.iter().find(|a| a.expert == expert).map_or(0.0, |a| a.weight)
        };
        let last = tokens.len() - 1;
        assert!(weight(8, 0) > 0.5, "German comes first");
        assert!(weight(last, 0) < weight(8, 0));
        assert!(weight(last, 1) + weight(last, 2) > 0.3);
    });
}

/// Chunks, threads, and how many experts are resident change no bit.
#[test]
fn invariance() {
    with(|ensemble| {
        let tokens = tokens(ensemble);
        for m in [1, 2, 3] {
            let base = session(ensemble, &options(m), |s| one_by_one(s, &tokens));
            let base: Vec<_> = base.into_iter().map(|(logits, _)| logits).collect();
            assert_eq!(session(ensemble, &options(m), |s| at_once(s, &tokens)), base);
            for (n_batch, n_logits) in [(1, 1), (7, 2), (64, 64)] {
                let options = Options { n_batch, n_logits, ..options(m) };
                assert_eq!(session(ensemble, &options, |s| at_once(s, &tokens)), base);
            }
            let pool = Pool::new(3).unwrap();
            assert_eq!(session_on(ensemble, &options(m), &pool, |s| at_once(s, &tokens)), base);

            // As many as are active, and no more: others have to leave, and to read again.
            let config = ensemble.config();
            let one = 2 * config.n_layer * config.n_ctx * config.n_embd * 4;
            let mut tight = options(m);
            tight.mixing.kv_budget = m * one + one / 2;
            assert_eq!(Session::plan(ensemble, &tight).unwrap().n_resident, m);
            assert_eq!(session(ensemble, &tight, |s| at_once(s, &tokens)), base);
            let steps = session(ensemble, &tight, |s| one_by_one(s, &tokens));
            assert!(steps.iter().map(|(logits, _)| logits).eq(&base));
            tight.mixing.kv_budget = m * one - 1;
            assert!(Session::plan(ensemble, &tight).is_err());
        }
    });
}

#[test]
fn one_expert_that_is_present_is_the_plain_model() {
    let mut experts = EXPERTS.lock().unwrap_or_else(|e| e.into_inner());
    experts.with(
        |i| i == 2,
        |experts, router| {
            let plain = Ensemble::from(experts[2].unwrap());
            for ensemble in [
                Ensemble::new(experts, Some(router)).unwrap(),
                Ensemble::new(experts, None).unwrap(),
            ] {
                for m in [0, 1, 3] {
                    let run = |ensemble| {
                        session(ensemble, &options(m), |session| {
                            let score = session.score_text(SWITCHING.as_bytes()).unwrap();
                            let written = write(session, SamplerOptions::default(), 10);
                            let logits = session.logits().unwrap().to_vec();
                            (score, written, logits)
                        })
                    };
                    assert_eq!(run(ensemble), run(plain));
                }
            }
        },
    );
}

/// Reads the switching text and writes after it.
fn write(session: &mut Session<'_>, sampling: SamplerOptions, n: usize) -> (Vec<u32>, String) {
    let mut sampler = Sampler::new(sampling).unwrap();
    session.reset();
    session.prefill_text(SWITCHING.as_bytes()).unwrap();
    continue_writing(session, &mut sampler, n)
}

fn continue_writing(
    session: &mut Session<'_>,
    sampler: &mut Sampler,
    n: usize,
) -> (Vec<u32>, String) {
    let (start, mut text) = (session.n_past(), String::new());
    session
        .generate(sampler, n, TextStream::continuing(), |written| {
            // A token may come in several parts.
            text.push_str(written.text);
            true
        })
        .unwrap();
    (session.tokens()[start..].to_vec(), text)
}

/// Every sampler draws from the mixture, the same with the same seed.
#[test]
fn generation_with_every_sampler() {
    with(|ensemble| {
        let base = SamplerOptions { temperature: 0.9, seed: 4, ..Default::default() };
        for sampling in [
            SamplerOptions::default(),
            SamplerOptions { repeat_penalty: 1.3, ..Default::default() },
            base,
            SamplerOptions { top_k: 5, ..base },
            SamplerOptions { top_p: 0.7, ..base },
            SamplerOptions { min_p: 0.2, repeat_penalty: 1.1, ..base },
        ] {
            let run = || session(ensemble, &options(2), |s| write(s, sampling, 10));
            let (ids, text) = run();
            assert_eq!((ids.clone(), text), run(), "{sampling:?}");
            // Each token is what the sampler draws from the mixture's logits.
            let mut sampler = Sampler::new(sampling).unwrap();
            session(ensemble, &options(2), |session| {
                session.prefill_text(SWITCHING.as_bytes()).unwrap();
                for &id in &ids {
                    assert_eq!(session.sample(&mut sampler), Ok(id), "{sampling:?}");
                    session.prefill(&[id]).unwrap();
                }
            });
        }
    });
}

/// Scores add up the mixture's probabilities; once per prompt means the whole text's weights.
#[test]
fn scoring() {
    with(|ensemble| {
        let tokens = tokens(ensemble);
        for m in [1, 2, 4] {
            let steps = session(ensemble, &options(m), |s| one_by_one(s, &tokens));
            let targets = tokens[1..].iter().copied().chain([2]);
            let expected: f64 = steps
                .iter()
                .zip(targets)
                .map(|((logits, _), target)| -log_probabilities(logits)[target as usize])
                .sum();
            session(ensemble, &options(m), |session| {
                let mut sum = 0.0;
                let score = session
                    .score_text_by_token(SWITCHING.as_bytes(), |token| {
                        assert!(!token.experts.is_empty() && token.experts.len() <= m);
                        sum += token.nll;
                    })
                    .unwrap();
                assert!((score.nll_sum - expected).abs() < 1e-4, "{} {expected}", score.nll_sum);
                assert_eq!((sum, score.tokens), (score.nll_sum, tokens.len()));
            });
        }
        let mut by_prompt = options(2);
        by_prompt.mixing.routing = Routing::Prompt;
        session(ensemble, &by_prompt, |session| {
            let mut weights = Vec::new();
            session
                .score_text_by_token(SWITCHING.as_bytes(), |t| weights.push(t.experts.to_vec()))
                .unwrap();
            assert!(weights.iter().all(|w| *w == weights[0]));
            // The next text is judged by itself.
            session
                .score_text_by_token("今日は".as_bytes(), |t| assert_ne!(t.experts, weights[0]))
                .unwrap();
        });
    });
}

#[test]
fn once_per_prompt() {
    with(|ensemble| {
        let mut by_prompt = options(2);
        by_prompt.mixing.routing = Routing::Prompt;
        session(ensemble, &by_prompt, |session| {
            session.prefill_text("Am Morgen".as_bytes()).unwrap();
            let chosen = session.active().to_vec();
            let japanese = session.encode("今日は今日は今日は".as_bytes()).unwrap().ids.to_vec();
            session.prefill(&japanese).unwrap();
            assert_eq!(session.active(), chosen);
            session.rewind(1).unwrap();
            session.prefill(&japanese).unwrap();
            assert_ne!(session.active(), chosen);
        });
    });
}

/// Experts chosen by words that are not read take part in every step, whatever is read or read again, and
/// what they add up to is the mixture with their weights.
#[test]
fn chosen_by_other_words() {
    with(|ensemble| {
        let tokens = tokens(ensemble);
        let alone = alone(ensemble, &tokens);
        for routing in [Routing::Token, Routing::Prompt] {
            let mut options = options(2);
            options.mixing.routing = routing;
            session(ensemble, &options, |session| {
                let words = |session: &mut Session<'_>, text: &str| {
                    session.encode(text.as_bytes()).unwrap().ids.to_vec()
                };
                let japanese = words(session, "今日は今日は");
                let german = words(session, "Am Morgen und die");
                let mut chosen = Vec::new();
                for words in [&japanese, &german, &japanese] {
                    session.choose_by(words).unwrap();
                    let active = session.active().to_vec();
                    assert!(active.len() == 2 && chosen.last() != Some(&active));
                    // What the choice before has read stays.
                    let same = session.reuse_prefix(&tokens[..8]);
                    assert_eq!(same, if chosen.is_empty() { 0 } else { 7 });
                    session.run(&tokens[same..8], Want::Nothing).unwrap();
                    for end in [11, 10] {
                        session.rewind(8).unwrap();
                        let nll = session.score_next(&tokens[8..end], &tokens[9..=end]).unwrap();
                        assert_eq!(session.active(), active);
                        let p = |i: usize| -> f64 {
                            let of = |a: &Active| {
                                let logits = &alone[a.expert as usize][i];
                                let ln = log_probabilities(logits)[tokens[i + 1] as usize];
                                f64::from(a.weight) * ln.exp()
                            };
                            active.iter().map(of).sum()
                        };
                        let expected: f64 = (8..end).map(|i| -p(i).ln()).sum();
                        assert!((nll - expected).abs() < 1e-4, "{nll} {expected}");
                    }
                    chosen.push(active);
                }
                assert_eq!(chosen[0], chosen[2]);
                session.reset();
                let fresh = self::session(ensemble, &options, |s| at_once(s, &tokens));
                assert_eq!(at_once(session, &tokens), fresh);
                assert!(session.score_next(&tokens[..1], &[]).is_err());
            });
        }
    });
}

#[test]
fn a_saved_state_goes_on_where_it_was() {
    with(|ensemble| {
        for (m, routing) in [(1, Routing::Token), (2, Routing::Token), (3, Routing::Prompt)] {
            let mut options = options(m);
            options.mixing.routing = routing;
            let sampling = SamplerOptions { temperature: 1.0, seed: 9, ..Default::default() };
            let mut state = Vec::new();
            let expected = session(ensemble, &options, |session| {
                write(session, SamplerOptions::default(), 3);
                assert_eq!(
                    session.save(&mut vec![0; session.state_size() - 1]),
                    Err(Error::BufferTooSmall { needed: session.state_size() })
                );
                state.resize(session.state_size() + 7, 0);
                let n = session.save(&mut state).unwrap();
                state.truncate(n);
                let mut sampler = Sampler::new(sampling).unwrap();
                continue_writing(session, &mut sampler, 8)
            });
            // A session of another length takes it too; what it had read before is forgotten.
            for (n_ctx, budget) in [(0, 0), (52, 1)] {
                let mut options = Options { n_ctx, ..options };
                let config = ensemble.config();
                let one = 2 * config.n_layer * config.n_ctx * config.n_embd * 4;
                options.mixing.kv_budget = budget * m * one;
                session(ensemble, &options, |session| {
                    session.prefill_text("모두".as_bytes()).unwrap();
                    session.restore(&state).unwrap();
                    let mut sampler = Sampler::new(sampling).unwrap();
                    assert_eq!(continue_writing(session, &mut sampler, 8), expected);
                });
            }
            foreign_states_are_refused(ensemble, &options, &state);
        }
    });
}

fn foreign_states_are_refused(ensemble: Ensemble<'_>, options: &Options, state: &[u8]) {
    session(ensemble, options, |session| {
        for n in (0..state.len()).step_by(97).chain([0, 1, 71, 72, 73]) {
            assert!(session.restore(&state[..n]).is_err());
        }
        assert!(session.restore(&[state, &[0]].concat()).is_err());
        for i in 0..72 {
            let mut other = state.to_vec();
            other[i] ^= 0x10;
            // Only the number of tokens or of experts may, by chance, fit again.
            if session.restore(&other).is_ok() {
                assert!(i >= 48, "byte {i}");
            } else {
                assert_eq!((session.n_past(), session.active().len()), (0, 0));
            }
        }
        session.prefill_text("Am Morgen".as_bytes()).unwrap();
    });
    let what = |what| Err(Error::ForeignState { what });
    let f16 = Options { kv: KvType::F16, ..*options };
    session(ensemble, &f16, |s| assert_eq!(s.restore(state), what("type of keys and values")));
    session(ensemble.get(1).unwrap(), options, |s| assert_eq!(s.restore(state), what("model")));
    let short = Options { n_ctx: 8, ..*options };
    session(ensemble, &short, |s| {
        assert_eq!(s.restore(state), Err(Error::ContextFull { n_ctx: 8 }));
    });
}

/// Raises a flag when so many phases of work have begun.
struct CancelAfter<'a>(&'a AtomicBool, AtomicUsize);

// SAFETY: a plain loop over the indices.
unsafe impl Parallel for CancelAfter<'_> {
    fn run(&self, n_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if self.1.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.0.store(true, Ordering::Relaxed);
        }
        (0..n_tasks).for_each(task);
    }
}

#[test]
fn cancelled_anywhere_it_goes_on() {
    with(|ensemble| {
        let tokens = tokens(ensemble);
        for m in [1, 2] {
            let expected = session(ensemble, &options(m), |s| {
                s.prefill(&tokens).unwrap();
                s.logits().unwrap().to_vec()
            });
            let mut cancelled = 0;
            for after in (0..200).step_by(3) {
                let flag = AtomicBool::new(false);
                let cancel = CancelAfter(&flag, AtomicUsize::new(after));
                let mut memory = Memory::new(Session::plan(ensemble, &options(m)).unwrap().total);
                let kernels = Kernels::new(Isa::detect());
                let bytes = memory.bytes();
                let mut s = Session::init(ensemble, &options(m), bytes, kernels, &cancel).unwrap();
                s.set_cancel(Some(&flag));
                s.prefill(&tokens[..3]).and_then(|()| s.prefill(&tokens[3..])).unwrap_or_else(
                    |e| {
                        assert_eq!(e, Error::Cancelled);
                        cancelled += 1;
                    },
                );
                flag.store(false, Ordering::Relaxed);
                let n_past = s.n_past();
                assert!(n_past <= tokens.len());
                assert_eq!(s.tokens(), &tokens[..n_past]);
                s.prefill(&tokens[n_past..]).unwrap();
                assert_eq!(s.logits().unwrap(), expected, "after {after}");
            }
            assert!(cancelled > 20, "{cancelled}");
        }
    });
}

#[test]
fn a_prefix_is_read_once() {
    with(|ensemble| {
        let phases = AtomicBool::new(false);
        let counter = CancelAfter(&phases, AtomicUsize::new(usize::MAX));
        let used = |counter: &CancelAfter<'_>| usize::MAX - counter.1.load(Ordering::Relaxed);
        session_on(ensemble, &options(2), &counter, |session| {
            let fresh = |text: &str| {
                self::session(ensemble, &options(2), |s| {
                    s.prefill_text(text.as_bytes()).unwrap();
                    s.logits().unwrap().to_vec()
                })
            };
            assert_eq!(session.prefill_text_again("Am Morgen ein".as_bytes()).unwrap(), 0);
            for text in ["Am Morgen ein Haus", "Am Morgen", "Am Morgen", "今日は", "", "Am"] {
                let before = used(&counter);
                let n_past = session.n_past();
                let same = session.prefill_text_again(text.as_bytes()).unwrap();
                assert!(same <= n_past && same < session.n_past() && used(&counter) > before);
                assert_eq!(session.logits().unwrap(), fresh(text), "{text}");
            }
            assert_eq!(session.prefill_text_again("Am".as_bytes()).unwrap(), session.n_past() - 1);
            let known = session.tokens().to_vec();
            assert_eq!(session.reuse_prefix(&known), known.len() - 1);
            assert_eq!(session.reuse_prefix(&[]), 0);
        });
    });
}

/// Two sessions on two threads over the same experts write what each writes alone.
#[test]
fn two_sessions_at_once() {
    with(|ensemble| {
        let sampling = |seed| SamplerOptions { temperature: 0.9, seed, ..Default::default() };
        let run = |seed| session(ensemble, &options(2), |s| write(s, sampling(seed), 10));
        let alone = [run(1), run(2)];
        std::thread::scope(|scope| {
            let threads = [1, 2].map(|seed| scope.spawn(move || run(seed)));
            assert_eq!(threads.map(|t| t.join().unwrap()), alone);
        });
    });
}

#[test]
fn plans_are_exact_and_old_contents_do_not_matter() {
    with(|ensemble| {
        for m in [0, 1, 3] {
            let options = options(m);
            let plan = Session::plan(ensemble, &options).unwrap();
            assert_eq!(plan.total, plan.kv + plan.scratch + plan.text + plan.routing);
            assert_eq!(
                plan.mapped,
                (0..4).map(|i| ensemble.get(i).unwrap().weight_bytes()).sum::<usize>()
            );
            let kernels = Kernels::new(Isa::detect());
            let mut memory = Memory::new(plan.total);
            let short = &mut memory.bytes()[..plan.total - 1];
            let short = Session::init(ensemble, &options, short, kernels, &Serial).map(drop);
            assert_eq!(short, Err(Error::MemoryTooSmall { needed: plan.total }));
            let results = [0u8, 0xff, 0x5b].map(|fill| {
                memory.bytes().fill(fill);
                let bytes = memory.bytes();
                let mut s = Session::init(ensemble, &options, bytes, kernels, &Serial).unwrap();
                let written = write(&mut s, SamplerOptions::default(), 8);
                (written, s.score_text(SWITCHING.as_bytes()).unwrap())
            });
            assert!(results.iter().all(|r| *r == results[0]));
        }
    });
}

#[test]
fn what_cannot_be_mixed_is_refused() {
    let mut experts = EXPERTS.lock().unwrap_or_else(|e| e.into_inner());
    experts.with(
        |_| true,
        |experts, router| {
            let differ = |what| Some(Error::ExpertsDiffer { what });
            let number = differ("number from their router");
            assert_eq!(Ensemble::new(&experts[..3], Some(router)).err(), number);
            assert_eq!(Ensemble::new(&experts[..], None).err(), Some(Error::NoRouter));
            assert_eq!(Ensemble::new(&[None; 4], Some(router)).err(), Some(Error::NoExpert));
            let ensemble = Ensemble::new(experts, Some(router)).unwrap();
            for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
                let mut options = options(2);
                options.mixing.route.temperature = bad;
                let expected = Err(Error::BadParameter { what: "route_temperature" });
                assert_eq!(Session::plan(ensemble, &options), expected);
            }
        },
    );
}
