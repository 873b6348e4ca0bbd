//! The grammar of language tags (RFC 5646 §2.1).

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::{Code, Tag, same, stands_for};
use core::ops::RangeInclusive;

impl<'a> Tag<'a> {
    /// The parts of a tag; `None` where it is not well formed.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut subtags = Subtags(Some(text));
        let mut code = subtags.take(|t| is_alpha(t, 2..=8))?;
        if code.len() <= 3 {
            for _ in 0..3 {
                let Some(extended) = subtags.take(|t| is_alpha(t, 3..=3)) else { break };
                // `zh-yue` is `yue`; one that does not belong to the language before it says nothing.
                let is_member = |of: (Code, &str)| of.0 != Code::Alias && same(of.1, code);
                if same(code, "sgn") || stands_for(extended).is_some_and(is_member) {
                    code = extended;
                }
            }
        }
        let mut script = subtags.take(|t| is_alpha(t, 4..=4)).unwrap_or_default();
        let region = subtags.take(is_region).unwrap_or_default();
        let rest = subtags.0.unwrap_or_default();
        subtags.are_rest().then_some(())?;
        if let Some((Code::Alias, today)) = stands_for(code) {
            let (today, implied) = today.split_once('-').unwrap_or((today, ""));
            code = today;
            script = if script.is_empty() { implied } else { script };
        }
        let (language, family) = match stands_for(code) {
            Some((Code::Standard, of)) => (of, of),
            Some((Code::Member, of)) => (code, of),
            _ => (code, code),
        };
        Some(Tag { text, code, language, family, script, region, rest })
    }
}

/// The subtags not yet read; `None` at the end of the tag.
#[derive(Clone, Copy)]
struct Subtags<'a>(Option<&'a str>);

impl<'a> Subtags<'a> {
    /// The next subtag, if it fits.
    fn take(&mut self, fits: impl Fn(&str) -> bool) -> Option<&'a str> {
        let left = self.0?;
        let (next, after) = match left.split_once(['-', '_']) {
            Some((next, after)) => (next, Some(after)),
            None => (left, None),
        };
        fits(next).then(|| self.0 = after)?;
        Some(next)
    }

    /// Reads all subtags that fit; whether there was one.
    fn take_some(&mut self, fits: impl Fn(&str) -> bool) -> bool {
        let some = self.take(&fits).is_some();
        while self.take(&fits).is_some() {}
        some
    }

    /// Whether variants, extensions and private use follow and nothing else.
    fn are_rest(mut self) -> bool {
        let is_variant = |t: &str| {
            let begins_with_digit = t.starts_with(|c: char| c.is_ascii_digit());
            is_alphanumeric(t, 5..=8) || is_alphanumeric(t, 4..=4) && begins_with_digit
        };
        self.take_some(is_variant);
        while self.take(|t| is_alphanumeric(t, 1..=1) && !same(t, "x")).is_some() {
            if !self.take_some(|t| is_alphanumeric(t, 2..=8)) {
                return false;
            }
        }
        self.0.is_none_or(is_private)
    }
}

/// Whether a text is `x-` and what two parties agreed on.
pub(super) fn is_private(text: &str) -> bool {
    let mut subtags = Subtags(Some(text));
    subtags.take(|t| same(t, "x")).is_some()
        && subtags.take_some(|t| is_alphanumeric(t, 1..=8))
        && subtags.0.is_none()
}

fn is_alpha(text: &str, len: RangeInclusive<usize>) -> bool {
    len.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphabetic())
}

fn is_alphanumeric(text: &str, len: RangeInclusive<usize>) -> bool {
    len.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn is_region(text: &str) -> bool {
    is_alpha(text, 2..=2) || text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit())
}
