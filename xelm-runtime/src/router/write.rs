//! Writing the router's tables, for the offline tools.

use super::{MAX_NUMBER, Router, Rule, VERSION, keys, tensors};
use crate::error::{Error, Result};
use crate::format::{Body, Writer};
use crate::quant::DType;
use crate::trie;
use std::io::Write;
use std::string::String;
use std::vec::Vec;

/// A fitted router; matrices are row-major.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a, S> {
    /// What counts as a word.
    pub rule: Rule,
    /// The terms, distinct, in any order.
    pub terms: &'a [S],
    /// One number per term.
    pub idf: &'a [f32],
    /// `[terms, n_dims]`.
    pub projection: &'a [f32],
    /// `[n_experts, n_dims]`, in the set's order.
    pub centroids: &'a [f32],
    /// Numbers of a text's vector.
    pub n_dims: usize,
}

/// How the projection is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As it is.
    F32,
    /// One byte per number and one scale per term.
    I8,
}

/// The tensors of a router, ready for a file.
#[derive(Clone, Debug)]
pub struct RouterTensors {
    rule: Rule,
    /// Name, type, dimensions, bytes.
    tensors: Vec<(&'static str, DType, Vec<usize>, Vec<u8>)>,
}

impl RouterTensors {
    /// Builds the tensors.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] where the tables are empty, do not fit each other, hold a number that is not
    /// finite or too large, or terms that are empty, equal, or contain U+0000.
    pub fn new<S: AsRef<str>>(tables: &Tables<'_, S>, precision: Precision) -> Result<Self> {
        let Tables { rule, terms, idf, projection, centroids, n_dims } = *tables;
        let n_experts = centroids.len().checked_div(n_dims).unwrap_or(0);
        let fits = idf.len() == terms.len()
            && Some(projection.len()) == terms.len().checked_mul(n_dims)
            && centroids.len().checked_rem(n_dims) == Some(0);
        let too_large = |x: &f32| x.is_nan() || x.abs() > MAX_NUMBER;
        if !fits
            || terms.is_empty()
            || n_experts == 0
            || [idf, projection, centroids].into_iter().flatten().any(too_large)
        {
            return Err(Error::OutOfRange { what: "a table of the router" });
        }
        let mut keys: Vec<(&[u8], u32)> =
            terms.iter().map(|term| term.as_ref().as_bytes()).zip(0..).collect();
        keys.sort_unstable();
        let units = trie::build(&keys)?;
        let n_units = units.len();
        let units: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let mut tensors = std::vec![
            (tensors::TERMS, DType::I32, std::vec![n_units], units),
            (tensors::IDF, DType::F32, std::vec![idf.len()], floats(idf)),
            (tensors::CENTROIDS, DType::F32, std::vec![n_dims, n_experts], floats(centroids)),
        ];
        let dims = std::vec![n_dims, terms.len()];
        match precision {
            Precision::F32 => {
                tensors.push((tensors::PROJECTION, DType::F32, dims, floats(projection)));
            }
            Precision::I8 => {
                let (values, scale) = quantized(projection, n_dims);
                tensors.push((tensors::PROJECTION, DType::I8, dims, values));
                let name = tensors::PROJECTION_SCALE;
                tensors.push((name, DType::F32, std::vec![terms.len()], floats(&scale)));
            }
        }
        Ok(RouterTensors { rule, tensors })
    }

    /// Bytes of all tensors in a file, without what aligns them.
    pub fn n_bytes(&self) -> usize {
        self.tensors.iter().map(|(.., bytes)| bytes.len()).sum()
    }

    /// Adds the keys, and describes the tensors in the order in which [`RouterTensors::write`] follows.
    ///
    /// # Errors
    /// [`Writer::tensor`]'s.
    pub fn describe(&self, writer: &mut Writer) -> Result<()> {
        writer.u32(keys::VERSION, VERSION);
        writer.string(keys::RULE, self.rule.name());
        self.tensors.iter().try_for_each(|(name, dtype, dims, _)| writer.tensor(name, *dtype, dims))
    }

    /// Writes the tensors.
    ///
    /// # Errors
    /// The writer's.
    pub fn write<W: Write>(&self, body: &mut Body<W>) -> Result<()> {
        self.tensors.iter().try_for_each(|(.., bytes)| body.tensor([bytes]))
    }
}

impl Router<'_> {
    /// All terms, by id.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] where a row has no term, several, or one that is not UTF-8.
    pub fn terms(&self) -> Result<Vec<String>> {
        let bad = Error::OutOfRange { what: tensors::TERMS };
        let mut terms = std::vec![String::new(); self.n_terms()];
        for (term, id) in trie::keys(&self.terms)? {
            let slot = terms.get_mut(id as usize).filter(|slot| slot.is_empty()).ok_or(bad)?;
            *slot = String::from_utf8(term).map_err(|_| bad)?;
        }
        if terms.iter().any(String::is_empty) { Err(bad) } else { Ok(terms) }
    }
}

fn floats(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Rows as round(x / scale) with scale = max|x| / 127, half away from zero; the scale of a row of zeros is 0.
fn quantized(rows: &[f32], n_dims: usize) -> (Vec<u8>, Vec<f32>) {
    let mut values = Vec::with_capacity(rows.len());
    let mut scales = Vec::new();
    for row in rows.chunks_exact(n_dims) {
        let scale = row.iter().fold(0.0f32, |max, x| max.max(x.abs())) / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        // A scale too small to invert would give infinity, which the cast makes 127; its row is next to 0.
        values.extend(row.iter().map(|x| ((x * inverse).round() as i8).cast_unsigned()));
        scales.push(scale);
    }
    (values, scales)
}
