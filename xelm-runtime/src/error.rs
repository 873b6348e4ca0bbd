//! The one error type of the runtime: flat, `Copy`, without memory of its own.

use core::fmt;

/// Every variant names the rule that was broken; `what` and `key` say where.
///
/// Bytes of a file are untrusted, so most variants come from [`crate::format`]. Nothing in the
/// runtime panics on bad input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The bytes end before `what` does.
    Truncated {
        /// The part that was being read.
        what: &'static str,
    },
    /// The file does not begin with `GGUF`.
    BadMagic,
    /// The GGUF version is not 3 (version 2 has the same layout and is accepted).
    UnsupportedVersion {
        /// The version that was found.
        found: u32,
    },
    /// The base address of a mapped file is not aligned to 32 bytes.
    Misaligned,
    /// A number, length or shape is outside its allowed range.
    OutOfRange {
        /// The field.
        what: &'static str,
    },
    /// A string that must be UTF-8 is not.
    NotUtf8 {
        /// The field.
        what: &'static str,
    },
    /// A metadata key that this kind of file must have is absent.
    MissingKey {
        /// The key.
        key: &'static str,
    },
    /// A metadata value has another type than the format prescribes.
    WrongType {
        /// The key.
        key: &'static str,
    },
    /// The file holds another kind of content than asked for.
    WrongArchitecture {
        /// What was expected.
        expected: &'static str,
    },
    /// A tensor is stored in a ggml type that this build cannot compute with.
    UnsupportedDType {
        /// ggml's type number.
        found: u32,
    },
    /// A tensor of the model is absent.
    MissingTensor {
        /// Name without the layer prefix, such as `attn_qkv.weight`.
        name: &'static str,
    },
    /// A tensor's shape does not follow from the model's dimensions.
    WrongShape {
        /// Name without the layer prefix.
        name: &'static str,
    },
    /// The file has no tokenizer tables (a foreign GGUF): it can be used by token id only.
    NoTokenizer,
    /// The memory that was handed over is smaller than the plan.
    MemoryTooSmall {
        /// Bytes the plan asked for.
        needed: usize,
    },
    /// The memory that was handed over is not aligned as the plan asked.
    MemoryMisaligned,
    /// A text is longer than the session was planned for.
    TextTooLong {
        /// Bytes (after normalisation) that would have been needed.
        needed: usize,
    },
    /// A caller's output buffer is too small.
    BufferTooSmall {
        /// Elements that would have been needed.
        needed: usize,
    },
    /// More tokens than the context has positions.
    ContextFull {
        /// Positions of this session.
        n_ctx: usize,
    },
    /// A token id is not smaller than the vocabulary's size.
    BadToken {
        /// The id.
        token: u32,
    },
    /// The language tag is not well formed (BCP 47).
    BadLanguageTag,
    /// No expert speaks the language, and no related one is present.
    NoExpert,
    /// A sampling or routing parameter is outside its range.
    BadParameter {
        /// The parameter.
        what: &'static str,
    },
    /// The call was cancelled from outside; the session may be used again.
    Cancelled,
    /// A file is not what its set says it is: another size, or another SHA-256.
    HashMismatch {
        /// `a size` or `a SHA-256`.
        what: &'static str,
    },
    /// A saved state is of another version, model or kind of session, or is damaged.
    ForeignState {
        /// The field that differs.
        what: &'static str,
    },
    /// Experts that shall be mixed do not fit each other or their set.
    ExpertsDiffer {
        /// What differs.
        what: &'static str,
    },
    /// The set has no router: experts can be chosen by language only.
    NoRouter,
    /// The file's weights are packed ([`crate::layout`]), and are needed as a standard file has them.
    Packed,
    /// A device cannot be used, or failed.
    Device {
        /// What is missing or could not be done.
        what: &'static str,
        /// The driver's error number; 0 where it gave none.
        code: i32,
    },
    /// A device has not as much memory left.
    DeviceFull {
        /// Bytes the plan asked for.
        needed: usize,
    },
    /// The operating system refused a file operation (`errno`, or 0 where it gave none).
    Io {
        /// The operating system's error number.
        errno: i32,
    },
}

impl Error {
    /// A number for the C ABI; numbers are never reused.
    pub const fn code(self) -> i32 {
        match self {
            Error::Truncated { .. } => 1,
            Error::BadMagic => 2,
            Error::UnsupportedVersion { .. } => 3,
            Error::Misaligned => 4,
            Error::OutOfRange { .. } => 5,
            Error::NotUtf8 { .. } => 6,
            Error::MissingKey { .. } => 7,
            Error::WrongType { .. } => 8,
            Error::WrongArchitecture { .. } => 9,
            Error::UnsupportedDType { .. } => 10,
            Error::MissingTensor { .. } => 11,
            Error::WrongShape { .. } => 12,
            Error::NoTokenizer => 13,
            Error::MemoryTooSmall { .. } => 14,
            Error::MemoryMisaligned => 15,
            Error::TextTooLong { .. } => 16,
            Error::BufferTooSmall { .. } => 17,
            Error::ContextFull { .. } => 18,
            Error::BadToken { .. } => 19,
            Error::BadLanguageTag => 20,
            Error::NoExpert => 21,
            Error::BadParameter { .. } => 22,
            Error::Cancelled => 23,
            Error::Io { .. } => 24,
            Error::HashMismatch { .. } => 25,
            Error::ForeignState { .. } => 26,
            Error::ExpertsDiffer { .. } => 27,
            Error::NoRouter => 28,
            Error::Packed => 29,
            Error::Device { .. } => 30,
            Error::DeviceFull { .. } => 31,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::Truncated { what } => write!(f, "the file ends inside {what}"),
            Error::BadMagic => write!(f, "not a GGUF file (it does not begin with \"GGUF\")"),
            Error::UnsupportedVersion { found } => {
                write!(f, "GGUF version {found} is not supported (3 is)")
            }
            Error::Misaligned => write!(f, "the file's bytes are not aligned to 32 bytes"),
            Error::OutOfRange { what } => write!(f, "{what} is out of range"),
            Error::NotUtf8 { what } => write!(f, "{what} is not valid UTF-8"),
            Error::MissingKey { key } => write!(f, "the key {key} is missing"),
            Error::WrongType { key } => write!(f, "the key {key} has the wrong type"),
            Error::WrongArchitecture { expected } => {
                write!(f, "general.architecture is not {expected}")
            }
            Error::UnsupportedDType { found } => {
                write!(
                    f,
                    "ggml type {found} is not supported (F32, F16, BF16, Q4_0, Q4_1, Q8_0, Q4_K, Q5_K \
                     and Q6_K are)"
                )
            }
            Error::MissingTensor { name } => write!(f, "the tensor {name} is missing"),
            Error::WrongShape { name } => {
                write!(f, "the tensor {name} has the wrong shape or type")
            }
            Error::NoTokenizer => {
                write!(f, "the file has no xelm.tokenizer tables: it takes token ids, not text")
            }
            Error::MemoryTooSmall { needed } => write!(f, "{needed} bytes of memory are needed"),
            Error::MemoryMisaligned => write!(f, "the memory is not aligned to 64 bytes"),
            Error::TextTooLong { needed } => {
                write!(f, "the text needs room for {needed} bytes; plan the session for more")
            }
            Error::BufferTooSmall { needed } => write!(f, "the output needs {needed} elements"),
            Error::ContextFull { n_ctx } => {
                write!(f, "more tokens than the context of {n_ctx} positions holds")
            }
            Error::BadToken { token } => write!(f, "token id {token} is not in the vocabulary"),
            Error::BadLanguageTag => write!(f, "not a well-formed language tag (BCP 47)"),
            Error::NoExpert => write!(f, "no expert for this language is present"),
            Error::BadParameter { what } => write!(f, "the parameter {what} is out of range"),
            Error::Cancelled => write!(f, "cancelled"),
            Error::HashMismatch { what } => {
                write!(f, "{what} is not the one that the set records: fetch the file again")
            }
            Error::ForeignState { what } => write!(f, "the saved state has another {what}"),
            Error::ExpertsDiffer { what } => write!(f, "the experts differ in {what}"),
            Error::NoRouter => write!(f, "the set has no router: choose by language"),
            Error::Packed => {
                write!(f, "its weights are packed: `xelm repack --layout standard` undoes it")
            }
            Error::Device { what, code: 0 } => write!(f, "{what}"),
            Error::Device { what, code } => write!(f, "{what} (CUDA error {code})"),
            Error::DeviceFull { needed } => {
                write!(
                    f,
                    "the device has not {} MiB left: plan for fewer positions or experts, or end what \
                     else runs on it",
                    needed.div_ceil(1 << 20)
                )
            }
            Error::Io { errno: 0 } => write!(f, "the operating system refused"),
            Error::Io { errno } => write!(f, "the operating system refused (errno {errno})"),
        }
    }
}

impl core::error::Error for Error {}

#[cfg(feature = "std")]
impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::Io { errno: error.raw_os_error().unwrap_or(0) }
    }
}

/// What every fallible function of the runtime returns.
pub type Result<T> = core::result::Result<T, Error>;
