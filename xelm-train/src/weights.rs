//! A model's weights, wherever they are: in a checkpoint, in an expert file, in a folder of `transformers`.
//! They are read a piece at a time, so that a model larger than the memory passes from file to file.

use crate::model::{ParamId, position_table};
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::Path;
use xelm_runtime::config::{
    ARCH_OWN, ARCH_STANDARD, Activation, Config, Role, TensorId, inventory,
};
use xelm_runtime::expert::Expert;
use xelm_runtime::format::{AtomicFile, FORMAT_VERSION, Gguf, Writer, keys};
use xelm_runtime::math;
use xelm_runtime::quant::{DType, dequantize_row};

/// The parameters of a model under XGLM's names, unfolded. What implements it has checked, before it could
/// be had, that every parameter of [`parameters`](crate::model::parameters) is there in its shape.
pub trait Weights {
    /// Dimensions.
    fn config(&self) -> &Config;

    /// Reads numbers of the parameter `name`, from its number `start` on: whole rows.
    fn read(&self, name: &str, start: usize, out: &mut [f32]);
}

/// Numbers that pass at a time, rounded to whole rows: bounds the memory of a conversion.
const CHUNK: usize = 1 << 18;

/// Some of the numbers of a tensor, as the bytes of a file.
pub(crate) struct Part(pub(crate) Vec<f32>);

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// The `len` numbers of the parameter `name` in parts of whole rows of `n_cols`.
fn numbers<'a>(
    weights: &'a dyn Weights,
    name: String,
    len: usize,
    n_cols: usize,
) -> impl Iterator<Item = Part> + 'a {
    let step = (CHUNK / n_cols).max(1) * n_cols;
    (0..len).step_by(step).map(move |start| {
        let mut part = vec![0.0; step.min(len - start)];
        weights.read(&name, start, &mut part);
        Part(part)
    })
}

/// All numbers of a parameter, in parts.
pub(crate) fn parts<'a>(
    weights: &'a dyn Weights,
    parameter: &ParamId,
) -> impl Iterator<Item = Part> + 'a {
    let (n_rows, n_cols) = parameter.shape;
    numbers(weights, parameter.name.clone(), n_rows * n_cols, n_cols)
}

/// What becomes of a tensor when XGLM's input scale s = √C is folded in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Folding {
    /// Nothing.
    Kept,
    /// Times s.
    Multiplied,
    /// Divided by s.
    Divided,
}

impl Folding {
    fn fold(self, numbers: &mut [f32], s: f32) {
        match self {
            Folding::Kept => {}
            Folding::Multiplied => numbers.iter_mut().for_each(|x| *x *= s),
            Folding::Divided => numbers.iter_mut().for_each(|x| *x /= s),
        }
    }

    fn unfold(self, numbers: &mut [f32], s: f32) {
        match self {
            Folding::Kept => {}
            Folding::Multiplied => Folding::Divided.fold(numbers, s),
            Folding::Divided => Folding::Multiplied.fold(numbers, s),
        }
    }
}

/// The parameters that a tensor of an expert file holds, equally long and one after the other (Q, K and V
/// are fused), and what folding does to them. The table of positions is computed and holds none, and the
/// output layer of a shortlist has rows of the embedding once more.
fn composition(tensor: TensorId) -> (Vec<String>, Folding) {
    let in_layer = |rest: &str| format!("model.layers.{}.{rest}", tensor.layer.unwrap_or(0));
    let kept = |rest: &str| (vec![in_layer(rest)], Folding::Kept);
    let qkv = |kind: &str| {
        let names =
            ["q_proj", "k_proj", "v_proj"].map(|p| in_layer(&format!("self_attn.{p}.{kind}")));
        (names.to_vec(), Folding::Kept)
    };
    match tensor.role {
        Role::TokenEmbd => (vec!["model.embed_tokens.weight".into()], Folding::Multiplied),
        Role::PositionEmbd | Role::Output => (Vec::new(), Folding::Kept),
        Role::AttnNormWeight => kept("self_attn_layer_norm.weight"),
        Role::AttnNormBias => kept("self_attn_layer_norm.bias"),
        Role::AttnQkvWeight => qkv("weight"),
        Role::AttnQkvBias => qkv("bias"),
        Role::AttnOutputWeight => kept("self_attn.out_proj.weight"),
        Role::AttnOutputBias => kept("self_attn.out_proj.bias"),
        Role::FfnNormWeight => kept("final_layer_norm.weight"),
        Role::FfnNormBias => kept("final_layer_norm.bias"),
        Role::FfnUpWeight => kept("fc1.weight"),
        Role::FfnUpBias => kept("fc1.bias"),
        Role::FfnDownWeight => kept("fc2.weight"),
        Role::FfnDownBias => kept("fc2.bias"),
        Role::OutputNormWeight => (vec!["model.layer_norm.weight".into()], Folding::Divided),
        Role::OutputNormBias => (vec!["model.layer_norm.bias".into()], Folding::Divided),
    }
}

fn input_scale(config: &Config) -> f32 {
    math::sqrt(config.n_embd as f32)
}

/// llama.cpp's number for a file of F32 matrices.
const FILE_TYPE_F32: u32 = 0;

/// The metadata with which an F32 expert file begins; the tokenizer's is still missing.
pub fn expert_header(config: &Config, id: &str, languages: &[String]) -> Writer {
    // llama.cpp's gpt2 computes GELU only; what it cannot compute it must refuse.
    let standard = config.activation != Activation::Relu;
    let mut writer = Writer::new(if standard { ARCH_STANDARD } else { ARCH_OWN });
    writer.string(keys::NAME, id);
    writer.u32(keys::FILE_TYPE, FILE_TYPE_F32);
    writer.u32(keys::QUANTIZATION_VERSION, 2);
    config.write(&mut writer);
    writer.u32(keys::FORMAT_VERSION, FORMAT_VERSION);
    writer.string(keys::EXPERT_ID, id);
    writer.strings(keys::EXPERT_LANGUAGES, languages);
    writer
}

/// Writes an F32 expert file: `header` with the weights, folded.
///
/// # Errors
/// The file cannot be written.
pub fn write_expert(weights: &dyn Weights, mut header: Writer, path: &Path) -> Result<()> {
    let (config, wrong) = (weights.config(), Error::file(path));
    for tensor in inventory(config) {
        let (rows, cols) = tensor.shape(config);
        let dims: &[usize] = if tensor.is_matrix() { &[cols, rows] } else { &[cols] };
        header.tensor(&tensor.to_string(), DType::F32, dims).map_err(&wrong)?;
    }
    let file = AtomicFile::create(path).map_err(Error::io("write", path))?;
    let mut body = header.begin(file).map_err(&wrong)?;
    for tensor in inventory(config) {
        if tensor.role == Role::PositionEmbd {
            body.tensor([Part(position_table(config.n_ctx, config.n_embd))]).map_err(&wrong)?;
        } else {
            body.tensor(folded(weights, tensor)).map_err(&wrong)?;
        }
    }
    body.finish().map_err(&wrong)?.commit().map_err(Error::io("write", path))
}

/// The numbers of an expert file's tensor, in parts.
fn folded<'a>(weights: &'a dyn Weights, tensor: TensorId) -> impl Iterator<Item = Part> + 'a {
    let (n_rows, n_cols) = tensor.shape(weights.config());
    let (names, folding) = composition(tensor);
    let len = n_rows * n_cols / names.len().max(1);
    let s = input_scale(weights.config());
    names.into_iter().flat_map(move |name| numbers(weights, name, len, n_cols)).map(
        move |mut part| {
            folding.fold(&mut part.0, s);
            part
        },
    )
}

/// The weights of an expert file, unfolded again.
#[derive(Debug)]
pub struct ExpertWeights<'a> {
    config: Config,
    places: HashMap<String, Place<'a>>,
    /// The type with the fewest bits that a matrix is stored in.
    pub dtype: DType,
}

/// Where a parameter lies in an expert file.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    dtype: DType,
    bytes: &'a [u8],
    folding: Folding,
}

impl<'a> ExpertWeights<'a> {
    /// Reads the directory of an expert file.
    ///
    /// # Errors
    /// It is none, or its positions are not XGLM's.
    pub fn open(gguf: &Gguf<'a>) -> xelm_runtime::Result<Self> {
        let (config, _) = Expert::check_standard(gguf)?;
        let mut places = HashMap::new();
        let mut dtype = DType::F32;
        for tensor in gguf.tensors() {
            let Some(id) = TensorId::parse(tensor.name) else { continue };
            let (names, folding) = composition(id);
            if id.role == Role::PositionEmbd {
                check_positions(&config, tensor.bytes)?;
            }
            let bits = |dtype: DType| 8 * dtype.block_bytes() / dtype.block_len();
            if bits(tensor.dtype) < bits(dtype) {
                dtype = tensor.dtype;
            }
            let part = tensor.bytes.len() / names.len().max(1);
            for (name, bytes) in names.into_iter().zip(tensor.bytes.chunks_exact(part)) {
                places.insert(name, Place { dtype: tensor.dtype, bytes, folding });
            }
        }
        Ok(ExpertWeights { config, places, dtype })
    }
}

/// XGLM has no table of positions to take one that was learnt.
fn check_positions(config: &Config, bytes: &[u8]) -> xelm_runtime::Result<()> {
    const TOLERANCE: f32 = 1e-5;
    let table = position_table(config.n_ctx, config.n_embd);
    let found = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
    let same = table.iter().zip(found).all(|(a, b)| (a - b).abs() <= TOLERANCE);
    let what = "position_embd.weight (not XGLM's sinusoids)";
    if same { Ok(()) } else { Err(xelm_runtime::Error::OutOfRange { what }) }
}

impl Weights for ExpertWeights<'_> {
    fn config(&self) -> &Config {
        &self.config
    }

    fn read(&self, name: &str, start: usize, out: &mut [f32]) {
        let Some(place) = self.places.get(name) else { return };
        let at = |n: usize| place.dtype.row_bytes(n).unwrap_or(0);
        if let Some(bytes) = place.bytes.get(at(start)..at(start + out.len())) {
            // Whole rows are whole blocks, and opening has checked that the type holds real numbers.
            let _ = dequantize_row(place.dtype, bytes, out);
        }
        place.folding.unfold(out, input_scale(&self.config));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parameters;

    #[test]
    fn the_tensors_of_an_expert_hold_every_parameter_once() {
        let config = Config {
            n_vocab: 5,
            n_ctx: 4,
            n_embd: 6,
            n_layer: 2,
            n_head: 3,
            n_ff: 7,
            activation: Activation::Relu,
            norm_eps: 1e-5,
        };
        let mut held = Vec::new();
        for tensor in inventory(&config) {
            let (rows, cols) = tensor.shape(&config);
            let (names, _) = composition(tensor);
            let len = rows * cols / names.len().max(1);
            held.extend(names.into_iter().map(|name| (name, len)));
        }
        let mut all: Vec<(String, usize)> =
            parameters(&config).into_iter().map(|p| (p.name, p.span.len)).collect();
        held.sort();
        all.sort();
        assert_eq!(held, all);
    }
}
