//! Language tags (BCP 47) and their lookup (RFC 4647 §3.4).

use crate::error::{Error, Result};

/// Longest tag that is looked at, in bytes.
pub const MAX_TAG: usize = 35;

/// Two spellings of a language, the second being the one used here: former ISO 639-1 codes,
/// three-letter codes of languages with two-letter ones, and macrolanguage members that stand for
/// their macrolanguage in text.
const ALIASES: &[(&str, &str)] = &[
    ("iw", "he"),
    ("in", "id"),
    ("ji", "yi"),
    ("jw", "jv"),
    ("mo", "ro"),
    ("sh", "sr"),
    ("tl", "fil"),
    ("no", "nb"),
    ("cmn", "zh"),
    ("yue", "zh"),
    ("arb", "ar"),
    ("ara", "ar"),
    ("aze", "az"),
    ("azj", "az"),
    ("bul", "bg"),
    ("deu", "de"),
    ("ger", "de"),
    ("ell", "el"),
    ("gre", "el"),
    ("eng", "en"),
    ("spa", "es"),
    ("est", "et"),
    ("ekk", "et"),
    ("eus", "eu"),
    ("pes", "fa"),
    ("fas", "fa"),
    ("fin", "fi"),
    ("fra", "fr"),
    ("fre", "fr"),
    ("heb", "he"),
    ("hin", "hi"),
    ("ind", "id"),
    ("ita", "it"),
    ("jpn", "ja"),
    ("kor", "ko"),
    ("zsm", "ms"),
    ("mya", "my"),
    ("nob", "nb"),
    ("nld", "nl"),
    ("pol", "pl"),
    ("por", "pt"),
    ("rus", "ru"),
    ("swe", "sv"),
    ("swa", "sw"),
    ("swh", "sw"),
    ("tha", "th"),
    ("tur", "tr"),
    ("urd", "ur"),
    ("vie", "vi"),
    ("zho", "zh"),
    ("chi", "zh"),
];

/// A well-formed language tag, in the case that BCP 47 recommends nowhere needed: comparison ignores
/// case and takes `_` for `-`.
#[derive(Clone, Copy, Debug)]
pub struct Tag<'a>(&'a str);

impl<'a> Tag<'a> {
    /// Checks the form: subtags of 1 to 8 letters or digits, the first of 2 to 8 letters.
    ///
    /// # Errors
    /// [`Error::BadLanguageTag`].
    pub fn new(text: &'a str) -> Result<Self> {
        let first = text.split(['-', '_']).next().unwrap_or("");
        let well_formed = text.len() <= MAX_TAG
            && (2..=8).contains(&first.len())
            && first.bytes().all(|b| b.is_ascii_alphabetic())
            && text.split(['-', '_']).all(|subtag| {
                (1..=8).contains(&subtag.len()) && subtag.bytes().all(|b| b.is_ascii_alphanumeric())
            });
        if well_formed { Ok(Tag(text)) } else { Err(Error::BadLanguageTag) }
    }

    /// The tag as it was given.
    pub fn as_str(&self) -> &'a str {
        self.0
    }

    /// The tag and its ever shorter prefixes: `zh-Hant-TW`, `zh-Hant`, `zh`. A subtag of one
    /// character goes together with the one after it.
    pub fn prefixes(self) -> impl Iterator<Item = Tag<'a>> {
        core::iter::successors(Some(self), |tag| {
            let (mut head, _) = tag.0.rsplit_once(['-', '_'])?;
            if let Some((shorter, single)) = head.rsplit_once(['-', '_'])
                && single.len() == 1
            {
                head = shorter;
            }
            Some(Tag(head))
        })
    }

    /// Whether two tags name the same language, aliases resolved.
    pub fn matches(&self, other: &Tag<'_>) -> bool {
        let (a, a_rest) = self.parts();
        let (b, b_rest) = other.parts();
        a.eq_ignore_ascii_case(b)
            && a_rest.len() == b_rest.len()
            && a_rest.bytes().zip(b_rest.bytes()).all(|(x, y)| same(x, y))
    }

    /// The language subtag, aliases resolved, and the rest with its separator.
    fn parts(&self) -> (&'a str, &'a str) {
        let end = self.0.find(['-', '_']).unwrap_or(self.0.len());
        let (language, rest) = self.0.split_at(end);
        let alias = ALIASES.iter().find(|(from, _)| from.eq_ignore_ascii_case(language));
        (alias.map_or(language, |(_, to)| *to), rest)
    }

    /// The language subtag, aliases resolved.
    pub fn language(&self) -> &'a str {
        self.parts().0
    }
}

fn same(a: u8, b: u8) -> bool {
    let fold = |x: u8| if x == b'_' { b'-' } else { x.to_ascii_lowercase() };
    fold(a) == fold(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn form() {
        for good in ["de", "zh-Hant-TW", "sr_Latn", "en-US-x-twain", "fil"] {
            assert!(Tag::new(good).is_ok(), "{good}");
        }
        for bad in ["", "d", "de-", "-de", "d1", "de--AT", "größe", "en-abcdefghi", "1de"] {
            assert!(Tag::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn prefixes_as_in_rfc_4647() {
        let prefixes =
            |tag| -> Vec<&str> { Tag::new(tag).unwrap().prefixes().map(|t| t.as_str()).collect() };
        assert_eq!(prefixes("zh-Hant-TW"), ["zh-Hant-TW", "zh-Hant", "zh"]);
        assert_eq!(
            prefixes("zh-Hant-CN-x-private1-private2"),
            [
                "zh-Hant-CN-x-private1-private2",
                "zh-Hant-CN-x-private1",
                "zh-Hant-CN",
                "zh-Hant",
                "zh"
            ]
        );
        assert_eq!(prefixes("ja"), ["ja"]);
    }

    #[test]
    fn aliases_and_case() {
        let matches = |a, b| Tag::new(a).unwrap().matches(&Tag::new(b).unwrap());
        assert!(matches("iw", "he") && matches("HE", "he") && matches("zho-hant", "ZH_Hant"));
        assert!(matches("eng", "en") && !matches("de-AT", "de") && !matches("de", "nl"));
        assert_eq!(Tag::new("swh-KE").unwrap().language(), "sw");
    }
}
