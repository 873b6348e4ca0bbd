//! Importance matrices: what is collected, what is written, and what they do to a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use xelm_quantize::{Collector, Error, Imatrix, Options, Override, Recipe, quantize_file};
use xelm_runtime::arena::Arena;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::mmap::{ExpertFile, MappedFile};
use xelm_runtime::observe::Observer;
use xelm_runtime::parallel::Serial;
use xelm_runtime::quant::dequantize_row;
use xelm_runtime::session::{self, KvType, Session, Want};
use xelm_runtime::tokenizer::Scratch;

const TOKENS: [u32; 9] = [2, 40, 41, 300, 7, 7, 799, 500, 12];

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny/expert.gguf")
}

/// The tiny expert in F32, so that products are exact but for rounding.
fn floats(folder: &Path) -> PathBuf {
    let path = folder.join("f32.gguf");
    quantize_file(&tiny(), &path, Recipe::F32).unwrap();
    path
}

/// What is collected while an expert reads tokens, in passes of at most `n_batch`.
fn collect(path: &Path, tokens: &[u32], n_batch: usize) -> Imatrix {
    let collector = Collector::new(false);
    logits(path, tokens, n_batch, Some(&collector));
    collector.into_imatrix().from_text(vec!["some".into()], 4)
}

/// The logits after every token.
fn logits(path: &Path, tokens: &[u32], n_batch: usize, watched: Option<&Collector>) -> Vec<f32> {
    let file = ExpertFile::open(path).unwrap();
    let options = session::Options { n_batch, kv: KvType::F32, ..session::Options::default() };
    let total = Session::plan(file.expert(), &options).unwrap().total;
    let mut memory = vec![0u8; total + 64];
    let at = memory.as_ptr().align_offset(64);
    let memory = &mut memory[at..at + total];
    let kernels = Kernels::new(Isa::detect());
    let mut session = Session::init(file.expert(), &options, memory, kernels, &Serial).unwrap();
    let mut logits = Vec::new();
    session.set_observer(watched.map(|collector| collector as &dyn Observer));
    session.run(tokens, Want::All(&mut |_, row| logits.extend_from_slice(row))).unwrap();
    // What nobody watches is not counted.
    session.set_observer(None);
    session.reset();
    session.run(tokens, Want::Last).unwrap();
    logits
}

/// The tensors of a file in double precision.
fn tensors(path: &Path) -> BTreeMap<String, (usize, Vec<f64>)> {
    let file = MappedFile::open(path).unwrap();
    let gguf = file.gguf().unwrap();
    let read = |t: &xelm_runtime::format::Tensor<'_>| {
        let (n_cols, len) = (t.n_cols(), t.dtype.row_bytes(t.n_cols()).unwrap());
        let mut row = vec![0.0; n_cols];
        let rows = t.bytes.chunks_exact(len).flat_map(|bytes| {
            dequantize_row(t.dtype, bytes, &mut row).unwrap();
            row.iter().map(|&x| f64::from(x)).collect::<Vec<_>>()
        });
        (n_cols, rows.collect())
    };
    gguf.tensors().map(|t| (t.name.to_owned(), read(&t))).collect()
}

/// The mean squares by the formulas of docs/formats.md §3.3, in double precision.
fn mean_squares(path: &Path, tokens: &[u32]) -> BTreeMap<String, Vec<f64>> {
    let file = ExpertFile::open(path).unwrap();
    let config = *file.expert().config();
    let tensors = tensors(path);
    let get = |name: &str| &tensors[name].1;
    let (c, n_head) = (config.n_embd, config.n_head);
    let head_dim = c / n_head;
    let norm = |x: &[f64], name: &str| -> Vec<f64> {
        let (w, b) = (get(&format!("{name}.weight")), get(&format!("{name}.bias")));
        let mean = x.iter().sum::<f64>() / c as f64;
        let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / c as f64;
        let scale = 1.0 / (var + f64::from(config.norm_eps)).sqrt();
        (0..c).map(|i| (x[i] - mean) * scale * w[i] + b[i]).collect()
    };
    let mut squares: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut product = |x: &[f64], name: &str, out: bool| -> Vec<f64> {
        let name = format!("{name}.weight");
        let sums = squares.entry(name.clone()).or_insert_with(|| vec![0.0; x.len()]);
        sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x * x / tokens.len() as f64);
        if !out {
            return Vec::new();
        }
        let bias = get(&name.replace("weight", "bias"));
        let rows = get(&name).chunks_exact(x.len());
        rows.zip(bias).map(|(w, b)| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + b).collect()
    };
    let mut past: Vec<Vec<Vec<f64>>> = vec![Vec::new(); config.n_layer];
    for (position, &token) in tokens.iter().enumerate() {
        let (embd, table) = (get("token_embd.weight"), get("position_embd.weight"));
        let at = token as usize * c;
        let mut h: Vec<f64> = (0..c).map(|i| embd[at + i] + table[position * c + i]).collect();
        for (layer, past) in past.iter_mut().enumerate() {
            let name = |part: &str| format!("blk.{layer}.{part}");
            let qkv = product(&norm(&h, &name("attn_norm")), &name("attn_qkv"), true);
            past.push(qkv.clone());
            let mut att = vec![0.0; c];
            for head in 0..n_head {
                let of = |row: &[f64], part: usize| -> Vec<f64> {
                    row[part * c + head * head_dim..][..head_dim].to_vec()
                };
                let q = of(&qkv, 0);
                let dots: Vec<f64> = past
                    .iter()
                    .map(|row| of(row, 1).iter().zip(&q).map(|(k, q)| k * q).sum::<f64>())
                    .map(|dot| (dot / (head_dim as f64).sqrt()).exp())
                    .collect();
                let sum: f64 = dots.iter().sum();
                for (row, dot) in past.iter().zip(&dots) {
                    for (i, v) in of(row, 2).iter().enumerate() {
                        att[head * head_dim + i] += dot / sum * v;
                    }
                }
            }
            let out = product(&att, &name("attn_output"), true);
            h.iter_mut().zip(out).for_each(|(h, x)| *h += x);
            let mut ff = product(&norm(&h, &name("ffn_norm")), &name("ffn_up"), true);
            ff.iter_mut().for_each(|x| *x *= 0.5 * (1.0 + erf(*x / 2f64.sqrt())));
            let out = product(&ff, &name("ffn_down"), true);
            h.iter_mut().zip(out).for_each(|(h, x)| *h += x);
        }
        product(&norm(&h, "output_norm"), "token_embd", false);
    }
    squares
}

/// erf by its power series, which converges everywhere; |x| is small here.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn what_is_collected_is_the_mean_square_of_every_input() {
    let folder = tempfile::tempdir().unwrap();
    let path = floats(folder.path());
    let want = mean_squares(&path, &TOKENS);
    for n_batch in [1, 4, 9] {
        let imatrix = collect(&path, &TOKENS, n_batch);
        for (name, want) in &want {
            let found = imatrix.importance(name).unwrap();
            assert_eq!(found.len(), want.len(), "{name}");
            let largest = want.iter().copied().fold(0.0, f64::max);
            for (found, want) in found.iter().zip(want) {
                let error = (f64::from(*found) - want).abs();
                assert!(error < 1e-4 * want + 1e-6 * largest, "{name}: {found} {want}");
            }
        }
        imatrix.write(&folder.path().join("imatrix")).unwrap();
        let again = Imatrix::read(&folder.path().join("imatrix")).unwrap();
        assert_eq!(again.datasets(), ["some"]);
        // The file holds sums in single precision.
        let means = |of: &Imatrix| of.importance("blk.1.ffn_down.weight").unwrap();
        assert!(means(&again).iter().zip(means(&imatrix)).all(|(a, b)| (a - b).abs() <= 2e-7 * b));
    }
}

/// Files add up: text that was read in two parts gives what it gives in one.
#[test]
fn files_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = (floats(folder.path()), |name: &str| folder.path().join(name));
    let (first, second) = ([2, 40, 41, 300], [2, 7, 799, 500, 12]);
    let mut all = collect(&path, &first, 4);
    all.write(&file("first")).unwrap();
    let more = collect(&path, &second, 4);
    more.write(&file("second")).unwrap();
    all.add(more).unwrap();
    let paths = [file("first"), file("second")];
    let sum = Imatrix::read_all(&paths, &path).unwrap();
    assert_eq!(sum.datasets(), ["some", "some"]);
    for name in ["blk.0.attn_qkv.weight", "token_embd.weight"] {
        let (sum, all) = (sum.importance(name).unwrap(), all.importance(name).unwrap());
        // Each file rounds its sums to single precision.
        assert!(sum.iter().zip(&all).all(|(a, b)| (a - b).abs() <= 2e-7 * b), "{name}");
    }
    let quantized = |imatrix: &[PathBuf]| {
        let options = Options { imatrix, ..Recipe::Q4_0.into() };
        quantize_file(&path, &file("out"), options).unwrap();
        std::fs::read(file("out")).unwrap()
    };
    let both = quantized(&paths);
    assert!(both != quantized(&paths[..1]) && both != quantized(&[]));
    // In folders, the expert's name says which file.
    let folders = ["a", "b"].map(file);
    for (folder, path) in folders.iter().zip(&paths) {
        std::fs::create_dir(folder).unwrap();
        std::fs::copy(path, folder.join("f32.gguf")).unwrap();
    }
    assert!(both == quantized(&folders));
}

/// What llama.cpp has collected over four chunks of 64 tokens:
///
///     llama-imatrix -m F32.gguf -f xelm-train/corpus/de.valid.txt -c 64 --chunks 4 -o llama_imatrix.gguf
#[test]
fn llama_cpp_collects_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (path, root) = (floats(folder.path()), Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let text = std::fs::read(root.join("xelm-train/corpus/de.valid.txt")).unwrap();
    let theirs = root.join("tests/fixtures/tiny/llama_imatrix.gguf");
    let tokens = {
        let file = ExpertFile::open(&path).unwrap();
        let tokenizer = file.expert().tokenizer().unwrap();
        let mut memory = vec![0u8; 64 * text.len() + 64];
        let at = memory.as_ptr().align_offset(64);
        let mut arena = Arena::new(&mut memory[at..]).unwrap();
        let mut scratch = Scratch::carve(&mut arena, 2 * text.len()).unwrap();
        tokenizer.encode(&text, &mut scratch).unwrap().ids.to_vec()
    };
    let mut ours = Imatrix::default();
    let all: Vec<u32> = std::iter::once(2).chain(tokens).take(256).collect();
    for chunk in all.chunks(64) {
        // Every chunk opens with </s>, in place of its first token.
        ours.add(collect(&path, &[&[2], &chunk[1..]].concat(), 16)).unwrap();
    }
    let theirs = Imatrix::read(&theirs).unwrap();
    assert_eq!(theirs.datasets(), ["xelm-train/corpus/de.valid.txt"]);
    assert_eq!(theirs.importance("token_embd.weight"), None);
    for layer in 0..2 {
        for matrix in ["attn_qkv", "attn_output", "ffn_up", "ffn_down"] {
            let name = format!("blk.{layer}.{matrix}.weight");
            let (a, b) = (ours.importance(&name).unwrap(), theirs.importance(&name).unwrap());
            assert_eq!(a.len(), b.len());
            // GELU is tanh's form there, from a table in half precision.
            let largest = b.iter().copied().fold(0.0, f32::max);
            for (a, b) in a.iter().zip(&b) {
                assert!((a - b).abs() < 2e-3 * b + 1e-3 * largest, "{name}: {a} {b}");
            }
        }
    }
}

/// The mean of (error · input)² over the columns, by the importance.
fn weighted_error(a: &Path, b: &Path, imatrix: &Imatrix) -> f64 {
    let (a, b) = (tensors(a), tensors(b));
    let mut sum = 0.0;
    for (name, (n_cols, a)) in &a {
        let Some(weights) = imatrix.importance(name) else { continue };
        for (i, (a, b)) in a.iter().zip(&b[name].1).enumerate() {
            sum += f64::from(weights[i % n_cols]) * (a - b) * (a - b);
        }
    }
    sum
}

#[test]
fn errors_weigh_less_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = (floats(folder.path()), |name: &str| folder.path().join(name));
    let imatrix = collect(&path, &TOKENS, 4);
    imatrix.write(&file("imatrix")).unwrap();
    let paths = [file("imatrix")];
    for recipe in [Recipe::Q4_0, Recipe::Q4_1] {
        // Of every matrix, the embedding too.
        let overrides: Vec<Override> = vec![format!("*={}", recipe.name()).parse().unwrap()];
        let plain = Options { overrides: &overrides, ..recipe.into() };
        quantize_file(&path, &file("plain"), plain).unwrap();
        quantize_file(&path, &file("with"), Options { imatrix: &paths, ..plain }).unwrap();
        let error = |of: &str| weighted_error(&path, &file(of), &imatrix);
        let (with, without) = (error("with"), error("plain"));
        assert!(with < 0.9 * without, "{}: {with} {without}", recipe.name());
    }
}

/// With products, errors make up for each other: what an expert computes of text like that which was read is
/// nearer to what it has computed before; and biases take part in it.
#[test]
fn products_keep_what_is_computed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = (floats(folder.path()), |name: &str| folder.path().join(name));
    let text: Vec<u32> = (0..200).map(|i| if i == 0 { 2 } else { 4 + i * i % 797 % 750 }).collect();
    let with = |products: bool, name: &str, tokens: &[u32]| {
        let collector = Collector::new(products);
        let all = logits(&path, tokens, 16, Some(&collector));
        collector.into_imatrix().from_text(vec!["some".into()], 4).write(&file(name)).unwrap();
        all
    };
    let before = with(true, "products", &text);
    with(false, "plain", &text);
    let read = |name: &str| Imatrix::read(&file(name)).unwrap().importance("blk.1.ffn_up.weight");
    assert_eq!(read("products"), read("plain"));
    let quantize = |recipe: Recipe, imatrix: &[PathBuf]| {
        let overrides = ["token_embd.weight=q8_0".parse().unwrap()];
        let options = Options { recipe, overrides: &overrides, imatrix };
        quantize_file(&path, &file("out"), options).map(|_| tensors(&file("out")))
    };
    let away = |_: &BTreeMap<String, (usize, Vec<f64>)>| -> f32 {
        let after = logits(&file("out"), &text, 16, None);
        before.iter().zip(after).map(|(a, b)| (a - b) * (a - b)).sum()
    };
    let bias = |of: &BTreeMap<String, (usize, Vec<f64>)>| of["blk.0.ffn_down.bias"].clone();
    let plain = quantize(Recipe::Q4_0, &[file("plain")]).unwrap();
    let far = away(&plain);
    let kept = quantize(Recipe::Xq4, &[file("products")]).unwrap();
    let near = away(&kept);
    assert!(near < 0.7 * far, "{near} {far}");
    assert!(bias(&kept) != bias(&plain) && bias(&plain) == bias(&tensors(&path)));
    // Every type in which numbers have a choice does better with them.
    assert!(quantize(Recipe::Q4_0, &[file("products")]).is_ok_and(|of| away(&of) < 0.7 * far));

    // Text of which they are not known leaves nothing to go by.
    let two = [file("products"), file("plain")];
    for imatrix in [&[][..], &[file("plain")], &two] {
        let error = quantize(Recipe::Xq4, imatrix).unwrap_err();
        assert!(error.to_string().contains("--products"), "{error}");
    }
    let halves = [("first", &text[..100]), ("second", &text[100..])].map(|(name, tokens)| {
        with(true, name, tokens);
        file(name)
    });
    let sum = quantize(Recipe::Xq4, &halves).unwrap();
    assert!(away(&sum) < 0.7 * far);
}

#[test]
fn matrices_of_other_models_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = (floats(folder.path()), |name: &str| folder.path().join(name));
    let refused = |imatrix: &Path, why: &str| {
        let imatrix = [imatrix.to_owned()];
        let options = Options { imatrix: &imatrix, ..Recipe::Q4_0.into() };
        let error = quantize_file(&path, &file("out"), options).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(!file("out").exists());
        error
    };
    assert!(matches!(refused(&file("nothing"), "nothing"), Error::Io { .. }));
    assert!(matches!(refused(&path, "no importances"), Error::Imatrix { .. }));
    collect(&path, &TOKENS, 4).write(&file("good")).unwrap();
    let good = std::fs::read(file("good")).unwrap();
    let changed = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = good.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut bytes = good.clone();
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        std::fs::write(file("bad"), bytes).unwrap();
        file("bad")
    };
    refused(&changed("ffn_up.weight.counts", "ffn_up.weight.county"), "has no .counts");
    refused(
        &changed("blk.1.ffn_up.weight.in_sum2", "blk.1.ffn_up.weight.in_sum3"),
        "no importance",
    );
    // Sums below zero.
    let mut bytes = good.clone();
    let at = bytes.len() - 64 * 2;
    bytes[at..at + 4].copy_from_slice(&(-1f32).to_le_bytes());
    std::fs::write(file("bad"), bytes).unwrap();
    refused(&file("bad"), "no sums of squares");
}
