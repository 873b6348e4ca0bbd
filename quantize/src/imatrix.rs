//! Importance matrices: the mean square of what each column of a matrix is multiplied by, which is how much
//! an error in that column matters. The files are llama.cpp's, in its form of GGUF.

use crate::error::{Error, Result, file, io};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use xelm_runtime::config::TensorId;
use xelm_runtime::format::{AtomicFile, Gguf, Value, Writer, keys};
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::observe::Observer;
use xelm_runtime::quant::DType;

/// What the matrices of one expert were multiplied by, over some text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imatrix {
    tensors: BTreeMap<String, Inputs>,
    datasets: Vec<String>,
    /// Tokens that were read in one piece; by it llama.cpp counts text.
    chunk_size: u32,
}

/// What one matrix was multiplied by.
#[derive(Clone, Debug, PartialEq)]
struct Inputs {
    squares: Vec<f64>, // [n_cols] sums over the rows of x²
    rows: f64,
}

impl Imatrix {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is no importance matrix.
    pub fn read(path: &Path) -> Result<Imatrix> {
        let mapped = MappedFile::open(path).map_err(io(path))?;
        let gguf = mapped.gguf().map_err(file(path))?;
        Imatrix::of(&gguf).map_err(|why| Error::Imatrix { path: path.to_owned(), why })
    }

    fn of(gguf: &Gguf<'_>) -> std::result::Result<Imatrix, String> {
        let mut found = Imatrix::default();
        if let Some(Value::Array(datasets)) = gguf.get(DATASETS) {
            found.datasets = datasets.strings().map(str::to_owned).collect();
        }
        if let Some(Value::U32(size)) = gguf.get(CHUNK_SIZE) {
            found.chunk_size = size;
        }
        for tensor in gguf.tensors() {
            let Some(name) = tensor.name.strip_suffix(SQUARES) else { continue };
            let rows = gguf.tensor(&format!("{name}{ROWS}"));
            let rows = rows.ok_or_else(|| format!("{name} has no {ROWS}"))?;
            if tensor.dtype != DType::F32 || rows.dtype != DType::F32 || rows.bytes.len() != 4 {
                return Err(format!("{name} is not one list of F32 with one count"));
            }
            let numbers = |bytes: &[u8]| -> Vec<f64> {
                let (numbers, _) = bytes.as_chunks();
                numbers.iter().map(|&b| f32::from_le_bytes(b).into()).collect()
            };
            let (squares, rows) = (numbers(tensor.bytes), numbers(rows.bytes)[0]);
            let sound = |x: &f64| x.is_finite() && *x >= 0.0;
            if !squares.iter().chain([&rows]).all(sound) || rows == 0.0 {
                return Err(format!("{name} has numbers that are no sums of squares"));
            }
            found.tensors.insert(name.to_owned(), Inputs { squares, rows });
        }
        if found.tensors.is_empty() { Err("it has no importances".to_owned()) } else { Ok(found) }
    }

    /// Reads the files for the expert file `expert`, and adds them up: `paths` are files, or folders with a
    /// file of the expert's name.
    ///
    /// # Errors
    /// As [`Imatrix::read`] and [`Imatrix::add`].
    pub fn read_all(paths: &[PathBuf], expert: &Path) -> Result<Imatrix> {
        let mut sum = Imatrix::default();
        for path in paths {
            let path = match expert.file_name() {
                Some(name) if path.is_dir() => path.join(name),
                _ => path.clone(),
            };
            sum.add(Imatrix::read(&path)?).map_err(|why| Error::Imatrix { path, why })?;
        }
        Ok(sum)
    }

    /// Adds what was seen over other text.
    ///
    /// # Errors
    /// A matrix has another width, or is missing in one of the two.
    pub fn add(&mut self, other: Imatrix) -> std::result::Result<(), String> {
        if self.tensors.is_empty() {
            *self = other;
            return Ok(());
        }
        let same = |(a, b): ((&String, &Inputs), (&String, &Inputs))| {
            a.0 == b.0 && a.1.squares.len() == b.1.squares.len()
        };
        if self.tensors.len() != other.tensors.len()
            || !self.tensors.iter().zip(&other.tensors).all(same)
        {
            return Err("it is of other matrices than those to be added to".to_owned());
        }
        for (sum, inputs) in self.tensors.values_mut().zip(other.tensors.into_values()) {
            sum.rows += inputs.rows;
            sum.squares.iter_mut().zip(inputs.squares).for_each(|(sum, square)| *sum += square);
        }
        self.datasets.extend(other.datasets);
        Ok(())
    }

    /// Notes where the text came from.
    #[must_use]
    pub fn from_text(mut self, datasets: Vec<String>, chunk_size: usize) -> Self {
        (self.datasets, self.chunk_size) = (datasets, chunk_size as u32);
        self
    }

    /// Where the text came from.
    pub fn datasets(&self) -> &[String] {
        &self.datasets
    }

    /// The means of the squares, `[n_cols]`, for the matrix with this name.
    pub fn importance(&self, name: &str) -> Option<Vec<f32>> {
        let Inputs { squares, rows } = self.tensors.get(name)?;
        Some(squares.iter().map(|sum| (sum / rows) as f32).collect())
    }

    /// Checks that the importances are those of a model with these matrices, `(name, n_cols)`. The embedding
    /// may be missing: llama.cpp does not watch the output layer.
    pub(crate) fn check<'a>(
        &self,
        matrices: impl Iterator<Item = (&'a str, usize)>,
    ) -> std::result::Result<(), String> {
        let mut left: Vec<&String> = self.tensors.keys().collect();
        for (name, n_cols) in matrices {
            let in_layer = TensorId::parse(name).is_some_and(|id| id.layer.is_some());
            match self.tensors.get(name) {
                Some(inputs) if inputs.squares.len() != n_cols => {
                    let found = inputs.squares.len();
                    return Err(format!("{name} has {n_cols} columns, its importance {found}"));
                }
                None if in_layer => return Err(format!("{name} has no importance")),
                _ => left.retain(|&other| other != name),
            }
        }
        match left.first() {
            Some(name) => Err(format!("it has {name}, which is no matrix of the model")),
            None => Ok(()),
        }
    }

    /// Writes a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let most = self.tensors.values().map(|inputs| inputs.rows).fold(0.0, f64::max);
        let mut writer = Writer::new(IMATRIX);
        writer.string(keys::TYPE, IMATRIX);
        writer.strings(DATASETS, &self.datasets);
        writer.u32(CHUNK_COUNT, (most / f64::from(self.chunk_size.max(1))) as u32);
        writer.u32(CHUNK_SIZE, self.chunk_size);
        for (name, inputs) in &self.tensors {
            let mut tensor = |suffix: &str, n_cols: usize| {
                writer.tensor(&format!("{name}{suffix}"), DType::F32, &[n_cols]).map_err(file(path))
            };
            tensor(SQUARES, inputs.squares.len())?;
            tensor(ROWS, 1)?;
        }
        let out = AtomicFile::create(path).map_err(io(path))?;
        let mut body = writer.begin(out).map_err(file(path))?;
        for inputs in self.tensors.values() {
            for numbers in [&inputs.squares[..], &[inputs.rows]] {
                let bytes = numbers.iter().map(|&x| (x as f32).to_le_bytes());
                body.tensor(bytes).map_err(file(path))?;
            }
        }
        body.finish().map_err(file(path))?.commit().map_err(io(path))
    }
}

/// Watches a session of one expert, and adds up the squares of what its matrices are multiplied by.
#[derive(Debug, Default)]
pub struct Collector(Mutex<BTreeMap<String, Inputs>>);

impl Collector {
    /// What was seen.
    pub fn into_imatrix(self) -> Imatrix {
        let tensors = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        Imatrix { tensors, ..Imatrix::default() }
    }
}

impl Observer for Collector {
    fn product(&self, _expert: u32, tensor: TensorId, n_cols: usize, x: &[f32]) {
        let mut tensors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing = || Inputs { squares: vec![0.0; n_cols], rows: 0.0 };
        let inputs = tensors.entry(tensor.to_string()).or_insert_with(nothing);
        for row in x.chunks_exact(n_cols) {
            inputs.rows += 1.0;
            for (sum, &x) in inputs.squares.iter_mut().zip(row) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
    }
}

/// llama.cpp's `general.type` of such a file.
const IMATRIX: &str = "imatrix";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
/// What follows a matrix's name in those of its sums, and of the number of rows that were added.
const SQUARES: &str = ".in_sum2";
const ROWS: &str = ".counts";

#[cfg(test)]
mod tests {
    use super::*;
    use xelm_runtime::config::Role;

    fn seen(name: Role, n_cols: usize, x: &[f32]) -> Imatrix {
        let collector = Collector::default();
        collector.product(0, TensorId { role: name, layer: Some(0) }, n_cols, x);
        collector.into_imatrix()
    }

    #[test]
    fn adding_is_seeing_all_of_it() {
        let mut sum = seen(Role::FfnUpWeight, 2, &[1.0, 2.0, 3.0, 4.0]);
        sum.add(seen(Role::FfnUpWeight, 2, &[5.0, 0.0])).unwrap();
        let all = seen(Role::FfnUpWeight, 2, &[1.0, 2.0, 3.0, 4.0, 5.0, 0.0]);
        assert_eq!(sum, all);
        let mean = vec![35.0 / 3.0, 20.0 / 3.0];
        assert_eq!(all.importance("blk.0.ffn_up.weight"), Some(mean));
        let mut nothing = Imatrix::default();
        nothing.add(all.clone()).unwrap();
        assert_eq!(nothing, all);
        for other in
            [seen(Role::FfnUpWeight, 3, &[0.0; 3]), seen(Role::FfnDownWeight, 2, &[0.0; 2])]
        {
            assert!(sum.add(other).is_err());
        }
        assert_eq!(sum, all);
    }

    #[test]
    fn only_the_embedding_may_be_missing() {
        let all = seen(Role::FfnUpWeight, 2, &[1.0, 2.0]);
        let (embedding, up, down) =
            (("token_embd.weight", 2), ("blk.0.ffn_up.weight", 2), ("blk.0.ffn_down.weight", 2));
        let check = |of: &[(&str, usize)]| all.check(of.iter().copied());
        assert_eq!(check(&[embedding, up]), Ok(()));
        assert!(check(&[up, down]).unwrap_err().contains("ffn_down.weight has no importance"));
        assert!(check(&[embedding]).unwrap_err().contains("no matrix of the model"));
        assert!(check(&[("blk.0.ffn_up.weight", 3)]).unwrap_err().contains("3 columns"));
    }
}
