//! The choice of an expert by language tag, and what to tell the user about it.

use super::Set;
use crate::error::{Error, Result};
use crate::lang::{Nearness, Tag};
use core::fmt;

/// The expert chosen for a language, and why. Displayed, it is a sentence for the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection<'a, 't> {
    /// Index of the expert in the set.
    pub expert: usize,
    /// The tag that was asked for.
    pub asked: &'t str,
    /// The expert's language that matched.
    pub language: &'a str,
    /// How it matched.
    pub how: Match,
}

/// How a language tag led to an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// The tag itself.
    Exact,
    /// Another name of the same: `he` for `iw`, `zh-Hant-TW` for `zh-TW`.
    Alias,
    /// A form of the same language that says less or more: `de` for `de-AT`, `pt-BR` for `pt`, or the
    /// macrolanguage, `ar` for `arz`.
    Prefix,
    /// No expert speaks the language so: this one has it in another script or region, speaks another
    /// language of its macrolanguage, or the typologically nearest that is present.
    Related,
}

impl From<Nearness> for Match {
    fn from(nearness: Nearness) -> Self {
        match nearness {
            Nearness::Same => Match::Exact,
            Nearness::Alias => Match::Alias,
            Nearness::Shorter(_) | Nearness::Longer | Nearness::Macrolanguage(_) => Match::Prefix,
            Nearness::OtherForm | Nearness::OtherScript | Nearness::Sibling { .. } => {
                Match::Related
            }
        }
    }
}

impl<'a> Set<'a> {
    /// Chooses the expert for a language among those that are `present` on the device: the nearest by
    /// [`Tag::nearness`], the first in the set among equals; where none is near, the nearest to the
    /// typologically nearest language that has one.
    ///
    /// # Errors
    /// [`Error::BadLanguageTag`]; [`Error::NoExpert`] where the language's relations are unknown or
    /// no expert is present.
    pub fn select<'t>(
        &self,
        tag: &'t str,
        present: impl Fn(usize) -> bool,
    ) -> Result<Selection<'a, 't>> {
        let wanted = Tag::new(tag)?;
        let found = |(expert, language, how)| Selection { expert, asked: tag, language, how };
        if let Some((nearness, expert, language)) = self.nearest(&wanted, &present) {
            return Ok(found((expert, language, nearness.into())));
        }
        self.relatives(&wanted)
            .find_map(|relative| self.nearest(&relative, &present))
            .map(|(_, expert, language)| found((expert, language, Match::Related)))
            .ok_or(Error::NoExpert)
    }

    /// The present expert with the language nearest to `wanted`.
    fn nearest(
        &self,
        wanted: &Tag<'_>,
        present: impl Fn(usize) -> bool,
    ) -> Option<(Nearness, usize, &'a str)> {
        self.languages()
            .filter_map(|(expert, language)| {
                let nearness = wanted.nearness(&Tag::new(language).ok()?)?;
                present(expert).then_some((nearness, expert, language))
            })
            .min_by_key(|(nearness, ..)| *nearness)
    }

    /// The languages of the fallback table from the nearest to `wanted` to the farthest.
    fn relatives(&self, wanted: &Tag<'_>) -> impl Iterator<Item = Tag<'a>> {
        let (tags, order) = (self.fallback_tags, self.fallback_order);
        let row = tags
            .strings()
            .enumerate()
            .filter_map(|(i, known)| Some((wanted.nearness(&Tag::new(known).ok()?)?, i)))
            .min();
        let columns = row.map_or(0..0, |(_, i)| i * tags.len..(i + 1) * tags.len);
        columns.filter_map(move |i| Tag::new(tags.strings().nth(order.bits32(i) as usize)?).ok())
    }
}

impl fmt::Display for Selection<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Selection { asked, language, .. } = self;
        let nearness = || Tag::new(asked).ok()?.nearness(&Tag::new(language).ok()?);
        match self.how {
            Match::Exact => write!(f, "an expert speaks {asked}"),
            Match::Alias => write!(f, "{asked} is {language}, which an expert speaks"),
            Match::Prefix => {
                write!(f, "no expert is for {asked} in particular; the one for {language} is used")
            }
            Match::Related => match nearness() {
                Some(Nearness::OtherForm | Nearness::OtherScript) => write!(
                    f,
                    "no expert speaks {asked}; that of {language}, another form of the language, is \
                     used"
                ),
                _ => write!(
                    f,
                    "no expert speaks {asked}; that of {language}, its nearest relative here, is used"
                ),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ARCH_SET, keys};
    use super::*;
    use crate::format::{Gguf, Writer};
    use std::string::{String, ToString};
    use std::vec::Vec;

    /// Languages with known relations, and their order of nearness.
    const TAGS: [&str; 5] = ["de", "nl", "sv", "ar", "zh"];
    const ORDER: [[u32; 5]; 5] =
        [[0, 1, 2, 3, 4], [1, 0, 2, 4, 3], [2, 0, 1, 3, 4], [3, 4, 0, 1, 2], [4, 3, 2, 1, 0]];

    /// A set of one expert for each group of languages; experts are separated by spaces, their
    /// languages by commas.
    fn with_set<T>(experts: &str, work: impl FnOnce(&Set<'_>) -> T) -> T {
        let groups: Vec<&str> = experts.split(' ').collect();
        let pairs: Vec<(u32, &str)> = (0u32..)
            .zip(&groups)
            .flat_map(|(i, group)| group.split(',').map(move |tag| (i, tag)))
            .collect();
        let mut writer = Writer::new(ARCH_SET);
        writer.strings(keys::IDS, &groups);
        writer.strings(keys::FILES, &groups);
        writer.u64s(keys::SIZES, &std::vec![1; groups.len()]);
        writer.strings(keys::SHA256, &groups);
        writer.strings(keys::PARENTS, &groups);
        writer.u32s(keys::LANGUAGE_EXPERT, &pairs.iter().map(|p| p.0).collect::<Vec<_>>());
        writer.strings(keys::LANGUAGE_TAG, &pairs.iter().map(|p| p.1).collect::<Vec<_>>());
        writer.strings(keys::FALLBACK_TAGS, &TAGS);
        writer.u32s(keys::FALLBACK_ORDER, ORDER.as_flattened());
        writer.string(keys::TOKENIZER_HASH, "");
        let bytes = writer.begin(Vec::new()).unwrap().finish().unwrap();
        // A vector of bytes has no alignment; the reader wants 32.
        let mut memory = std::vec![0u8; bytes.len() + 32];
        let at = memory.as_ptr().align_offset(32);
        memory[at..at + bytes.len()].copy_from_slice(&bytes);
        let gguf = Gguf::open(&memory[at..at + bytes.len()]).unwrap();
        work(&Set::open(&gguf).unwrap())
    }

    /// Experts, the tag asked for, the language chosen, how.
    const CASES: &[(&str, &str, &str, Match)] = {
        use Match::*;
        &[
            // The tag itself, in any spelling.
            ("de en", "de", "de", Exact),
            ("de en", "EN", "en", Exact),
            ("zh-Hans zh-Hant", "zh_hant", "zh-Hant", Exact),
            ("de de-AT", "de-AT", "de-AT", Exact),
            ("x-own", "x-own", "x-own", Exact),
            ("i-mingo de", "I-Mingo", "i-mingo", Exact),
            ("iw", "iw", "iw", Exact),
            // Former codes, on either side.
            ("he de", "iw", "he", Alias),
            ("iw de", "he", "iw", Alias),
            ("id", "in", "id", Alias),
            ("yi", "ji", "yi", Alias),
            ("jv", "jw", "jv", Alias),
            ("ro", "mo", "ro", Alias),
            ("fil", "tl", "fil", Alias),
            ("sr sr-Latn", "sh", "sr-Latn", Alias),
            ("sr sr-Latn", "hbs", "sr-Latn", Alias),
            ("apc", "ajp", "apc", Alias),
            // Three-letter codes.
            ("de", "deu", "de", Alias),
            ("de", "ger", "de", Alias),
            ("fra", "fr", "fra", Alias),
            ("el", "gre", "el", Alias),
            ("cy", "wel", "cy", Alias),
            ("zu", "zul", "zu", Alias),
            // The member that stands for its macrolanguage.
            ("no", "nb", "no", Alias),
            ("nb", "no", "nb", Alias),
            ("zh", "cmn", "zh", Alias),
            ("cmn", "zh", "cmn", Alias),
            ("ar", "arb", "ar", Alias),
            ("sw", "swh", "sw", Alias),
            ("az", "azj", "az", Alias),
            ("pes", "fa", "pes", Alias),
            ("ms", "zsm", "ms", Alias),
            ("et", "ekk", "et", Alias),
            ("lv", "lvs", "lv", Alias),
            // Grandfathered tags, extended languages.
            ("tlh", "i-klingon", "tlh", Alias),
            ("nan", "zh-min-nan", "nan", Alias),
            ("nb", "no-bok", "nb", Alias),
            ("yue zh", "zh-yue", "yue", Alias),
            ("zh-yue zh", "yue", "zh-yue", Alias),
            ("zh", "zh-guoyu", "zh", Alias),
            // Scripts that are said or implied.
            ("zh-Hant zh-Hans", "zh", "zh-Hans", Alias),
            ("zh-Hans", "zh", "zh-Hans", Alias),
            ("zh-Hans-CN", "zh-CN", "zh-Hans-CN", Alias),
            ("zh-TW", "zh-Hant-TW", "zh-TW", Alias),
            ("sr-Latn sr", "sr-Cyrl", "sr", Alias),
            ("ru", "ru-Cyrl", "ru", Alias),
            ("tlh-Latn", "tlh", "tlh-Latn", Alias),
            // Shorter forms, the longest first.
            ("zh zh-Hans zh-Hant", "zh-TW", "zh-Hant", Prefix),
            ("zh zh-Hant", "zh-HK", "zh-Hant", Prefix),
            ("zh zh-Hant", "zh-MO", "zh-Hant", Prefix),
            ("zh-Hant zh-Hans", "zh-CN", "zh-Hans", Prefix),
            ("zh-Hant zh", "zh-SG", "zh", Prefix),
            ("zh", "zh-Hant-TW", "zh", Prefix),
            ("zh zh-Hant", "zh-Hant-CN-x-private1-private2", "zh-Hant", Prefix),
            ("az az-Cyrl", "az-RU", "az-Cyrl", Prefix),
            ("az az-Cyrl", "az-Latn-AZ", "az", Prefix),
            ("sr sr-Latn", "sr-ME", "sr-Latn", Prefix),
            ("sr sr-Latn", "sr-RS", "sr", Prefix),
            ("pa pa-Arab", "pa-PK", "pa-Arab", Prefix),
            ("uz uz-Cyrl uz-Arab", "uz-AF", "uz-Arab", Prefix),
            ("de", "de-AT", "de", Prefix),
            ("de de-CH", "de-CH-1901", "de-CH", Prefix),
            ("el", "el-Grek-CY-polyton", "el", Prefix),
            ("es en", "es-419", "es", Prefix),
            ("ja", "ja-JP-u-ca-japanese-nu-jpan", "ja", Prefix),
            ("en", "en-GB-oed", "en", Prefix),
            ("he", "iw-IL", "he", Prefix),
            // Longer forms.
            ("pt-BR pt-PT", "pt", "pt-BR", Prefix),
            ("zh-Hans-CN", "zh", "zh-Hans-CN", Prefix),
            // The macrolanguage.
            ("zh", "yue", "zh", Prefix),
            ("zh zh-Hant", "yue-HK", "zh-Hant", Prefix),
            ("zh zh-Hant", "zh-yue", "zh-Hant", Prefix),
            ("ar", "arz-EG", "ar", Prefix),
            ("ar ar-EG", "arz-EG", "ar-EG", Prefix),
            ("no", "nn", "no", Prefix),
            ("fa", "prs", "fa", Prefix),
            ("lv", "ltg", "lv", Prefix),
            ("et", "vro-EE", "et", Prefix),
            ("ms", "id", "ms", Prefix),
            // Other forms and other members, the same script first; never before a true form.
            ("zh-Hans", "zh-Hant", "zh-Hans", Related),
            ("zh-Hant", "zh", "zh-Hant", Related),
            ("en-US", "en-GB", "en-US", Related),
            ("sr-Cyrl sr-Latn-RS", "sr-Latn-ME", "sr-Latn-RS", Related),
            ("arz", "ar", "arz", Related),
            ("yue", "zh", "yue", Related),
            ("nb", "nn", "nb", Related),
            ("nn", "nb", "nn", Related),
            ("cmn", "yue", "cmn", Related),
            ("arz", "arb-SA", "arz", Related),
            ("sr sr-Latn", "hr", "sr-Latn", Related),
            ("hr sr", "bs-Cyrl", "sr", Related),
            ("nb no", "nn-NO", "no", Prefix),
            // Typology: the order of TAGS.
            ("de zh", "sv", "de", Related),
            ("zh nl", "de", "nl", Related),
            ("de ar", "zh-Hant-TW", "ar", Related),
            ("de arz", "yue", "arz", Related),
            ("zh-TW", "apc", "zh-TW", Related),
            ("sv,ar de", "nld", "de", Related),
        ]
    };

    #[test]
    fn cases() {
        let mut wrong = Vec::new();
        for &(experts, asked, language, how) in CASES {
            with_set(experts, |set| {
                let found = set.select(asked, |_| true).map(|s| (s.language, s.how));
                if found != Ok((language, how)) {
                    wrong.push(std::format!("{asked} in {experts}: {found:?}"));
                }
                if let Ok(found) = set.select(asked, |_| true) {
                    let group = experts.split(' ').nth(found.expert).unwrap();
                    assert!(group.split(',').any(|tag| tag == found.language));
                }
            });
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(CASES.len() >= 60);
    }

    #[test]
    fn nothing_fits() {
        for (experts, asked, error) in [
            ("de", "xx", Error::NoExpert),
            ("de", "x-own", Error::NoExpert),
            ("x-other", "x-own", Error::NoExpert),
            ("de", "i-klingon", Error::NoExpert),
            ("de", "i-default", Error::NoExpert),
            ("de", "und", Error::NoExpert),
            ("de", "i-own", Error::BadLanguageTag),
            ("de", "", Error::BadLanguageTag),
            ("de", "de_DE.UTF-8", Error::BadLanguageTag),
            ("de", "*", Error::BadLanguageTag),
        ] {
            with_set(experts, |set| {
                assert_eq!(set.select(asked, |_| true), Err(error), "{asked} in {experts}");
            });
        }
    }

    #[test]
    fn only_what_is_present() {
        with_set("zh-Hant zh nl,de ar", |set| {
            let only = |experts: &[usize], asked| {
                let found = set.select(asked, |i| experts.contains(&i)).unwrap();
                (found.expert, found.language, found.how)
            };
            assert_eq!(only(&[0, 1], "zh-TW"), (0, "zh-Hant", Match::Prefix));
            assert_eq!(only(&[1, 2], "zh-TW"), (1, "zh", Match::Prefix));
            assert_eq!(only(&[2, 3], "zh-TW"), (3, "ar", Match::Related));
            assert_eq!(only(&[2], "zh-TW"), (2, "nl", Match::Related));
            assert_eq!(set.select("zh-TW", |_| false), Err(Error::NoExpert));
        });
    }

    #[test]
    fn sentences() {
        with_set("de he zh-Hans", |set| {
            let say = |asked| -> String { set.select(asked, |_| true).unwrap().to_string() };
            assert_eq!(say("de"), "an expert speaks de");
            assert_eq!(say("iw"), "iw is he, which an expert speaks");
            assert_eq!(
                say("de-AT"),
                "no expert is for de-AT in particular; the one for de is used"
            );
            assert_eq!(
                say("zh-TW"),
                "no expert speaks zh-TW; that of zh-Hans, another form of the language, is used"
            );
            assert_eq!(
                say("sv"),
                "no expert speaks sv; that of de, its nearest relative here, is used"
            );
        });
    }
}
