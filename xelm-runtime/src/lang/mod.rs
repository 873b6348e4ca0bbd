//! Language tags (BCP 47): their form, and how near one comes to another (RFC 4647 §3.4, lookup).
//!
//! A tag is read as its parts: language, script, region, and the rest. Former and three-letter codes
//! become today's, and a script that is not said is the one that language and region are usually
//! written in: `zh-TW` is `zh-Hant-TW`.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

mod parse;
mod tables;

use crate::error::{Error, Result};

/// Longest tag that is looked at, in bytes. Phones append preferences (`-u-ca-…-nu-…`), so the 35
/// bytes that RFC 5646 asks for at least are not enough.
pub const MAX_TAG: usize = 255;

/// A well-formed language tag. Comparison ignores case and takes `_` for `-`.
#[derive(Clone, Copy, Debug)]
pub struct Tag<'a> {
    text: &'a str,
    /// Code of the language as it is today, or all of a tag that has no parts.
    code: &'a str,
    /// The macrolanguage where the language is the member that stands for it, or else `code`.
    language: &'a str,
    /// The macrolanguage where the language is any member, or else `code`.
    family: &'a str,
    /// As the tag says it; empty where it does not. So are the next two.
    script: &'a str,
    region: &'a str,
    /// Variants, extensions, private use.
    rest: &'a str,
}

/// How near an offered tag is to the wanted one; less is nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nearness {
    /// The same tag.
    Same,
    /// Another name of the same: another code, or a script said that was implied.
    Alias,
    /// A shorter form, by so many subtags: `de` for `de-AT`.
    Shorter(u8),
    /// A longer form in the same script: `pt-BR` for `pt`.
    Longer,
    /// The macrolanguage, or a shorter form with it, by so many subtags: `ar` for `arz-EG`.
    Macrolanguage(u8),
    /// The language as another region has it: `en-US` for `en-GB`.
    OtherForm,
    /// The language in another script: `zh-Hans` for `zh-Hant`.
    OtherScript,
    /// Another language of the same macrolanguage: `nb` for `nn`.
    Sibling {
        /// It is also written in another script.
        other_script: bool,
    },
}

impl<'a> Tag<'a> {
    /// Checks the form (RFC 5646 §2.1) and finds the parts.
    ///
    /// # Errors
    /// [`Error::BadLanguageTag`].
    pub fn new(text: &'a str) -> Result<Self> {
        let whole = Tag {
            text,
            code: text,
            language: text,
            family: text,
            script: "",
            region: "",
            rest: "",
        };
        let grandfathered = tables::GRANDFATHERED.iter().find(|(from, _)| same(from, text));
        let tag = match grandfathered {
            _ if text.len() > MAX_TAG => None,
            Some((_, "")) => Some(whole),
            Some((_, now)) => Tag::parse(now),
            None if parse::is_private(text) => Some(whole),
            None => Tag::parse(text),
        };
        tag.map(|tag| Tag { text, ..tag }).ok_or(Error::BadLanguageTag)
    }

    /// The tag as it was given.
    pub fn as_str(&self) -> &'a str {
        self.text
    }

    /// The code of the language: two letters where there are two, and the macrolanguage's where the
    /// language is the one that stands for it in text (`zh` for `cmn`).
    pub fn language(&self) -> &'a str {
        self.language
    }

    /// The macrolanguage of the language (`zh` for `cmn` and for `yue`), or else the language.
    pub fn family(&self) -> &'a str {
        self.family
    }

    /// The script: what the tag says, or else what its region or its language implies; empty where
    /// that is unknown.
    pub fn script(&self) -> &'a str {
        if !self.script.is_empty() {
            return self.script;
        }
        let codes = [self.code, self.language, self.family];
        let of_region = || {
            codes.iter().find_map(|code| {
                let row = tables::REGIONS.iter().find(|(language, _, regions)| {
                    same(language, code) && words(regions).any(|r| same(r, self.region))
                })?;
                Some(row.1)
            })
        };
        let of_language = || {
            codes.iter().find_map(|code| {
                let row = tables::SCRIPTS.iter().find(|(_, l)| words(l).any(|l| same(l, code)))?;
                Some(row.0)
            })
        };
        of_region().or_else(of_language).unwrap_or_default()
    }

    /// Whether two tags mean the same, aliases and implied scripts resolved.
    pub fn matches(&self, other: &Tag<'_>) -> bool {
        self.nearness(other).is_some_and(|nearness| nearness <= Nearness::Alias)
    }

    /// How near `offered` is to this tag, the wanted one; `None` where it is another language and not
    /// of the same macrolanguage either.
    pub fn nearness(&self, offered: &Tag<'_>) -> Option<Nearness> {
        if same(self.text, offered.text) {
            return Some(Nearness::Same);
        }
        if !same(self.family, offered.family) {
            return None;
        }
        let same_script = self.is_in_script_of(offered);
        let dropped = self.dropped(offered);
        if same(self.language, offered.language) {
            return Some(match dropped {
                Some(0) => Nearness::Alias,
                Some(n) => Nearness::Shorter(n),
                None if !same_script => Nearness::OtherScript,
                None if offered.dropped(self).is_some() => Nearness::Longer,
                None => Nearness::OtherForm,
            });
        }
        Some(match dropped {
            Some(n) if same(self.family, offered.code) => Nearness::Macrolanguage(n),
            _ => Nearness::Sibling { other_script: !same_script },
        })
    }

    /// How many subtags this tag must lose, from its end, to be `offered`, whatever their languages.
    fn dropped(&self, offered: &Tag<'_>) -> Option<u8> {
        let before_rest = u8::from(!self.region.is_empty());
        let all = before_rest.saturating_add(count(self.rest));
        if self.is_in_script_of(offered) {
            if same(self.region, offered.region)
                && let Some(left) = without_prefix(self.rest, offered.rest)
            {
                return Some(count(left));
            }
            if offered.region.is_empty() && offered.rest.is_empty() {
                return Some(all);
            }
        }
        let is_bare = [offered.script, offered.region, offered.rest].iter().all(|t| t.is_empty());
        is_bare.then(|| all.saturating_add(1))
    }

    /// Whether the scripts are equal, as far as they are known.
    fn is_in_script_of(&self, other: &Tag<'_>) -> bool {
        let (a, b) = (self.script(), other.script());
        a.is_empty() || b.is_empty() || same(a, b)
    }
}

/// What the tables have a code for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    /// A code that is another today.
    Alias,
    /// The member that stands for its macrolanguage.
    Standard,
    /// Another member.
    Member,
}

/// What a code stands for.
fn stands_for(code: &str) -> Option<(Code, &'static str)> {
    let letter = code.bytes().next()?.to_ascii_lowercase().checked_sub(b'a')?;
    words(tables::CODES.get(usize::from(letter))?).find_map(|word| {
        let (from, to) = word.split_at_checked(code.len())?;
        let (sign, to) = to.split_at_checked(1)?;
        let kind = match sign {
            "=" => Code::Alias,
            "~" => Code::Standard,
            "<" => Code::Member,
            _ => return None,
        };
        same(from, code).then_some((kind, to))
    })
}

fn words(table: &'static str) -> impl Iterator<Item = &'static str> {
    table.split_ascii_whitespace()
}

/// Subtags of a part of a tag.
fn count(part: &str) -> u8 {
    let n = if part.is_empty() { 0 } else { part.split(['-', '_']).count() };
    u8::try_from(n).unwrap_or(u8::MAX)
}

/// What is left of `text` after the whole subtags of `prefix`.
fn without_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, left) = text.split_at_checked(prefix.len())?;
    let whole = prefix.is_empty() || left.is_empty() || left.starts_with(['-', '_']);
    (whole && same(head, prefix)).then(|| left.trim_start_matches(['-', '_']))
}

/// Equal but for case and separators.
fn same(a: &str, b: &str) -> bool {
    let fold = |x: u8| if x == b'_' { b'-' } else { x.to_ascii_lowercase() };
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(x, y)| fold(x) == fold(y))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use std::string::String;
    use std::vec::Vec;

    fn tag(text: &str) -> Tag<'_> {
        Tag::new(text).unwrap()
    }

    #[test]
    fn form() {
        for good in [
            "de",
            "zh-Hant-TW",
            "sr_Latn",
            "en-US-x-twain",
            "fil",
            "es-419",
            "sl-rozaj-biske-1994",
            "de-CH-1901",
            "ja-JP-u-ca-japanese-nu-jpan",
            "zh-yue-HK",
            "hy-Latn-IT-arevela",
            "x-own",
            "X-a-1",
            "en-a-bbb-x-a-ccc",
            "abcdefgh",
            "und",
            "zh-min-nan",
            "I-Klingon",
            "en_gb_OED",
            "sgn-BE-FR",
            "en-Latn-GB-boont-r-extended-sequence-x-private",
        ] {
            assert!(Tag::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "d",
            "de-",
            "-de",
            "d1",
            "de--AT",
            "größe",
            "en-abcdefghi",
            "1de",
            "x",
            "x-",
            "x-123456789",
            "de-x",
            "de-u",
            "de-u-x-own",
            "i-unknown",
            "de-419-DE",
            "de-Latn-Latn-DE",
            "zh-Hant_",
            "de_DE.UTF-8",
            "*",
            "ar-a-aaa-b",
        ] {
            assert!(Tag::new(bad).is_err(), "{bad}");
        }
        let long = String::from("de-u-") + &["ca", "gregory"].repeat(40).join("-");
        assert!(Tag::new(&long[..MAX_TAG]).is_ok() && Tag::new(&long).is_err());
    }

    #[test]
    fn languages_and_scripts() {
        for (text, language, script) in [
            ("iw", "he", "Hebr"),
            ("swh-KE", "sw", "Latn"),
            ("cmn", "zh", "Hans"),
            ("cmn-TW", "zh", "Hant"),
            ("zh_mo", "zh", "Hant"),
            ("zh-SG", "zh", "Hans"),
            ("zh-yue", "yue", "Hant"),
            ("zh-min", "zh", "Hans"),
            ("i-lux", "lb", "Latn"),
            ("en-GB-oed", "en", "Latn"),
            ("sh", "sr", "Latn"),
            ("sh-Cyrl", "sr", "Cyrl"),
            ("sr-ME", "sr", "Latn"),
            ("uz-AF", "uz", "Arab"),
            ("ckb", "ckb", "Arab"),
            ("arz", "arz", "Arab"),
            ("x-own", "x-own", ""),
            ("i-mingo", "i-mingo", ""),
            ("tlh", "tlh", ""),
        ] {
            assert_eq!((tag(text).language(), tag(text).script()), (language, script), "{text}");
        }
        assert_eq!(
            (tag("yue").family(), tag("nob").family(), tag("de").family()),
            ("zh", "no", "de")
        );
    }

    #[test]
    fn aliases_and_case() {
        let matches = |a, b| tag(a).matches(&tag(b));
        assert!(matches("iw", "he") && matches("HE", "he") && matches("zho-hant", "ZH_Hant"));
        assert!(matches("eng", "en") && !matches("de-AT", "de") && !matches("de", "nl"));
        assert!(matches("i-klingon", "tlh") && matches("zh-min-nan", "nan"));
        assert!(matches("x-own", "X_OWN") && !matches("x-own", "x-other"));
    }

    /// RFC 4647's lookup drops subtags from the end: each shorter form must be farther than the one
    /// before.
    #[test]
    fn shorter_forms_in_order() {
        for text in
            ["zh-Hant-CN-x-private1-private2", "de-CH-1901-u-co-phonebk", "sl-IT-rozaj-biske-1994"]
        {
            let mut forms = Vec::from([String::from(text)]);
            while let Some((head, _)) = forms[forms.len() - 1].rsplit_once('-') {
                // A single character goes with the subtag after it.
                let head = if head.rsplit('-').next().is_some_and(|t| t.len() == 1) {
                    &head[..head.len() - 2]
                } else {
                    head
                };
                forms.push(head.into());
            }
            let nearness: Vec<_> =
                forms.iter().map(|form| tag(text).nearness(&tag(form)).unwrap()).collect();
            assert_eq!(nearness[0], Nearness::Same);
            assert!(nearness.windows(2).all(|w| w[0] < w[1]), "{forms:?} {nearness:?}");
            assert!(nearness[1..].iter().all(|n| matches!(n, Nearness::Shorter(_))));
        }
    }

    /// Every code of the tables is well formed and says of itself what the tables say.
    #[test]
    fn tables_are_consistent() {
        let mut n = 0;
        for word in tables::CODES.iter().flat_map(|row| words(row)) {
            let (from, to) = word.split_once(['=', '~', '<']).unwrap();
            let is_same = !word.contains('<');
            assert_eq!(tag(from).matches(&tag(to)), is_same, "{word}");
            assert!(stands_for(from).is_some_and(|(_, of)| of == to), "{word}");
            let after = stands_for(tag(from).code);
            assert!(after.is_none_or(|(kind, _)| kind != Code::Alias), "{word} leads on");
            n += 1;
        }
        assert!(n > 700);
        for (_, now) in tables::GRANDFATHERED {
            assert!(now.is_empty() || Tag::new(now).is_ok(), "{now}");
        }
        for (language, script, regions) in tables::REGIONS {
            for region in words(regions) {
                assert_eq!(tag(&[*language, region].join("-")).script(), *script);
            }
        }
    }
}
