//! Reading the tests' own files: tab-separated, a header on the first line, quotation marks as they are.

use super::{Example, Task};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use xelm_runtime::lang::Tag;

/// Examples by language, in file order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examples {
    /// Language → examples.
    pub languages: BTreeMap<String, Vec<Example>>,
    /// Rows left out because a sentence is marked as not translated (`NS`).
    pub left_out: usize,
}

/// Sentences that PAWS-X could not have translated.
const NOT_A_SENTENCE: &str = "NS";

/// Reads the files of a test; a folder stands for all of its `.tsv` files. Where the rows do not name their
/// language, it is the part of two letters of the file's name (`zh.test_2k.tsv`,
/// `spring2016.val.en.tsv`), or the folder's name.
///
/// # Errors
/// A file cannot be read, or the line that is not a row of the test.
pub fn read_examples(task: Task, paths: &[PathBuf]) -> Result<Examples> {
    let mut found = Examples::default();
    for path in paths {
        for file in files(path)? {
            let text = std::fs::read_to_string(&file).map_err(Error::io("read", &file))?;
            parse(task, &file, &text, &mut found)?;
        }
    }
    if found.languages.values().all(Vec::is_empty) {
        return Err(Error::usage(format!("no examples of {} were found", task.name())));
    }
    Ok(found)
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).map_err(Error::io("read", path))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "tsv"));
    files.sort();
    Ok(files)
}

/// A row: the fields that were asked for, in that order.
struct Row<'a> {
    line: usize,
    language: Option<&'a str>,
    fields: Vec<&'a str>,
}

fn wrong(path: &Path, line: usize, what: impl std::fmt::Display) -> Error {
    Error::usage(format!("{}:{line}: {what}", path.display()))
}

/// The rows of a file with the columns `wanted`, and `language` where it has one.
fn rows<'a>(path: &Path, text: &'a str, wanted: &[&str]) -> Result<Vec<Row<'a>>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines =
        text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).enumerate();
    let header: Vec<&str> = lines.next().map_or(Vec::new(), |(_, line)| line.split('\t').collect());
    let column = |name: &str| header.iter().position(|&column| column == name);
    let mut columns = Vec::new();
    for &name in wanted {
        columns.push(column(name).ok_or_else(|| {
            wrong(
                path,
                1,
                format_args!("the header names no column {name:?}: is it another test's file?"),
            )
        })?);
    }
    let language = column("language");
    let mut rows = Vec::new();
    for (i, line) in lines.filter(|(_, line)| !line.is_empty()) {
        let all: Vec<&str> = line.split('\t').collect();
        if all.len() != header.len() {
            let (n, of) = (all.len(), header.len());
            return Err(wrong(path, i + 1, format_args!("{n} columns, but the header has {of}")));
        }
        let fields: Vec<&str> = columns.iter().map(|&c| all[c].trim()).collect();
        if let Some(empty) = fields.iter().position(|field| field.is_empty()) {
            return Err(wrong(
                path,
                i + 1,
                format_args!("the column {:?} is empty", wanted[empty]),
            ));
        }
        rows.push(Row { line: i + 1, language: language.map(|c| all[c]), fields });
    }
    Ok(rows)
}

/// The language that a file's name or folder tells.
fn language_of(path: &Path) -> Option<&str> {
    let is_language = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_lowercase());
    let name = path.file_name()?.to_str()?;
    let in_name = name.split('.').find(is_language);
    in_name.or_else(|| path.parent()?.file_name()?.to_str().filter(is_language))
}

fn parse(task: Task, path: &Path, text: &str, found: &mut Examples) -> Result<()> {
    let wanted: &[&str] = match task {
        Task::Xnli => &["gold_label", "sentence1", "sentence2"],
        Task::XStoryCloze => &[
            "AnswerRightEnding",
            "RandomFifthSentenceQuiz1",
            "RandomFifthSentenceQuiz2",
            "InputSentence1",
            "InputSentence2",
            "InputSentence3",
            "InputSentence4",
        ],
        Task::PawsX => &["label", "sentence1", "sentence2"],
    };
    for Row { line, language, fields } in rows(path, text, wanted)? {
        let language = language.or_else(|| language_of(path)).ok_or_else(|| {
            wrong(path, line, "the language is unknown: name the file <language>.tsv")
        })?;
        Tag::new(language).map_err(|e| wrong(path, line, format_args!("{language:?}: {e}")))?;
        if task == Task::PawsX && fields[1..].contains(&NOT_A_SENTENCE) {
            found.left_out += 1;
            continue;
        }
        let example = match task {
            Task::XStoryCloze => story(line, &fields),
            _ => pair(task, line, &fields),
        };
        let example = example.ok_or_else(|| {
            wrong(path, line, format_args!("{:?} is no {}", fields[0], wanted[0]))
        })?;
        found.languages.entry(language.to_owned()).or_default().push(example);
    }
    Ok(())
}

/// Two sentences and what they are to each other, put as a question and its answer. The words are English in
/// every language.
fn pair(task: Task, line: usize, fields: &[&str]) -> Option<Example> {
    let (first, second) = (fields[1], fields[2]);
    let (labels, words): (&[&str], &[&str]) = match task {
        Task::PawsX => (&["0", "1"], &["No", "Yes"]),
        _ => (&["entailment", "neutral", "contradiction"], &["Yes", "Also", "No"]),
    };
    Some(Example {
        line,
        shared: format!("{first}, right?"),
        candidates: words.iter().map(|word| format!("{word}, {second}")).collect(),
        gold: labels.iter().position(|&label| label == fields[0])?,
        routing: format!("{first} {second}"),
    })
}

/// A story and its two endings.
fn story(line: usize, fields: &[&str]) -> Option<Example> {
    let story = fields[3..].join(" ");
    Some(Example {
        line,
        shared: story.clone(),
        candidates: fields[1..3].iter().map(|&ending| ending.to_owned()).collect(),
        gold: ["1", "2"].iter().position(|&answer| answer == fields[0])?,
        routing: story,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(task: Task, name: &str, text: &str) -> Result<Examples> {
        let mut found = Examples::default();
        parse(task, Path::new(name), text, &mut found).map(|()| found)
    }

    #[test]
    fn xnli() {
        let text = "\u{feff}language\tgold_label\tsentence1\tsentence2\tx\r\n\
                    sw\tneutral\tA \"b\".\tC.\t\r\nde\tcontradiction\tD\tE\t1\r\n\
                    sw\tentailment\tF\tG\t\r\n";
        let found = read(Task::Xnli, "xnli.dev.tsv", text).unwrap();
        assert_eq!(found.languages.keys().collect::<Vec<_>>(), ["de", "sw"]);
        let example = &found.languages["sw"][0];
        assert_eq!(example.shared, "A \"b\"., right?");
        assert_eq!(example.candidates, ["Yes, C.", "Also, C.", "No, C."]);
        assert_eq!((example.gold, example.line), (1, 2));
        assert_eq!(example.routing, "A \"b\". C.");
        assert_eq!(example.solved(), "A \"b\"., right? Also, C.");
        assert_eq!(found.languages["sw"][1].gold, 0);
        assert_eq!(found.languages["de"][0].gold, 2);
    }

    #[test]
    fn stories() {
        let header = "InputStoryid\tInputSentence1\tInputSentence2\tInputSentence3\tInputSentence4\t\
                      RandomFifthSentenceQuiz1\tRandomFifthSentenceQuiz2\tAnswerRightEnding";
        let text = format!("{header}\nid\tA.\tB.\tC.\tD.\tE.\tF.\t2\n");
        let found = read(Task::XStoryCloze, "spring2016.val.en.tsv.split_20_80_eval.tsv", &text);
        let found = found.unwrap();
        let example = &found.languages["en"][0];
        assert_eq!((example.shared.as_str(), example.gold), ("A. B. C. D.", 1));
        assert_eq!(example.candidates, ["E.", "F."]);
        assert_eq!(example.routing, example.shared);
    }

    #[test]
    fn paraphrases() {
        let text = "id\tsentence1\tsentence2\tlabel\n1\tA\t\"B\" b\t1\n2\tNS\tC\t0\n3\tD\tE\t0\n";
        for name in ["zh.test_2k.tsv", "x-final/zh/test_2k.tsv"] {
            let found = read(Task::PawsX, name, text).unwrap();
            assert_eq!(found.left_out, 1);
            let examples = &found.languages["zh"];
            assert_eq!(examples[0].candidates, ["No, \"B\" b", "Yes, \"B\" b"]);
            assert_eq!(examples.iter().map(|e| e.gold).collect::<Vec<_>>(), [1, 0]);
        }
    }

    #[test]
    fn broken_rows_are_named() {
        let header = "language\tgold_label\tsentence1\tsentence2\n";
        for (rows, error) in [
            ("en\tneutral\tA\tB\nen\tneutral\tA\n", "f.tsv:3: 3 columns, but the header has 4"),
            ("en\tmaybe\tA\tB\n", "f.tsv:2: \"maybe\" is no gold_label"),
            ("en\tneutral\t \tB\n", "f.tsv:2: the column \"sentence1\" is empty"),
            ("e_n\tneutral\tA\tB\n", "f.tsv:2: \"e_n\""),
        ] {
            let said = read(Task::Xnli, "f.tsv", &format!("{header}{rows}")).unwrap_err();
            assert!(said.to_string().starts_with(error), "{said}");
        }
        let said = read(Task::PawsX, "f.tsv", header).unwrap_err().to_string();
        assert!(said.contains("no column \"label\""), "{said}");
        let text = "id\tsentence1\tsentence2\tlabel\n1\tA\tB\t1\n";
        let said = read(Task::PawsX, "f.tsv", text).unwrap_err().to_string();
        assert!(said.contains("language is unknown"), "{said}");
        assert!(read(Task::Xnli, "f.tsv", "").is_err());
    }
}
