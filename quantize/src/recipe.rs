//! Which type each tensor of a file gets.

use std::path::PathBuf;
use std::str::FromStr;
use xelm_runtime::config::{Role, TensorId};
use xelm_runtime::quant::DType;

/// Which type each matrix of a file gets. Vectors and the position table stay F32.
///
/// A matrix whose rows are no whole number of blocks gets a type with smaller ones: Q4_1 instead of Q4_K
/// (Q4_0 with `Xq4`), Q8_0 instead of Q5_K and Q6_K, and F16 where the rows are no multiple of 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// Everything in F32 (undoes a quantisation, as far as that goes).
    F32,
    /// Every matrix in half precision.
    F16,
    /// Every matrix in BF16.
    Bf16,
    /// Every matrix in Q8_0.
    Q8_0,
    /// Matrices in Q4_0, the embedding, which is also the output layer, in Q8_0.
    Q4_0,
    /// Matrices in Q4_1, the embedding in Q8_0.
    Q4_1,
    /// llama.cpp's Q4_K_M: matrices in Q4_K, but the embedding in Q6_K, as are `attn_qkv` and `ffn_down` of the
    /// first and the last eighth of the layers and of every third between them.
    Q4KM,
    /// llama.cpp's Q5_K_M: matrices in Q5_K, but the embedding, and `attn_qkv` and `ffn_down` of the same
    /// layers, in Q6_K.
    Q5KM,
    /// Every matrix in Q6_K.
    Q6K,
    /// Our own: every matrix in Q4_K, the embedding too, rounded so that errors make up for each other. Needs
    /// an importance matrix with products.
    Xq4,
}

impl Recipe {
    /// All recipes.
    pub const ALL: [Recipe; 10] = [
        Recipe::F32,
        Recipe::F16,
        Recipe::Bf16,
        Recipe::Q8_0,
        Recipe::Q6K,
        Recipe::Q5KM,
        Recipe::Q4KM,
        Recipe::Q4_1,
        Recipe::Q4_0,
        Recipe::Xq4,
    ];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Recipe::F32 => "f32",
            Recipe::F16 => "f16",
            Recipe::Bf16 => "bf16",
            Recipe::Q8_0 => "q8_0",
            Recipe::Q4_0 => "q4_0",
            Recipe::Q4_1 => "q4_1",
            Recipe::Q4KM => "q4_k_m",
            Recipe::Q5KM => "q5_k_m",
            Recipe::Q6K => "q6_k",
            Recipe::Xq4 => "xq4",
        }
    }

    /// Whether importance matrices must say how columns go together.
    pub const fn needs_products(self) -> bool {
        matches!(self, Recipe::Xq4)
    }

    /// llama.cpp's `general.file_type`.
    pub(crate) const fn file_type(self) -> u32 {
        match self {
            Recipe::F32 => 0,
            Recipe::F16 => 1,
            Recipe::Q4_0 => 2,
            Recipe::Q4_1 => 3,
            Recipe::Q8_0 => 7,
            // Its Q4_K_S, which is what comes nearest.
            Recipe::Xq4 => 14,
            Recipe::Q4KM => 15,
            Recipe::Q5KM => 17,
            Recipe::Q6K => 18,
            Recipe::Bf16 => 32,
        }
    }

    /// The type of a tensor with rows of `n_cols` numbers, in a model of `n_layers` layers.
    pub fn dtype(self, tensor: TensorId, n_cols: usize, n_layers: usize) -> DType {
        if !tensor.role.is_quantizable() {
            return DType::F32;
        }
        let wanted =
            match (self, tensor.role) {
                (Recipe::F32, _) => DType::F32,
                (Recipe::F16, _) => DType::F16,
                (Recipe::Bf16, _) => DType::BF16,
                (Recipe::Q8_0, _)
                | (Recipe::Q4_0 | Recipe::Q4_1, Role::TokenEmbd | Role::Output) => DType::Q8_0,
                (Recipe::Q4_0, _) => DType::Q4_0,
                (Recipe::Q4_1, _) => DType::Q4_1,
                (Recipe::Q6K, _)
                | (Recipe::Q4KM | Recipe::Q5KM, Role::TokenEmbd | Role::Output) => DType::Q6K,
                (Recipe::Q4KM | Recipe::Q5KM, Role::AttnQkvWeight | Role::FfnDownWeight)
                    if tensor.layer.is_some_and(|layer| matters_more(layer, n_layers)) =>
                {
                    DType::Q6K
                }
                (Recipe::Q4KM | Recipe::Xq4, _) => DType::Q4K,
                (Recipe::Q5KM, _) => DType::Q5K,
            };
        let smaller = match wanted {
            DType::Q4K if self == Recipe::Xq4 => DType::Q4_0,
            DType::Q4K => DType::Q4_1,
            DType::Q5K | DType::Q6K => DType::Q8_0,
            _ => DType::F16,
        };
        let fits = |dtype: &DType| dtype.row_bytes(n_cols).is_some();
        [wanted, smaller].into_iter().find(fits).unwrap_or(DType::F16)
    }
}

/// llama.cpp's choice of the layers whose `attn_qkv` and `ffn_down` get more bits.
const fn matters_more(layer: usize, n_layers: usize) -> bool {
    let eighth = n_layers / 8;
    layer < eighth || layer >= 7 * n_layers / 8 || (layer - eighth) % 3 == 2
}

/// A type for the matrices whose names fit a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// A name, in which `*` stands for any characters.
    pub pattern: String,
    /// The type.
    pub dtype: DType,
}

impl Override {
    /// Whether a tensor's name fits.
    pub fn fits(&self, name: &str) -> bool {
        let mut parts = self.pattern.split('*');
        let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else {
            return false;
        };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

impl FromStr for Override {
    type Err = String;

    /// Reads `PATTERN=TYPE`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (pattern, name) = text.rsplit_once('=').ok_or("this is not PATTERN=TYPE")?;
        let mut types = DType::ALL.into_iter().filter(|dtype| dtype.holds_weights());
        let names = types.clone().map(DType::name).collect::<Vec<_>>().join(", ");
        let found = types.find(|dtype| dtype.name() == name);
        let dtype = found.ok_or_else(|| format!("there is no type {name}, there is {names}"))?;
        Ok(Override { pattern: pattern.to_owned(), dtype })
    }
}

/// How a file is quantised. A [`Recipe`] alone will do.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The types.
    pub recipe: Recipe,
    /// Exceptions; of several that fit a matrix the last counts.
    pub overrides: &'a [Override],
    /// Importance matrices that the searches of Q4_0, Q4_1 and the K formats go by; several are added up.
    /// Each is a file, or a folder with a file for every expert, under the name of the expert's. With products,
    /// errors are also made to make up for each other.
    pub imatrix: &'a [PathBuf],
}

impl From<Recipe> for Options<'_> {
    fn from(recipe: Recipe) -> Self {
        Options { recipe, overrides: &[], imatrix: &[] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mixes_are_llama_cpps() {
        let types = |recipe: Recipe, n_cols: usize| {
            let of = |role, layer| recipe.dtype(TensorId { role, layer }, n_cols, 24);
            let down = (0..24).map(|layer| {
                let down = of(Role::FfnDownWeight, Some(layer));
                assert_eq!(of(Role::AttnQkvWeight, Some(layer)), down);
                down
            });
            let outside = [of(Role::TokenEmbd, None), of(Role::AttnOutputWeight, Some(7))];
            (outside, of(Role::FfnUpWeight, Some(0)), down.collect::<Vec<_>>())
        };
        let (outside, up, down) = types(Recipe::Q4KM, 512);
        assert_eq!((outside, up), ([DType::Q6K, DType::Q4K], DType::Q4K));
        let more: Vec<_> = (0..24).filter(|&layer| down[layer] == DType::Q6K).collect();
        assert_eq!(more, [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]);
        assert!(down.iter().all(|dtype| matches!(dtype, DType::Q4K | DType::Q6K)));
        let (outside, up, down) = types(Recipe::Q5KM, 512);
        assert_eq!((outside, up), ([DType::Q6K, DType::Q5K], DType::Q5K));
        assert_eq!(down.iter().filter(|&&dtype| dtype == DType::Q6K).count(), more.len());
        // Rows that are no whole super-blocks, and no whole blocks.
        let (outside, up, _) = types(Recipe::Q4KM, 96);
        assert_eq!((outside, up), ([DType::Q8_0, DType::Q4_1], DType::Q4_1));
        let (outside, up, down) = types(Recipe::Xq4, 512);
        assert!(outside.iter().chain([&up]).chain(&down).all(|dtype| *dtype == DType::Q4K));
        assert_eq!(types(Recipe::Xq4, 96).1, DType::Q4_0);
        for recipe in [Recipe::Q4KM, Recipe::Q6K, Recipe::Q4_1, Recipe::Q8_0, Recipe::Xq4] {
            assert_eq!(types(recipe, 40).1, DType::F16);
        }
        assert_eq!(types(Recipe::Bf16, 40).1, DType::BF16);
        let norm = TensorId { role: Role::AttnNormWeight, layer: Some(0) };
        assert_eq!(Recipe::Q6K.dtype(norm, 512, 24), DType::F32);
    }

    #[test]
    fn patterns() {
        let fits = |pattern: &str, name: &str| {
            format!("{pattern}=q6_k").parse::<Override>().unwrap().fits(name)
        };
        assert!(fits("token_embd.weight", "token_embd.weight"));
        assert!(fits("*", "token_embd.weight"));
        assert!(fits("blk.*.ffn_down.weight", "blk.11.ffn_down.weight"));
        assert!(fits("*ffn*", "blk.1.ffn_up.weight"));
        assert!(!fits("blk.1.*", "blk.11.ffn_up.weight"));
        assert!(!fits("ffn_up", "blk.1.ffn_up.weight"));
        assert!(!fits("*.weight*.weight", "blk.1.ffn_up.weight"));
        assert!("a=q5_x".parse::<Override>().is_err() && "a=i32".parse::<Override>().is_err());
        assert!("q4_k".parse::<Override>().is_err());
    }
}
