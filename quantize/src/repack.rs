//! The layout of weights, changed without a loss: rows interleaved for the kernels, or as standard files have them.

use crate::error::{file, io};
use crate::{Result, Sizes, open, size};
use rayon::prelude::*;
use std::path::Path;
use xelm_runtime::config::ARCH_OWN;
use xelm_runtime::expert::Expert;
use xelm_runtime::format::{AtomicFile, Gguf, Tensor, Value, Writer, keys};
use xelm_runtime::layout::{Layout, PACKED_LAYOUT, PANEL, pack, unpack};
use xelm_runtime::quant::DType;

/// Writes the expert of `from` with its quantised matrices in the layout `to_layout` ([`xelm_runtime::layout`]);
/// a file that has it already is written as it is. Packing and unpacking gives the same bytes again where the
/// file is one of ours.
///
/// # Errors
/// The input is no model file, or the output cannot be written or is the same file.
pub fn repack_file(from: &Path, to: &Path, to_layout: Layout) -> Result<Sizes> {
    let input = open(from, to)?;
    let gguf = input.gguf().map_err(file(from))?;
    let types = Expert::types(&gguf).map_err(file(from))?;
    let stored = |(tensor, (dtype, layout))| Stored { tensor, dtype, layout };
    let tensors: Vec<Stored<'_>> = gguf.tensors().zip(types).map(stored).collect();
    let mut writer = header(&gguf, &tensors, to_layout);
    for stored in &tensors {
        let (dtype, dims) = stored.description(to_layout);
        writer.tensor(stored.tensor.name, dtype, &dims).map_err(file(from))?;
    }
    let out = AtomicFile::create(to).map_err(io(to))?;
    let mut body = writer.begin(out).map_err(file(to))?;
    for stored in &tensors {
        body.tensor(stored.parts(to_layout)).map_err(file(to))?;
    }
    body.finish().map_err(file(to))?.commit().map_err(io(to))?;
    Ok(Sizes { before: size(from)?, after: size(to)? })
}

/// Everything that the input says of itself, and how the weights lie.
fn header(gguf: &Gguf<'_>, tensors: &[Stored<'_>], to: Layout) -> Writer {
    let name = |key| match gguf.get(key) {
        Some(Value::String(name)) => Some(name),
        _ => None,
    };
    let standard = name(keys::PACKED_ARCHITECTURE).or(name(keys::ARCHITECTURE)).unwrap_or(ARCH_OWN);
    let mut writer = Writer::new(if to == Layout::Packed { ARCH_OWN } else { standard });
    for (key, value) in gguf.metadata() {
        let is_ours = key.starts_with("xelm.packed.");
        if !is_ours && ![keys::ARCHITECTURE, keys::ALIGNMENT].contains(&key) {
            writer.copy(key, value);
        }
    }
    if to == Layout::Packed {
        let types: Vec<u32> = tensors.iter().map(|stored| stored.dtype as u32).collect();
        writer.u32(keys::PACKED_LAYOUT, PACKED_LAYOUT);
        writer.u32s(keys::PACKED_TYPES, &types);
        writer.string(keys::PACKED_ARCHITECTURE, standard);
    }
    writer
}

/// A tensor as its file has it.
struct Stored<'a> {
    tensor: Tensor<'a>,
    dtype: DType,
    layout: Layout,
}

impl Stored<'_> {
    /// Type and dimensions that the description in a file has: packed, rows of bytes.
    fn description(&self, to: Layout) -> (DType, Vec<usize>) {
        let (n_rows, row_bytes) = (self.tensor.n_rows(), self.row_bytes());
        let n_cols = row_bytes / self.dtype.block_bytes() * self.dtype.block_len();
        match to {
            Layout::Packed if self.dtype.is_quantized() => (DType::I8, vec![row_bytes, n_rows]),
            _ if self.layout == Layout::Packed => (self.dtype, vec![n_cols, n_rows]),
            _ => (self.dtype, self.tensor.dims[..self.tensor.n_dims].to_vec()),
        }
    }

    fn row_bytes(&self) -> usize {
        self.tensor.bytes.len() / self.tensor.n_rows()
    }

    /// The bytes in another layout, in parts.
    fn parts(&self, to: Layout) -> impl Iterator<Item = Vec<u8>> {
        let panel_bytes = PANEL * self.row_bytes();
        let moved = self.dtype.is_quantized() && self.layout != to;
        self.tensor.bytes.chunks(PANELS * panel_bytes).map(move |part| {
            let mut out = part.to_vec();
            if moved {
                let panels = part.par_chunks_exact(panel_bytes);
                panels.zip(out.par_chunks_exact_mut(panel_bytes)).for_each(
                    |(panel, out)| match to {
                        Layout::Packed => pack(self.dtype, panel, out),
                        Layout::Standard => unpack(self.dtype, panel, out),
                    },
                );
            }
            out
        })
    }
}

/// Panels moved together: bounds the memory of a conversion.
const PANELS: usize = 128;
