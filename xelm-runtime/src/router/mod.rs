//! The router: which experts suit a text, by its words.
//!
//! A text is the unit vector of Σ count(w) · idf(w) · V(w) over its words w, where V(w) is the word's row of
//! a projection learned offline; an expert's weight falls with the distance of that vector to the expert's
//! centroid. The sum grows with the text, so that routing costs O(dimensions) per word and no memory of the
//! words. All tables are read in place from `set.gguf` (`docs/formats.md`).

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

mod classes;
mod context;
mod weights;
mod words;
#[cfg(feature = "std")]
mod write;

pub use context::Context;
pub use weights::{Power, RouteOptions};
pub use words::{Lexicon, Rule, Words};
#[cfg(feature = "std")]
pub use write::{Precision, RouterTensors, Tables};

use crate::error::{Error, Result};
use crate::format::{Gguf, Tensor, ValueType};
use crate::quant::DType;
use crate::set;
use crate::trie::Trie;

/// Version of the tables, in [`keys::VERSION`].
pub const VERSION: u32 = 1;
/// Largest magnitude of a number in the tables: no sum or distance of such numbers overflows.
pub const MAX_NUMBER: f32 = 1e6;
/// Largest number of dimensions and of experts.
const MAX_SIZE: usize = 1 << 16;

/// Metadata keys of a file with a router.
pub mod keys {
    /// `u32`: version of the tables; a file without it has no router.
    pub const VERSION: &str = "xelm.router.version";
    /// `str`: [`super::Rule`], by name.
    pub const RULE: &str = "xelm.router.rule";
}

/// Names of the tensors.
pub mod tensors {
    /// I32 `[n_units]`: double array over the terms, term ids as values.
    pub const TERMS: &str = "router.terms";
    /// F32 `[n_terms]`.
    pub const IDF: &str = "router.idf";
    /// F32 or I8 `[n_terms, n_dims]`.
    pub const PROJECTION: &str = "router.projection";
    /// F32 `[n_terms]`, with an I8 projection only.
    pub const PROJECTION_SCALE: &str = "router.projection_scale";
    /// F32 `[n_experts, n_dims]`.
    pub const CENTROIDS: &str = "router.centroids";
}

/// A view of the router's tables in a mapped file.
#[derive(Clone, Copy, Debug)]
pub struct Router<'a> {
    rule: Rule,
    terms: Trie<'a>,
    idf: Floats<'a>,
    projection: Projection<'a>,
    centroids: Floats<'a>,
    n_dims: usize,
    n_experts: usize,
    n_bytes: usize,
}

/// Little-endian f32 wherever they lie.
type Floats<'a> = &'a [[u8; 4]];

/// The rows V(w).
#[derive(Clone, Copy, Debug)]
enum Projection<'a> {
    F32(Floats<'a>),
    I8 { values: &'a [u8], scale: Floats<'a> },
}

impl<'a> Router<'a> {
    /// Reads and checks the tables, in time linear in their size. `None` where the file has none.
    ///
    /// # Errors
    /// The rule that the file breaks: a key or tensor is missing, of another type or shape, a number is not
    /// finite or beyond [`MAX_NUMBER`], a term's id has no row, or a set has more or fewer experts than the
    /// router.
    pub fn open(gguf: &Gguf<'a>) -> Result<Option<Self>> {
        let Some(version) = gguf.get(keys::VERSION) else {
            let named = gguf.tensors().any(|t| t.name.starts_with("router."));
            let missing = Err(Error::MissingKey { key: keys::VERSION });
            return if named { missing } else { Ok(None) };
        };
        if version.u32(keys::VERSION)? != VERSION {
            return Err(Error::OutOfRange { what: keys::VERSION });
        }
        let rule = gguf.get(keys::RULE).ok_or(Error::MissingKey { key: keys::RULE })?;
        let rule = Rule::from_name(rule.str(keys::RULE)?);
        let rule = rule.ok_or(Error::OutOfRange { what: keys::RULE })?;

        let terms = tensor(gguf, tensors::TERMS, &[DType::I32], None)?;
        let idf = tensor(gguf, tensors::IDF, &[DType::F32], None)?;
        let centroids = tensor(gguf, tensors::CENTROIDS, &[DType::F32], None)?;
        let [n_terms, ..] = idf.dims;
        let [n_dims, n_experts, ..] = centroids.dims;
        let shape = |name| Error::WrongShape { name };
        if terms.n_dims != 1 {
            return Err(shape(tensors::TERMS));
        }
        if idf.n_dims != 1 {
            return Err(shape(tensors::IDF));
        }
        if centroids.n_dims != 2 || n_dims > MAX_SIZE || n_experts > MAX_SIZE {
            return Err(shape(tensors::CENTROIDS));
        }
        let of_set =
            gguf.get(set::keys::IDS).map(|v| v.array(&[ValueType::String], set::keys::IDS));
        if of_set.transpose()?.is_some_and(|ids| ids.len != n_experts) {
            return Err(shape(tensors::CENTROIDS));
        }
        let rows = [n_dims, n_terms];
        let types = [DType::F32, DType::I8];
        let projection = tensor(gguf, tensors::PROJECTION, &types, Some(&rows))?;
        let mut n_bytes = [terms, idf, centroids, projection]
            .iter()
            .fold(0usize, |sum, tensor| sum.saturating_add(tensor.bytes.len()));
        let projection = if projection.dtype == DType::I8 {
            let name = tensors::PROJECTION_SCALE;
            let scale = tensor(gguf, name, &[DType::F32], Some(&[n_terms]))?;
            n_bytes = n_bytes.saturating_add(scale.bytes.len());
            Projection::I8 { values: projection.bytes, scale: numbers(&scale)? }
        } else {
            Projection::F32(numbers(&projection)?)
        };
        let terms = Trie::new(terms.bytes);
        if !terms.is_in_bounds() || !terms.has_values_below(n_terms) {
            return Err(Error::OutOfRange { what: tensors::TERMS });
        }
        let (idf, centroids) = (numbers(&idf)?, numbers(&centroids)?);
        Ok(Some(Router { rule, terms, idf, projection, centroids, n_dims, n_experts, n_bytes }))
    }

    /// Numbers of a text's vector.
    pub fn n_dims(&self) -> usize {
        self.n_dims
    }

    /// Experts that are chosen among, in the set's order.
    pub fn n_experts(&self) -> usize {
        self.n_experts
    }

    /// Terms that have a row in the projection.
    pub fn n_terms(&self) -> usize {
        self.idf.len()
    }

    /// What counts as a word.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Bytes of all tables in the file.
    pub fn bytes(&self) -> usize {
        self.n_bytes
    }

    /// The id of a term, which is below [`Router::n_terms`].
    pub fn term(&self, term: &str) -> Option<usize> {
        self.terms.get(term.as_bytes()).map(|id| id as usize)
    }

    /// Adds idf(w) · V(w) of the term `id` to `sums`, which has `n_dims` numbers.
    fn add(&self, id: usize, sums: &mut [f32]) {
        let idf = float(self.idf, id);
        let Some(start) = id.checked_mul(self.n_dims) else { return };
        let row = start..start.saturating_add(self.n_dims);
        match self.projection {
            Projection::F32(values) => {
                for (sum, v) in sums.iter_mut().zip(values.get(row).unwrap_or_default()) {
                    *sum += idf * f32::from_le_bytes(*v);
                }
            }
            Projection::I8 { values, scale } => {
                let weight = idf * float(scale, id);
                for (sum, v) in sums.iter_mut().zip(values.get(row).unwrap_or_default()) {
                    *sum += weight * f32::from(v.cast_signed());
                }
            }
        }
    }
}

/// A tensor of one of the types `of` and of the shape `dims`, where the shape is known.
fn tensor<'a>(
    gguf: &Gguf<'a>,
    name: &'static str,
    of: &[DType],
    dims: Option<&[usize]>,
) -> Result<Tensor<'a>> {
    let tensor = gguf.tensor(name).ok_or(Error::MissingTensor { name })?;
    let shape = tensor.dims.get(..tensor.n_dims);
    let fits = of.contains(&tensor.dtype) && (dims.is_none() || dims == shape);
    if fits { Ok(tensor) } else { Err(Error::WrongShape { name }) }
}

/// The numbers of an F32 tensor, none of them too large.
fn numbers<'a>(tensor: &Tensor<'a>) -> Result<Floats<'a>> {
    let (numbers, _) = tensor.bytes.as_chunks::<4>();
    // Written so that NaN fails.
    if numbers.iter().all(|x| f32::from_le_bytes(*x).abs() <= MAX_NUMBER) {
        Ok(numbers)
    } else {
        Err(Error::OutOfRange { what: "a number of the router" })
    }
}

/// Number `i`; 0 past the end.
fn float(numbers: Floats<'_>, i: usize) -> f32 {
    numbers.get(i).map_or(0.0, |x| f32::from_le_bytes(*x))
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "tests may panic"
)]
mod tests;
