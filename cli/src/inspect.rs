//! `xelm inspect`

use crate::compute::{KvArg, on_card};
use crate::model::Model;
use crate::{Result, print_line};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use xelm_runtime::cuda;
use xelm_runtime::expert::Expert;
use xelm_runtime::format::{Array, Gguf, Value};
use xelm_runtime::layout::Layout;
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::pack::SetFolder;
use xelm_runtime::pool::THREAD_STACK;
use xelm_runtime::quant::DType;
use xelm_runtime::session::{Mixing, Options, Session};
use xelm_runtime::set::{Row, SET_FILE};

/// Shows what a file holds: metadata, tensors, for an expert the memory that a session takes, and for the
/// folder of a set which experts are present.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A GGUF file (expert, set.gguf, checkpoint, token shard, vocabulary) or the folder of a set.
    path: PathBuf,
    /// Also show the memory that a session takes, by category: exactly what the runtime asks for, and what one on a
    /// card takes there. Of a set, a session that mixes the experts that are present.
    #[arg(long)]
    plan: bool,
    /// With --plan: positions of the session; 0 for all that the model has.
    #[arg(long, default_value_t = 0, value_name = "N", requires = "plan")]
    ctx: usize,
    /// With --plan: experts that are mixed at a time; 0 for all.
    #[arg(long, default_value_t = 1, value_name = "M", requires = "plan")]
    experts: usize,
    /// With --plan: bytes for keys and values, as for `xelm generate`.
    #[arg(long, default_value_t = 0, value_name = "BYTES", requires = "plan")]
    kv_budget: usize,
    /// With --plan: how keys and values are stored.
    #[arg(long, default_value = "f16", value_name = "TYPE", requires = "plan")]
    kv: KvArg,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// Names of the tensors' types; of packed weights, what is packed.
fn types(gguf: &Gguf<'_>) -> Vec<String> {
    let Ok(types) = Expert::types(gguf) else {
        return gguf.tensors().map(|tensor| tensor.dtype.name().to_owned()).collect();
    };
    let name = |(dtype, layout): (DType, Layout)| match layout {
        Layout::Packed => format!("packed {}", dtype.name()),
        Layout::Standard => dtype.name().to_owned(),
    };
    types.map(name).collect()
}

/// Elements of an array that are shown.
const SHOWN: usize = 20;

impl Args {
    pub(crate) fn run(self, threads: usize) -> Result<()> {
        let path = if self.path.is_dir() { self.path.join(SET_FILE) } else { self.path.clone() };
        let file =
            MappedFile::open(&path).map_err(|e| format!("cannot open {}: {e}", path.display()))?;
        let gguf = file.gguf().map_err(|e| format!("{}: {e}", path.display()))?;
        let metadata: Map<String, Json> =
            gguf.metadata().map(|(key, value)| (key.to_owned(), show(value))).collect();
        let types = types(&gguf);
        let tensors: Vec<Json> = gguf
            .tensors()
            .zip(&types)
            .map(|(t, of)| {
                json!({"name": t.name, "type": of, "shape": &t.dims[..t.n_dims], "bytes": t.bytes.len()})
            })
            .collect();
        let plan = self.plan(threads)?;
        let experts = self.listed()?;
        if self.json {
            return print_line(json!({
                "file": path, "bytes": file.bytes().len(), "metadata": metadata,
                "tensors": tensors, "plan": plan, "experts": experts,
            }));
        }
        print_line(format_args!("{}\t{} bytes", path.display(), file.bytes().len()))?;
        for (key, value) in &metadata {
            print_line(format_args!("{key}\t{value}"))?;
        }
        let mut sums: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for (tensor, of) in gguf.tensors().zip(types) {
            let (n, bytes) = sums.entry(of).or_default();
            (*n, *bytes) = (*n + 1, *bytes + tensor.bytes.len());
        }
        for (dtype, (n, bytes)) in sums {
            print_line(format_args!("{n} tensors of type {dtype}\t{bytes} bytes"))?;
        }
        if let Some(plan) = plan {
            for (category, bytes) in plan.as_object().into_iter().flatten() {
                print_line(format_args!("plan {category}\t{bytes}"))?;
            }
        }
        for expert in experts.unwrap_or_default() {
            let is_present = expert["present"] == true;
            let state = if is_present { "present" } else { "absent" };
            print_line(format_args!("expert {}\t{state}\t{}", expert["id"], expert["languages"]))?;
        }
        Ok(())
    }

    /// The experts of a set's folder, and which are present.
    fn listed(&self) -> Result<Option<Vec<Json>>> {
        if !self.path.is_dir() {
            return Ok(None);
        }
        let folder = SetFolder::open(&self.path)?;
        let rows = Row::read(&folder.set()?).into_iter().enumerate();
        let experts = rows.map(|(i, row)| {
            json!({
                "id": row.id, "file": row.file, "languages": row.languages, "bytes": row.size,
                "present": folder.is_present(i),
            })
        });
        Ok(Some(experts.collect()))
    }

    /// Planned bytes by category.
    fn plan(&self, threads: usize) -> Result<Option<Json>> {
        if !self.plan {
            return Ok(None);
        }
        let mixing = Mixing { top_m: self.experts, kv_budget: self.kv_budget, ..Mixing::default() };
        let model = Model::open(&self.path, mixing)?;
        model.with(|ensemble| {
            let n_ctx = self.ctx;
            let options = Options { n_ctx, mixing, kv: self.kv.into(), ..Options::default() };
            let plan = Session::plan(ensemble, &options)?;
            // None of a model that no kernel of a card computes.
            let card = cuda::plan(ensemble, &Session::needs(ensemble, &on_card(&options))?).ok();
            Ok(Some(json!({
                "total": plan.total, "kv": plan.kv, "scratch": plan.scratch, "text": plan.text,
                "routing": plan.routing, "n_resident": plan.n_resident,
                "weights_mapped": plan.mapped, "thread_stacks": (threads - 1) * THREAD_STACK,
                "card_total": card.map(|card| card.total), "card_kv": card.map(|card| card.kv),
                "card_weights": card.map(|card| card.weights),
                "card_scratch": card.map(|card| card.scratch),
            })))
        })
    }
}

fn show(value: Value<'_>) -> Json {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::F32(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::String(v) => json!(v),
        Value::Array(array) => show_array(&array),
    }
}

/// A short array whole, a long one as its type and length.
fn show_array(array: &Array<'_>) -> Json {
    use xelm_runtime::format::ValueType as T;
    if array.len > SHOWN {
        return json!(format!("[{} × {:?}]", array.len, array.of));
    }
    let numbers = 0..array.len;
    match array.of {
        T::String => array.strings().collect(),
        T::U32 => numbers.map(|i| array.bits32(i)).collect(),
        T::I32 => numbers.map(|i| array.bits32(i) as i32).collect(),
        T::F32 => numbers.map(|i| f32::from_bits(array.bits32(i))).collect(),
        T::U64 => numbers.map(|i| array.bits64(i)).collect(),
        _ => json!(format!("[{} × {:?}]", array.len, array.of)),
    }
}
