//! Reading documents, one at a time, from plain, gzip and Zstandard files.

use super::CorpusFile;
use crate::{Error, Result};
use serde::Deserialize;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use xelm_runtime::lang::Tag;

/// What to do with a line that is not valid UTF-8, not JSON, or not a record of a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadInput {
    /// End with an error that names file and line.
    #[default]
    Stop,
    /// Leave the line out and report it.
    Skip,
}

/// A document of a corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its text.
    pub text: String,
    /// The line of the file on which it begins, from 1.
    pub line: usize,
}

/// A line that was left out under [`BadInput::Skip`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

impl From<Skipped> for Error {
    fn from(Skipped { path, line, what }: Skipped) -> Self {
        Error::Corpus { path, line, what }
    }
}

/// The documents of one file in order.
pub struct Documents {
    lines: Box<dyn BufRead + Send>,
    path: String,
    language: String,
    is_json: bool,
    line: usize,
    bad_input: BadInput,
    /// Lines left out so far.
    pub skipped: Vec<Skipped>,
}

impl std::fmt::Debug for Documents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Documents").field("path", &self.path).field("line", &self.line).finish()
    }
}

/// A line of a `.jsonl` file: mC4's record. Other fields are ignored.
#[derive(Deserialize)]
struct Record {
    text: String,
    lang: Option<String>,
}

impl Documents {
    /// Opens a file.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(file: &CorpusFile, language: &str, bad_input: BadInput) -> Result<Documents> {
        let path: &Path = &file.path;
        let input = File::open(path).map_err(Error::io("open", path))?;
        let name = path.to_string_lossy();
        let bytes: Box<dyn Read + Send> = if name.ends_with(".gz") {
            Box::new(flate2::read::MultiGzDecoder::new(input))
        } else if name.ends_with(".zst") {
            Box::new(zstd::Decoder::new(input).map_err(Error::io("decompress", path))?)
        } else {
            Box::new(input)
        };
        Ok(Documents {
            lines: Box::new(BufReader::with_capacity(1 << 16, bytes)),
            path: name.clone().into_owned(),
            language: language.to_owned(),
            is_json: !name.ends_with(".txt"),
            line: 0,
            bad_input,
            skipped: Vec::new(),
        })
    }

    /// The next line without its end; `None` at the end of the file.
    fn next_line(&mut self) -> Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let read = self.lines.read_until(b'\n', &mut line);
        let n = read.map_err(Error::io("read", Path::new(&self.path)))?;
        self.line += 1;
        while line.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
            line.pop();
        }
        // A byte order mark opens some files.
        if self.line == 1 && line.starts_with("\u{feff}".as_bytes()) {
            line.drain(..3);
        }
        Ok((n > 0).then_some(line))
    }

    fn record(&self, line: &[u8]) -> std::result::Result<String, String> {
        let line = std::str::from_utf8(line).map_err(|_| "not valid UTF-8".to_owned())?;
        let record: Record = serde_json::from_str(line).map_err(|e| {
            let text = e.to_string();
            // The position within the line is the only line there is.
            format!("not a JSON record with a \"text\": {}", text.replace("line 1 ", ""))
        })?;
        if let Some(lang) = &record.lang {
            let same = |a, b| Some(Tag::new(a).ok()?.matches(&Tag::new(b).ok()?));
            if same(lang, &self.language) != Some(true) {
                return Err(format!(
                    "the record's \"lang\" is {lang:?}, the file's language {:?}",
                    self.language
                ));
            }
        }
        Ok(record.text)
    }

    /// The next document, good or bad, with its line; `None` at the end of the file.
    fn next_any(&mut self) -> Result<Option<(usize, std::result::Result<String, String>)>> {
        if self.is_json {
            while let Some(line) = self.next_line()? {
                if !line.trim_ascii().is_empty() {
                    return Ok(Some((self.line, self.record(&line))));
                }
            }
            return Ok(None);
        }
        // Plain text: documents are separated by blank lines.
        let mut text = Vec::new();
        let mut first = 0;
        while let Some(line) = self.next_line()? {
            if !line.trim_ascii().is_empty() {
                if text.is_empty() {
                    first = self.line;
                } else {
                    text.push(b'\n');
                }
                text.extend_from_slice(&line);
            } else if !text.is_empty() {
                break;
            }
        }
        let text = String::from_utf8(text).map_err(|_| "not valid UTF-8".to_owned());
        Ok((first > 0).then_some((first, text)))
    }
}

impl Iterator for Documents {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        loop {
            let (line, what) = match self.next_any() {
                Err(error) => return Some(Err(error)),
                Ok(None) => return None,
                Ok(Some((line, Ok(text)))) => {
                    // A record without text is a document without tokens: nothing to learn.
                    if text.trim().is_empty() {
                        continue;
                    }
                    return Some(Ok(Document { text, line }));
                }
                Ok(Some((line, Err(what)))) => (line, what),
            };
            let skipped = Skipped { path: self.path.clone(), line, what };
            match self.bad_input {
                BadInput::Stop => return Some(Err(skipped.into())),
                BadInput::Skip => self.skipped.push(skipped),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::Split;
    use std::io::Write;

    fn read(
        name: &str,
        bytes: &[u8],
        bad_input: BadInput,
    ) -> (Vec<Document>, Vec<Skipped>, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let file = CorpusFile { path, split: Split::Train };
        let mut documents = Documents::open(&file, "de", bad_input).unwrap();
        let mut good = Vec::new();
        let mut error = String::new();
        for document in &mut documents {
            match document {
                Ok(document) => good.push(document),
                Err(e) => {
                    error = e.to_string();
                    break;
                }
            }
        }
        (good, documents.skipped, error)
    }

    #[test]
    fn plain_text_is_split_at_blank_lines() {
        let (documents, ..) =
            read("de.txt", "\u{feff}eins\r\nzwei\n\n \n\ndrei\n".as_bytes(), BadInput::Stop);
        let expected = [("eins\nzwei", 1), ("drei", 6)];
        assert_eq!(documents.len(), 2);
        for (document, (text, line)) in documents.iter().zip(expected) {
            assert_eq!((document.text.as_str(), document.line), (text, line));
        }
        assert!(read("de.txt", b"", BadInput::Stop).0.is_empty());
    }

    #[test]
    fn bad_lines_stop_or_are_skipped() {
        let bytes = b"{\"text\":\"a\",\"url\":1}\n{\"text\": 5}\n\n\xff\n{\"text\":\"b\",\"lang\":\"fr\"}\n\
            {\"text\":\"c\",\"lang\":\"deu\"}\nno json\n{\"text\":\"  \"}\n{\"text\":\"d\"}";
        let (documents, _, error) = read("de.jsonl", bytes, BadInput::Stop);
        assert_eq!(documents.len(), 1);
        assert!(error.contains("de.jsonl:2:"), "{error}");
        let (documents, skipped, _) = read("de.jsonl", bytes, BadInput::Skip);
        let texts: Vec<_> = documents.iter().map(|d| d.text.as_str()).collect();
        assert_eq!(texts, ["a", "c", "d"]);
        assert_eq!(skipped.iter().map(|s| s.line).collect::<Vec<_>>(), [2, 4, 5, 7]);
        assert_eq!(skipped[1].what, "not valid UTF-8");
    }

    #[test]
    fn compressed_files() {
        let text = b"{\"text\":\"a\"}\n{\"text\":\"b\"}\n";
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(text).unwrap();
        // Two members, as concatenated downloads have.
        let mut two = gz.finish().unwrap();
        two.extend(two.clone());
        assert_eq!(read("de.jsonl.gz", &two, BadInput::Stop).0.len(), 4);
        let zst = zstd::encode_all(&text[..], 3).unwrap();
        assert_eq!(read("de.jsonl.zst", &zst, BadInput::Stop).0.len(), 2);
        let (_, _, error) = read("de.jsonl.zst", &zst[..zst.len() - 4], BadInput::Skip);
        assert!(error.starts_with("cannot read"), "{error}");
        let (_, _, error) = read("de.jsonl.gz", b"not gzip", BadInput::Skip);
        assert!(error.starts_with("cannot read"), "{error}");
    }
}
