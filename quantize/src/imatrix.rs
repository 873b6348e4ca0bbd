//! Importance matrices: the mean square of what each column of a matrix is multiplied by, which is how much
//! an error in that column matters. The files are llama.cpp's, in its form of GGUF.

use crate::compensate::Cost;
use crate::error::{Error, Result, file, io};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use xelm_runtime::config::TensorId;
use xelm_runtime::format::{AtomicFile, Gguf, Value, Writer, keys};
use xelm_runtime::isa::{Isa, Vectorised};
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
    /// Where they were asked for.
    pairs: Option<Pairs>,
}

/// How the columns of what a matrix was multiplied by go together.
#[derive(Clone, Debug, PartialEq)]
struct Pairs {
    sums: Vec<f64>,     // [n_cols] of x
    products: Vec<f32>, // [n_cols, n_cols] of x·xᵀ
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
            let n_cols = tensor.bytes.len() / 4;
            let pairs = match ([SUMS, PRODUCTS])
                .map(|suffix| gguf.tensor(&format!("{name}{suffix}")))
            {
                [Some(sums), Some(products)] => {
                    let sizes = (sums.bytes.len() / 4, products.bytes.len() / 4);
                    if sizes != (n_cols, n_cols * n_cols) || products.dtype != DType::F32 {
                        return Err(format!("{name} has products of another size"));
                    }
                    let (bytes, _) = products.bytes.as_chunks();
                    let products: Vec<f32> = bytes.iter().map(|&b| f32::from_le_bytes(b)).collect();
                    let sums = numbers(sums.bytes);
                    if !products.iter().all(|x| x.is_finite())
                        || !sums.iter().all(|x| x.is_finite())
                    {
                        return Err(format!("{name} has products that are not finite"));
                    }
                    Some(Pairs { sums, products })
                }
                _ => None,
            };
            let (squares, rows) = (numbers(tensor.bytes), numbers(rows.bytes)[0]);
            let sound = |x: &f64| x.is_finite() && *x >= 0.0;
            if !squares.iter().chain([&rows]).all(sound) || rows == 0.0 {
                return Err(format!("{name} has numbers that are no sums of squares"));
            }
            found.tensors.insert(name.to_owned(), Inputs { squares, rows, pairs });
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
            sum.pairs = match (sum.pairs.take(), inputs.pairs) {
                (Some(mut sum), Some(more)) => {
                    sum.sums.iter_mut().zip(more.sums).for_each(|(sum, x)| *sum += x);
                    sum.products.iter_mut().zip(more.products).for_each(|(sum, x)| *sum += x);
                    Some(sum)
                }
                // They would be of a part of the text only.
                _ => None,
            };
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
        let Inputs { squares, rows, .. } = self.tensors.get(name)?;
        Some(squares.iter().map(|sum| (sum / rows) as f32).collect())
    }

    /// Whether it says of every matrix how the columns of its inputs go together.
    pub(crate) fn has_products(&self) -> bool {
        !self.tensors.is_empty() && self.tensors.values().all(|inputs| inputs.pairs.is_some())
    }

    /// What errors in the matrix with this name cost, and the mean of what it is multiplied by, where the file
    /// says how columns go together. If a bias makes up for what is lost on average, that costs nothing.
    pub(crate) fn cost(&self, name: &str, has_bias: bool) -> Option<(Cost, Vec<f64>)> {
        let Inputs { squares, rows, pairs } = self.tensors.get(name)?;
        let Pairs { sums, products } = pairs.as_ref()?;
        let mean: Vec<f64> =
            sums.iter().map(|sum| if has_bias { sum / rows } else { 0.0 }).collect();
        let n = squares.len();
        let of =
            |(i, product): (usize, &f32)| f64::from(*product) / rows - mean[i / n] * mean[i % n];
        let h = products.iter().enumerate().map(of).collect();
        // The embedding is also what a token is read as, where errors in every direction matter.
        let damping = if has_bias { DAMPING } else { DAMPING_EMBEDDING };
        Some((Cost::new(h, n, damping), mean))
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
            let mut tensor = |suffix: &str, dims: &[usize]| {
                writer.tensor(&format!("{name}{suffix}"), DType::F32, dims).map_err(file(path))
            };
            tensor(SQUARES, &[inputs.squares.len()])?;
            tensor(ROWS, &[1])?;
            if let Some(pairs) = &inputs.pairs {
                tensor(SUMS, &[pairs.sums.len()])?;
                tensor(PRODUCTS, &[pairs.sums.len(); 2])?;
            }
        }
        let out = AtomicFile::create(path).map_err(io(path))?;
        let mut body = writer.begin(out).map_err(file(path))?;
        for inputs in self.tensors.values() {
            let mut tensor = |numbers: &[f64]| {
                let bytes = numbers.iter().map(|&x| (x as f32).to_le_bytes());
                body.tensor(bytes).map_err(file(path))
            };
            tensor(&inputs.squares)?;
            tensor(&[inputs.rows])?;
            if let Some(pairs) = &inputs.pairs {
                tensor(&pairs.sums)?;
                let bytes = pairs.products.iter().map(|x| x.to_le_bytes());
                body.tensor(bytes).map_err(file(path))?;
            }
        }
        body.finish().map_err(file(path))?.commit().map_err(io(path))
    }
}

/// Watches a session of one expert, and adds up the squares of what its matrices are multiplied by.
#[derive(Debug)]
pub struct Collector {
    isa: Isa,
    products: bool,
    tensors: Mutex<BTreeMap<String, Inputs>>,
}

impl Collector {
    /// One that has seen nothing. With `products` it also notes how columns go together, which takes a square
    /// matrix per matrix.
    pub fn new(products: bool) -> Self {
        Collector { isa: Isa::detect(), products, tensors: Mutex::default() }
    }

    /// What was seen.
    pub fn into_imatrix(self) -> Imatrix {
        let mut tensors = self.tensors.into_inner().unwrap_or_else(PoisonError::into_inner);
        for Pairs { sums, products } in tensors.values_mut().filter_map(|of| of.pairs.as_mut()) {
            let n = sums.len();
            for i in 0..n {
                for j in 0..i {
                    products[i * n + j] = products[j * n + i];
                }
            }
        }
        Imatrix { tensors, ..Imatrix::default() }
    }
}

impl Observer for Collector {
    fn product(&self, _expert: u32, tensor: TensorId, n_cols: usize, x: &[f32]) {
        let mut tensors = self.tensors.lock().unwrap_or_else(PoisonError::into_inner);
        let inputs = tensors.entry(tensor.to_string()).or_insert_with(|| Inputs {
            squares: vec![0.0; n_cols],
            rows: 0.0,
            pairs: self
                .products
                .then(|| Pairs { sums: vec![0.0; n_cols], products: vec![0.0; n_cols * n_cols] }),
        });
        for row in x.chunks_exact(n_cols) {
            inputs.rows += 1.0;
            for (sum, &x) in inputs.squares.iter_mut().zip(row) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        let Some(Pairs { sums, products }) = &mut inputs.pairs else { return };
        for row in x.chunks_exact(n_cols) {
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        products.par_chunks_exact_mut(n_cols).enumerate().for_each(|(column, sums)| {
            self.isa.run(AddProducts { sums, x, column });
        });
    }
}

/// sums[j] += x[t, column] · x[t, j] for all t and j from `column` on; the order of t is that of the text, so that neither threads
/// nor instruction sets change a bit.
struct AddProducts<'a> {
    sums: &'a mut [f32], // [n_cols]
    x: &'a [f32],        // [n, n_cols]
    column: usize,
}

impl Vectorised for AddProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let n_cols = self.sums.len();
        for row in self.x.chunks_exact(n_cols) {
            let factor = row[self.column];
            for (sum, &x) in self.sums[self.column..].iter_mut().zip(&row[self.column..]) {
                *sum += factor * x;
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
/// Own: in those of the sums of the columns, and of their products.
const SUMS: &str = ".in_sum";
const PRODUCTS: &str = ".in_products";
/// Share of the mean square that is added to every column's: the text that was read is not all there is.
const DAMPING: f64 = 0.01;
const DAMPING_EMBEDDING: f64 = 0.3;

#[cfg(test)]
mod tests {
    use super::*;
    use xelm_runtime::config::Role;

    fn seen(name: Role, n_cols: usize, x: &[f32]) -> Imatrix {
        let collector = Collector::new(true);
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
