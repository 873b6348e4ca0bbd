//! The dimensions of a model, and the inventory of its tensors that follows from them.

use crate::error::{Error, Result};
use crate::format::{Gguf, keys};
use core::fmt;

/// `general.architecture` of a file that every GGUF tool may run.
pub const ARCH_STANDARD: &str = "gpt2";
/// `general.architecture` of a file that only xelm computes rightly.
pub const ARCH_OWN: &str = "xelm";
/// Most layers that a model may have.
pub const MAX_LAYERS: usize = 512;
/// Dimensions of a head at most.
pub const MAX_HEAD_DIM: usize = 2048;

/// The nonlinearity between the two halves of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · Φ(x) with the exact error function.
    GeluErf,
    /// GELU's tanh approximation.
    GeluTanh,
    /// max(x, 0).
    Relu,
}

impl Activation {
    /// The name in `xelm.activation`.
    pub const fn name(self) -> &'static str {
        match self {
            Activation::GeluErf => "gelu_erf",
            Activation::GeluTanh => "gelu_tanh",
            Activation::Relu => "relu",
        }
    }

    /// The activation with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Activation::GeluErf, Activation::GeluTanh, Activation::Relu]
            .into_iter()
            .find(|a| a.name() == name)
    }
}

/// The dimensions of a model. `head_dim = n_embd / n_head`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Vocabulary size V.
    pub n_vocab: usize,
    /// Longest sequence T.
    pub n_ctx: usize,
    /// Width C of the residual stream.
    pub n_embd: usize,
    /// Layers.
    pub n_layer: usize,
    /// Attention heads H.
    pub n_head: usize,
    /// Width F of the feed-forward layer.
    pub n_ff: usize,
    /// Its nonlinearity.
    pub activation: Activation,
    /// ε of the layer norms.
    pub norm_eps: f32,
}

impl Config {
    /// Checks ranges and divisibility.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] with the key of the offending dimension.
    pub fn validate(self) -> Result<Self> {
        let limits = [
            (self.n_vocab, 1 << 24, keys::TOKENS),
            (self.n_ctx, 1 << 20, keys::CONTEXT_LENGTH),
            (self.n_embd, 1 << 16, keys::EMBEDDING_LENGTH),
            (self.n_layer, MAX_LAYERS, keys::BLOCK_COUNT),
            (self.n_head, 1 << 12, keys::HEAD_COUNT),
            (self.n_ff, 1 << 18, keys::FEED_FORWARD_LENGTH),
        ];
        for (value, limit, what) in limits {
            if value == 0 || value > limit {
                return Err(Error::OutOfRange { what });
            }
        }
        if !self.n_embd.is_multiple_of(self.n_head) || self.head_dim() > MAX_HEAD_DIM {
            return Err(Error::OutOfRange { what: keys::HEAD_COUNT });
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(Error::OutOfRange { what: keys::LAYER_NORM_EPSILON });
        }
        Ok(self)
    }

    /// Reads the dimensions from a model file's metadata.
    ///
    /// # Errors
    /// A missing key, a wrong type, or a value out of range.
    pub fn read(gguf: &Gguf<'_>) -> Result<Self> {
        let architecture = gguf.get(keys::ARCHITECTURE);
        let architecture = architecture.ok_or(Error::MissingKey { key: keys::ARCHITECTURE })?;
        let architecture = architecture.str(keys::ARCHITECTURE)?;
        if architecture != ARCH_STANDARD && architecture != ARCH_OWN {
            return Err(Error::WrongArchitecture { expected: ARCH_STANDARD });
        }
        let n_vocab = match gguf.get(keys::TOKENS) {
            Some(tokens) => tokens.array(&[crate::format::ValueType::String], keys::TOKENS)?.len,
            // A model without a vocabulary takes its size from the embedding.
            None => gguf.tensor("token_embd.weight").map_or(0, |t| t.n_rows()),
        };
        Config::read_dimensions(gguf, n_vocab)
    }

    /// Reads everything but the vocabulary's size, from a file of any architecture that carries the
    /// gpt2 keys (a checkpoint does too).
    ///
    /// # Errors
    /// A missing key, a wrong type, or a value out of range.
    pub fn read_dimensions(gguf: &Gguf<'_>, n_vocab: usize) -> Result<Self> {
        let number = |key: &'static str| -> Result<usize> {
            Ok(gguf.get(key).ok_or(Error::MissingKey { key })?.u32(key)? as usize)
        };
        let activation = match gguf.get(keys::ACTIVATION) {
            Some(name) => Activation::from_name(name.str(keys::ACTIVATION)?)
                .ok_or(Error::OutOfRange { what: keys::ACTIVATION })?,
            // gpt2's own.
            None => Activation::GeluTanh,
        };
        Config {
            n_vocab,
            n_ctx: number(keys::CONTEXT_LENGTH)?,
            n_embd: number(keys::EMBEDDING_LENGTH)?,
            n_layer: number(keys::BLOCK_COUNT)?,
            n_head: number(keys::HEAD_COUNT)?,
            n_ff: number(keys::FEED_FORWARD_LENGTH)?,
            activation,
            norm_eps: gguf
                .get(keys::LAYER_NORM_EPSILON)
                .ok_or(Error::MissingKey { key: keys::LAYER_NORM_EPSILON })?
                .f32(keys::LAYER_NORM_EPSILON)?,
        }
        .validate()
    }

    /// Adds the keys that [`Config::read_dimensions`] reads.
    #[cfg(feature = "std")]
    pub fn write(&self, writer: &mut crate::format::Writer) {
        writer.u32(keys::CONTEXT_LENGTH, self.n_ctx as u32);
        writer.u32(keys::EMBEDDING_LENGTH, self.n_embd as u32);
        writer.u32(keys::BLOCK_COUNT, self.n_layer as u32);
        writer.u32(keys::FEED_FORWARD_LENGTH, self.n_ff as u32);
        writer.u32(keys::HEAD_COUNT, self.n_head as u32);
        writer.f32(keys::LAYER_NORM_EPSILON, self.norm_eps);
        writer.string(keys::ACTIVATION, self.activation.name());
    }

    /// Width of one attention head.
    pub const fn head_dim(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// Trainable parameters: everything but the fixed position table.
    pub fn n_params(&self) -> usize {
        inventory(self)
            .filter(|t| t.role != Role::PositionEmbd)
            .map(|t| t.shape(self))
            .map(|(rows, cols)| rows * cols)
            .sum()
    }
}

/// What a tensor is for; the names are GGUF's of the gpt2 architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Role {
    TokenEmbd,
    PositionEmbd,
    AttnNormWeight,
    AttnNormBias,
    AttnQkvWeight,
    AttnQkvBias,
    AttnOutputWeight,
    AttnOutputBias,
    FfnNormWeight,
    FfnNormBias,
    FfnUpWeight,
    FfnUpBias,
    FfnDownWeight,
    FfnDownBias,
    OutputNormWeight,
    OutputNormBias,
    Output,
}

impl Role {
    /// The roles of one layer, in file order.
    pub const LAYER: [Role; 12] = [
        Role::AttnNormWeight,
        Role::AttnNormBias,
        Role::AttnQkvWeight,
        Role::AttnQkvBias,
        Role::AttnOutputWeight,
        Role::AttnOutputBias,
        Role::FfnNormWeight,
        Role::FfnNormBias,
        Role::FfnUpWeight,
        Role::FfnUpBias,
        Role::FfnDownWeight,
        Role::FfnDownBias,
    ];
    /// The roles outside the layers, in file order; the layers stand between the first two and the
    /// last two.
    pub const OUTSIDE: [Role; 4] =
        [Role::TokenEmbd, Role::PositionEmbd, Role::OutputNormWeight, Role::OutputNormBias];

    /// The name without the layer prefix.
    pub const fn name(self) -> &'static str {
        match self {
            Role::TokenEmbd => "token_embd.weight",
            Role::PositionEmbd => "position_embd.weight",
            Role::AttnNormWeight => "attn_norm.weight",
            Role::AttnNormBias => "attn_norm.bias",
            Role::AttnQkvWeight => "attn_qkv.weight",
            Role::AttnQkvBias => "attn_qkv.bias",
            Role::AttnOutputWeight => "attn_output.weight",
            Role::AttnOutputBias => "attn_output.bias",
            Role::FfnNormWeight => "ffn_norm.weight",
            Role::FfnNormBias => "ffn_norm.bias",
            Role::FfnUpWeight => "ffn_up.weight",
            Role::FfnUpBias => "ffn_up.bias",
            Role::FfnDownWeight => "ffn_down.weight",
            Role::FfnDownBias => "ffn_down.bias",
            Role::OutputNormWeight => "output_norm.weight",
            Role::OutputNormBias => "output_norm.bias",
            Role::Output => "output.weight",
        }
    }

    /// Whether the tensor is a matrix that may be quantised.
    pub const fn is_quantizable(self) -> bool {
        matches!(
            self,
            Role::TokenEmbd
                | Role::Output
                | Role::AttnQkvWeight
                | Role::AttnOutputWeight
                | Role::FfnUpWeight
                | Role::FfnDownWeight
        )
    }
}

/// One tensor of a model: its role, and its layer where it is in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorId {
    /// What it is for.
    pub role: Role,
    /// Index of its layer; `None` outside the layers.
    pub layer: Option<usize>,
}

impl TensorId {
    /// Rows and columns of the tensor (1 row for vectors); of [`Role::Output`] those that it would have
    /// with all tokens on the shortlist.
    pub const fn shape(&self, config: &Config) -> (usize, usize) {
        let (c, f) = (config.n_embd, config.n_ff);
        match self.role {
            Role::TokenEmbd | Role::Output => (config.n_vocab, c),
            Role::PositionEmbd => (config.n_ctx, c),
            Role::AttnQkvWeight => (3 * c, c),
            Role::AttnQkvBias => (1, 3 * c),
            Role::AttnOutputWeight => (c, c),
            Role::FfnUpWeight => (f, c),
            Role::FfnUpBias => (1, f),
            Role::FfnDownWeight => (c, f),
            Role::AttnNormWeight
            | Role::AttnNormBias
            | Role::AttnOutputBias
            | Role::FfnNormWeight
            | Role::FfnNormBias
            | Role::FfnDownBias
            | Role::OutputNormWeight
            | Role::OutputNormBias => (1, c),
        }
    }

    /// Whether the tensor has two dimensions in the file.
    pub const fn is_matrix(&self) -> bool {
        self.role.is_quantizable() || matches!(self.role, Role::PositionEmbd)
    }

    /// The tensor that a GGUF name means.
    pub fn parse(name: &str) -> Option<TensorId> {
        let found = |roles: &[Role], name: &str| roles.iter().copied().find(|r| r.name() == name);
        match name.strip_prefix("blk.") {
            None if name == Role::Output.name() => {
                Some(TensorId { role: Role::Output, layer: None })
            }
            None => Some(TensorId { role: found(&Role::OUTSIDE, name)?, layer: None }),
            Some(rest) => {
                let (layer, name) = rest.split_once('.')?;
                let role = found(&Role::LAYER, name)?;
                Some(TensorId { role, layer: Some(layer.parse().ok()?) })
            }
        }
    }
}

impl fmt::Display for TensorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layer {
            Some(layer) => write!(f, "blk.{layer}.{}", self.role.name()),
            None => f.write_str(self.role.name()),
        }
    }
}

/// Every tensor of a model in file order: the one list that the exporter writes and the loader reads. A file
/// with a shortlist has [`Role::Output`] besides.
pub fn inventory(config: &Config) -> impl Iterator<Item = TensorId> + use<> {
    let outside = |roles: &'static [Role]| roles.iter().map(|&role| TensorId { role, layer: None });
    let layers = (0..config.n_layer).flat_map(|layer| {
        Role::LAYER.iter().map(move |&role| TensorId { role, layer: Some(layer) })
    });
    outside(&Role::OUTSIDE[..2]).chain(layers).chain(outside(&Role::OUTSIDE[2..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    fn xglm(n_layer: usize, n_embd: usize, n_head: usize, n_ff: usize) -> Config {
        Config {
            n_vocab: 256_008,
            n_ctx: 2048,
            n_embd,
            n_layer,
            n_head,
            n_ff,
            activation: Activation::GeluErf,
            norm_eps: 1e-5,
        }
    }

    /// Exact parameter counts of the released XGLM models.
    #[test]
    fn parameter_counts() {
        for (config, n) in [
            (xglm(24, 1024, 16, 4096), 564_463_616),
            (xglm(24, 2048, 16, 8192), 1_732_907_008),
            (xglm(48, 2048, 16, 8192), 2_941_505_536),
            (xglm(48, 2048, 16, 16384), 4_552_511_488),
            (xglm(32, 4096, 32, 16384), 7_492_771_840),
        ] {
            assert_eq!(config.validate().unwrap().n_params(), n);
        }
    }

    #[test]
    fn names_round_trip() {
        let config = xglm(3, 64, 4, 128);
        for tensor in inventory(&config) {
            assert_eq!(TensorId::parse(&tensor.to_string()), Some(tensor));
        }
        let output = TensorId { role: Role::Output, layer: None };
        assert_eq!(TensorId::parse("output.weight"), Some(output));
        for name in ["blk.x.attn_norm.weight", "blk.1.nothing", "blk.1.output.weight", "blk.1", ""]
        {
            assert_eq!(TensorId::parse(name), None);
        }
    }

    #[test]
    fn bad_dimensions() {
        assert!(Config { n_head: 3, ..xglm(2, 64, 4, 128) }.validate().is_err());
        assert!(Config { n_layer: 513, ..xglm(2, 64, 4, 128) }.validate().is_err());
        assert!(Config { norm_eps: f32::NAN, ..xglm(2, 64, 4, 128) }.validate().is_err());
    }
}
