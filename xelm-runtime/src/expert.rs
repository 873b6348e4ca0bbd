//! An expert: one language model in a mapped file. Immutable, shared by any number of sessions.

use crate::config::{Config, MAX_LAYERS, Role, TensorId, inventory};
use crate::error::{Error, Result};
use crate::format::{Array, Gguf, Tensor, ValueType, keys};
use crate::layout::{Layout, MAX_BLOCK_BYTES, PACKED_LAYOUT, PANEL, unpack_block};
use crate::quant::{DType, dequantize_row};
use crate::shortlist::{Outputs, Shortlist};
use crate::tokenizer::Tokenizer;
use bytemuck::AnyBitPattern;

/// A weight matrix `[n_rows, n_cols]` in the file.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// How the numbers are stored.
    pub dtype: DType,
    /// How rows lie; [`Layout::Standard`] unless the type is a quantised one.
    pub layout: Layout,
    /// Outputs.
    pub n_rows: usize,
    /// Inputs.
    pub n_cols: usize,
    /// The rows.
    pub bytes: &'a [u8],
}

impl<'a> Matrix<'a> {
    const EMPTY: Self =
        Matrix { dtype: DType::F32, layout: Layout::Standard, n_rows: 0, n_cols: 0, bytes: &[] };

    /// The matrix as elements (numbers or blocks) of its stored type. Opening has checked the
    /// alignment, so the cast succeeds.
    #[inline]
    pub(crate) fn elements<E: AnyBitPattern>(&self) -> &'a [E] {
        bytemuck::try_cast_slice(self.bytes).unwrap_or_default()
    }

    /// Bytes of a row.
    fn row_bytes(&self) -> usize {
        self.bytes.len() / self.n_rows
    }

    /// The panel that the row `row`, which exists, is interleaved in, if it is.
    #[inline(always)]
    fn panel(&self, row: usize) -> Option<&'a [u8]> {
        let first = row - row % PANEL;
        let is_packed = self.layout == Layout::Packed && first + PANEL <= self.n_rows;
        is_packed.then(|| &self.bytes[first * self.row_bytes()..][..PANEL * self.row_bytes()])
    }

    /// Block `i` of row `row`, which exist.
    #[inline(always)]
    pub(crate) fn block<B: AnyBitPattern>(&self, row: usize, i: usize) -> B {
        let mut room = [0; MAX_BLOCK_BYTES];
        let block = &mut room[..size_of::<B>()];
        self.read_block(row, i, block);
        bytemuck::pod_read_unaligned(block)
    }

    /// Reads its bytes.
    #[inline(always)]
    fn read_block(&self, row: usize, i: usize, block: &mut [u8]) {
        match self.panel(row) {
            Some(panel) => unpack_block(self.dtype, panel, row % PANEL, i, block),
            None => {
                let at = row * self.row_bytes() + i * block.len();
                block.copy_from_slice(&self.bytes[at..at + block.len()]);
            }
        }
    }

    /// Copies row `row`, which exists, as a standard file has it.
    #[cfg(feature = "cuda")]
    pub(crate) fn standard_row(&self, row: usize, out: &mut [u8]) {
        for (i, block) in out.chunks_exact_mut(self.dtype.block_bytes()).enumerate() {
            self.read_block(row, i, block);
        }
    }

    /// Whether row `row` is byte for byte row `other` of `of`, a matrix of the same type and width; both exist.
    fn has_row(&self, row: usize, of: &Matrix<'_>, other: usize) -> bool {
        let len = self.dtype.block_bytes();
        (0..self.row_bytes() / len).all(|i| {
            let mut blocks = [[0; MAX_BLOCK_BYTES]; 2];
            self.read_block(row, i, &mut blocks[0][..len]);
            of.read_block(other, i, &mut blocks[1][..len]);
            blocks[0] == blocks[1]
        })
    }

    /// Row `row` in f32.
    ///
    /// # Errors
    /// `out` does not have `n_cols` elements, or the row does not exist.
    pub fn row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        if row >= self.n_rows {
            return Err(Error::OutOfRange { what: "a row" });
        }
        let Some(panel) = self.panel(row) else {
            let bytes = &self.bytes[row * self.row_bytes()..][..self.row_bytes()];
            return dequantize_row(self.dtype, bytes, out);
        };
        if out.len() != self.n_cols {
            return Err(Error::OutOfRange { what: "row length" });
        }
        let mut room = [0; MAX_BLOCK_BYTES];
        let block = &mut room[..self.dtype.block_bytes()];
        for (i, out) in out.chunks_exact_mut(self.dtype.block_len()).enumerate() {
            unpack_block(self.dtype, panel, row % PANEL, i, block);
            dequantize_row(self.dtype, block, out)?;
        }
        Ok(())
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
        let storage = Storage::read(gguf)?;
        // One bit for each role, in the layers and, at 0, outside them.
        let mut seen = [0u32; MAX_LAYERS + 1];
        let place = |id: &TensorId| (id.layer.map_or(0, |l| l + 1), 1u32 << id.role as u32);
        for (i, tensor) in gguf.tensors().enumerate() {
            let id = TensorId::parse(tensor.name);
            // A tensor that the model does not have would silently change what is computed
            // (an untied output layer, for instance).
            let unknown = Error::OutOfRange { what: "the name of a tensor" };
            let id = id
                .filter(|id| id.layer.is_none_or(|l| l < config.n_layer))
                .filter(|id| id.role != Role::Output || shortlist.is_some())
                .ok_or(unknown)?;
            checked(&tensor, storage.of(i, &tensor), id, &config, shortlist)?;
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

    /// The type of every tensor's numbers and how they lie, in a file that holds a whole model: where weights are
    /// packed, their descriptions say bytes.
    ///
    /// # Errors
    /// As [`Expert::check`].
    pub fn types(gguf: &Gguf<'a>) -> Result<impl Iterator<Item = (DType, Layout)> + use<'a>> {
        Expert::check(gguf)?;
        let storage = Storage::read(gguf)?;
        Ok(gguf.tensors().enumerate().map(move |(i, tensor)| storage.of(i, &tensor)))
    }

    /// Checks what [`Expert::check`] does and that the weights lie as in a standard file, as tools that copy or
    /// convert them need it.
    ///
    /// # Errors
    /// The rule that the file breaks; [`Error::Packed`].
    pub fn check_standard(gguf: &Gguf<'a>) -> Result<(Config, Option<Tokenizer<'a>>)> {
        if gguf.get(keys::PACKED_LAYOUT).is_some() {
            return Err(Error::Packed);
        }
        Expert::check(gguf)
    }

    /// Checks what [`Expert::check`] does and also that the tokenizer's tables agree with each other, and
    /// the output layer of a shortlist, where it has its type, with the embedding: in time linear in them.
    ///
    /// # Errors
    /// The rule that the file breaks.
    pub fn verify(gguf: &Gguf<'a>) -> Result<(Config, Option<Tokenizer<'a>>)> {
        let (config, tokenizer) = Expert::check(gguf)?;
        tokenizer.map_or(Ok(()), |t| t.verify())?;
        let shortlist = Shortlist::read(gguf, config.n_vocab)?;
        let storage = Storage::read(gguf)?;
        let matrix = |role: Role| {
            let (i, tensor) = gguf.tensors().enumerate().find(|(_, t)| t.name == role.name())?;
            checked(
                &tensor,
                storage.of(i, &tensor),
                TensorId { role, layer: None },
                &config,
                shortlist,
            )
            .ok()
        };
        if let (Some(list), Some(output), Some(embd)) =
            (shortlist, matrix(Role::Output), matrix(Role::TokenEmbd))
        {
            let mut rows = list.ids().enumerate();
            let is_row = |(row, id): (usize, u32)| output.has_row(row, &embd, id as usize);
            if output.dtype == embd.dtype && !rows.all(is_row) {
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
        let storage = Storage::read(&gguf)?;
        for (i, tensor) in gguf.tensors().enumerate() {
            let Some(id) = TensorId::parse(tensor.name) else { continue };
            let matrix = checked(&tensor, storage.of(i, &tensor), id, &config, shortlist)?;
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
        let storage = Storage::read(&self.gguf).unwrap_or_default();
        let matrices = self.gguf.tensors().enumerate().filter(|(_, tensor)| is_matrix(tensor));
        let size = |(i, t): (usize, Tensor<'_>)| {
            let (dtype, _) = storage.of(i, &t);
            (t.bytes.len(), t.bytes.len() / dtype.block_bytes() * dtype.block_len())
        };
        let (bytes, n) = matrices.map(size).fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        8.0 * bytes as f64 / n.max(1) as f64
    }
}

/// What a file says about types and layout of its tensors beyond their descriptions: packed weights are rows
/// of bytes to other readers.
#[derive(Clone, Copy, Default)]
struct Storage<'a> {
    /// The type of every tensor's numbers, where those of type I8 are packed.
    types: Option<Array<'a>>,
}

impl<'a> Storage<'a> {
    fn read(gguf: &Gguf<'a>) -> Result<Self> {
        let Some(layout) = gguf.get(keys::PACKED_LAYOUT) else {
            return Ok(Storage { types: None });
        };
        if layout.u32(keys::PACKED_LAYOUT)? != PACKED_LAYOUT {
            return Err(Error::OutOfRange { what: keys::PACKED_LAYOUT });
        }
        let key = keys::PACKED_TYPES;
        let types =
            gguf.get(key).ok_or(Error::MissingKey { key })?.array(&[ValueType::U32], key)?;
        if types.len != gguf.n_tensors() {
            return Err(Error::OutOfRange { what: key });
        }
        Ok(Storage { types: Some(types) })
    }

    /// Type and layout of tensor `i`; those in the file where it is not packed.
    fn of(&self, i: usize, tensor: &Tensor<'_>) -> (DType, Layout) {
        let packed = self.types.filter(|_| tensor.dtype == DType::I8);
        match packed.and_then(|types| DType::from_ggml(types.bits32(i))) {
            Some(dtype) => (dtype, Layout::Packed),
            None => (tensor.dtype, Layout::Standard),
        }
    }
}

/// The tensor as a matrix (one row for vectors), its shape, type and alignment checked.
fn checked<'a>(
    tensor: &Tensor<'a>,
    (dtype, layout): (DType, Layout),
    id: TensorId,
    config: &Config,
    shortlist: Option<Shortlist<'_>>,
) -> Result<Matrix<'a>> {
    let name = id.role.name();
    let (n_rows, n_cols) = match (id.role, shortlist) {
        (Role::Output, Some(list)) => (list.len(), config.n_embd),
        _ => id.shape(config),
    };
    // A packed row is as many bytes.
    let width = match layout {
        Layout::Standard => Some(n_cols),
        Layout::Packed => dtype.row_bytes(n_cols).filter(|_| dtype.is_quantized()),
    };
    let n_dims = if id.is_matrix() { 2 } else { 1 };
    let has_shape = (tensor.n_rows(), tensor.n_dims) == (n_rows, n_dims);
    if width != Some(tensor.n_cols()) || !has_shape {
        return Err(Error::WrongShape { name });
    }
    let is_f32 = dtype == DType::F32;
    let allowed = is_f32 || (id.role.is_quantizable() && dtype.holds_weights());
    let align = if is_f32 { align_of::<f32>() } else { align_of::<u16>() };
    if !allowed || !tensor.bytes.as_ptr().addr().is_multiple_of(align) {
        return Err(Error::WrongShape { name });
    }
    Ok(Matrix { dtype, layout, n_rows, n_cols, bytes: tensor.bytes })
}
