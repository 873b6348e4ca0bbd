//! Learning a vocabulary: XGLM's kind, a unigram model over normalised text.

mod charsmap;
pub mod sentencepiece;

pub use charsmap::charsmap;

use crate::corpus::{BadInput, Corpus, Documents, Skipped, Split, is_held_out};
use crate::{Error, Result};
use rayon::prelude::*;
use std::collections::HashMap;
use std::path::Path;
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use unicode_normalization::char::is_combining_mark;
use xelm_runtime::format::{AtomicFile, Writer};
use xelm_runtime::rng::philox;
use xelm_runtime::tokenizer::{Normalizer, SPACE, Vocabulary};

/// `general.architecture` of a file that holds a vocabulary alone.
pub const ARCH_VOCAB: &str = "xelm-vocab";

/// How to learn a vocabulary.
#[derive(Clone, Copy, Debug)]
pub struct VocabSettings {
    /// Tokens in all, the four special ones included.
    pub n_vocab: usize,
    /// Share of all characters that get pieces of their own; the rarest others become `<unk>`.
    pub character_coverage: f64,
    /// Characters of distinct words that are learnt from: a sample of the rare words stands for all.
    pub max_chars: usize,
    /// What to do with bad lines.
    pub bad_input: BadInput,
}

impl Default for VocabSettings {
    fn default() -> Self {
        VocabSettings {
            n_vocab: 16_000,
            character_coverage: 0.9995,
            max_chars: 1_000_000,
            bad_input: BadInput::Stop,
        }
    }
}

/// Longest piece, in characters (SentencePiece's default).
const MAX_PIECE: usize = 16;

/// Learns a vocabulary from the training files of a corpus. The result depends on the texts and the
/// settings alone.
///
/// # Errors
/// Unreadable files, bad lines, or too few texts for any vocabulary.
pub fn train(corpus: &Corpus, settings: &VocabSettings) -> Result<(Vocabulary, Vec<Skipped>)> {
    let charsmap = charsmap();
    let normalizer =
        Normalizer::new(&charsmap, true, true).map_err(Error::file(Path::new("charsmap")))?;
    let (words, skipped) = count_words(corpus, &normalizer, settings.bad_input)?;
    let words = select_words(words, settings);
    let pieces = learn(words, settings.n_vocab)?;
    Ok((Vocabulary::new(pieces, charsmap), skipped))
}

/// Writes a vocabulary as a file of its own.
///
/// # Errors
/// The file cannot be written.
pub fn save(vocabulary: &Vocabulary, path: &Path) -> Result<()> {
    let mut writer = Writer::new(ARCH_VOCAB);
    vocabulary.write(&mut writer).map_err(Error::file(path))?;
    let file = AtomicFile::create(path).map_err(Error::io("write", path))?;
    let body = writer.begin(file).map_err(Error::file(path))?;
    let file = body.finish().map_err(Error::file(path))?;
    file.commit().map_err(Error::io("write", path))
}

type Counts = HashMap<String, u64>;

fn count_words(
    corpus: &Corpus,
    normalizer: &Normalizer<'_>,
    bad_input: BadInput,
) -> Result<(Counts, Vec<Skipped>)> {
    let files: Vec<_> = corpus
        .languages
        .iter()
        .flat_map(|(language, files)| {
            let has_valid = files.iter().any(|f| f.split == Split::Valid);
            files.iter().map(move |file| (language, file, has_valid))
        })
        .filter(|(_, file, _)| file.split == Split::Train)
        .collect();
    let counted: Result<Vec<(Counts, Vec<Skipped>)>> = files
        .par_iter()
        .map(|(language, file, has_valid)| {
            let mut counts = Counts::new();
            let mut documents = Documents::open(file, language, bad_input)?;
            let mut normalized = Vec::new();
            for document in &mut documents {
                let text = document?.text;
                if !has_valid && is_held_out(&text) {
                    continue;
                }
                // A document is cut where a piece could not span anyway, to bound memory.
                normalized.resize(normalizer.normalized_len(text.as_bytes()), 0);
                let n = normalizer
                    .normalize(text.as_bytes(), &mut normalized)
                    .map_err(Error::file(&file.path))?;
                let text = std::str::from_utf8(&normalized[..n]).unwrap_or_default();
                for word in words(text) {
                    match counts.get_mut(word) {
                        Some(n) => *n += 1,
                        None => {
                            counts.insert(word.to_owned(), 1);
                        }
                    }
                }
            }
            Ok((counts, documents.skipped))
        })
        .collect();
    let mut all = Counts::new();
    let mut skipped = Vec::new();
    for (counts, bad) in counted? {
        for (word, n) in counts {
            *all.entry(word).or_default() += n;
        }
        skipped.extend(bad);
    }
    Ok((all, skipped))
}

/// Characters that no piece mixes with those of another kind.
#[derive(PartialEq, Eq, Clone, Copy)]
enum Kind {
    Space,
    Letter,
    Digit,
    Other,
}

fn kind(c: char) -> Kind {
    if SPACE.starts_with(c) {
        Kind::Space
    } else if c.is_numeric() {
        Kind::Digit
    } else if c.is_alphabetic() || is_combining_mark(c) || matches!(c, '\u{200c}' | '\u{200d}') {
        Kind::Letter
    } else {
        Kind::Other
    }
}

/// Splits normalised text before every `▁` and wherever the kind of character changes; a `▁` belongs
/// to what follows it. Each digit is a word of its own.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut previous = None;
        let end = rest.char_indices().find_map(|(i, c)| {
            let now = kind(c);
            let cut = previous.is_some_and(|before| {
                now == Kind::Space
                    || (before != Kind::Space && (before != now || now == Kind::Digit))
            });
            previous = Some(now);
            cut.then_some(i)
        });
        let (word, tail) = rest.split_at(end.unwrap_or(rest.len()));
        rest = tail;
        (!word.is_empty()).then_some(word)
    })
}

/// Drops the rarest characters, splitting words at them, samples the words that are left, and sorts.
fn select_words(words: Counts, settings: &VocabSettings) -> Vec<(String, u32)> {
    let mut characters: HashMap<char, u64> = HashMap::new();
    for (word, n) in &words {
        for c in word.chars() {
            *characters.entry(c).or_default() += n;
        }
    }
    let mut by_count: Vec<(char, u64)> = characters.into_iter().collect();
    by_count.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let total: u64 = by_count.iter().map(|(_, n)| n).sum();
    let mut covered = 0u64;
    let mut kept = HashMap::new();
    for (c, n) in by_count {
        if covered as f64 >= settings.character_coverage * total as f64 {
            break;
        }
        covered += n;
        kept.insert(c, n);
    }
    let mut selected = Counts::new();
    for (word, n) in words {
        for part in word.split(|c| !kept.contains_key(&c)).filter(|part| !part.is_empty()) {
            *selected.entry(part.to_owned()).or_default() += n;
        }
    }
    let mut selected = sample(selected, settings.max_chars);
    // Every kept character gets a piece, also one whose words were not drawn.
    for (c, n) in &kept {
        selected.entry(c.to_string()).or_insert(*n);
    }
    let mut selected: Vec<(String, u64)> = selected.into_iter().collect();
    selected.sort();
    selected.into_iter().map(|(word, n)| (word, u32::try_from(n).unwrap_or(u32::MAX))).collect()
}

/// Draws words until their characters are at most `max_chars`: with a threshold t, a word that occurs
/// n < t times is kept with probability n / t and then counts t times. Every language keeps its
/// weight, also one whose script has no spaces, so that nearly all of its "words" occur once.
fn sample(words: Counts, max_chars: usize) -> Counts {
    let n_chars = |words: &Counts| words.keys().map(|w| w.chars().count()).sum::<usize>();
    let mut threshold = 1u64;
    let mut drawn = words;
    while n_chars(&drawn) > max_chars && threshold < 1 << 40 {
        threshold *= 2;
        drawn = drawn
            .into_iter()
            .filter_map(|(word, n)| {
                let stays = uniform(&word, threshold) * (threshold as f64) < n as f64;
                stays.then(|| (word, n.max(threshold)))
            })
            .collect();
    }
    drawn
}

/// A number in [0, 1) that depends on the word and the draw alone.
fn uniform(word: &str, draw: u64) -> f64 {
    // FNV-1a gathers the bytes, Philox mixes them.
    let hash = word.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    f64::from(philox(hash, draw, [0x766f_6361, 0])[0]) / (1u64 << 32) as f64
}

/// Learns at most `n_vocab − 4` pieces with their scores, best first.
fn learn(words: Vec<(String, u32)>, n_vocab: usize) -> Result<Vec<(String, f32)>> {
    let too_few =
        |why: String| Error::usage(format!("cannot learn a vocabulary of {n_vocab} tokens: {why}"));
    let n_pieces = n_vocab.checked_sub(4).filter(|&n| n > 0);
    let n_pieces = n_pieces.ok_or_else(|| too_few("four are the special ones".into()))?;
    if words.is_empty() {
        return Err(too_few("the training files hold no text".into()));
    }
    let n_chars =
        words.iter().flat_map(|(w, _)| w.chars()).collect::<std::collections::HashSet<_>>().len();
    if n_chars > n_pieces {
        return Err(too_few(format!(
            "the texts have {n_chars} different characters; raise --vocab-size or lower \
             --character-coverage"
        )));
    }
    // The crate sums over its chunks of words in whatever order threads finish.
    tokenizers::utils::parallelism::set_parallelism(false);
    let trainer = UnigramTrainer::builder()
        .vocab_size(n_pieces as u32)
        .max_piece_length(MAX_PIECE)
        .show_progress(false)
        .build()
        .map_err(|e| too_few(e.to_string()))?;
    let mut model = Unigram::default();
    trainer.do_train(words, &mut model).map_err(|e| too_few(e.to_string()))?;
    Ok(sorted(model.iter().map(|(piece, score)| (piece.clone(), *score)).collect()))
}

/// Makes the learnt pieces independent of hash order. Characters that training had dropped come back
/// with scores at and above the lowest one, 1e-4 apart, handed out in the order of a hash map; here
/// they are handed out in the order of the characters.
fn sorted(mut pieces: Vec<(String, f64)>) -> Vec<(String, f32)> {
    const APART: f64 = 0.0001;
    pieces.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let lowest = pieces.last().map_or(0.0, |p| p.1);
    let mut penalty = 0.0;
    let mut returned = Vec::new();
    for i in (0..pieces.len()).rev() {
        // The same sums as the crate's, so the comparison is exact.
        if pieces[i].1 == lowest + penalty && pieces[i].0.chars().count() == 1 {
            returned.push(i);
            penalty += APART;
        }
    }
    let mut characters: Vec<String> = returned.iter().map(|&i| pieces[i].0.clone()).collect();
    characters.sort();
    for (&i, character) in returned.iter().zip(characters) {
        pieces[i].0 = character;
    }
    let mut pieces: Vec<(String, f32)> = pieces.into_iter().map(|(p, s)| (p, s as f32)).collect();
    pieces.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_where_pieces_end() {
        let cut = |text| words(text).collect::<Vec<_>>();
        assert_eq!(cut("▁Am▁7.▁Mai!▁▁x"), ["▁Am", "▁7", ".", "▁Mai", "!", "▁", "▁x"]);
        assert_eq!(cut("2024年の夏"), ["2", "0", "2", "4", "年の夏"]);
        assert_eq!(cut("▁हिन्दी"), ["▁हिन्दी"]);
        assert!(cut("").is_empty());
    }

    #[test]
    fn a_sample_of_words_keeps_the_weights() {
        let words: Counts =
            (0..40_000u64).map(|i| (format!("{i:05}"), 1 + (i % 97) / 90)).collect();
        let total: u64 = words.values().sum();
        let drawn = sample(words.clone(), 20_000);
        assert!(drawn.len() * 5 <= 20_000 && drawn.len() > 1500, "{}", drawn.len());
        let weight: u64 = drawn.values().sum();
        assert!((weight as f64 / total as f64 - 1.0).abs() < 0.06, "{weight} of {total}");
        assert_eq!(sample(words.clone(), usize::MAX), words);
    }

    #[test]
    fn returned_characters_get_their_scores_in_order() {
        let pieces = |order: [&str; 3]| {
            let mut penalty = 0.0;
            let mut pieces = vec![("ab".to_owned(), -1.0), ("a".to_owned(), -5.0)];
            for c in order {
                pieces.push((c.to_owned(), -9.0 + penalty));
                penalty += 0.0001;
            }
            sorted(pieces)
        };
        assert_eq!(pieces(["x", "y", "z"]), pieces(["z", "x", "y"]));
    }
}
