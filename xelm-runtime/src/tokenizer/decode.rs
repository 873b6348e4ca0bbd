//! Ids back to text.

use super::{SPACE, Tokenizer, token_type};

/// Turns a sequence of tokens into text, token by token: `▁` becomes a space, except at the very
/// beginning. Each token gives whole characters, so every part is valid UTF-8 on its own.
#[derive(Clone, Copy, Debug)]
pub struct TextStream {
    /// Whether nothing has been written yet, so that one leading space is dropped.
    at_start: bool,
}

impl TextStream {
    /// A text that begins with the first token.
    pub const fn new() -> Self {
        TextStream { at_start: true }
    }

    /// A text that continues one already written.
    pub const fn continuing() -> Self {
        TextStream { at_start: false }
    }

    /// Hands the text of token `id` to `emit` in one or more parts. Control tokens give nothing,
    /// the unknown token SentencePiece's " ⁇ ".
    pub fn push(&mut self, tokenizer: &Tokenizer<'_>, id: u32, mut emit: impl FnMut(&str)) {
        let piece = match tokenizer.token_type(id) {
            token_type::CONTROL => return,
            token_type::UNKNOWN => " \u{2047} ",
            _ => tokenizer.piece(id),
        };
        let piece = if self.at_start { piece.strip_prefix(SPACE).unwrap_or(piece) } else { piece };
        if self.at_start && piece.is_empty() {
            // The piece was `▁` alone: the reference drops that one space only.
            self.at_start = false;
            return;
        }
        self.at_start = false;
        for (i, part) in piece.split(SPACE).enumerate() {
            if i > 0 {
                emit(" ");
            }
            if !part.is_empty() {
                emit(part);
            }
        }
    }
}

impl Default for TextStream {
    fn default() -> Self {
        TextStream::new()
    }
}
