//! Folders of transformers read and written, without Python: `tests/hf.sh` compares with transformers itself.

use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use xelm_runtime::config::{Activation, Config};
use xelm_runtime::mmap::{ExpertFile, MappedFile};
use xelm_runtime::quant::f32_to_f16;
use xelm_runtime::rng::Rng;
use xelm_runtime::tokenizer::{Tokenizer, Vocabulary};
use xelm_tests::xelm::Xelm;
use xelm_train::checkpoint::Checkpoint;
use xelm_train::hf::{Folder, export};
use xelm_train::model::parameters;
use xelm_train::vocab;
use xelm_train::weights::{ExpertWeights, Weights};

const XELM: Xelm =
    Xelm { program: env!("CARGO_BIN_EXE_xelm-under-test"), scratch: env!("CARGO_TARGET_TMPDIR") };

/// Odd sizes; a width that is no power of 4, so that folding rounds.
const CONFIG: Config = Config {
    n_vocab: 4 + PIECES.len() + 7,
    n_ctx: 40,
    n_embd: 30,
    n_layer: 3,
    n_head: 3,
    n_ff: 50,
    activation: Activation::Relu,
    norm_eps: 1e-5,
};

const PIECES: [&str; 12] = ["▁", "a", "e", "i", "n", "r", "s", "t", "d", "l", "en", "▁d"];

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Random parameters that every type of number holds exactly.
fn tensors() -> Tensors {
    let mut rng = Rng::new(3, 0);
    let one = |parameter: xelm_train::model::ParamId| {
        let (rows, cols) = parameter.shape;
        let shape = if rows == 1 { vec![cols] } else { vec![rows, cols] };
        let values = (0..rows * cols).map(|_| (rng.next_normal() * 32.0).round() / 64.0).collect();
        (parameter.name, (shape, values))
    };
    parameters(&CONFIG).into_iter().map(one).collect()
}

fn bytes(values: &[f32], dtype: Dtype) -> Vec<u8> {
    let bytes = |x: &f32| match dtype {
        Dtype::F16 => f32_to_f16(*x).to_le_bytes().to_vec(),
        Dtype::BF16 => ((x.to_bits() >> 16) as u16).to_le_bytes().to_vec(),
        Dtype::F64 => f64::from(*x).to_le_bytes().to_vec(),
        _ => x.to_le_bytes().to_vec(),
    };
    values.iter().flat_map(bytes).collect()
}

fn write_tensors(path: &Path, tensors: &Tensors, dtype: Dtype) {
    let data: Vec<_> =
        tensors.iter().map(|(name, (shape, x))| (name, shape, bytes(x, dtype))).collect();
    let views = data.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(dtype, shape.to_vec(), bytes).unwrap())
    });
    fs::write(path, serialize(views, None).unwrap()).unwrap();
}

fn config_json() -> Value {
    json!({
        "model_type": "xglm", "architectures": ["XGLMForCausalLM"], "vocab_size": CONFIG.n_vocab,
        "max_position_embeddings": CONFIG.n_ctx, "d_model": CONFIG.n_embd, "ffn_dim": CONFIG.n_ff,
        "num_layers": CONFIG.n_layer, "attention_heads": CONFIG.n_head, "activation_function": "relu",
    })
}

/// A folder with a configuration and a vocabulary, but without weights.
fn folder(name: &str) -> PathBuf {
    let folder = XELM.folder(&format!("hf-{name}"));
    fs::write(folder.join("config.json"), config_json().to_string()).unwrap();
    let pieces = PIECES.iter().enumerate().map(|(i, p)| (p.to_string(), -1.0 - i as f32 / 8.0));
    let vocabulary = Vocabulary::new(pieces, vocab::charsmap());
    let model = vocab::sentencepiece::write(&vocabulary).unwrap();
    fs::write(folder.join("sentencepiece.bpe.model"), model).unwrap();
    folder
}

fn check(weights: &dyn Weights, tensors: &Tensors) {
    assert_eq!(*weights.config(), CONFIG);
    for (name, (shape, expected)) in tensors {
        let mut found = vec![f32::NAN; expected.len()];
        let row = *shape.last().unwrap();
        // The last row alone, then all.
        weights.read(name, expected.len() - row, &mut found[..row]);
        assert_eq!(found[..row], expected[expected.len() - row..], "{name}");
        weights.read(name, 0, &mut found);
        assert_eq!(found, *expected, "{name}");
    }
}

#[test]
fn every_type_of_number_and_every_division_into_files() {
    let all = tensors();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let folder = folder(&format!("type-{dtype:?}"));
        write_tensors(&folder.join("model.safetensors"), &all, dtype);
        check(&Folder::open(&folder).unwrap(), &all);
    }
    // As the model without its head is saved.
    let bare = folder("bare");
    let short = |name: &str| name.strip_prefix("model.").unwrap_or(name).to_owned();
    let mut short: Tensors = all.iter().map(|(n, t)| (short(n), t.clone())).collect();
    short.insert("embed_positions.weights".into(), (vec![2, 3], vec![0.0; 6]));
    short.insert("lm_head.weight".into(), all["model.embed_tokens.weight"].clone());
    write_tensors(&bare.join("model.safetensors"), &short, Dtype::F32);
    check(&Folder::open(&bare).unwrap(), &all);

    let sharded = folder("sharded");
    let mut shards = [Tensors::new(), Tensors::new(), Tensors::new()];
    let mut map = BTreeMap::new();
    for (i, (name, tensor)) in all.iter().enumerate() {
        shards[i % 3].insert(name.clone(), tensor.clone());
        map.insert(name.clone(), format!("model-{}.safetensors", i % 3));
    }
    for (i, shard) in shards.iter().enumerate() {
        write_tensors(&sharded.join(format!("model-{i}.safetensors")), shard, Dtype::BF16);
    }
    let index = sharded.join("model.safetensors.index.json");
    let write_index = |map: &BTreeMap<String, String>| {
        fs::write(&index, json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
        Folder::open(&sharded).map(|folder| check(&folder, &all)).map_err(|e| e.to_string())
    };
    write_index(&map).unwrap();
    let bias = "model.layer_norm.bias";
    for (file, said) in [
        ("model-0.safetensors", "is not in"),
        ("../x.safetensors", "is not the name of a file"),
        ("model-3.safetensors", "cannot open"),
    ] {
        let mut map = map.clone();
        let right = map.insert(bias.into(), file.into());
        let error = write_index(&map).unwrap_err();
        assert!(right.as_deref() != Some(file) && error.contains(said), "{error}");
    }
}

/// What is wrong with a folder is said in one line that names the file or the tensor.
#[test]
fn broken_folders() {
    let broken = folder("broken");
    let path = broken.join("model.safetensors");
    let error = || Folder::open(&broken).unwrap_err().to_string();
    let said = |parts: &[&str]| {
        let error = error();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    said(&["model.safetensors", "save_pretrained"]);
    let all = tensors();
    let with = |change: &dyn Fn(&mut Tensors)| {
        let mut changed = all.clone();
        change(&mut changed);
        write_tensors(&path, &changed, Dtype::F32);
    };
    let name = "model.layers.1.fc1.bias";
    with(&|t| drop(t.remove(name)));
    said(&[name, "is missing"]);
    with(&|t| drop(t.insert(name.into(), (vec![1, 50], vec![0.0; 50]))));
    said(&[name, "[1, 50]", "[50]"]);
    with(&|t| drop(t.insert("model.layers.3.fc1.bias".into(), (vec![50], vec![0.0; 50]))));
    said(&["model.layers.3.fc1.bias", "not known", "3 layers"]);
    let embedding = &all["model.embed_tokens.weight"];
    with(&|t| {
        let mut head = embedding.clone();
        head.1[CONFIG.n_embd * 5 + 1] += 1.0;
        t.insert("lm_head.weight".into(), head);
    });
    said(&["lm_head.weight differs", "row 5"]);
    with(&|t| drop(t.insert("layer_norm.bias".into(), t["model.layer_norm.bias"].clone())));
    said(&["layer_norm.bias", "twice"]);
    write_tensors(&path, &all, Dtype::F64);
    said(&["F64", "BF16"]);

    write_tensors(&path, &all, Dtype::F32);
    let whole = fs::read(&path).unwrap();
    for len in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        said(&["model.safetensors", "not a whole safetensors file"]);
    }
    fs::write(&path, &whole).unwrap();
    check(&Folder::open(&broken).unwrap(), &all);

    let vocabulary = broken.join("sentencepiece.bpe.model");
    let mut other = config_json();
    other["vocab_size"] = json!(CONFIG.n_vocab + 1);
    fs::write(broken.join("config.json"), other.to_string()).unwrap();
    said(&["sentencepiece.bpe.model", "vocab_size 24", "16 tokens"]);
    fs::write(broken.join("config.json"), config_json().to_string()).unwrap();
    fs::remove_file(&vocabulary).unwrap();
    said(&["no vocabulary", "tokenizer.json"]);
    fs::write(broken.join("tokenizer.json"), "{}").unwrap();
    said(&["tokenizer.json", "missing field"]);
    fs::remove_file(broken.join("config.json")).unwrap();
    said(&["config.json", "cannot read"]);
}

/// Imported, exported from the expert file and imported again: the vocabulary is the same in both of its
/// forms, the weights within the rounding of folding.
#[test]
fn expert_files_round_trip() {
    let all = tensors();
    let hf = folder("expert");
    write_tensors(&hf.join("model.safetensors"), &all, Dtype::F32);
    let first = Folder::open(&hf).unwrap();
    let path = hf.join("expert.gguf");
    first.write_expert("small", &["de".into()], &path).unwrap();
    let expert = ExpertFile::open(&path).unwrap();
    assert_eq!(expert.expert().id(), "small");
    expert.expert().tokenizer().unwrap().verify().unwrap();

    let file = MappedFile::open(&path).unwrap();
    let gguf = file.gguf().unwrap();
    let (weights, tokenizer) =
        (ExpertWeights::open(&gguf).unwrap(), Tokenizer::open(&gguf).unwrap());
    let out = hf.join("exported");
    export(&weights, &tokenizer, &out).unwrap();
    let again = Folder::open(&out).unwrap();
    assert_eq!(again.vocabulary().hash(), first.vocabulary().hash());
    let mut rounded = 0;
    for (name, (_, expected)) in &all {
        let mut found = vec![0.0; expected.len()];
        again.read(name, 0, &mut found);
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() <= 1e-6 * b.abs(), "{name}: {a} {b}");
            rounded += usize::from(a != b);
        }
    }
    assert!(rounded < 1000);
    fs::remove_file(out.join("sentencepiece.bpe.model")).unwrap();
    let from_json = Folder::open(&out).unwrap();
    assert_eq!(from_json.vocabulary().hash(), first.vocabulary().hash());

    // What the runtime would do otherwise is refused.
    let json: Value =
        serde_json::from_slice(&fs::read(out.join("tokenizer.json")).unwrap()).unwrap();
    for (pointer, value, said) in [
        ("/model/type", json!("BPE"), "Unigram"),
        ("/model/byte_fallback", json!(true), "Unigram"),
        ("/model/unk_id", json!(0), "first tokens"),
        ("/model/vocab/1/0", json!("<blank>"), "first tokens"),
        ("/model/vocab/7/1", json!(1e60), "finite"),
        ("/pre_tokenizer/type", json!("ByteLevel"), "Metaspace"),
        ("/normalizer/normalizers/0/type", json!("NFKC"), "NFKC"),
        ("/normalizer/normalizers/0/precompiled_charsmap", json!("*"), "character map"),
        ("/normalizer/normalizers/0/precompiled_charsmap", json!("AAAA"), "charsmap"),
        ("/added_tokens/0/content", json!("x"), "added token"),
    ] {
        let mut changed = json.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        fs::write(out.join("tokenizer.json"), changed.to_string()).unwrap();
        let error = Folder::open(&out).unwrap_err().to_string();
        assert!(error.contains(said), "{pointer}: {error}");
    }
}

/// An imported seed has no moments; experts branch from it, and its export has the same bits.
#[test]
fn a_run_from_an_imported_seed() {
    let all = tensors();
    let hf = folder("seed");
    write_tensors(&hf.join("model.safetensors"), &all, Dtype::F32);
    let corpus = XELM.corpus(&hf.join("corpus"));
    let (run, out) = (hf.join("run"), hf.join("exported"));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let [hf_arg, corpus, run_arg, out_arg] = [&hf, &corpus, &run, &out].map(|path| text(path));
    let import = ["import", "--hf", &hf_arg, "--run", &run_arg, "--corpus", &corpus];
    let import = [&import[..], &["--languages", "de,el", "--batch", "4"]].concat();
    let error = XELM.fails(&[&import[..], &["--n-ctx", "41"]].concat());
    assert!(error.contains("--n-ctx") && error.contains("40"), "{error}");
    XELM.run(&[&import[..], &["--n-ctx", "20"]].concat());
    let error = XELM.fails(&import);
    assert!(error.contains("has a seed"), "{error}");

    let path = run.join("seed/checkpoint.gguf");
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert!(!checkpoint.has_moments());
    check(&checkpoint, &all);
    let checkpoint_arg = text(&path);
    XELM.run(&["export", "--hf", &out_arg, "--checkpoint", &checkpoint_arg]);
    check(&Folder::open(&out).unwrap(), &all);

    XELM.run(&["cluster", "typology", "--run", &run_arg, "--k", "2"]);
    let train = ["train", "--run", &run_arg, "--all", "--steps", "2", "--lr", "1e-4"];
    let output = XELM.command(&train).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("fresh"), "{said}");
    for id in ["de", "el"] {
        let trained = Checkpoint::open(&run.join(format!("experts/{id}/checkpoint.gguf"))).unwrap();
        assert!(trained.has_moments());
        assert_eq!(trained.info.adam_steps, 2);
        assert_eq!(trained.info.tokens, 2 * 2 * 20);
    }
    XELM.run(&["pack", "--run", &run_arg]);
    assert!(ExpertFile::open(&run.join("set/de.gguf")).is_ok());
    // The packed seed is the imported expert but for its name.
    let expert = hf.join("expert.gguf");
    let expert_arg = text(&expert);
    let import = ["import", "--hf", &hf_arg, "--out", &expert_arg, "--id", "seed"];
    XELM.run(&[&import[..], &["--languages", "de,el"]].concat());
    assert!(fs::read(&expert).unwrap() == fs::read(run.join("models/seed.gguf")).unwrap());
}
