//! Pages of invented experiments: all numbers below are made up and follow no model.

use super::*;
use quick_xml::Reader;
use quick_xml::events::Event;
use serde_json::{Value, json};
use std::fs;

const LANGUAGES: [&str; 6] = ["en", "es", "de", "el", "ja", "ko"];
const MODELS: [&str; 8] =
    ["seed", "dense", "random", "expert", "ensemble_1", "ensemble_2", "ensemble_4", "ensemble_all"];

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn write_value(path: &Path, value: &Value) {
    write(path, &value.to_string());
}

/// A number that depends on all of `parts`, from 0 to 1.
fn invented(parts: &[&str]) -> f64 {
    let mut state: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.join("\u{1f}").bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    ((state >> 33) % 1000) as f64 / 1000.0
}

fn score(bpb: f64) -> Value {
    json!({"documents": 40, "tokens": 9000, "bytes": 30000, "nll_sum": bpb * 20794.0,
           "ppl": (bpb * 2.3).exp(), "bpb": bpb})
}

fn job(folder: &Path, seed: u64, languages: &[&str], steps: usize) {
    let settings =
        json!({"steps": steps, "batch": 8, "n_ctx": 64, "lr": 0.003, "seed": seed, "unknown": 1});
    let name = folder.file_name().unwrap().to_string_lossy();
    let spec = json!({"name": name, "languages": languages, "parent": "", "settings": settings});
    write_value(&folder.join("job.json"), &spec);
    let mut log = String::new();
    for step in 0..steps {
        let loss = 8.0 / (1.0 + step as f64 / 40.0) + 0.2 * invented(&[&name, &step.to_string()]);
        log += &format!("{}\n", json!({"step": step, "loss": loss, "lr": 0.003, "grad_norm": 1.0}));
        if step % 50 == 49 {
            log += &format!("{}\n", json!({"step": step, "valid_loss": loss + 0.3}));
        }
    }
    write(&folder.join("log.jsonl"), &(log + "{\"step\": 7, \"lo"));
}

fn shard(path: &Path, n: usize) {
    use xelm_runtime::format::Writer;
    use xelm_runtime::quant::DType;
    let mut writer = Writer::new(crate::tokens::ARCH_TOKENS);
    writer.string("xelm.tokens.source", "");
    writer.string("xelm.tokenizer.hash", "");
    writer.u64("xelm.tokens.bytes", 1);
    writer.tensor("documents", DType::I64, &[2]).unwrap();
    writer.tensor("tokens", DType::I32, &[n]).unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut body = writer.begin(Vec::new()).unwrap();
    body.tensor([bytemuck::cast_slice::<u64, u8>(&[0, n as u64])]).unwrap();
    body.tensor([bytemuck::cast_slice::<u32, u8>(&vec![5u32; n])]).unwrap();
    fs::write(path, body.finish().unwrap()).unwrap();
}

/// Writes what all arms of a seed share.
fn base(root: &Path, languages: &[&str], seed: u64) {
    write_value(&root.join("run.json"), &manifest(languages, None));
    for name in ["seed", "dense", "random", "lapt"] {
        job(&root.join(name), seed, languages, 120);
    }
    for (i, language) in languages.iter().enumerate() {
        shard(&root.join(format!("tokens/{language}.train.gguf")), 4000 << i);
    }
}

fn manifest(languages: &[&str], base: Option<&str>) -> Value {
    if let Some(base) = base {
        return json!({"format": 1, "base": base});
    }
    let model = json!({"n_layer": 4, "n_embd": 64, "n_head": 4, "n_ff": 256, "n_ctx": 64});
    json!({"format": 1, "corpus": "/corpus", "languages": languages, "skip_bad_input": false,
           "model": model})
}

/// Writes an arm: `k` experts on pairs of languages, or on documents.
fn arm(
    root: &Path,
    languages: &[&str],
    k: usize,
    of_documents: bool,
    seed: u64,
    base: Option<&str>,
) {
    write_value(&root.join("run.json"), &manifest(languages, base));
    let groups: Vec<&[&str]> = languages.chunks(languages.len().div_ceil(k)).collect();
    let ids: Vec<String> = (0..groups.len())
        .map(|i| if of_documents { format!("tfidf-{i}") } else { groups[i].join("-") })
        .collect();
    let clusters: Vec<Value> = ids
        .iter()
        .zip(&groups)
        .map(|(id, group)| {
            let documents = of_documents.then_some(100);
            json!({"id": id, "languages": group, "distance": 0.2, "documents": documents})
        })
        .collect();
    write_value(&root.join("clusters.json"), &json!(clusters));
    for (id, group) in ids.iter().zip(&groups) {
        job(&root.join("experts").join(id), seed, group, 90);
    }
    let root_name = root.to_string_lossy();
    let tag = root_name.rsplit('/').next().unwrap();
    let value = |language: &str, column: &str| {
        let shared = ["seed", "dense", "random", "lapt"].contains(&column);
        let own = if shared { "" } else { tag };
        let at = MODELS.iter().position(|m| *m == column).unwrap_or(3) as f64;
        3.0 - 0.12 * at.min(3.0)
            + 0.3 * invented(&[language])
            + 0.05 * invented(&[language, column, own, &seed.to_string()])
    };
    let columns = MODELS.iter().copied().chain(["lapt", "expert_q8_0", "expert_q4_0"]);
    let row = |language: &str, of: &dyn Fn(f64) -> Value| -> Value {
        columns.clone().map(|c| (c.to_owned(), of(value(language, c)))).collect()
    };
    let table = |of: &dyn Fn(f64) -> Value| -> Value {
        languages.iter().chain(&["az"]).map(|l| ((*l).to_owned(), row(l, of))).collect()
    };
    write_value(
        &root.join("eval.json"),
        &json!({"languages": table(&|x| json!(x)), "mean": {}, "wins": {"not": "a number"},
                "scores": table(&score), "protocol": {"documents": 5001, "cut": "at the context"}}),
    );
    let mut scores = serde_json::Map::new();
    for model in ids.iter().map(String::as_str).chain(["seed"]) {
        let row: Value = languages
            .iter()
            .map(|l| ((*l).to_owned(), score(2.6 + 0.8 * invented(&[l, model, tag]))))
            .collect();
        scores.insert(model.to_owned(), row);
    }
    let own: Value = ids.iter().zip(&groups).map(|(id, g)| (id.clone(), json!(g))).collect();
    write_value(
        &root.join("forgetting.json"),
        &json!({"models": ids, "languages": languages, "own": own, "scores": scores,
                "share_worse": 0.477, "share_worse_off_language": 0.6}),
    );
    for (name, bytes) in [("set", 90_000), ("set-q8_0", 30_000), ("set-q4_0", 20_000)] {
        write(&root.join(name).join("a.gguf"), &"x".repeat(bytes));
    }
}

fn extras(root: &Path) {
    write_value(
        &root.join("adapted.json"),
        &json!([{"id": "az-ko", "languages": ["az", "ko"], "target": "az", "donor": "ko",
                 "parent": "ja-ko", "round": 2}]),
    );
    let of = |a: f64| json!({"accuracy": a, "examples": 200, "stderr": 0.03});
    let rows = json!({"de": {"seed": of(0.4), "expert": of(0.46)}, "el": {"seed": of(0.5), "expert": of(0.41)}});
    write_value(
        &root.join("icl.json"),
        &json!({"xnli-8": {"languages": rows, "mean": {"seed": 0.45, "expert": 0.435},
                           "win_rate": {"seed": 0.5, "expert": 0.5},
                           "majority": {"de": 0.337}}}),
    );
}

fn assignment(root: &Path, languages: &[&str], k: u32) {
    use crate::assignment::{Assignment, LanguageClusters};
    let of = |i: usize| LanguageClusters {
        clusters: (0..60).map(|d| if d % 5 == 0 { d % k } else { i as u32 % k }).collect(),
        n_bytes: 1,
    };
    let languages = languages.iter().enumerate().map(|(i, l)| ((*l).to_owned(), of(i))).collect();
    Assignment { languages }.save(&root.join("clusters.gguf")).unwrap();
}

/// An experiment of two seeds with five arms each.
fn experiment(root: &Path) {
    let mut seeds = Vec::new();
    for seed in [1234, 5] {
        let folder = format!("seed-{seed}");
        base(&root.join(&folder).join("base"), &LANGUAGES, seed);
        let mut arms = Vec::new();
        for (kind, k) in
            [("typology", 2), ("typology", 3), ("tfidf", 2), ("tfidf", 3), ("random", 3)]
        {
            let run = format!("{folder}/{kind}-{k}");
            arm(&root.join(&run), &LANGUAGES, k, kind == "tfidf", seed, Some("../base"));
            if kind == "tfidf" {
                assignment(&root.join(&run), &LANGUAGES, k as u32);
            }
            arms.push(json!({"name": format!("{kind}-{k}"), "kind": kind, "k": k, "run": run}));
        }
        extras(&root.join(&folder).join("typology-3"));
        seeds.push(json!({"seed": seed, "arms": arms}));
    }
    write_value(
        &root.join("experiment.json"),
        &json!({"title": "Invented numbers", "command": "xelm experiment --config test.toml",
                "machine": {"cpu": "none", "threads": 2}, "date": "2024-01-01", "config": {"steps": 90, "k": [2, 3]},
                "seeds": seeds}),
    );
}

/// Checks that a page is well-formed, and refers to nothing outside.
fn check(page: &str) {
    let mut reader = Reader::from_str(page);
    let mut depth = 0i32;
    loop {
        let event = reader.read_event().unwrap_or_else(|e| {
            let at = reader.error_position() as usize;
            panic!("{e} near {:?}", &page[at.saturating_sub(80)..(at + 80).min(page.len())])
        });
        let tag = match event {
            Event::Start(tag) => {
                depth += 1;
                tag
            }
            Event::Empty(tag) => tag,
            Event::End(_) => {
                depth -= 1;
                continue;
            }
            Event::Eof => break,
            _ => continue,
        };
        let name = tag.name().as_ref().to_owned();
        assert!(!["script", "link", "iframe", "object", "img", "base"].contains(&name.as_str()));
        for attribute in tag.attributes() {
            let attribute = attribute.unwrap();
            let key = attribute.key.as_ref().to_lowercase();
            let value = attribute.value.to_lowercase();
            assert!(!key.starts_with("on") && key != "src", "{name} {key}");
            assert!(key != "href" || value.starts_with('#'), "{value}");
            assert!(!value.contains("url("), "{value}");
        }
    }
    assert_eq!(depth, 0);
    assert!(!page.contains("url(") && !page.contains("@import"));
}

fn titles(page: &str) -> Vec<&str> {
    page.split("<h2>").skip(1).filter_map(|part| part.split("</h2>").next()).collect()
}

/// Keeps a page for a person to look at, in the folder XELM_PAGES.
fn keep(name: &str, page: &str) {
    if let Some(folder) = std::env::var_os("XELM_PAGES") {
        fs::write(Path::new(&folder).join(name), page).unwrap();
    }
}

#[test]
fn a_page_of_an_experiment() {
    let folder = tempfile::tempdir().unwrap();
    experiment(folder.path());
    let page = page(&Subject::Experiment(folder.path().to_owned()), "xelm report").unwrap();
    keep("experiment.html", &page);
    check(&page);
    assert_eq!(titles(&page).len(), 12, "{:?}", titles(&page));
    assert!(!page.contains("cannot be read"));
    for needle in [
        "Invented numbers",
        "xelm experiment --config test.toml",
        "1234, 5",
        "typology-3: expert, top-1",
        "tfidf-3: ensemble of all",
        "number of experts k",
        "az-ko (az, ko)",
        "xnli-8",
        "<td>33.7</td>",
        "47.7 %",
        "5001",
    ] {
        assert!(page.contains(needle), "{needle}");
    }
    // 10 arms with experts: the first seed's curves, and the shared ones.
    assert_eq!(page.matches("<svg").count(), 1 + 1 + 5 + 1 + 5);
}

#[test]
fn numbers_of_the_tables() {
    let folder = tempfile::tempdir().unwrap();
    let roots = ["a", "b"].map(|name| folder.path().join(name));
    for (root, (seed, shift)) in roots.iter().zip([(1, 0.0), (2, 0.5)]) {
        base(root, &["en", "es"], seed);
        arm(root, &["en", "es"], 1, false, seed, None);
        let row =
            |dense: f64, expert: f64| json!({"dense": dense + shift, "expert": expert + shift});
        let eval = json!({"languages": {"en": row(2.0, 1.5), "es": row(1.0, 1.25)}});
        write_value(&root.join("eval.json"), &eval);
    }
    let page = page(&Subject::Runs(roots.to_vec()), "").unwrap();
    check(&page);
    for needle in [
        // Means over the seeds, and where the values lie; the best of a row is marked.
        "<th class=\"text\" scope=\"row\">en</th>",
        "<td class=\"best\">1.750<small>1.500–2.000</small></td>",
        "<td class=\"best\">1.250<small>1.000–1.500</small></td>",
        "<td class=\"best\">1.625<small>1.375–1.875</small></td>",
        "<td>1</td>",
        "<td>+7.14 %</td>",
    ] {
        let plain =
            page.replace("<th scope=\"row\" class=\"text\">", "<th class=\"text\" scope=\"row\">");
        assert!(plain.contains(needle), "{needle}\n{plain}");
    }
}

#[test]
fn names_from_outside_stay_text() {
    let folder = tempfile::tempdir().unwrap();
    let nasty = ["<script>alert(1)</script>", "\"><img src=x onerror=y>", "&amp;", "'\u{1}\u{7f}"];
    base(folder.path(), &nasty, 1);
    arm(folder.path(), &nasty, 2, false, 1, None);
    extras(folder.path());
    let page = page(&Subject::Runs(vec![folder.path().to_owned()]), "xelm <b> &").unwrap();
    check(&page);
    assert!(page.contains("&lt;script&gt;alert(1)") && page.contains("&amp;amp;"));
}

#[test]
fn what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    write(&run.join("run.json"), "{}");
    let subject = Subject::Runs(vec![run.clone()]);
    let empty = page(&subject, "").unwrap();
    check(&empty);
    assert!(titles(&empty).is_empty());
    assert_eq!(empty.matches("class=\"without\"").count(), 12);
    // Broken files are named, and nothing else suffers.
    base(&run, &["en"], 1);
    for name in ["eval.json", "clusters.json", "forgetting.json", "icl.json", "adapted.json"] {
        write(&run.join(name), "{\"languages\": 3");
    }
    write(&run.join("tokens/en.train.gguf"), "GGUF");
    let broken = page(&subject, "").unwrap();
    check(&broken);
    for name in ["eval.json", "clusters.json", "forgetting.json", "icl.json", "adapted.json"] {
        assert!(broken.contains(&format!("{name}: ")), "{name}");
    }
    assert_eq!(titles(&broken), ["Training", "Course of training"]);
    // An experiment without arms.
    write(&folder.path().join("experiment.json"), "{}");
    check(&page(&Subject::Experiment(folder.path().to_owned()), "").unwrap());
}

#[test]
fn refusals() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let refused = |subject: &Subject| page(subject, "").unwrap_err().to_string();
    let no_run = refused(&Subject::Runs(vec![root.to_owned()]));
    assert!(no_run.contains("not a run directory"), "{no_run}");
    let experiment = Subject::Experiment(root.to_owned());
    assert!(refused(&experiment).contains("no experiment.json"));
    write(&root.join("experiment.json"), "[1");
    assert!(refused(&experiment).contains("experiment.json: "));
    write_value(&root.join("experiment.json"), &json!({"seeds": [{"arms": [{"run": "gone"}]}]}));
    assert!(refused(&experiment).contains("gone"));
    write_value(&root.join("run.json"), &json!({"base": "."}));
    assert!(refused(&Subject::Runs(vec![root.to_owned()])).contains("build on each other"));
}
