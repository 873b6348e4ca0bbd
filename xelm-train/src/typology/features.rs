//! Typological features of languages, read from the tables in which they are published, and the distances
//! that follow from them.

use super::Distances;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use xelm_runtime::lang::{Nearness, Tag};

/// Features that tell languages apart, and their values.
#[derive(Clone, Debug)]
pub struct Features {
    /// The languages, as they were asked for.
    pub languages: Vec<String>,
    /// Names of the features.
    pub names: Vec<String>,
    /// Features of the file that were left out, being the same for all languages.
    pub n_constant: usize,
    /// By language, then by feature.
    values: Vec<Vec<Option<Value>>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Number(f64),
    /// One of several: as good as a vector that has a 1 in its place and 0 in all others.
    Category(String),
}

impl Value {
    fn product(&self, other: &Value) -> f64 {
        match (self, other) {
            (Value::Number(a), Value::Number(b)) => a * b,
            (a, b) => f64::from(u8::from(a == b)),
        }
    }
}

impl Features {
    /// Reads the features of `languages`, and of `also`, which do not decide what is constant.
    ///
    /// A file with a column for the parameter and one for the value is WALS's long form (CLDF's
    /// `values.csv`); where `languages.csv` lies beside it, codes are looked up there. Any other file has
    /// a row per language, first its code, then its features. Columns that have names like WALS's (`81A`)
    /// or hold something else than numbers are categories. Empty cells, `--` and NaN are unknown.
    ///
    /// # Errors
    /// The file cannot be read, lacks a language, or has fewer than `at_least` features of one.
    pub fn read(
        path: &Path,
        languages: &[String],
        also: &[String],
        at_least: usize,
    ) -> Result<Features> {
        let mut wanted = languages.to_vec();
        for language in also {
            if !wanted.contains(language) {
                wanted.push(language.clone());
            }
        }
        let table = Table::read(path, &wanted)?;
        let mut rows = Vec::new();
        let mut missing = Vec::new();
        for language in &wanted {
            match table.row(language) {
                Some(row) => rows.push(row),
                None => missing.push(language.as_str()),
            }
        }
        if !missing.is_empty() {
            return Err(Error::usage(format!(
                "{} has no row for {}: add one, or leave the language out",
                path.display(),
                missing.join(", ")
            )));
        }
        let of = |row: &Row, feature: &str| {
            let text = row.get(feature)?;
            let number = text.parse().ok().filter(|_| !table.categories.contains(feature));
            Some(number.map_or_else(|| Value::Category(text.clone()), Value::Number))
        };
        let all: BTreeSet<&String> = rows.iter().flat_map(|row| row.keys()).collect();
        let differs = |feature: &&&String| {
            let mut clustered = rows[..languages.len()].iter().map(|row| of(row, feature));
            let first = clustered.next();
            clustered.any(|value| Some(value) != first)
        };
        let names: Vec<String> = all.iter().filter(differs).map(|name| (*name).clone()).collect();
        let values = rows.iter().map(|row| names.iter().map(|name| of(row, name)).collect());
        let features = Features {
            n_constant: all.len() - names.len(),
            values: values.collect(),
            languages: wanted,
            names,
        };
        features.check(path, at_least)?;
        Ok(features)
    }

    fn check(&self, path: &Path, at_least: usize) -> Result<()> {
        let known = self.languages.iter().zip(self.known());
        let poor: Vec<String> = known
            .filter(|&(_, known)| known < at_least.max(1))
            .map(|(language, known)| format!("{language} ({known})"))
            .collect();
        if poor.is_empty() {
            return Ok(());
        }
        Err(Error::usage(format!(
            "{} has fewer than {} features of {}: leave the language out, or lower --min-features",
            path.display(),
            at_least.max(1),
            poor.join(", ")
        )))
    }

    /// Number of known features by language.
    pub fn known(&self) -> Vec<usize> {
        self.values.iter().map(|row| row.iter().flatten().count()).collect()
    }

    /// Number of features that are categories.
    pub fn n_categories(&self) -> usize {
        let is_category = |i: &usize| {
            let column = self.values.iter().filter_map(|row| row[*i].as_ref());
            column.take(1).any(|value| matches!(value, Value::Category(_)))
        };
        (0..self.names.len()).filter(is_category).count()
    }

    /// Cosine distances as in the X-ELM paper's code: the dot product runs over the features that both
    /// languages have, each norm over all that the language itself has. So a language of which little
    /// is known is far from all others.
    pub fn distances(&self) -> Distances {
        let n = self.languages.len();
        let dot = |a: &[Option<Value>], b: &[Option<Value>]| -> f64 {
            let shared =
                a.iter().zip(b).filter_map(|(a, b)| Some(a.as_ref()?.product(b.as_ref()?)));
            shared.sum()
        };
        let squares: Vec<f64> = self.values.iter().map(|row| dot(row, row)).collect();
        let mut values = vec![0.0; n * n];
        for a in 0..n {
            for b in (0..n).filter(|&b| b != a) {
                let norms = (squares[a] * squares[b]).sqrt();
                // Rounding may take equal rows a little below 0.
                let distance = 1.0 - dot(&self.values[a], &self.values[b]) / norms;
                values[a * n + b] = if norms > 0.0 { distance.max(0.0) } else { 1.0 };
            }
        }
        Distances { tags: self.languages.clone(), values }
    }
}

/// Known features of one row of a file, as text.
type Row = BTreeMap<String, String>;

/// What a file says of the languages that are wanted.
struct Table {
    /// By the file's code for the language.
    rows: BTreeMap<String, Row>,
    categories: BTreeSet<String>,
}

impl Table {
    fn read(path: &Path, wanted: &[String]) -> Result<Table> {
        let mut reader = reader(path)?;
        let wrong = |e: csv::Error| unreadable(path, &e.to_string());
        let header: Vec<String> =
            reader.headers().map_err(wrong)?.iter().map(|name| name.trim().to_owned()).collect();
        let mut table = Table { rows: BTreeMap::new(), categories: BTreeSet::new() };
        let long = LongForm::of(&header);
        let codes = if long.is_some() { language_codes(path)? } else { BTreeMap::new() };
        if long.is_none() && header.len() < 2 {
            return Err(unreadable(path, "it needs a column of languages and one of features"));
        }
        let mut seen = BTreeSet::new();
        for record in reader.records() {
            let record = record.map_err(wrong)?;
            let field = |i: usize| record.get(i).unwrap_or_default().trim();
            if let Some(LongForm { language, parameter, value }) = long {
                let code = codes.get(field(language)).map_or(field(language), String::as_str);
                table.categories.insert(field(parameter).to_owned());
                if is_known(field(value)) && is_wanted(code, wanted) {
                    let row = table.rows.entry(code.to_owned()).or_default();
                    row.entry(field(parameter).to_owned()).or_insert(field(value).to_owned());
                }
                continue;
            }
            let code = field(0);
            if !seen.insert(code.to_owned()) {
                return Err(unreadable(path, &format!("two rows begin with {code:?}")));
            }
            let known = (1..header.len()).filter(|&i| is_known(field(i)));
            let cells: Row = known.map(|i| (header[i].clone(), field(i).to_owned())).collect();
            for (name, text) in &cells {
                if is_wals_id(name) || !text.parse::<f64>().is_ok_and(f64::is_finite) {
                    table.categories.insert(name.clone());
                }
            }
            if is_wanted(code, wanted) {
                table.rows.insert(code.to_owned(), cells);
            }
        }
        Ok(table)
    }

    /// The row whose code is nearest to the language; of several, the one that knows most.
    fn row(&self, language: &str) -> Option<&Row> {
        let rows =
            self.rows.iter().filter_map(|(code, row)| Some((nearness(language, code)?, row)));
        rows.min_by_key(|(nearness, row)| (*nearness, usize::MAX - row.len())).map(|(_, row)| row)
    }
}

/// The columns of a file with one value per row.
#[derive(Clone, Copy)]
struct LongForm {
    language: usize,
    parameter: usize,
    value: usize,
}

impl LongForm {
    fn of(header: &[String]) -> Option<Self> {
        let find = |names: &[&str]| {
            names.iter().find_map(|name| header.iter().position(|h| h.eq_ignore_ascii_case(name)))
        };
        Some(LongForm {
            language: find(&["Language_ID", "Language", "lang", "ISO639P3code"])?,
            parameter: find(&["Parameter_ID", "Parameter", "Feature_ID", "Feature"])?,
            value: find(&["Value", "Value_Number", "Code_ID"])?,
        })
    }
}

/// The ISO 639-3 codes of a CLDF data set's own ids, where it lists them beside the values.
fn language_codes(values: &Path) -> Result<BTreeMap<String, String>> {
    let path = values.with_file_name("languages.csv");
    let mut codes = BTreeMap::new();
    if !path.exists() {
        return Ok(codes);
    }
    let wrong = |e: csv::Error| unreadable(&path, &e.to_string());
    let mut reader = reader(&path)?;
    let header = reader.headers().map_err(wrong)?.clone();
    let find = |name: &str| header.iter().position(|h| h.eq_ignore_ascii_case(name));
    if let (Some(id), Some(code)) = (find("ID"), find("ISO639P3code")) {
        for record in reader.records() {
            let record = record.map_err(wrong)?;
            if let (Some(id), Some(code)) = (record.get(id), record.get(code)) {
                codes.insert(id.to_owned(), code.to_owned());
            }
        }
    }
    Ok(codes)
}

/// A reader of comma- or tab-separated values: tabs if the header has one.
fn reader(path: &Path) -> Result<csv::Reader<File>> {
    let open = || File::open(path).map_err(Error::io("open", path));
    let mut header = Vec::new();
    BufReader::new(open()?).read_until(b'\n', &mut header).map_err(Error::io("read", path))?;
    let delimiter = if header.contains(&b'\t') { b'\t' } else { b',' };
    Ok(csv::ReaderBuilder::new().delimiter(delimiter).from_reader(open()?))
}

fn unreadable(path: &Path, what: &str) -> Error {
    Error::usage(format!("{} is no table of features: {what}", path.display()))
}

fn is_known(text: &str) -> bool {
    !(text.is_empty() || text == "--" || text.eq_ignore_ascii_case("nan"))
}

/// Whether a name is a number and one capital letter.
fn is_wals_id(name: &str) -> bool {
    let digits = name.strip_suffix(|c: char| c.is_ascii_uppercase()).unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// How near a row's code is to a language, where it is that language and not merely a relative.
fn nearness(language: &str, code: &str) -> Option<Nearness> {
    let nearness = Tag::new(language).ok()?.nearness(&Tag::new(code).ok()?)?;
    (nearness < Nearness::OtherForm).then_some(nearness)
}

fn is_wanted(code: &str, wanted: &[String]) -> bool {
    wanted.iter().any(|language| nearness(language, code).is_some())
}

#[cfg(test)]
mod tests;
