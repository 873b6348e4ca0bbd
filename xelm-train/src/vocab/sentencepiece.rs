//! SentencePiece's model files, read and written: unigram vocabularies in XGLM's order of ids.
//!
//! A model is a protocol-buffers message (`sentencepiece_model.proto`): field 1, repeated, the pieces
//! (1 the string, 2 its score, 3 its type); field 2 the trainer's settings (3 the kind of model); field 3
//! the normaliser's (2 the character map, 3 whether a space is put in front, 4 whether spaces are
//! collapsed). Other fields do not change what a text becomes.

use crate::{Error, Result};
use std::path::Path;
use xelm_runtime::tokenizer::{Vocabulary, token_type};

/// SentencePiece's types of pieces that XGLM's vocabularies have.
mod piece_type {
    pub(super) const NORMAL: u64 = 1;
    pub(super) const UNKNOWN: u64 = 2;
    pub(super) const CONTROL: u64 = 3;
}

/// The first pieces of the models that XGLM's vocabularies are made of.
const SPECIAL: [(&str, u64); 3] =
    [("<unk>", piece_type::UNKNOWN), ("<s>", piece_type::CONTROL), ("</s>", piece_type::CONTROL)];

/// SentencePiece's number for a unigram model.
const UNIGRAM: u64 = 1;

/// Reads a SentencePiece unigram model as XGLM uses it: its first three pieces, `<unk> <s> </s>`, are
/// replaced by XGLM's four special tokens, and piece p becomes id p + 1.
///
/// # Errors
/// The file cannot be read, is no such model, or has settings that the runtime does not follow.
pub fn read(path: &Path) -> Result<Vocabulary> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    parse(&bytes).map_err(|what| Error::usage(format!("{}: {what}", path.display())))
}

fn parse(bytes: &[u8]) -> std::result::Result<Vocabulary, &'static str> {
    const CUT: &str = "not a SentencePiece model (it ends in the middle of a field)";
    let mut pieces: Vec<(String, f32, u64)> = Vec::new();
    let mut charsmap = Vec::new();
    let mut kind = UNIGRAM;
    let (mut space_prefix, mut collapses) = (true, true);
    for field in Fields(bytes) {
        match field.ok_or(CUT)? {
            (1, Field::Bytes(piece)) => {
                let (mut text, mut score, mut kind) = ("", 0.0, piece_type::NORMAL);
                for field in Fields(piece) {
                    match field.ok_or(CUT)? {
                        (1, Field::Bytes(bytes)) => {
                            text =
                                std::str::from_utf8(bytes).map_err(|_| "a piece is not UTF-8")?;
                        }
                        (2, Field::Fixed32(bits)) => score = f32::from_bits(bits),
                        (3, Field::Varint(n)) => kind = n,
                        _ => {}
                    }
                }
                pieces.push((text.to_owned(), score, kind));
            }
            (2, Field::Bytes(trainer)) => {
                for field in Fields(trainer) {
                    if let (3, Field::Varint(n)) = field.ok_or(CUT)? {
                        kind = n;
                    }
                }
            }
            (3, Field::Bytes(normalizer)) => {
                for field in Fields(normalizer) {
                    match field.ok_or(CUT)? {
                        (2, Field::Bytes(map)) => charsmap = map.to_vec(),
                        (3, Field::Varint(n)) => space_prefix = n != 0,
                        (4, Field::Varint(n)) => collapses = n != 0,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if kind != UNIGRAM {
        return Err("not a unigram model");
    }
    if !(space_prefix && collapses) {
        return Err("it keeps spaces as they are; XGLM's vocabularies collapse them");
    }
    let special = pieces.get(..SPECIAL.len()).ok_or("not a SentencePiece model")?;
    if !special.iter().map(|(text, _, kind)| (text.as_str(), *kind)).eq(SPECIAL) {
        return Err("its first pieces are not <unk>, <s>, </s>, as in XGLM's vocabularies");
    }
    let normal = pieces.split_off(SPECIAL.len());
    if normal.iter().any(|&(_, _, kind)| kind != piece_type::NORMAL) {
        return Err("it has pieces that are not normal ones, which the runtime does not know");
    }
    Ok(Vocabulary::new(normal.into_iter().map(|(text, score, _)| (text, score)), charsmap))
}

/// How many tokens XGLM has in place of [`SPECIAL`].
const N_SPECIAL: usize = 4;

/// A vocabulary as a SentencePiece model: what [`read`] reads. Made-up words at its end are left out.
///
/// # Errors
/// The vocabulary is not in XGLM's order: the special tokens, the pieces, made-up words.
pub fn write(vocabulary: &Vocabulary) -> Result<Vec<u8>> {
    let is_normal = |kind: &i32| *kind == token_type::NORMAL;
    let (special, kinds) = vocabulary.types.split_at_checked(N_SPECIAL).unwrap_or_default();
    let n_pieces = kinds.iter().take_while(|kind| is_normal(kind)).count();
    let is_ordered = !special.iter().chain(&kinds[n_pieces..]).any(is_normal);
    if n_pieces == 0 || !is_ordered {
        return Err(Error::usage(
            "the vocabulary is not in XGLM's order: special tokens, then pieces",
        ));
    }
    let special = SPECIAL.map(|(text, kind)| (text, 0.0, kind));
    let pieces = vocabulary.tokens.iter().zip(&vocabulary.scores).skip(N_SPECIAL).take(n_pieces);
    let pieces = pieces.map(|(text, score)| (text.as_str(), *score, piece_type::NORMAL));
    let mut out = Vec::new();
    for (text, score, kind) in special.into_iter().chain(pieces) {
        let mut piece = Vec::new();
        push_bytes(&mut piece, 1, text.as_bytes());
        push_varint(&mut piece, 2 << 3 | 5);
        piece.extend(score.to_le_bytes());
        push_number(&mut piece, 3, kind);
        push_bytes(&mut out, 1, &piece);
    }
    let mut trainer = Vec::new();
    push_number(&mut trainer, 3, UNIGRAM);
    push_number(&mut trainer, 4, (SPECIAL.len() + n_pieces) as u64);
    push_bytes(&mut out, 2, &trainer);
    let mut normalizer = Vec::new();
    push_bytes(&mut normalizer, 2, &vocabulary.charsmap);
    for flag in [3, 4, 5] {
        push_number(&mut normalizer, flag, 1);
    }
    push_bytes(&mut out, 3, &normalizer);
    Ok(out)
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn push_number(out: &mut Vec<u8>, field: u64, value: u64) {
    push_varint(out, field << 3);
    push_varint(out, value);
}

fn push_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    push_varint(out, field << 3 | 2);
    push_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// The value of a field.
enum Field<'a> {
    Varint(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
    /// Eight bytes, which no field that is read has.
    Fixed64,
}

/// The fields of a message with their numbers; `None` for one that is cut off or of an unknown kind.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Field<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => self.take(8).map(|_| Field::Fixed64)?,
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(len)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
        let mut piece = vec![0x0a, text.len() as u8];
        piece.extend(text.as_bytes());
        piece.push(0x15);
        piece.extend(score.to_le_bytes());
        piece.extend([0x18, kind]);
        let mut field = vec![0x0a, piece.len() as u8];
        field.extend(piece);
        field
    }

    fn model(pieces: &[(&str, f32, u8)], rest: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = pieces.iter().flat_map(|(t, s, k)| piece(t, *s, *k)).collect();
        bytes.extend(rest);
        bytes
    }

    const PIECES: [(&str, f32, u8); 5] = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("\u{2581}a", -1.5, 1),
        ("b", -2.0, 1),
    ];

    #[test]
    fn pieces_follow_xglms_special_tokens() {
        // A character map of four bytes.
        let bytes = model(&PIECES, &[0x1a, 6, 0x12, 4, 1, 2, 3, 4]);
        let vocabulary = parse(&bytes).unwrap();
        assert_eq!(vocabulary.tokens, ["<s>", "<pad>", "</s>", "<unk>", "\u{2581}a", "b"]);
        assert_eq!(vocabulary.scores, [0.0, 0.0, 0.0, 0.0, -1.5, -2.0]);
        assert_eq!(vocabulary.charsmap, [1, 2, 3, 4]);
        // Cut anywhere but between fields, it is refused.
        let whole: Vec<usize> = (0..bytes.len()).filter(|&n| parse(&bytes[..n]).is_ok()).collect();
        let ends = [3, 4, 5].map(|n| model(&PIECES[..n], &[]).len());
        assert_eq!(whole, ends);
    }

    #[test]
    fn vocabularies_round_trip() {
        let vocabulary = parse(&model(&PIECES, &[0x1a, 6, 0x12, 4, 1, 2, 3, 4])).unwrap();
        let bytes = write(&vocabulary).unwrap();
        let again = parse(&bytes).unwrap();
        assert_eq!((&again.tokens, &again.scores), (&vocabulary.tokens, &vocabulary.scores));
        assert_eq!((&again.types, &again.charsmap), (&vocabulary.types, &vocabulary.charsmap));
        let mut longer = vocabulary.clone();
        longer.tokens.push("<madeupword0>".into());
        longer.scores.push(0.0);
        longer.types.push(token_type::CONTROL);
        assert!(write(&longer).unwrap() == bytes);
        longer.types.swap(4, 6);
        assert!(write(&longer).is_err());
        assert!(write(&Vocabulary::default()).is_err());
    }

    #[test]
    fn what_the_runtime_does_not_follow_is_refused() {
        let refused = |bytes: &[u8]| parse(bytes).unwrap_err();
        assert!(refused(&model(&PIECES, &[0x12, 2, 0x18, 2])).contains("unigram"));
        assert!(refused(&model(&PIECES, &[0x1a, 2, 0x20, 0])).contains("spaces"));
        assert!(refused(&model(&PIECES[1..], &[])).contains("first pieces"));
        let user_defined = [&PIECES[..], &[("x", 0.0, 4)]].concat();
        assert!(refused(&model(&user_defined, &[])).contains("not normal"));
        assert!(refused(b"GGUF").contains("not a SentencePiece model"));
        assert!(refused(b"").contains("not a SentencePiece model"));
        assert!(refused(&[0xff; 40]).contains("not a SentencePiece model"));
    }
}
