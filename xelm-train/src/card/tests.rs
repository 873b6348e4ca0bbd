use super::*;
use crate::corpus::BadInput;
use crate::evaluate::QUALITY;
use serde_json::json;
use xelm_runtime::format::Writer;
use xelm_runtime::pack::verify;
use xelm_runtime::set::{ARCH_SET, Row, keys as set_keys};

const LANGUAGES: [&str; 3] = ["de", "no", "zh-Hant"];

/// A run, and in it a set whose experts are elsewhere.
fn run(folder: &Path) -> Run {
    let corpus = folder.join("corpus");
    fs::create_dir(&corpus).unwrap();
    for language in LANGUAGES {
        fs::write(corpus.join(format!("{language}.txt")), "text").unwrap();
    }
    let run = Run::create(&folder.join("run"), &corpus, &[], BadInput::Stop).unwrap();
    for name in ["set", "set-q8_0"] {
        set(&run.path(name));
    }
    run
}

fn set(folder: &Path) {
    let row = |id: &str, languages: &[&str]| Row {
        id: id.into(),
        file: format!("{id}.gguf"),
        size: 12345,
        sha256: "0".repeat(64),
        parent: "seed".into(),
        languages: languages.iter().map(|l| (*l).to_owned()).collect(),
    };
    let rows = [row("de-no", &["de", "no"]), row("a|b*", &["zh-Hant"])];
    let mut writer = Writer::new(ARCH_SET);
    Row::write(&rows, &mut writer);
    writer.strings(set_keys::FALLBACK_TAGS, &[""; 0]);
    writer.u32s(set_keys::FALLBACK_ORDER, &[]);
    writer.string(set_keys::TOKENIZER_HASH, "");
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(SET_FILE), writer.begin(Vec::new()).unwrap().finish().unwrap()).unwrap();
}

/// The front matter by key, read as strictly as it is written: words, JSON strings, lists of these.
fn front(card: &str) -> Vec<(String, Vec<String>)> {
    let (front, _) = card.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap();
    let value = |text: &str| {
        let word = text.bytes().all(|b| b.is_ascii_lowercase());
        if word { text.to_owned() } else { serde_json::from_str(text).unwrap() }
    };
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for line in front.lines() {
        if let Some(item) = line.strip_prefix("- ") {
            found.last_mut().unwrap().1.push(value(item));
            continue;
        }
        let (key, rest) = line.split_once(':').unwrap();
        assert!(key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
        let rest = rest.trim_start();
        let values = if rest.is_empty() { Vec::new() } else { vec![value(rest)] };
        found.push((key.to_owned(), values));
    }
    found
}

fn of<'a>(front: &'a [(String, Vec<String>)], key: &str) -> &'a [String] {
    front.iter().find(|(name, _)| name == key).map_or(&[], |(_, values)| values)
}

#[test]
fn experts_languages_and_figures() {
    let folder = tempfile::tempdir().unwrap();
    let run = run(folder.path());
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let card = read(&write_card(&run, &run.path(SET)).unwrap());
    let head = front(&card);
    assert_eq!(of(&head, "language"), ["de", "no", "zh"]);
    assert_eq!(
        (of(&head, "license"), of(&head, "license_name")),
        (&["other".into()][..], &["unknown".into()][..])
    );
    assert!(of(&head, "base_model").is_empty() && of(&head, "library_name") == ["xelm"]);
    for needle in [
        "# Expert language models: de, no, zh-Hant\n",
        "| de-no | de, no | de-no.gguf | 12345 | seed | unknown | unknown |\n",
        "| a\\|b\\* | zh-Hant |",
        "--lang de --prompt TEXT",
        "Not evaluated yet.",
    ] {
        assert!(card.contains(needle), "{needle}\n{card}");
    }
    write_json(
        &run.path("eval.json"),
        &json!({"languages": {"de": {"seed": 2.0, "expert": 1.5, "expert_q8_0": 1.25}, "no": {}},
                "mean": {"seed": 2.0, "expert": 1.5}}),
    )
    .unwrap();
    let cards = write_cards(&run).unwrap();
    assert_eq!(cards.len(), 2);
    assert!(read(&cards[0]).contains("| de | 2.0000 | – | 1.5000 |\n| no | – | – | – |\n"));
    assert!(read(&cards[1]).contains("| de | 2.0000 | – | 1.2500 |\n"));
    write_json(
        &run.path("set-q8_0").join(QUALITY),
        &json!([{"expert": "de-no", "language": "de", "tokens": 7, "ppl_before": 20.0, "ppl": 20.5,
                 "kld": 0.0125, "top1": 0.875, "bits_per_weight": 8.5}]),
    )
    .unwrap();
    let cards = write_cards(&run).unwrap();
    let row = "| de-no | de | 8.500 | 20.000 | 20.500 | 0.012500 | 87.50 % |\n";
    assert!(!read(&cards[0]).contains("## Cost of quantising"));
    assert!(read(&cards[1]).contains(row), "{}", read(&cards[1]));
    // The folder's check does not look at the card.
    assert!(verify(&run.path(SET)).unwrap().iter().all(|checked| checked.file != CARD));
}

#[test]
fn words_are_kept_and_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let run = run(folder.path());
    let say = |title: &str, licence: &str| {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let words = Words { title: some(title), licence: some(licence), ..Words::default() };
        words.record(&run).unwrap();
        fs::read_to_string(write_card(&run, &run.path(SET)).unwrap()).unwrap()
    };
    let card = say("yes: \"a\"\n---\n# <b>[x](y)", "Apache-2.0");
    let head = front(&card);
    assert_eq!(of(&head, "pretty_name"), ["yes: \"a\" --- # <b>[x](y)"]);
    assert_eq!(of(&head, "license"), ["apache-2.0"]);
    assert!(card.contains("# yes: \"a\" --- \\# &lt;b>\\[x\\](y)\n"), "{card}");
    assert_eq!(card.matches("\n---\n").count(), 1);
    let card = say("", "ask: me\nfirst");
    let head = front(&card);
    assert_eq!(
        (of(&head, "license"), of(&head, "license_name")),
        (&["other".into()][..], &["ask: me first".into()][..])
    );
    assert!(card.contains("Licence of the models: ask: me first.") && card.contains("# yes:"));
}

#[test]
fn quantised_away_from_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("hosted"), folder.path().join("small"));
    set(&from);
    set(&to);
    assert!(carry_card(&from, &to).unwrap().is_none());
    fs::write(from.join(CARD), "# title\n\nWeights: f32.\n").unwrap();
    let path = carry_card(&from, &to).unwrap().unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), "# title\n\nWeights: unknown.\n");
    let run = run(folder.path());
    carry_card(&run.path(SET), &to).unwrap();
    assert!(fs::read_to_string(to.join(CARD)).unwrap().contains("de-no.gguf"));
    assert!(write_card(&run, folder.path()).is_err());
}
