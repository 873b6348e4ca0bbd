//! The running vector of one text.

use super::{Lexicon, Router, Words};
use crate::arena::Arena;
use crate::error::Result;
use crate::math;
use crate::trie::Node;

/// What the router knows of a text so far. The text itself is not kept.
#[derive(Debug)]
pub struct Context<'m> {
    /// Σ idf(w) · V(w) over the words that have ended, added in their order.
    sums: &'m mut [f32],
    vector: &'m mut [f32],
    words: Words<Node>,
}

impl<'m> Context<'m> {
    /// Takes room for one text from an arena: none where there is no router. The text is empty.
    ///
    /// # Errors
    /// The arena is exhausted.
    pub fn carve(arena: &mut Arena<'m>, router: Option<&Router<'_>>) -> Result<Self> {
        let n_dims = router.map_or(0, Router::n_dims);
        let (sums, vector) = (arena.take(n_dims)?, arena.take(n_dims)?);
        let mut context = Context { sums, vector, words: Words::default() };
        context.reset();
        Ok(context)
    }

    /// Begins another text.
    pub fn reset(&mut self) {
        self.sums.fill(0.0);
        self.words = Words::default();
    }

    /// Takes the next piece of the text. Pieces may cut words anywhere, and give the same bits as the whole.
    pub fn feed(&mut self, router: &Router<'_>, text: &str) {
        let mut terms = Terms { router, sums: self.sums };
        self.words.feed(router.rule, &mut terms, text);
    }

    /// The unit vector of the text so far, as if it ended here: `n_dims` numbers. All zeros where it has no
    /// word that the router knows.
    pub fn vector(&mut self, router: &Router<'_>) -> &[f32] {
        self.vector.copy_from_slice(self.sums);
        self.words.finish(&mut Terms { router, sums: self.vector });
        // The largest is taken out first, so that no square overflows or vanishes.
        let largest = self.vector.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        if largest > 0.0 {
            let mut squares = 0.0;
            for x in self.vector.iter_mut() {
                *x /= largest;
                squares += *x * *x;
            }
            let norm = math::sqrt(squares);
            self.vector.iter_mut().for_each(|x| *x /= norm);
        }
        self.vector
    }
}

/// The router's terms as the words' lexicon.
struct Terms<'r, 'a> {
    router: &'r Router<'a>,
    sums: &'r mut [f32],
}

impl Lexicon for Terms<'_, '_> {
    type Node = Node;

    fn root(&self) -> Option<Node> {
        self.router.terms.root()
    }

    fn step(&mut self, node: Node, c: char) -> Option<Node> {
        let terms = &self.router.terms;
        c.encode_utf8(&mut [0; 4]).bytes().try_fold(node, |node, byte| terms.step(node, byte))
    }

    fn found(&mut self, node: Node) {
        if let Some(id) = self.router.terms.value(node) {
            self.router.add(id as usize, self.sums);
        }
    }
}
