//! What a card says to people, in Markdown.

use super::{Members, Words};
use crate::Result;
use crate::corpus::Split;
use crate::evaluate::{QUALITY, QualityLine};
use crate::job::JobSpec;
use crate::run::{DENSE, Run, SEED, SET};
use crate::tokens::{TokenShard, shard_path};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// How the line about the weights begins.
pub(super) const WEIGHTS: &str = "Weights: ";

pub(super) fn body(run: &Run, set: &Path, words: &Words, members: &Members) -> Result<String> {
    let languages = members.languages();
    let title = words.title.clone();
    let title =
        title.unwrap_or_else(|| format!("Expert language models: {}", languages.join(", ")));
    let mut out = format!("# {}\n\n", escaped(&title));
    out += &format!(
        "{} expert language models for {} languages, a set made with xelm. Each expert is a whole model for \
         a group of languages, in a GGUF file of its own; a device needs `set.gguf` and the experts of its \
         user's languages only. The method is that of X-ELM (Blevins et al., EMNLP 2024): all experts branch \
         from one seed model and were trained independently of each other.\n\n",
        members.members.len(),
        languages.len()
    );
    out += &experts(members);
    out += &weights(members);
    out += &usage(members);
    out += &training(run, words, members)?;
    out += &evaluation(run, set);
    out += &quality(set);
    out += &limits(words, members);
    Ok(out)
}

fn experts(members: &Members) -> String {
    let head =
        ["expert", "languages", "file", "bytes", "branched from", "round", "tokens trained on"];
    let known = |n: Option<u64>| n.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    let rows = members.members.iter().map(|m| {
        let parent = if m.parent.is_empty() { "nothing" } else { &m.parent };
        vec![
            m.id.clone(),
            m.languages.join(", "),
            m.file.clone(),
            m.bytes.to_string(),
            parent.to_owned(),
            known(m.round.map(u64::from)),
            known(m.tokens),
        ]
    });
    format!("## Experts\n\n{}", table(&head, rows))
}

/// One line, found again when a set is quantised.
pub(super) fn weights(members: &Members) -> String {
    let stored = members.weights.as_deref().unwrap_or("unknown");
    let size = match (members.n_params, members.n_ctx) {
        (Some(n), Some(ctx)) => format!("; {n} parameters each, context of {ctx} tokens"),
        _ => String::new(),
    };
    format!("{WEIGHTS}{stored}{size}.\n\n")
}

fn usage(members: &Members) -> String {
    let Some(first) = members.members.first() else { return String::new() };
    let language = first.languages.first().map_or("LANGUAGE", String::as_str);
    let command = |words: &[&str]| {
        let quoted: Vec<String> = words.iter().map(|word| shell(word)).collect();
        format!("xelm {}\n", quoted.join(" "))
    };
    let commands = [
        command(&["generate", "--set", "DIR", "--lang", language, "--prompt", "TEXT"]),
        command(&["score", "--set", "DIR", "--lang", language, "--file", "TEXT"]),
        command(&["verify", "--set", "DIR"]),
    ];
    format!(
        "## Use\n\nWith xelm, where DIR is this folder:\n\n```sh\n{}```\n\nEach file alone is a model for every \
         program that reads GGUF, such as llama.cpp. C and C++ programs use `xelm.h`.\n\n",
        commands.concat()
    )
}

fn training(run: &Run, words: &Words, members: &Members) -> Result<String> {
    let mut out = String::from("## Training\n\n");
    let licence = words.data_licence.as_deref().unwrap_or("not stated");
    out += &format!("Licence of the data: {}.\n\n", escaped(licence));
    let folder = run.shared_path("tokens");
    let tokens = members.languages().into_iter().filter_map(|language| {
        let shard = TokenShard::open(&shard_path(&folder, &language, Split::Train)).ok()?;
        let n: usize = (0..shard.n_documents()).map(|i| shard.document(i).len()).sum();
        Some(vec![language, shard.n_documents().to_string(), n.to_string()])
    });
    let rows: Vec<Vec<String>> = tokens.collect();
    if !rows.is_empty() {
        out += &table(&["language", "training documents", "training tokens"], rows.into_iter());
    }
    let ids = members.members.iter().map(|m| m.id.clone());
    let rows: Vec<Vec<String>> = [SEED.to_owned(), DENSE.to_owned()]
        .into_iter()
        .chain(ids)
        .filter_map(|name| {
            let text = fs::read_to_string(run.job_folder(&name).join("job.json")).ok()?;
            let job: JobSpec = serde_json::from_str(&text).ok()?;
            let settings = job.settings;
            let numbers = [settings.steps, settings.batch as u64, settings.n_ctx as u64];
            let rate = format!("{:e}", settings.lr);
            let numbers = numbers.map(|n| n.to_string());
            Some(
                [name, job.languages.join(", ")].into_iter().chain(numbers).chain([rate]).collect(),
            )
        })
        .collect();
    if !rows.is_empty() {
        let head =
            ["job", "languages", "steps", "sequences a step", "tokens a sequence", "peak rate"];
        out += &table(&head, rows.into_iter());
    }
    let adapted = run.adapted()?;
    let added: Vec<Vec<String>> = adapted
        .into_iter()
        .filter(|a| members.members.iter().any(|m| m.id == a.id))
        .map(|a| vec![a.target, a.id, a.donor, a.parent, a.round.to_string()])
        .collect();
    if !added.is_empty() {
        out += "Languages that were added later:\n\n";
        let head = ["language", "expert", "donor", "branched from", "round"];
        out += &table(&head, added.into_iter());
    }
    Ok(out)
}

/// Bits per byte as `eval.json` has them; nothing where there is none.
fn evaluation(run: &Run, set: &Path) -> String {
    let eval = fs::read_to_string(run.path("eval.json")).unwrap_or_default();
    let eval: Value = serde_json::from_str(&eval).unwrap_or_default();
    let name = set.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let own = match name.strip_prefix(SET).and_then(|rest| rest.strip_prefix('-')) {
        Some(suffix) => format!("expert_{suffix}"),
        None => "expert".to_owned(),
    };
    let columns = [SEED, DENSE, own.as_str()];
    let number = |row: &Value, column: &str| {
        row[column].as_f64().map_or_else(|| "–".to_owned(), |bpb| format!("{bpb:.4}"))
    };
    let row = |name: &str, row: &Value| {
        std::iter::once(name.to_owned()).chain(columns.map(|c| number(row, c))).collect::<Vec<_>>()
    };
    let Some(languages) = eval["languages"].as_object().filter(|rows| !rows.is_empty()) else {
        return "## Evaluation\n\nNot evaluated yet.\n\n".to_owned();
    };
    let mut rows: Vec<Vec<String>> = languages.iter().map(|(name, r)| row(name, r)).collect();
    rows.push(row("mean", &eval["mean"]));
    let head = ["language", "seed", "dense model of as many tokens", "this set"];
    format!(
        "## Evaluation\n\nBits per UTF-8 byte of held-out text, final `</s>` included, each document from its \
         own beginning and cut at the context; lower is better. Measured on the packed files.\n\n{}",
        table(&head, rows.into_iter())
    )
}

/// What quantising has cost, as the set's `quality.json` has it; nothing where there is none.
fn quality(set: &Path) -> String {
    let lines = fs::read_to_string(set.join(QUALITY)).unwrap_or_default();
    let lines: Vec<QualityLine> = serde_json::from_str(&lines).unwrap_or_default();
    if lines.is_empty() {
        return String::new();
    }
    let head =
        ["expert", "language", "bits per weight", "perplexity before", "after", "KLD", "top 1"];
    let rows = lines.into_iter().map(|line| {
        vec![
            line.expert,
            line.language,
            format!("{:.3}", line.bits_per_weight),
            format!("{:.3}", line.ppl_before),
            format!("{:.3}", line.ppl),
            format!("{:.6}", line.kld),
            format!("{:.2} %", 100.0 * line.top1),
        ]
    });
    format!(
        "## Cost of quantising\n\nPerplexity per token of held-out text before and after; the mean \
         Kullback-Leibler divergence of the probabilities, in nats per token; the share of tokens at which both \
         find the same one most probable.\n\n{}",
        table(&head, rows)
    )
}

fn limits(words: &Words, members: &Members) -> String {
    let context = members.n_ctx.map_or_else(String::new, |n| {
        format!("- More than {n} tokens of text and prompt together are refused.\n")
    });
    let licence = match &words.licence {
        Some(licence) => format!("Licence of the models: {}.\n", escaped(licence)),
        None => {
            "The licence of the models is not stated: ask whoever made them before using them.\n"
                .to_owned()
        }
    };
    format!(
        "## Limits\n\n- These are base models: they continue text, and are not trained to follow instructions or \
         to refuse anything.\n- What they write may be false or offensive, as the text may be that they were \
         trained on.\n- A language without an expert is answered by that of a related one, or not at all.\n\
         {context}\n## Licence\n\n{licence}"
    )
}

/// A Markdown table.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let head: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
    let rule = "|---".repeat(head.len()) + "|\n";
    line(&head) + &rule + &rows.map(|row| line(&row)).collect::<String>() + "\n"
}

/// One line of text without control characters.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

/// Text that Markdown and HTML take for text.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in plain(text).chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '$' | '!' => {
                out.extend(['\\', c])
            }
            c => out.push(c),
        }
    }
    out
}

/// A word of a command line, quoted where a shell would take it for more.
fn shell(word: &str) -> String {
    let is_bare = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    if word.bytes().all(is_bare) {
        word.to_owned()
    } else {
        format!("'{}'", plain(word).replace('\'', "'\\''"))
    }
}
