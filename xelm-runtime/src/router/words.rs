//! The words of a text that arrives in pieces, looked up character by character while they grow.
//!
//! No word is ever stored: what grows is a [`Lexicon`]'s node. So a word may be as long as it likes, may be
//! cut by the pieces anywhere, and costs one step per character.

use super::classes::RUNS;

/// What counts as a word; fitting and routing must use the same rule (`docs/formats.md`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// Words keep their combining marks; scripts without spaces give characters and pairs of characters.
    #[default]
    Unicode,
    /// Python's `str.lower` and the pattern `(?u)\b\w\w+\b`, as scikit-learn and the X-ELM paper have it.
    Sklearn,
}

impl Rule {
    /// The name in files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Rule::Unicode => "unicode",
            Rule::Sklearn => "sklearn",
        }
    }

    /// The rule with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Rule::Unicode, Rule::Sklearn].into_iter().find(|rule| rule.name() == name)
    }
}

/// Where growing words are looked up: a trie in the runtime, a buffer where words are collected.
pub trait Lexicon {
    /// The beginning of a word.
    type Node: Copy;
    /// The empty beginning.
    fn root(&self) -> Option<Self::Node>;
    /// A beginning with one more (lower-case) character; `None` where nothing begins like it.
    fn step(&mut self, node: Self::Node, c: char) -> Option<Self::Node>;
    /// A word ended here.
    fn found(&mut self, node: Self::Node);
}

/// The state of a text between two of its characters.
#[derive(Clone, Copy, Debug)]
pub struct Words<N> {
    /// Characters of the growing word, as far as two.
    n_chars: u8,
    /// The growing word; `None` where it cannot become one that counts.
    word: Option<N>,
    /// [`Rule::Sklearn`]: a capital sigma whose lower case is not decided yet.
    sigma: Sigma<N>,
    /// [`Rule::Sklearn`]: whether the last character that is not case-ignorable has a case.
    after_cased: bool,
    /// [`Rule::Unicode`]: the character just before, if it is of a script without spaces.
    neighbour: Option<N>,
}

/// Σ becomes ς behind a cased character unless a cased character follows, case-ignorable characters
/// between them not counting. Those may end the word and even begin others before the answer is known.
#[derive(Clone, Copy, Debug)]
enum Sigma<N> {
    Decided,
    /// It is in the growing word, which has σ; with ς it is this.
    Growing(Option<N>),
    /// It is in a word that has ended.
    Ended {
        medial: Option<N>,
        last: Option<N>,
    },
}

impl<N: Copy> Default for Words<N> {
    fn default() -> Self {
        Words { n_chars: 0, word: None, sigma: Sigma::Decided, after_cased: false, neighbour: None }
    }
}

impl<N: Copy> Words<N> {
    /// Takes the next piece of the text. Pieces may cut words, and give what the whole would.
    pub fn feed<L: Lexicon<Node = N>>(&mut self, rule: Rule, lexicon: &mut L, text: &str) {
        for c in text.chars() {
            match rule {
                Rule::Unicode => self.unicode(lexicon, c),
                Rule::Sklearn => self.sklearn(lexicon, c),
            }
        }
    }

    /// Finds the words that are still open, as if the text ended here.
    pub fn finish<L: Lexicon<Node = N>>(mut self, lexicon: &mut L) {
        // An earlier word first: it may have ended while its sigma was open.
        self.decide_sigma(lexicon, false);
        self.end_word(lexicon);
    }

    fn unicode<L: Lexicon<Node = N>>(&mut self, lexicon: &mut L, c: char) {
        let class = class(c);
        if class & UNSEGMENTED != 0 {
            self.end_word(lexicon);
            let pair = self.neighbour.and_then(|before| lexicon.step(before, c));
            self.neighbour = lexicon.root().and_then(|root| lexicon.step(root, c));
            for node in pair.into_iter().chain(self.neighbour) {
                lexicon.found(node);
            }
            return;
        }
        self.neighbour = None;
        // A mark belongs to the word before it; it begins none.
        if class & WORD != 0 || (class & MARK != 0 && self.n_chars > 0) {
            self.push(lexicon, class, fold(c));
        } else {
            self.end_word(lexicon);
        }
    }

    fn sklearn<L: Lexicon<Node = N>>(&mut self, lexicon: &mut L, c: char) {
        let class = class(c);
        let ignorable = class & IGNORABLE != 0;
        if !ignorable {
            self.decide_sigma(lexicon, class & CASED != 0);
        }
        if class & WORD == 0 {
            self.end_word(lexicon);
        } else if c == 'Σ' && self.after_cased {
            let last = self.word.and_then(|word| lexicon.step(word, 'ς'));
            self.push(lexicon, class, 'σ');
            self.sigma = Sigma::Growing(last);
        } else {
            self.push(lexicon, class, lower(c));
            // The lower case of this letter is i and U+0307, which is not a letter.
            if c == 'İ' {
                self.end_word(lexicon);
            }
        }
        if !ignorable {
            self.after_cased = class & CASED != 0;
        }
    }

    fn push<L: Lexicon<Node = N>>(&mut self, lexicon: &mut L, class: u8, c: char) {
        if self.n_chars == 0 {
            // Words that begin with a digit are numbers: they grow, but towards nothing.
            self.word = if class & DIGIT == 0 { lexicon.root() } else { None };
        }
        self.n_chars = self.n_chars.saturating_add(1).min(2);
        self.word = self.word.and_then(|word| lexicon.step(word, c));
        if let Sigma::Growing(last) = &mut self.sigma {
            *last = last.and_then(|word| lexicon.step(word, c));
        }
    }

    fn end_word<L: Lexicon<Node = N>>(&mut self, lexicon: &mut L) {
        let word = self.word.take().filter(|_| self.n_chars > 1);
        self.n_chars = 0;
        if let Sigma::Growing(last) = self.sigma {
            self.sigma = Sigma::Ended { medial: word, last: word.and(last) };
        } else if let Some(word) = word {
            lexicon.found(word);
        }
    }

    fn decide_sigma<L: Lexicon<Node = N>>(&mut self, lexicon: &mut L, cased_follows: bool) {
        match core::mem::replace(&mut self.sigma, Sigma::Decided) {
            Sigma::Decided => {}
            Sigma::Growing(last) if !cased_follows => self.word = last,
            Sigma::Growing(_) => {}
            Sigma::Ended { medial, last } => {
                if let Some(word) = if cased_follows { medial } else { last } {
                    lexicon.found(word);
                }
            }
        }
    }
}

/// A letter or a number (general categories L* and N*), or `_`.
const WORD: u8 = 1;
/// A combining mark (M*).
const MARK: u8 = 2;
/// A digit in any script, superscripts included (Numeric_Type Decimal or Digit).
const DIGIT: u8 = 4;
/// It has a case and is not case-ignorable.
const CASED: u8 = 8;
/// It does not separate a sigma from the letters around it.
const IGNORABLE: u8 = 16;
/// Of a script that is written without spaces.
const UNSEGMENTED: u8 = 32;

fn class(c: char) -> u8 {
    let c = u32::from(c);
    // The first run begins at 0, so there is always one.
    let run = RUNS.partition_point(|&run| run >> 8 <= c).saturating_sub(1);
    RUNS.get(run).map_or(0, |&run| run as u8)
}

/// Python's `str.lower` of one letter, first character: later versions of Unicode add letters, but do not
/// change the case of old ones.
fn lower(c: char) -> char {
    c.to_lowercase().next().unwrap_or(c)
}

/// The lower case under [`Rule::Unicode`]: one character for one, and one sigma.
fn fold(c: char) -> char {
    if c == 'ς' { 'σ' } else { lower(c) }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")]
mod tests {
    use super::super::classes::CHECKSUM;
    use super::*;
    use std::string::String;
    use std::vec::Vec;

    /// Collects words: a node is a range of `text`.
    #[derive(Default)]
    struct Collect {
        text: Vec<char>,
        words: Vec<String>,
    }

    impl Lexicon for Collect {
        type Node = (usize, usize);
        fn root(&self) -> Option<(usize, usize)> {
            Some((self.text.len(), self.text.len()))
        }
        fn step(&mut self, (start, end): (usize, usize), c: char) -> Option<(usize, usize)> {
            let at = self.text.len();
            self.text.extend_from_within(start..end);
            self.text.push(c);
            Some((at, self.text.len()))
        }
        fn found(&mut self, (start, end): (usize, usize)) {
            self.words.push(self.text[start..end].iter().collect());
        }
    }

    fn words(rule: Rule, text: &str) -> Vec<String> {
        let mut collect = Collect::default();
        let mut state = Words::default();
        // One character at a time: the hardest way to cut.
        for c in text.chars() {
            state.feed(rule, &mut collect, c.encode_utf8(&mut [0; 4]));
        }
        state.finish(&mut collect);
        let mut whole = Collect::default();
        let mut state = Words::default();
        state.feed(rule, &mut whole, text);
        state.finish(&mut whole);
        assert_eq!(whole.words, collect.words);
        whole.words
    }

    /// The whole table, and core's lower case, against a checksum that Python computed.
    #[test]
    fn every_character_is_what_python_says() {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let mut mix =
            |number: u32| hash = (hash ^ u64::from(number)).wrapping_mul(0x0100_0000_01b3);
        for c in '\0'..=char::MAX {
            let class = class(c);
            mix(u32::from(class));
            if class & WORD != 0 {
                c.to_lowercase().for_each(|c| mix(u32::from(c)));
            }
        }
        assert_eq!(hash, CHECKSUM);
    }

    #[test]
    fn words_as_in_python() {
        let words = |text| words(Rule::Sklearn, text).join(" ");
        assert_eq!(words("The quick, x brown FOX_1 jumps."), "the quick brown fox_1 jumps");
        // Numbers go; what only contains digits stays.
        assert_eq!(words("3rd x2 ½x ²x ٣٤ 42 a1b"), "x2 ½x a1b");
        // Combining marks are no letters; a capital I with dot becomes two characters.
        assert_eq!(words("हिन्दी भाषा में İstanbul DİL"), "stanbul di");
        assert_eq!(words("中文文本 ab\u{a0}cd"), "中文文本 ab cd");
    }

    #[test]
    fn capital_sigma_as_in_python() {
        let words = |text| words(Rule::Sklearn, text).join(" ");
        assert_eq!(words("ΟΔΟΣ ΣΟΦΟΣ. ΣΣ"), "οδος σοφος σς");
        // Case-ignorable characters do not count, wherever the word ends.
        assert_eq!(words("ΑΒΣ.Γ ΑΒΣ. Γ ΑΒΣ'1"), "αβσ αβς αβς");
        assert_eq!(words("ΑΒΣʰ.ʰʰ:ʰΑ"), "ʰʰ αβσʰ ʰα");
        assert_eq!(words("ΑΒΣʰ.ʰʰ"), "αβςʰ ʰʰ");
        assert_eq!(words("1ΑΣ ΑΒΣ"), "αβς");
    }

    #[test]
    fn words_with_marks_and_scripts_without_spaces() {
        let words = |text| words(Rule::Unicode, text).join(" ");
        assert_eq!(words("हिन्दी भाषा में है"), "हिन्दी भाषा में है");
        assert_eq!(words("ΟΔΟΣ Οδός İstanbul"), "οδοσ οδόσ istanbul");
        assert_eq!(words("ab日本語cd x"), "ab 日 日本 本 本語 語 cd");
        assert_eq!(words("コーヒー"), "コ コー ー ーヒ ヒ ヒー ー");
        // A mark begins no word; digits are no characters of their own.
        assert_eq!(words("\u{2764}\u{fe0f}abc 3rd ๑๒ กก"), "abc ก กก ก");
    }

    #[test]
    fn nothing() {
        for rule in [Rule::Unicode, Rule::Sklearn] {
            assert!(words(rule, "").is_empty() && words(rule, " . \u{301} a b").is_empty());
            assert_eq!(Rule::from_name(rule.name()), Some(rule));
        }
        assert_eq!(Rule::from_name("other"), None);
    }
}
