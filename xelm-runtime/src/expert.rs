//! An expert: one language model in a mapped file. Immutable, shared by any number of sessions.

use crate::config::{Config, MAX_LAYERS, Role, TensorId, inventory};
use crate::error::{Error, Result};
use crate::format::{Gguf, Tensor, keys};
use crate::quant::{DType, dequantize_row};
use crate::shortlist::{Outputs, Shortlist};
use crate::tokenizer::Tokenizer;
use bytemuck::AnyBitPattern;

/// A weight matrix in the file, row-major `[n_rows, n_cols]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// How the numbers are stored.
    pub dtype: DType,
    /// Outputs.
    pub n_rows: usize,
    /// Inputs.
    pub n_cols: usize,
    /// The rows.
    pub bytes: &'a [u8],
}

impl<'a> Matrix<'a> {
    const EMPTY: Self = Matrix { dtype: DType::F32, n_rows: 0, n_cols: 0, bytes: &[] };

    /// The matrix as elements (numbers or blocks) of its stored type. Opening has checked the
    /// alignment, so the cast succeeds.
    #[inline]
    pub(crate) fn elements<E: AnyBitPattern>(&self) -> &'a [E] {
        bytemuck::try_cast_slice(self.bytes).unwrap_or_default()
    }

    /// Row `row` in f32.
    ///
    /// # Errors
    /// `out` does not have `n_cols` elements, or the row does not exist.
    pub fn row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let len = self.dtype.row_bytes(self.n_cols).unwrap_or(0);
        let bytes = self.bytes.get(row * len..(row + 1) * len);
        dequantize_row(self.dtype, bytes.ok_or(Error::OutOfRange { what: "a row" })?, out)
    }
}

/// Weight and bias of a layer norm, `[n_embd]` each.
pub(crate) type Norm<'a> = (&'a [f32], &'a [f32]);
/// A matrix and its bias.
pub(crate) type Linear<'a> = (Matrix<'a>, &'a [f32]);

/// The weights of one layer.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    pub(crate) attn_norm: Norm<'a>,
    pub(crate) attn_qkv: Linear<'a>,    // [3C, C]: rows of Q, K, V
    pub(crate) attn_output: Linear<'a>, // [C, C]
    pub(crate) ffn_norm: Norm<'a>,
    pub(crate) ffn_up: Linear<'a>,   // [F, C]
    pub(crate) ffn_down: Linear<'a>, // [C, F]
}

impl Default for Layer<'_> {
    fn default() -> Self {
        let linear = (Matrix::EMPTY, &[][..]);
        Layer {
            attn_norm: (&[], &[]),
            attn_qkv: linear,
            attn_output: linear,
            ffn_norm: (&[], &[]),
            ffn_up: linear,
            ffn_down: linear,
        }
    }
}

/// An open expert file.
#[derive(Clone, Copy, Debug)]
pub struct Expert<'a> {
    gguf: Gguf<'a>,
    config: Config,
    tokenizer: Option<Tokenizer<'a>>,
    pub(crate) token_embd: Matrix<'a>, // [V, C], scaled by √C; also the output layer
    pub(crate) position_embd: &'a [f32], // [T, C]
    pub(crate) output_norm: Norm<'a>,  // divided by √C
    pub(crate) layers: &'a [Layer<'a>],
    /// The rows of `token_embd` that are on the shortlist, side by side.
    shortlist: Option<(Shortlist<'a>, Matrix<'a>)>,
}

impl<'a> Expert<'a> {
    /// Layers in the file: how long the table handed to [`Expert::open`] must be.
    ///
    /// # Errors
    /// The file is not a model.
    pub fn n_layer(gguf: &Gguf<'_>) -> Result<usize> {
        Ok(Config::read(gguf)?.n_layer)
    }

    /// Checks that a file holds a whole model, without the memory that [`Expert::open`] needs: its
    /// dimensions, and its tokenizer where it has one of ours.
    ///
    /// # Errors
    /// The rule that the file breaks.
    pub fn check(gguf: &Gguf<'a>) -> Result<(Config, Option<Tokenizer<'a>>)> {
        let config = Config::read(gguf)?;
        gguf.expect_format_version()?;
        let tokenizer = match Tokenizer::open(gguf) {
            Ok(tokenizer) => Some(tokenizer),
            Err(Error::NoTokenizer) => None,
            Err(error) => return Err(error),
        };
        if tokenizer.is_some_and(|t| t.n_vocab() != config.n_vocab) {
            return Err(Error::OutOfRange { what: keys::TOKENS });
        }
        let shortlist = Shortlist::read(gguf, config.n_vocab)?;
        // One bit for each role, in the layers and, at 0, outside them.
        let mut seen = [0u32; MAX_LAYERS + 1];
        let place = |id: &TensorId| (id.layer.map_or(0, |l| l + 1), 1u32 << id.role as u32);
        for tensor in gguf.tensors() {
            let id = TensorId::parse(tensor.name);
            // A tensor that the model does not have would silently change what is computed
            // (an untied output layer, for instance).
            let unknown = Error::OutOfRange { what: "the name of a tensor" };
            let id = id
                .filter(|id| id.layer.is_none_or(|l| l < config.n_layer))
                .filter(|id| id.role != Role::Output || shortlist.is_some())
                .ok_or(unknown)?;
            checked(&tensor, id, &config, shortlist)?;
            let (layer, bit) = place(&id);
            if seen[layer] & bit != 0 {
                return Err(Error::OutOfRange { what: "the number of tensors" });
            }
            seen[layer] |= bit;
        }
        let output = shortlist.map(|_| TensorId { role: Role::Output, layer: None });
        let missing = inventory(&config).chain(output).find(|id| {
            let (layer, bit) = place(id);
            seen[layer] & bit == 0
        });
        match missing {
            Some(id) => Err(Error::MissingTensor { name: id.role.name() }),
            None => Ok((config, tokenizer)),
        }
    }

    /// Checks what [`Expert::check`] does and also that the tokenizer's tables agree with each other, and
    /// the output layer of a shortlist, where it has its type, with the embedding: in time linear in them.
    ///
    /// # Errors
    /// The rule that the file breaks.
    pub fn verify(gguf: &Gguf<'a>) -> Result<(Config, Option<Tokenizer<'a>>)> {
        let (config, tokenizer) = Expert::check(gguf)?;
        tokenizer.map_or(Ok(()), |t| t.verify())?;
        let tensor = |role: Role| gguf.tensor(role.name());
        if let (Some(list), Some(output), Some(embd)) =
            (Shortlist::read(gguf, config.n_vocab)?, tensor(Role::Output), tensor(Role::TokenEmbd))
        {
            let len = embd.dtype.row_bytes(config.n_embd).unwrap_or(1);
            let row_of = |id: u32| embd.bytes.get(id as usize * len..(id as usize + 1) * len);
            let mut rows = output.bytes.chunks_exact(len).zip(list.ids());
            if output.dtype == embd.dtype && !rows.all(|(row, id)| row_of(id) == Some(row)) {
                return Err(Error::OutOfRange { what: Role::Output.name() });
            }
        }
        Ok((config, tokenizer))
    }

    /// Checks that the file holds a whole model and finds its tensors. `layers` is filled.
    ///
    /// # Errors
    /// The rule that the file breaks; [`Error::BufferTooSmall`] where `layers` is too short.
    pub fn open(gguf: Gguf<'a>, layers: &'a mut [Layer<'a>]) -> Result<Self> {
        let (config, tokenizer) = Expert::check(&gguf)?;
        let short = Error::BufferTooSmall { needed: config.n_layer };
        let layers = layers.get_mut(..config.n_layer).ok_or(short)?;
        layers.fill(Layer::default());
        let mut expert = Expert {
            gguf,
            config,
            tokenizer,
            token_embd: Matrix::EMPTY,
            position_embd: &[],
            output_norm: (&[], &[]),
            layers: &[],
            shortlist: None,
        };
        let shortlist = Shortlist::read(&gguf, config.n_vocab)?;
        for tensor in gguf.tensors() {
            let Some(id) = TensorId::parse(tensor.name) else { continue };
            let matrix = checked(&tensor, id, &config, shortlist)?;
            let vector = || matrix.elements::<f32>();
            let mut none = Layer::default();
            let layer = match id.layer {
                Some(l) => &mut layers[l],
                None => &mut none,
            };
            match id.role {
                Role::TokenEmbd => expert.token_embd = matrix,
                Role::PositionEmbd => expert.position_embd = vector(),
                Role::AttnNormWeight => layer.attn_norm.0 = vector(),
                Role::AttnNormBias => layer.attn_norm.1 = vector(),
                Role::AttnQkvWeight => layer.attn_qkv.0 = matrix,
                Role::AttnQkvBias => layer.attn_qkv.1 = vector(),
                Role::AttnOutputWeight => layer.attn_output.0 = matrix,
                Role::AttnOutputBias => layer.attn_output.1 = vector(),
                Role::FfnNormWeight => layer.ffn_norm.0 = vector(),
                Role::FfnNormBias => layer.ffn_norm.1 = vector(),
                Role::FfnUpWeight => layer.ffn_up.0 = matrix,
                Role::FfnUpBias => layer.ffn_up.1 = vector(),
                Role::FfnDownWeight => layer.ffn_down.0 = matrix,
                Role::FfnDownBias => layer.ffn_down.1 = vector(),
                Role::OutputNormWeight => expert.output_norm.0 = vector(),
                Role::OutputNormBias => expert.output_norm.1 = vector(),
                Role::Output => expert.shortlist = shortlist.map(|list| (list, matrix)),
            }
        }
        expert.layers = layers;
        Ok(expert)
    }

    /// The dimensions.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The tokenizer, where the file has one of ours.
    pub fn tokenizer(&self) -> Option<&Tokenizer<'a>> {
        self.tokenizer.as_ref()
    }

    /// The file.
    pub fn gguf(&self) -> &Gguf<'a> {
        &self.gguf
    }

    /// The expert's name within its set; empty for foreign files.
    pub fn id(&self) -> &'a str {
        self.gguf.get(keys::EXPERT_ID).and_then(|v| v.str(keys::EXPERT_ID).ok()).unwrap_or("")
    }

    /// The languages it was trained on.
    pub fn languages(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let array = self.gguf.get(keys::EXPERT_LANGUAGES).and_then(|v| {
            v.array(&[crate::format::ValueType::String], keys::EXPERT_LANGUAGES).ok()
        });
        array.into_iter().flat_map(|a| a.strings())
    }

    /// The tokens that the output layer can be restricted to, where the file has such a list.
    pub fn shortlist(&self) -> Option<Shortlist<'a>> {
        self.shortlist.map(|(list, _)| list)
    }

    /// The output layer that gives the logits of `outputs`, or of those among them that are on the
    /// shortlist.
    pub(crate) fn output(&self, outputs: &Outputs<'_>) -> Matrix<'a> {
        match (outputs.ids(), self.shortlist) {
            (Some(_), Some((_, matrix))) => matrix,
            _ => self.token_embd,
        }
    }

    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> usize {
        self.gguf.tensors().map(|t| t.bytes.len()).sum()
    }

    /// Bits per weight of the matrices that may be quantised, the embedding among them.
    pub fn bits_per_weight(&self) -> f64 {
        let is_matrix =
            |t: &Tensor<'_>| TensorId::parse(t.name).is_some_and(|id| id.role.is_quantizable());
        let matrices = self.gguf.tensors().filter(is_matrix);
        let size = |t: Tensor<'_>| (t.bytes.len(), t.n_rows() * t.n_cols());
        let (bytes, n) = matrices.map(size).fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        8.0 * bytes as f64 / n.max(1) as f64
    }
}

/// The tensor as a matrix (one row for vectors), its shape, type and alignment checked.
fn checked<'a>(
    tensor: &Tensor<'a>,
    id: TensorId,
    config: &Config,
    shortlist: Option<Shortlist<'_>>,
) -> Result<Matrix<'a>> {
    let name = id.role.name();
    let (n_rows, n_cols) = match (id.role, shortlist) {
        (Role::Output, Some(list)) => (list.len(), config.n_embd),
        _ => id.shape(config),
    };
    let n_dims = if id.is_matrix() { 2 } else { 1 };
    if (tensor.n_rows(), tensor.n_cols(), tensor.n_dims) != (n_rows, n_cols, n_dims) {
        return Err(Error::WrongShape { name });
    }
    let is_f32 = tensor.dtype == DType::F32;
    let allowed = is_f32 || (id.role.is_quantizable() && tensor.dtype.holds_weights());
    let align = if is_f32 { align_of::<f32>() } else { align_of::<u16>() };
    if !allowed || !tensor.bytes.as_ptr().addr().is_multiple_of(align) {
        return Err(Error::WrongShape { name });
    }
    Ok(Matrix { dtype: tensor.dtype, n_rows, n_cols, bytes: tensor.bytes })
}
