//! Experts with fewer logits: a shortlist must change nothing but which logits there are, a trimmed
//! vocabulary nothing but the ids, and what the files lack is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use xelm_runtime::Error;
use xelm_runtime::config::ARCH_OWN;
use xelm_runtime::ensemble::Ensemble;
use xelm_runtime::expert::Expert;
use xelm_runtime::format::{AtomicFile, Gguf, Value, Writer, keys};
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::mmap::{ExpertFile, MappedFile};
use xelm_runtime::parallel::{Parallel, Serial};
use xelm_runtime::pool::Pool;
use xelm_runtime::quant::DType;
use xelm_runtime::sampler::{Candidate, Sampler, SamplerOptions};
use xelm_runtime::session::{KvType, Mixing, Options, Session, Want};
use xelm_runtime::tokenizer::TextStream;
use xelm_tests::ensembles::{FourExperts, SWITCHING};
use xelm_tests::xelm::Xelm;
use xelm_train::memory::Memory;
use xelm_train::shortlist::write_shortlist;
use xelm_train::tokens::encode;

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

static RUN: LazyLock<PathBuf> = LazyLock::new(|| XELM.tiny_run("shortlist").0);

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn session<'e, T>(
    experts: impl Into<Ensemble<'e>>,
    options: &Options,
    parallel: &dyn Parallel,
    work: impl FnOnce(&mut Session<'_>) -> T,
) -> T {
    let ensemble = experts.into();
    let mut memory = Memory::new(Session::plan(ensemble, options).unwrap().total);
    memory.bytes().fill(0xa5);
    let kernels = Kernels::new(Isa::detect());
    work(&mut Session::init(ensemble, options, memory.bytes(), kernels, parallel).unwrap())
}

/// Every `step`-th id of the vocabulary from `first` on, and the special tokens.
fn some_ids(expert: &Expert<'_>, first: usize, step: usize) -> Vec<u32> {
    (0..expert.config().n_vocab as u32)
        .filter(|&id| {
            id < 4 || (id as usize >= first && (id as usize - first).is_multiple_of(step))
        })
        .collect()
}

/// The model's expert, and the same one with a shortlist.
fn with_and_without(model: &str, name: &str) -> (ExpertFile, ExpertFile) {
    let from = RUN.join(model);
    let file = ExpertFile::open(&from).unwrap();
    let to = XELM.folder(name).join("short.gguf");
    write_shortlist(&from, &to, &some_ids(file.expert(), 7, 3)).unwrap();
    (file, ExpertFile::open(&to).unwrap())
}

/// Logits after every token, as `Want::All` hands them over.
fn all_logits(session: &mut Session<'_>, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    session.run(tokens, Want::All(&mut |_, logits| rows.push(logits.to_vec()))).unwrap();
    rows
}

/// Those of `ids`.
fn picked(rows: &[Vec<f32>], ids: &[u32]) -> Vec<Vec<f32>> {
    rows.iter().map(|row| ids.iter().map(|&id| row[id as usize]).collect()).collect()
}

#[test]
fn logits_are_those_of_the_full_layer_bit_for_bit() {
    for (i, model) in ["set/de-el", "set-q8_0/ja-ko", "set-q4_0/de-el"].iter().enumerate() {
        let (full, short) = with_and_without(&format!("{model}.gguf"), &format!("bits{i}"));
        let ids = some_ids(full.expert(), 7, 3);
        let tokens = encode(full.expert().tokenizer().unwrap(), SWITCHING.as_bytes()).unwrap();
        let pool = Pool::new(2).unwrap();
        for (n_batch, n_logits) in [(1, 1), (5, 3), (64, 64)] {
            let options = Options { n_batch, n_logits, kv: KvType::F32, ..Options::default() };
            let expected = session(full.expert(), &options, &Serial, |s| all_logits(s, &tokens));
            let expected_short = picked(&expected, &ids);
            for parallel in [&Serial as &dyn Parallel, &pool] {
                let found = session(short.expert(), &options, parallel, |s| {
                    assert_eq!(s.outputs().ids(), Some(&ids[..]));
                    let found = all_logits(s, &tokens);
                    assert_eq!(s.logits().unwrap(), found[tokens.len() - 1]);
                    found
                });
                assert!(found == expected_short, "{model} {n_batch} {n_logits}");
            }
            // The file still has the whole layer.
            let options = Options { full_output: true, ..options };
            let again = session(short.expert(), &options, &Serial, |s| {
                assert_eq!(s.outputs().ids(), None);
                all_logits(s, &tokens)
            });
            assert!(again == expected, "{model}");
        }
    }
}

#[test]
fn choices_are_those_of_the_full_layer_without_the_other_tokens() {
    let (full, short) = with_and_without("set-q8_0/de-el.gguf", "choices");
    let ids = some_ids(full.expert(), 7, 3);
    let base = SamplerOptions { temperature: 1.3, seed: 9, ..SamplerOptions::default() };
    let all = [
        SamplerOptions::default(),
        SamplerOptions { repeat_penalty: 1.5, ..SamplerOptions::default() },
        base,
        SamplerOptions { top_k: 17, ..base },
        SamplerOptions { top_p: 0.8, repeat_penalty: 1.2, repeat_last: 3, ..base },
        SamplerOptions { min_p: 0.02, top_k: 200, top_p: 0.95, ..base },
    ];
    let n_vocab = full.expert().config().n_vocab;
    let mut scratch = vec![bytemuck::Zeroable::zeroed(); n_vocab];
    let scratch: &mut [Candidate] = &mut scratch;
    for options in all {
        let mut expected = Vec::new();
        let mut sampler = Sampler::new(options).unwrap();
        session(full.expert(), &Options::default(), &Serial, |s| {
            s.prefill_text(b"Am Morgen").unwrap();
            for _ in 0..30 {
                let mut logits = vec![f32::NEG_INFINITY; n_vocab];
                let found = s.logits().unwrap();
                ids.iter().for_each(|&id| logits[id as usize] = found[id as usize]);
                let token = sampler.sample(&logits, &s.tokens()[1..], scratch);
                expected.push(token);
                s.prefill(&[token]).unwrap();
            }
        });
        let mut sampler = Sampler::new(options).unwrap();
        let found: Vec<u32> = session(short.expert(), &Options::default(), &Serial, |s| {
            s.prefill_text(b"Am Morgen").unwrap();
            let next = |_| {
                let token = s.sample(&mut sampler).unwrap();
                s.prefill(&[token]).unwrap();
                token
            };
            (0..30).map(next).collect()
        });
        assert_eq!(found, expected, "{options:?}");
    }
}

/// A text's score: infinite where it has a token without a logit, that of the restricted softmax otherwise.
#[test]
fn scores_are_of_the_restricted_softmax() {
    let (full, short) = with_and_without("set/de-el.gguf", "scores");
    let ids = some_ids(full.expert(), 7, 3);
    let inputs = [2, ids[5], ids[90], ids[40]];
    let targets = [ids[5], ids[90], ids[40], 2];
    let options = Options { kv: KvType::F32, ..Options::default() };
    let rows = session(full.expert(), &options, &Serial, |s| all_logits(s, &inputs));
    let expected: f64 = rows
        .iter()
        .zip(targets)
        .map(|(row, target)| {
            let sum: f64 = ids.iter().map(|&id| f64::from(row[id as usize]).exp()).sum();
            sum.ln() - f64::from(row[target as usize])
        })
        .sum();
    session(short.expert(), &options, &Serial, |s| {
        let nll = s.score_tokens(&inputs, &targets).unwrap();
        assert!((nll - expected).abs() < 1e-4, "{nll} {expected}");
        let other = (4..).find(|id| !ids.contains(id)).unwrap();
        assert_eq!(s.score_tokens(&[2, ids[5]], &[ids[5], other]), Ok(f64::INFINITY));
        assert_eq!(s.score_tokens(&[2], &[u32::MAX]), Ok(f64::INFINITY));
        // Read it can be all the same.
        s.reset();
        s.prefill(&[2, other]).unwrap();
        assert!(s.logits().unwrap().iter().all(|l| l.is_finite()));
    });
}

#[test]
fn mixtures_count_what_a_list_lacks_as_impossible() {
    let folder = XELM.folder("mixtures");
    let mut experts = FourExperts::open(&RUN);
    let full = FourExperts::open(&RUN);
    let lists: [Vec<u32>; 4] =
        std::array::from_fn(|i| some_ids(full.files[i].expert(), 10 * i + 4, i + 2));
    let sources = ["set/de-el", "set/ja-ko", "models/seed", "models/dense"];
    for (i, source) in sources.into_iter().enumerate() {
        let to = folder.join(format!("{i}.gguf"));
        write_shortlist(&RUN.join(format!("{source}.gguf")), &to, &lists[i]).unwrap();
        experts.files[i] = ExpertFile::open(&to).unwrap();
    }
    let mut union: Vec<u32> = lists.concat();
    union.sort_unstable();
    union.dedup();
    let tokenizer = full.files[0].expert().tokenizer().unwrap();
    let mut tokens = vec![2];
    tokens.extend(encode(tokenizer, SWITCHING.as_bytes()).unwrap());
    let options = |top_m: usize, n_logits: usize| {
        let mixing = Mixing { top_m, ..Mixing::default() };
        Options { n_batch: 5, n_logits, kv: KvType::F32, mixing, ..Options::default() }
    };
    let alone: Vec<Vec<Vec<f32>>> = full
        .files
        .iter()
        .map(|f| session(f.expert(), &options(1, 1), &Serial, |s| all_logits(s, &tokens)))
        .collect();
    experts.ensemble(|ensemble| {
        for m in [1, 2, 4] {
            let mut steps = Vec::new();
            session(ensemble, &options(m, 1), &Serial, |s| {
                assert_eq!(s.outputs().ids(), Some(&union[..]));
                for &token in &tokens {
                    s.prefill(&[token]).unwrap();
                    steps.push(s.logits().unwrap().to_vec());
                    let (i, active) = (steps.len() - 1, s.active());
                    for (at, &id) in union.iter().enumerate() {
                        let p: f64 = active
                            .iter()
                            .map(|a| {
                                let (row, list) =
                                    (&alone[a.expert as usize][i], &lists[a.expert as usize]);
                                let e = |id: u32| f64::from(row[id as usize]).exp();
                                let sum: f64 = list.iter().map(|&id| e(id)).sum();
                                let has = f64::from(u8::from(list.binary_search(&id).is_ok()));
                                has * f64::from(a.weight) * e(id) / sum
                            })
                            .sum();
                        let found = steps[i][at];
                        if m == 1 {
                            let a = active[0].expert as usize;
                            let has = lists[a].binary_search(&id).is_ok();
                            let logit =
                                if has { alone[a][i][id as usize] } else { f32::NEG_INFINITY };
                            assert_eq!(found, logit);
                        } else if p == 0.0 {
                            assert_eq!(found, f32::NEG_INFINITY);
                        } else {
                            assert!((f64::from(found) - p.ln()).abs() < 1e-4, "{found} {}", p.ln());
                        }
                    }
                }
            });
            // Several positions at a time, on several threads.
            let pool = Pool::new(2).unwrap();
            let at_once = session(ensemble, &options(m, 12), &pool, |s| all_logits(s, &tokens));
            assert!(at_once == steps, "{m}");
            let score = |options: &Options| {
                session(ensemble, options, &Serial, |s| s.score_text(SWITCHING.as_bytes()).unwrap())
            };
            assert!(score(&options(m, 3)).nll_sum > 0.0);
            let whole = Options { full_output: true, ..options(m, 3) };
            assert!(score(&whole).nll_sum.is_finite());
        }
    });
    // One that has no list: all have every logit.
    experts.files[2] = ExpertFile::open(&RUN.join("models/seed.gguf")).unwrap();
    experts.ensemble(|ensemble| {
        session(ensemble, &options(2, 1), &Serial, |s| assert_eq!(s.outputs().ids(), None));
    });
}

#[test]
fn the_plan_shrinks_and_is_exact() {
    let (full, short) = with_and_without("set-q8_0/de-el.gguf", "plan");
    let ids = some_ids(full.expert(), 7, 3);
    let n_vocab = full.expert().config().n_vocab;
    for n_logits in [1, 8] {
        let options = Options { n_logits, ..Options::default() };
        let before = Session::plan(full.expert(), &options).unwrap();
        let plan = Session::plan(short.expert(), &options).unwrap();
        let round = |bytes: usize| bytes.next_multiple_of(64);
        // Logits and candidates, and the ids.
        let of = |n: usize| round(4 * n_logits * n) + round(8 * n);
        assert_eq!(
            before.scratch - plan.scratch,
            of(n_vocab) - of(ids.len()) - round(4 * ids.len())
        );
        assert_eq!((before.kv, before.text), (plan.kv, plan.text));
        let mut memory = Memory::new(plan.total);
        let mut init = |len: usize| {
            let (memory, kernels) = (&mut memory.bytes()[..len], Kernels::new(Isa::detect()));
            Session::init(short.expert(), &options, memory, kernels, &Serial).map(drop)
        };
        assert_eq!(init(plan.total), Ok(()));
        assert!(matches!(init(plan.total - 1), Err(Error::MemoryTooSmall { .. })));
    }
}

/// A tensor as it is written.
type Made = (String, DType, Vec<usize>, Vec<u8>);

/// A sound file with another shortlist and other tensors.
fn altered(
    from: &Path,
    to: &Path,
    key: impl Fn(&mut Writer, Value<'_>),
    tensor: impl Fn(Made) -> Option<Made>,
) -> PathBuf {
    let file = MappedFile::open(from).unwrap();
    let gguf: Gguf<'_> = file.gguf().unwrap();
    let mut writer = Writer::new(ARCH_OWN);
    for (name, value) in gguf.metadata() {
        match name {
            keys::ARCHITECTURE | keys::ALIGNMENT => {}
            keys::SHORTLIST => key(&mut writer, value),
            _ => writer.copy(name, value),
        }
    }
    let tensors: Vec<Made> = gguf
        .tensors()
        .filter_map(|t| {
            tensor((t.name.to_owned(), t.dtype, t.dims[..t.n_dims].to_vec(), t.bytes.to_vec()))
        })
        .collect();
    for (name, dtype, dims, _) in &tensors {
        writer.tensor(name, *dtype, dims).unwrap();
    }
    let mut body = writer.begin(AtomicFile::create(to).unwrap()).unwrap();
    for (.., bytes) in &tensors {
        body.tensor([bytes]).unwrap();
    }
    body.finish().unwrap().commit().unwrap();
    to.to_owned()
}

#[test]
fn broken_shortlists_are_refused() {
    let folder = XELM.folder("broken_shortlists");
    let from = RUN.join("set/de-el.gguf");
    let n_vocab = ExpertFile::open(&from).unwrap().expert().config().n_vocab as u32;
    let sound = folder.join("sound.gguf");
    let ids: Vec<u32> = (0..40).collect();
    write_shortlist(&from, &sound, &ids).unwrap();
    let open = |path: &Path| ExpertFile::open(path).map(drop);
    let as_it_is = |writer: &mut Writer, value: Value<'_>| writer.copy(keys::SHORTLIST, value);
    let same = Some::<Made>;
    let to = folder.join("altered.gguf");
    assert_eq!(open(&altered(&sound, &to, as_it_is, same)), Ok(()));
    let verified = |path: &Path| {
        let file = MappedFile::open(path).unwrap();
        Expert::verify(&file.gguf().unwrap()).map(drop)
    };
    assert_eq!(verified(&to), Ok(()));

    let range = Error::OutOfRange { what: keys::SHORTLIST };
    let with_ids = |change: &dyn Fn(&mut Vec<u32>)| {
        let mut ids = ids.clone();
        change(&mut ids);
        open(&altered(&sound, &to, |w, _| w.u32s(keys::SHORTLIST, &ids), same))
    };
    assert_eq!(with_ids(&|ids| ids.swap(3, 4)), Err(range));
    assert_eq!(with_ids(&|ids| ids[7] = ids[6]), Err(range));
    assert_eq!(with_ids(&|ids| ids[39] = n_vocab), Err(range));
    assert_eq!(with_ids(&|ids| ids[39] = u32::MAX), Err(range));
    assert_eq!(with_ids(&Vec::clear), Err(range));
    assert_eq!(with_ids(&|ids| ids[39] = n_vocab - 1), Ok(()));
    let shape = Error::WrongShape { name: "output.weight" };
    assert_eq!(with_ids(&|ids| ids.truncate(39)), Err(shape));
    assert_eq!(with_ids(&|ids| ids.push(40)), Err(shape));
    // The array may also be of i32; anything else is no list of ids.
    let other = |key: &dyn Fn(&mut Writer)| open(&altered(&sound, &to, |w, _| key(w), same));
    assert_eq!(other(&|w| w.i32s(keys::SHORTLIST, &(0..40).collect::<Vec<_>>())), Ok(()));
    assert_eq!(other(&|w| w.i32s(keys::SHORTLIST, &[-1; 40])), Err(range));
    let wrong_type = Error::WrongType { key: keys::SHORTLIST };
    assert_eq!(other(&|w| w.f32s(keys::SHORTLIST, &[0.0; 40])), Err(wrong_type));
    assert_eq!(other(&|w| w.u32(keys::SHORTLIST, 40)), Err(wrong_type));
    // The list without its rows, and rows without a list.
    let missing =
        altered(&sound, &to, as_it_is, |made| (made.0 != "output.weight").then_some(made));
    assert_eq!(open(&missing), Err(Error::MissingTensor { name: "output.weight" }));
    let unknown = Error::OutOfRange { what: "the name of a tensor" };
    assert_eq!(open(&altered(&sound, &to, |_, _| {}, same)), Err(unknown));
    // Rows of another length, or of a type for tables.
    let output = |change: &dyn Fn(&mut Made)| {
        open(&altered(&sound, &to, as_it_is, |mut made| {
            if made.0 == "output.weight" {
                change(&mut made);
            }
            Some(made)
        }))
    };
    let half = |made: &mut Made| (made.2[0], made.2[1]) = (made.2[0] / 2, made.2[1] * 2);
    assert_eq!(output(&half), Err(shape));
    assert_eq!(output(&|made| made.1 = DType::I32), Err(shape));
    assert_eq!(output(&|made| made.2 = vec![made.2[0] * made.2[1]]), Err(shape));
    // Numbers that are not the embedding's: for `verify`, which reads them all.
    assert_eq!(output(&|made| made.3[77] ^= 1), Ok(()));
    assert_eq!(verified(&to), Err(Error::OutOfRange { what: "output.weight" }));
    assert_eq!(XELM.fails(&["verify", "--expert", text(&to)]), "xelm: 1 of 1 files bad");
}

fn json(args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&XELM.run(args)).unwrap()
}

#[test]
fn shortlists_of_a_set_on_the_command_line() {
    let folder = XELM.folder("command_line");
    let set = RUN.join("set-q8_0");
    let corpus = RUN.parent().unwrap().join("corpus");
    let out = folder.join("short");
    let args = ["shortlist", "--set", text(&set), "--corpus", text(&corpus)];
    let with = |more: &[&'static str], out: &Path| {
        let mut all: Vec<String> = args.iter().map(|&a| a.to_owned()).collect();
        all.extend(more.iter().map(|&a| a.to_owned()));
        all.extend(["--json".to_owned(), "--out".to_owned(), text(out).to_owned()]);
        all
    };
    let made: serde_json::Value =
        serde_json::from_str(&XELM.run(&with(&["--coverage", "0.98"], &out))).unwrap();
    for (expert, languages) in
        made["experts"].as_array().unwrap().iter().zip([["de", "el"], ["ja", "ko"]])
    {
        let before = expert["tokens_before"].as_u64().unwrap();
        let tokens = expert["tokens"].as_u64().unwrap();
        assert!(tokens > 100 && tokens < before, "{expert}");
        let bytes = |key: &str| expert[key].as_u64().unwrap();
        assert_eq!(bytes("output_bytes") * before, bytes("output_bytes_before") * tokens);
        assert!(bytes("bytes") > bytes("bytes_before"));
        let coverage = expert["coverage"].as_object().unwrap();
        assert_eq!(coverage.keys().collect::<Vec<_>>(), languages);
        for covered in coverage.values() {
            let share = covered["share"].as_f64().unwrap();
            assert!(share > 0.9 && share < 1.0, "{covered}");
        }
    }
    XELM.run(&["verify", "--set", text(&out)]);
    // Written are tokens of the list alone; without it the text is that of the file before.
    let short = out.join("de-el.gguf");
    let file = ExpertFile::open(&short).unwrap();
    let list: Vec<u32> = file.expert().shortlist().unwrap().ids().collect();
    assert!(list.starts_with(&[0, 1, 2, 3]));
    let tokenizer = file.expert().tokenizer().unwrap();
    for character in ('!'..='~').chain("ΑΩάäßü".chars()) {
        if let Some(id) = tokenizer.id(&character.to_string()) {
            assert!(list.contains(&id), "{character}");
        }
    }
    let generate = |path: &Path, more: &[&str]| {
        let mut args = vec!["generate", "--expert", text(path), "--prompt", "Am Morgen", "--json"];
        args.extend(["--steps", "--temperature", "1.2"]);
        args.extend(more);
        json(&args)
    };
    let restricted = generate(&short, &[]);
    for step in restricted["steps"].as_array().unwrap() {
        assert!(list.contains(&(step["token"].as_u64().unwrap() as u32)), "{step}");
    }
    let original = set.join("de-el.gguf");
    assert_eq!(generate(&short, &["--full-output"]), generate(&original, &[]));
    let score =
        |path: &Path| json(&["score", "--json", "--expert", text(path), "--text", SWITCHING]);
    assert_eq!(score(&short), score(&original));
    // As many as asked for; the same for all experts where the languages are given.
    let sized: serde_json::Value = serde_json::from_str(
        &XELM.run(&with(&["--size", "1500", "--lang", "de,ja"], &folder.join("sized"))),
    )
    .unwrap();
    for expert in sized["experts"].as_array().unwrap() {
        assert_eq!(expert["tokens"], 1500);
        assert_eq!(expert["coverage"].as_object().unwrap().len(), 2);
    }
    let ids = |id: &str| {
        let file = ExpertFile::open(&folder.join(format!("sized/{id}.gguf"))).unwrap();
        file.expert().shortlist().unwrap().ids().collect::<Vec<_>>()
    };
    assert_eq!(ids("de-el"), ids("ja-ko"));
    // Quantised, its rows are still the embedding's.
    let f32_short = folder.join("f32.gguf");
    write_shortlist(&RUN.join("set/de-el.gguf"), &f32_short, &list).unwrap();
    let quantised = folder.join("q4_k_m.gguf");
    let args =
        ["quantize", "--expert", text(&f32_short), "--type", "q4_k_m", "--out", text(&quantised)];
    XELM.run(&args);
    XELM.run(&["verify", "--expert", text(&quantised)]);
    // What cannot be done is said.
    let fails = |more: &[&'static str], out: &Path| XELM.fails(&with(more, out));
    assert!(fails(&["--size", "5"], &out).contains("too few"));
    assert!(fails(&["--coverage", "1.5"], &out).contains("coverage"));
    assert!(fails(&["--lang", "xx"], &out).contains("xx"));
    assert!(fails(&[], &set).contains("overwritten"));
}

#[test]
fn a_trimmed_set_is_the_same_model_of_fewer_tokens() {
    let folder = XELM.folder("trimmed");
    let set = RUN.join("set-q8_0");
    let corpus = RUN.parent().unwrap().join("corpus");
    let out = folder.join("set");
    let args = ["trim", "--json", "--set", text(&set), "--corpus", text(&corpus), "--size", "2200"];
    let args: Vec<&str> = args.into_iter().chain(["--out", text(&out)]).collect();
    let made = json(&args);
    XELM.run(&["verify", "--set", text(&out)]);
    let info = json(&["inspect", "--json", text(&out)]);
    assert!(info["metadata"]["xelm.vocab.parent"].is_string());
    for (expert, id) in made["experts"].as_array().unwrap().iter().zip(["de-el", "ja-ko"]) {
        assert_eq!(expert["tokens"], 2200);
        assert!(expert["bytes"].as_u64() < expert["bytes_before"].as_u64());
        let name = format!("{id}.gguf");
        let (before, after) = (
            ExpertFile::open(&set.join(&name)).unwrap(),
            ExpertFile::open(&out.join(&name)).unwrap(),
        );
        let (before, after) = (before.expert(), after.expert());
        let (old, new) = (before.tokenizer().unwrap(), after.tokenizer().unwrap());
        let parent = xelm_runtime::tokenizer::hex(&old.hash());
        assert_eq!(after.gguf().get(keys::VOCAB_PARENT), Some(Value::String(&parent)));
        assert_eq!(after.gguf().get(keys::ARCHITECTURE), before.gguf().get(keys::ARCHITECTURE));
        let Some(Value::Array(map)) = after.gguf().get(keys::VOCAB_IDS) else { panic!() };
        let map: Vec<u32> = (0..map.len).map(|i| map.bits32(i)).collect();
        assert_eq!((map.len(), &map[..4]), (2200, &[0, 1, 2, 3][..]));
        for (id, &old_id) in (0..).zip(&map) {
            assert_eq!((new.piece(id), new.score(id)), (old.piece(old_id), old.score(old_id)));
        }
        // Tokens that both have give the same logits, bit for bit.
        let tokens: Vec<u32> =
            (0..40u32).map(|i| if i == 0 { 2 } else { i * 977 % 2200 }).collect();
        let mapped: Vec<u32> = tokens.iter().map(|&t| map[t as usize]).collect();
        let options = Options::default();
        let expected = session(before, &options, &Serial, |s| all_logits(s, &mapped));
        let found = session(after, &options, &Serial, |s| all_logits(s, &tokens));
        assert!(found == picked(&expected, &map), "{id}");
        // Every character of the texts can still be read and written.
        let text = "Am Morgen, και το κείμενο. 今日は 안녕";
        let ids = encode(new, text.as_bytes()).unwrap();
        let mut again = String::new();
        let mut stream = TextStream::new();
        ids.iter().for_each(|&id| stream.push(new, id, |part| again.push_str(part)));
        let (mut whole, mut stream) = (String::new(), TextStream::new());
        let old_ids = encode(old, text.as_bytes()).unwrap();
        old_ids.iter().for_each(|&id| stream.push(old, id, |part| whole.push_str(part)));
        assert_eq!(again, whole);
        assert!(ids.len() >= old_ids.len());
    }
    // The set mixes, and takes back neither an expert with the old vocabulary nor one with a shortlist.
    let mixed =
        ["generate", "--set", text(&out), "--ensemble", "2", "--prompt", "Am Morgen", "--json"];
    assert!(json(&mixed)["tokens"].as_u64().is_some());
    let old = set.join("de-el.gguf");
    let line = XELM.fails(&["set", "replace", "--set", text(&out), "--expert", text(&old)]);
    assert!(line.contains("vocabulary"), "{line}");
    let short = folder.join("short.gguf");
    write_shortlist(&old, &short, &[0, 1, 2, 3, 70]).unwrap();
    let args = ["trim", "--expert", text(&short), "--corpus", text(&corpus), "--size", "2200"];
    let args: Vec<&str> = args.into_iter().chain(["--out", "x.gguf"]).collect();
    assert!(XELM.fails(&args).contains("shortlist"));
    fs::remove_dir_all(&folder).unwrap();
}
