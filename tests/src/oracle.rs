//! The oracle: a micro XGLM computed by `transformers` (V 512, C 64, 2 layers, 4 heads, F 128,
//! exact GELU), its logits, gradients and parameters after AdamW. `fixtures/oracle` holds the
//! numbers.

use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::PathBuf;
use xelm_runtime::config::{Activation, Config};
use xelm_train::backend::{Backend, Cpu, IGNORE};
use xelm_train::model::{Model, Recompute};

/// Tensors by name, as f32 (integers and doubles are converted).
pub type Tensors = BTreeMap<String, Vec<f32>>;

/// The oracle's dimensions.
pub const CONFIG: Config = Config {
    n_vocab: 512,
    n_ctx: 128,
    n_embd: 64,
    n_layer: 2,
    n_head: 4,
    n_ff: 128,
    activation: Activation::GeluErf,
    norm_eps: 1e-5,
};

/// Reads one file of the oracle.
pub fn load(name: &str) -> Tensors {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/oracle").join(name);
    let bytes = std::fs::read(&path).expect("the fixtures are part of the repository");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let convert = |data: &[u8], dtype: Dtype| -> Vec<f32> {
        match dtype {
            Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F64 => {
                data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect()
            }
            Dtype::I64 => {
                data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f32).collect()
            }
            other => panic!("unexpected type {other:?}"),
        }
    };
    file.tensors().iter().map(|(n, t)| (n.clone(), convert(t.data(), t.dtype()))).collect()
}

/// `[2, 31]` inputs and targets out of `[2, 32]` ids and unshifted labels (−100 is ignored).
pub fn shifted(ids: &[f32], labels: &[f32]) -> (Vec<u32>, Vec<u32>) {
    let inputs = ids.chunks(32).flat_map(|row| &row[..31]).map(|&x| x as u32).collect();
    let target = |x: f32| if x < 0.0 { IGNORE } else { x as u32 };
    let targets = labels.chunks(32).flat_map(|row| &row[1..]).map(|&x| target(x)).collect();
    (inputs, targets)
}

/// The oracle's model with its weights, for micro-batches of 2 × `n_ctx`.
pub fn model(backend: &mut Cpu, n_ctx: usize) -> Model {
    let model = Model::place(backend, CONFIG, 2, n_ctx, Recompute::None).expect("enough memory");
    let weights = load("weights.safetensors");
    for tensor in model.params.tensors(&CONFIG) {
        backend.write(tensor.span, &weights[&tensor.name]);
    }
    model
}

/// Largest |a − b|, and that as a share of b's largest magnitude.
pub fn differences(a: &[f32], b: &[f32]) -> (f32, f32) {
    assert_eq!(a.len(), b.len());
    let absolute = a.iter().zip(b).fold(0.0f32, |m, (x, y)| m.max((x - y).abs()));
    let largest = b.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    assert!(absolute.is_finite() && largest.is_finite());
    (absolute, absolute / largest)
}
