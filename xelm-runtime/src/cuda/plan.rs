//! What a session takes of a card's memory, and where each weight lies. A pure function of experts and needs: it
//! can be computed without a card.

use super::formats::{FORMATS, body};
use super::{CHUNK, MAX_HEAD_DIM};
use crate::arena::Arena;
use crate::cache::KvType;
use crate::config::Config;
use crate::device::Needs;
use crate::ensemble::Ensemble;
use crate::error::{Error, Result};
use crate::expert::{Expert, Matrix};
use crate::layout::Layout;
use crate::quant::{BLOCK, DType};
use crate::shortlist::Outputs;
use std::vec::Vec;

/// How much memory a session takes on a card, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Weights of all experts that are present.
    pub weights: usize,
    /// Keys and values.
    pub kv: usize,
    /// Buffers of the forward pass and logits.
    pub scratch: usize,
    /// The sum.
    pub total: usize,
    /// Not in the sum: page-locked memory of this machine, through which tokens and logits travel.
    pub staging: usize,
}

/// A place of the model where an expert has a matrix and its bias, or a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The embedding; its bias are the positions.
    Embed,
    OutputNorm,
    Head,
    Layer(usize, Part),
}

/// A place of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    AttnNorm,
    AttnQkv,
    AttnOutput,
    FfnNorm,
    FfnUp,
    FfnDown,
}

const PARTS: [Part; 6] =
    [Part::AttnNorm, Part::AttnQkv, Part::AttnOutput, Part::FfnNorm, Part::FfnUp, Part::FfnDown];

impl Place {
    /// All places of a model with as many layers, in the order of [`Place::index`].
    fn all(n_layer: usize) -> impl Iterator<Item = Place> {
        let layer = |layer| PARTS.into_iter().map(move |part| Place::Layer(layer, part));
        [Place::Embed, Place::OutputNorm, Place::Head]
            .into_iter()
            .chain((0..n_layer).flat_map(layer))
    }

    /// Its number.
    pub(super) fn index(self) -> usize {
        match self {
            Place::Embed => 0,
            Place::OutputNorm => 1,
            Place::Head => 2,
            Place::Layer(layer, part) => 3 + PARTS.len() * layer + part as usize,
        }
    }

    /// What an expert has there.
    fn of<'a>(self, expert: &Expert<'a>, outputs: &Outputs<'_>) -> (Matrix<'a>, &'a [f32]) {
        let norm = |(weight, bias): (&'a [f32], &'a [f32])| {
            let bytes = bytemuck::cast_slice(weight);
            let layout = Layout::Standard;
            (Matrix { dtype: DType::F32, layout, n_rows: 1, n_cols: weight.len(), bytes }, bias)
        };
        match self {
            Place::Embed => (expert.token_embd, expert.position_embd),
            Place::OutputNorm => norm(expert.output_norm),
            Place::Head => (expert.output(outputs), &[]),
            Place::Layer(layer, part) => {
                let layer = &expert.layers[layer];
                match part {
                    Part::AttnNorm => norm(layer.attn_norm),
                    Part::AttnQkv => layer.attn_qkv,
                    Part::AttnOutput => layer.attn_output,
                    Part::FfnNorm => norm(layer.ffn_norm),
                    Part::FfnUp => layer.ffn_up,
                    Part::FfnDown => layer.ffn_down,
                }
            }
        }
    }
}

/// What an expert has at a place, and where it lies, in bytes from where the weights begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<'a> {
    pub(super) matrix: Matrix<'a>,
    pub(super) bias: &'a [f32],
    pub(super) body: usize,
    pub(super) rest: usize,
    /// Of no meaning where there is no bias.
    pub(super) bias_at: usize,
    /// Whether it is a second name for what lies there already: the head that is the embedding.
    pub(super) is_shared: bool,
}

/// Everything.
#[derive(Debug)]
pub(super) struct Places<'a> {
    /// `[place][expert]`; `None` where an expert is not present.
    pub(super) sites: Vec<Option<Placed<'a>>>,
    /// The table of [`Places::sites`] as the kernels read it, from where the weights begin.
    pub(super) table: usize,
    /// Bytes of each buffer.
    pub(super) buffers: Buffers<usize>,
    pub(super) n_out: usize,
    pub(super) plan: Plan,
}

/// The buffers of a pass: M lanes, N tokens, C, F as in [`Config`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffers<P> {
    pub(super) input: P, // [1] position, [1] unused, [M] lanes, [N] tokens, 32 bits each, 64 a lane
    pub(super) x: P,     // [M, N, C] residual stream
    pub(super) h: P,     // [M, N, C]
    pub(super) qkv: P,   // [M, N, 3C]
    pub(super) att: P,   // [M, N, C]
    pub(super) ff: P,    // [M, N, F]
    pub(super) q: P,     // [M, N, max(C, F)] activations in 8 bits
    pub(super) scales: P, // [M, N, max(C, F) / 32] their scales
    pub(super) parts: P, // [M, N, H, n_chunks, head_dim + 2] attention to chunks of the keys
    pub(super) logits: P, // [n_logits, n_out]
}

impl<P> Buffers<P> {
    /// Memory for sizes.
    ///
    /// # Errors
    /// That of `of`.
    pub(super) fn try_map<Q>(self, mut of: impl FnMut(P) -> Result<Q>) -> Result<Buffers<Q>> {
        Ok(Buffers {
            input: of(self.input)?,
            x: of(self.x)?,
            h: of(self.h)?,
            qkv: of(self.qkv)?,
            att: of(self.att)?,
            ff: of(self.ff)?,
            q: of(self.q)?,
            scales: of(self.scales)?,
            parts: of(self.parts)?,
            logits: of(self.logits)?,
        })
    }
}

/// Bytes of an entry of the table.
pub(super) const SITE: usize = 32;
/// Bytes of an entry of the scales.
const SCALE: usize = 8;
/// What every part is aligned to.
const ALIGN: usize = 256;

/// Bytes of `n` elements of `size` bytes, up to the next aligned address.
fn bytes(n: &[usize], size: usize) -> Result<usize> {
    let bytes = n.iter().try_fold(size, |bytes, n| bytes.checked_mul(*n));
    let bytes = bytes.and_then(|bytes| bytes.checked_next_multiple_of(ALIGN));
    let possible = bytes.filter(|&bytes| bytes <= isize::MAX as usize / 64);
    possible.ok_or(Error::OutOfRange { what: "a memory size" })
}

/// The memory that [`super::Cuda::open`] takes of a card.
///
/// # Errors
/// Sizes that no address holds, or a model that the kernels do not compute.
pub fn plan<'e>(experts: impl Into<Ensemble<'e>>, needs: &Needs) -> Result<Plan> {
    let ensemble = experts.into();
    Ok(Places::new(&ensemble, needs)?.plan)
}

impl<'a> Places<'a> {
    pub(super) fn new(ensemble: &Ensemble<'a>, needs: &Needs) -> Result<Self> {
        let Config { n_layer, n_embd, n_head, n_ff, n_vocab, .. } = *ensemble.config();
        let Needs { n_ctx, n_batch, n_lanes, n_slots, n_logits, kv, full_output } = *needs;
        let head_dim = n_embd / n_head;
        if head_dim > MAX_HEAD_DIM {
            return Err(Error::Device {
                what: "no CUDA kernel computes heads of more than 256 numbers",
                code: 0,
            });
        }
        if kv == KvType::Q8_0 {
            return Err(Error::Device {
                what: "no CUDA kernel keeps keys and values in 8 bits: choose f16",
                code: 0,
            });
        }
        let (outputs, n_out) = match ensemble.shortlists().filter(|_| !full_output) {
            // Only their number counts here: an arena that measures keeps none.
            Some(lists) => Outputs::carve(&mut Arena::measure(), lists, n_vocab)?,
            None => (Outputs::all(n_vocab), n_vocab),
        };
        let mut weights = 0;
        let mut take = |n: usize, size: usize| -> Result<usize> {
            let at = weights;
            weights += bytes(&[n], size)?;
            Ok(at)
        };
        let mut sites: Vec<Option<Placed<'a>>> = Vec::new();
        for place in Place::all(n_layer) {
            for index in 0..ensemble.len() {
                let Some(expert) = ensemble.get(index) else {
                    sites.push(None);
                    continue;
                };
                let (matrix, bias) = place.of(expert, &outputs);
                if place == Place::Head && outputs.ids().is_none() {
                    let embed = sites[Place::Embed.index() * ensemble.len() + index];
                    sites.push(embed.map(|embed| Placed { bias, is_shared: true, ..embed }));
                    continue;
                }
                let n_blocks = matrix.bytes.len() / matrix.dtype.block_bytes();
                let n_body = body(matrix.dtype).len();
                let n_rest = matrix.dtype.block_bytes() - n_body;
                sites.push(Some(Placed {
                    matrix,
                    bias,
                    body: take(n_blocks, n_body)?,
                    rest: take(n_blocks, n_rest)?,
                    bias_at: take(bias.len(), size_of::<f32>())?,
                    is_shared: false,
                }));
            }
        }
        let table = take(sites.len(), SITE)?;
        let kv = bytes(&[n_slots, n_layer, 2, n_ctx, n_embd], kv.bytes(1))?;
        let (word, widest) = (size_of::<f32>(), n_embd.max(n_ff));
        let input_words = 2 + 2 * n_lanes + n_batch;
        let n_chunks = n_ctx.div_ceil(CHUNK);
        let buffers = Buffers {
            input: bytes(&[input_words], word)?,
            x: bytes(&[n_lanes, n_batch, n_embd], word)?,
            h: bytes(&[n_lanes, n_batch, n_embd], word)?,
            qkv: bytes(&[n_lanes, n_batch, 3, n_embd], word)?,
            att: bytes(&[n_lanes, n_batch, n_embd], word)?,
            ff: bytes(&[n_lanes, n_batch, n_ff], word)?,
            q: bytes(&[n_lanes, n_batch, widest], 1)?,
            scales: bytes(&[n_lanes, n_batch, widest.div_ceil(BLOCK)], SCALE)?,
            parts: bytes(&[n_lanes, n_batch, n_head, n_chunks, head_dim + 2], word)?,
            logits: bytes(&[n_logits, n_out], word)?,
        };
        let mut scratch = 0;
        buffers.try_map(|bytes| {
            scratch += bytes;
            Ok(())
        })?;
        let staging = bytes(&[n_logits, n_out], word)?.max(buffers.input);
        let plan = Plan { weights, kv, scratch, total: weights + kv + scratch, staging };
        Ok(Places { sites, table, buffers, n_out, plan })
    }

    /// The formats that a place's matrices are in, as a bit for each of [`FORMATS`].
    pub(super) fn formats(&self, n_experts: usize, place: usize) -> u16 {
        let placed = self.sites[place * n_experts..][..n_experts].iter().flatten();
        let number = |p: &Placed<'_>| FORMATS.iter().position(|f| f.dtype == p.matrix.dtype);
        placed.filter_map(number).fold(0, |bits, i| bits | 1 << i)
    }
}
