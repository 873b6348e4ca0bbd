//! The validating reader: every byte is checked once in [`Gguf::open`], in time linear in the
//! metadata, with checked arithmetic; afterwards nothing can fail and nothing is copied.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::{DEFAULT_ALIGNMENT, FORMAT_VERSION, MAGIC, ValueType, keys};
use crate::error::{Error, Result};
use crate::quant::DType;

/// A GGUF file in memory whose structure has been checked.
#[derive(Clone, Copy, Debug)]
pub struct Gguf<'a> {
    metadata: Entries<'a>,
    tensors: Tensors<'a>,
}

/// One metadata value.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "one variant per GGUF type")]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    U64(u64),
    I64(i64),
    F64(f64),
    String(&'a str),
    Array(Array<'a>),
}

/// A metadata array, read in place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    /// Type of the elements (never an array itself).
    pub of: ValueType,
    /// Number of elements.
    pub len: usize,
    /// The elements' bytes: packed numbers, or length-prefixed strings.
    pub bytes: &'a [u8],
}

/// One tensor: its name, type, shape and bytes.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Name, at most 64 bytes.
    pub name: &'a str,
    /// Storage type.
    pub dtype: DType,
    /// Dimensions, row length first; unused ones are 1.
    pub dims: [usize; 4],
    /// How many dimensions the file names.
    pub n_dims: usize,
    /// The data.
    pub bytes: &'a [u8],
}

impl<'a> Gguf<'a> {
    /// Checks the whole structure of a file.
    ///
    /// # Errors
    /// The rule that the bytes break. The base address must be a multiple of 32.
    pub fn open(bytes: &'a [u8]) -> Result<Self> {
        if !bytes.as_ptr().addr().is_multiple_of(DEFAULT_ALIGNMENT) {
            return Err(Error::Misaligned);
        }
        let mut cursor = Cursor { rest: bytes, is_checked: false };
        if cursor.take(4, "the header").map_err(|_| Error::BadMagic)? != MAGIC {
            return Err(Error::BadMagic);
        }
        let version = cursor.u32("the header")?;
        // Version 2 differs from 3 only in allowing big-endian twins.
        if version != 2 && version != 3 {
            return Err(Error::UnsupportedVersion { found: version });
        }
        let n_tensors = cursor.count("the number of tensors")?;
        let n_kv = cursor.count("the number of metadata entries")?;

        let metadata = Entries { left: n_kv, cursor };
        let mut alignment = DEFAULT_ALIGNMENT;
        for _ in 0..n_kv {
            let (key, value) = cursor.entry()?;
            if key == keys::ALIGNMENT {
                alignment = match value {
                    Value::U32(n) if n.is_power_of_two() => n as usize,
                    Value::U32(_) => return Err(Error::OutOfRange { what: keys::ALIGNMENT }),
                    _ => return Err(Error::WrongType { key: keys::ALIGNMENT }),
                };
            }
        }

        let infos = cursor;
        for _ in 0..n_tensors {
            cursor.tensor_info()?;
        }
        // Padding before the data exists only where there is data.
        let header_len = bytes.len().saturating_sub(cursor.rest.len());
        let padding =
            padding(header_len, alignment).ok_or(Error::OutOfRange { what: "padding" })?;
        let data = if n_tensors == 0 {
            cursor.rest
        } else {
            cursor.take(padding, "the tensor data")?;
            cursor.rest
        };
        let tensors = Tensors { left: n_tensors, cursor: infos, data, alignment, offset: 0 };
        let metadata =
            Entries { cursor: Cursor { is_checked: true, ..metadata.cursor }, ..metadata };
        for tensor in tensors {
            tensor?;
        }
        Ok(Gguf { metadata, tensors })
    }

    /// All metadata entries in file order.
    pub fn metadata(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> + use<'a> {
        self.metadata
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'a>> + use<'a> {
        // `open` has walked the same bytes without an error.
        self.tensors.filter_map(core::result::Result::ok)
    }

    /// Number of tensors.
    pub fn n_tensors(&self) -> usize {
        self.tensors.left
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        self.metadata().find(|(k, _)| *k == key).map(|(_, value)| value)
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'a>> {
        self.tensors().find(|t| t.name == name)
    }

    /// Checks `general.architecture`.
    ///
    /// # Errors
    /// The key is absent, not a string, or names something else.
    pub fn expect_architecture(&self, expected: &'static str) -> Result<()> {
        match self.get(keys::ARCHITECTURE) {
            Some(Value::String(found)) if found == expected => Ok(()),
            Some(Value::String(_)) => Err(Error::WrongArchitecture { expected }),
            Some(_) => Err(Error::WrongType { key: keys::ARCHITECTURE }),
            None => Err(Error::MissingKey { key: keys::ARCHITECTURE }),
        }
    }

    /// Checks `xelm.format_version`, which foreign files do not have.
    ///
    /// # Errors
    /// The file is of a later version.
    pub fn expect_format_version(&self) -> Result<()> {
        match self.get(keys::FORMAT_VERSION).map(|v| v.u32(keys::FORMAT_VERSION)).transpose()? {
            None | Some(FORMAT_VERSION) => Ok(()),
            Some(_) => Err(Error::OutOfRange { what: keys::FORMAT_VERSION }),
        }
    }
}

impl<'a> Value<'a> {
    /// The value as u32.
    ///
    /// # Errors
    /// It has another type; `key` is named.
    pub fn u32(self, key: &'static str) -> Result<u32> {
        if let Value::U32(n) = self { Ok(n) } else { Err(Error::WrongType { key }) }
    }

    /// The value as u64.
    ///
    /// # Errors
    /// It has another type; `key` is named.
    pub fn u64(self, key: &'static str) -> Result<u64> {
        if let Value::U64(n) = self { Ok(n) } else { Err(Error::WrongType { key }) }
    }

    /// The value as f32.
    ///
    /// # Errors
    /// It has another type; `key` is named.
    pub fn f32(self, key: &'static str) -> Result<f32> {
        if let Value::F32(x) = self { Ok(x) } else { Err(Error::WrongType { key }) }
    }

    /// The value as bool.
    ///
    /// # Errors
    /// It has another type; `key` is named.
    pub fn bool(self, key: &'static str) -> Result<bool> {
        if let Value::Bool(b) = self { Ok(b) } else { Err(Error::WrongType { key }) }
    }

    /// The value as a string.
    ///
    /// # Errors
    /// It has another type; `key` is named.
    pub fn str(self, key: &'static str) -> Result<&'a str> {
        if let Value::String(s) = self { Ok(s) } else { Err(Error::WrongType { key }) }
    }

    /// The value as an array with elements of one of the types `of`.
    ///
    /// # Errors
    /// It is no array or one of other elements; `key` is named.
    pub fn array(self, of: &[ValueType], key: &'static str) -> Result<Array<'a>> {
        match self {
            Value::Array(array) if of.contains(&array.of) => Ok(array),
            _ => Err(Error::WrongType { key }),
        }
    }
}

impl<'a> Array<'a> {
    /// Element `i` of an array of u32, i32 or f32 as its bits; 0 past the end.
    #[inline]
    pub fn bits32(&self, i: usize) -> u32 {
        self.bytes.as_chunks::<4>().0.get(i).map_or(0, |b| u32::from_le_bytes(*b))
    }

    /// Element `i` of an array of u64 or i64 as its bits; 0 past the end.
    #[inline]
    pub fn bits64(&self, i: usize) -> u64 {
        self.bytes.as_chunks::<8>().0.get(i).map_or(0, |b| u64::from_le_bytes(*b))
    }

    /// The strings of an array of strings (nothing for other arrays).
    pub fn strings(&self) -> Strings<'a> {
        let left = if self.of == ValueType::String { self.len } else { 0 };
        Strings { left, cursor: Cursor { rest: self.bytes, is_checked: true } }
    }
}

/// Iterator over an array of strings.
#[derive(Clone, Copy, Debug)]
pub struct Strings<'a> {
    left: usize,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;
    fn next(&mut self) -> Option<&'a str> {
        self.left = self.left.checked_sub(1)?;
        self.cursor.string("a string").ok()
    }
}

impl Tensor<'_> {
    /// Number of rows (the product of all dimensions but the first).
    pub fn n_rows(&self) -> usize {
        // `open` has checked that the product of all dimensions fits.
        self.dims.iter().skip(1).fold(1, |n, &d| n.saturating_mul(d))
    }

    /// Length of a row.
    pub fn n_cols(&self) -> usize {
        let [n_cols, ..] = self.dims;
        n_cols
    }
}

/// Bytes up to the next multiple of `alignment` (a power of two).
fn padding(len: usize, alignment: usize) -> Option<usize> {
    len.checked_next_multiple_of(alignment)?.checked_sub(len)
}

/// The unread rest of the bytes.
#[derive(Clone, Copy, Debug)]
struct Cursor<'a> {
    rest: &'a [u8],
    /// Whether the bytes have been walked before: the strings of arrays, of which a vocabulary has very
    /// many, are then passed over.
    is_checked: bool,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(Error::Truncated { what })?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Error::Truncated { what })?;
        self.rest = rest;
        Ok(*head)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A u64 that counts things of at least one byte each, so it cannot exceed what is left.
    fn count(&mut self, what: &'static str) -> Result<usize> {
        let n = usize::try_from(self.u64(what)?).map_err(|_| Error::OutOfRange { what })?;
        if n > self.rest.len() { Err(Error::OutOfRange { what }) } else { Ok(n) }
    }

    fn string(&mut self, what: &'static str) -> Result<&'a str> {
        let n = self.u64(what)?;
        let n = usize::try_from(n).map_err(|_| Error::Truncated { what })?;
        core::str::from_utf8(self.take(n, what)?).map_err(|_| Error::NotUtf8 { what })
    }

    fn value_type(&mut self) -> Result<ValueType> {
        let what = "a metadata type";
        ValueType::from_gguf(self.u32(what)?).ok_or(Error::OutOfRange { what })
    }

    fn entry(&mut self) -> Result<(&'a str, Value<'a>)> {
        let what = "a metadata value";
        let key = self.string("a metadata key")?;
        let value = match self.value_type()? {
            ValueType::U8 => Value::U8(u8::from_le_bytes(self.array(what)?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(self.array(what)?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(self.array(what)?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(self.array(what)?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(self.array(what)?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(self.array(what)?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(self.array(what)?)),
            ValueType::U64 => Value::U64(u64::from_le_bytes(self.array(what)?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(self.array(what)?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(self.array(what)?)),
            ValueType::Bool => match self.array(what)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                _ => return Err(Error::OutOfRange { what: "a metadata bool" }),
            },
            ValueType::String => Value::String(self.string(what)?),
            ValueType::Array => Value::Array(self.array_value()?),
        };
        Ok((key, value))
    }

    fn array_value(&mut self) -> Result<Array<'a>> {
        let what = "a metadata array";
        let of = self.value_type()?;
        let len = self.count(what)?;
        let before = self.rest;
        match of.size() {
            Some(size) => {
                let n = len.checked_mul(size).ok_or(Error::Truncated { what })?;
                let bytes = self.take(n, what)?;
                if of == ValueType::Bool && bytes.iter().any(|&b| b > 1) {
                    return Err(Error::OutOfRange { what: "a metadata bool" });
                }
            }
            None if of == ValueType::String => {
                for _ in 0..len {
                    if self.is_checked {
                        let n = usize::try_from(self.u64(what)?);
                        self.take(n.map_err(|_| Error::Truncated { what })?, what)?;
                    } else {
                        self.string(what)?;
                    }
                }
            }
            None => return Err(Error::OutOfRange { what: "a nested metadata array" }),
        }
        let used = before.len().saturating_sub(self.rest.len());
        Ok(Array { of, len, bytes: before.get(..used).unwrap_or_default() })
    }

    fn tensor_info(&mut self) -> Result<TensorInfo<'a>> {
        let what = "a tensor description";
        let name = self.string("a tensor name")?;
        if name.len() > 64 {
            return Err(Error::OutOfRange { what: "a tensor name" });
        }
        let n_dims = self.u32(what)? as usize;
        let mut dims = [1usize; 4];
        let slots = dims.get_mut(..n_dims).filter(|s| !s.is_empty());
        for slot in slots.ok_or(Error::OutOfRange { what: "the number of dimensions" })? {
            *slot = usize::try_from(self.u64(what)?).ok().filter(|&d| d > 0).ok_or(BAD_DIMS)?;
        }
        let number = self.u32(what)?;
        let dtype = DType::from_ggml(number).ok_or(Error::UnsupportedDType { found: number })?;
        let offset = self.u64(what)?;
        let [n_cols, rows @ ..] = dims;
        let n_rows = rows.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or(BAD_DIMS)?;
        let row_bytes = dtype.row_bytes(n_cols).ok_or(BAD_DIMS)?;
        let n_bytes = row_bytes.checked_mul(n_rows).ok_or(BAD_DIMS)?;
        // Element counts are used in address arithmetic of other element sizes.
        n_rows.checked_mul(n_cols).and_then(|n| n.checked_mul(8)).ok_or(BAD_DIMS)?;
        Ok(TensorInfo { name, dtype, dims, n_dims, offset, n_bytes })
    }
}

const BAD_DIMS: Error = Error::OutOfRange { what: "a tensor's dimensions" };

struct TensorInfo<'a> {
    name: &'a str,
    dtype: DType,
    dims: [usize; 4],
    n_dims: usize,
    offset: u64,
    n_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entries<'a> {
    left: usize,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a str, Value<'a>);
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        self.cursor.entry().ok()
    }
}

#[derive(Clone, Copy, Debug)]
struct Tensors<'a> {
    left: usize,
    cursor: Cursor<'a>,
    data: &'a [u8],
    alignment: usize,
    /// Where the next tensor must begin.
    offset: usize,
}

impl<'a> Tensors<'a> {
    fn read(&mut self) -> Result<Tensor<'a>> {
        let info = self.cursor.tensor_info()?;
        let out_of_order = Error::OutOfRange { what: "a tensor's offset" };
        if usize::try_from(info.offset) != Ok(self.offset) {
            return Err(out_of_order);
        }
        let end = self.offset.checked_add(info.n_bytes).ok_or(out_of_order)?;
        let bytes = self.data.get(self.offset..end);
        let bytes = bytes.ok_or(Error::Truncated { what: "the tensor data" })?;
        self.offset = end.checked_next_multiple_of(self.alignment).ok_or(out_of_order)?;
        let TensorInfo { name, dtype, dims, n_dims, .. } = info;
        Ok(Tensor { name, dtype, dims, n_dims, bytes })
    }
}

impl<'a> Iterator for Tensors<'a> {
    type Item = Result<Tensor<'a>>;
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some(self.read())
    }
}
