//! The character map of our own vocabularies: NFKC as SentencePiece's normaliser can express it, in
//! SentencePiece's own binary form, made from Unicode data.

use std::collections::BTreeMap;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::{canonical_combining_class, compose};
use xelm_runtime::trie;

/// Builds the map:
///
/// * every kind of white space becomes a space; other control characters, soft hyphens, zero-width
///   spaces and byte order marks vanish (zero-width joiners stay: they are letters in Indic scripts
///   and Persian); U+2581, which stands for spaces inside pieces, becomes a space;
/// * every character becomes its NFKC form;
/// * sequences that canonically equal one composed character become it, in every order of marks and
///   partly composed, so that decomposed text (as some file systems produce) gives the same tokens;
///   halfwidth kana take part.
///
/// The blob is: size of the double array (u32), the double array, zero-terminated replacements.
pub fn charsmap() -> Vec<u8> {
    let mut rules: BTreeMap<String, String> = BTreeMap::new();
    for c in ('\u{1}'..=char::MAX).filter(|&c| is_assigned_enough(c)) {
        let original = c.to_string();
        let normal = replace_spaces(&original.nfkc().collect::<String>());
        if normal != original {
            rules.insert(original, normal);
        }
        for sequence in sequences(c) {
            rules.insert(sequence, c.nfkc().collect());
        }
    }
    // A sequence's own normal form may hold spaces to replace; single characters were done above.
    encode(&rules)
}

/// Planes 3 to 13 are unassigned or hold only ideographs without mappings; 15 and 16 are private.
fn is_assigned_enough(c: char) -> bool {
    (c as u32) < 0x3_0000 || (0xE_0000..0xE_1000).contains(&(c as u32))
}

fn replace_spaces(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\u{2581}' => out.push(' '),
            c if c.is_whitespace() => out.push(' '),
            '\u{ad}' | '\u{200b}' | '\u{2060}' | '\u{feff}' => {}
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// Character sequences other than `c` itself that canonically equal the composed character `c`.
fn sequences(c: char) -> Vec<String> {
    let decomposed: Vec<char> = std::iter::once(c).nfd().collect();
    // Composition exclusions decompose but are not composed again; NFKC rewrites them already.
    if decomposed.len() < 2 || std::iter::once(c).nfc().ne(std::iter::once(c)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for marks in mark_orders(&decomposed[1..]) {
        // The base with its first n marks composed, the others following.
        let mut base = decomposed[0];
        for n in 0..=marks.len() {
            if n > 0 {
                match compose(base, marks[n - 1]) {
                    Some(composed) => base = composed,
                    None => break,
                }
            }
            let tail = &marks[n..];
            if !tail.is_empty() {
                for wide_base in width_variants(base) {
                    for wide_mark in width_variants(tail[0]) {
                        let mut sequence = String::from_iter([wide_base, wide_mark]);
                        sequence.extend(&tail[1..]);
                        found.push(sequence);
                    }
                }
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The orders of marks that are canonically the same: those of unequal class may trade places.
fn mark_orders(marks: &[char]) -> Vec<Vec<char>> {
    let mut orders = vec![marks.to_vec()];
    if let [a, b, rest @ ..] = marks {
        let (x, y) = (canonical_combining_class(*a), canonical_combining_class(*b));
        if x != y && x != 0 && y != 0 {
            let mut swapped = vec![*b, *a];
            swapped.extend(rest);
            orders.push(swapped);
        }
    }
    orders
}

/// The character, and the halfwidth form of a kana or its voicing mark (U+FF66–FF9F).
fn width_variants(c: char) -> Vec<char> {
    let narrow = ('\u{ff66}'..='\u{ff9f}').filter(|w| std::iter::once(*w).nfkc().eq([c]));
    std::iter::once(c).chain(narrow).collect()
}

fn encode(rules: &BTreeMap<String, String>) -> Vec<u8> {
    let mut strings: Vec<u8> = Vec::new();
    let mut positions: BTreeMap<&str, u32> = BTreeMap::new();
    let mut keys: Vec<(&[u8], u32)> = Vec::new();
    for (from, to) in rules {
        let position = *positions.entry(to).or_insert_with(|| {
            let position = strings.len() as u32;
            strings.extend_from_slice(to.as_bytes());
            strings.push(0);
            position
        });
        keys.push((from.as_bytes(), position));
    }
    let units =
        trie::build(&keys).expect("keys of a BTreeMap are sorted, distinct and free of zeros");
    let mut blob = Vec::with_capacity(4 + 4 * units.len() + strings.len());
    blob.extend_from_slice(&((4 * units.len()) as u32).to_le_bytes());
    units.iter().for_each(|unit| blob.extend_from_slice(&unit.to_le_bytes()));
    blob.extend_from_slice(&strings);
    blob
}

#[cfg(test)]
mod tests {
    use super::*;
    use xelm_runtime::tokenizer::{Normalizer, SPACE};

    fn normalize(normalizer: &Normalizer<'_>, text: &str) -> String {
        let mut out = vec![0; 64 * text.len().max(1)];
        let n = normalizer.normalize(text.as_bytes(), &mut out).unwrap();
        String::from_utf8(out[..n].to_vec()).unwrap()
    }

    #[test]
    fn equals_nfkc_on_characters_and_sequences() {
        let blob = charsmap();
        println!("charsmap: {} bytes", blob.len());
        let normalizer = Normalizer::new(&blob, false, false).unwrap();
        for c in ('\u{1}'..='\u{2ffff}').filter(|c| !c.is_whitespace() && !c.is_control()) {
            let text = c.to_string();
            let expected = replace_spaces(&text.nfkc().collect::<String>()).replace(' ', SPACE);
            assert_eq!(normalize(&normalizer, &text), expected, "U+{:04X}", c as u32);
        }
        for text in ["e\u{301}", "ê\u{323}", "e\u{302}\u{323}", "한글", "ｶﾞｷﾞｸﾞ", "ﾊﾟ", "ö", "ﬁ", "½"]
        {
            let decomposed: String = text.nfd().collect();
            for form in [text.to_owned(), decomposed] {
                let expected: String = form.nfkc().collect();
                assert_eq!(normalize(&normalizer, &form), expected, "{form:?}");
            }
        }
    }

    #[test]
    fn white_space_and_invisible_characters() {
        let blob = charsmap();
        let normalizer = Normalizer::new(&blob, true, true).unwrap();
        for (text, expected) in [
            ("  a\t\n b\u{3000}\u{a0}c  ", "▁a▁b▁c"),
            ("", ""),
            (" \n", ""),
            ("so\u{ad}ft\u{200b}en", "▁soften"),
            ("می\u{200c}خواهم", "▁می\u{200c}خواهم"),
            ("▁x▁", "▁x"),
            ("a\u{0}b", "▁a\u{0}b"),
        ] {
            assert_eq!(normalize(&normalizer, text), expected, "{text:?}");
        }
    }
}
