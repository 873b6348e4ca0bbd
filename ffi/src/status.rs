//! Status numbers, error texts, and the numbers that a program is compiled with.

use core::ffi::{CStr, c_char};
use core::fmt;
use xelm_runtime::Error;

/// The version of this header. `xelm_params_init` refuses a library with another one.
pub const XELM_ABI_VERSION: u32 = 1;

/// What memory for handles must be aligned to, in bytes.
pub const XELM_ALIGN: usize = 64;

/// What every function returns: XELM_OK or one of the other numbers, which are never reused.
pub type xelm_status = i32;

/// Done.
pub const XELM_OK: xelm_status = 0;
/// A file ends before its contents do.
pub const XELM_TRUNCATED: xelm_status = 1;
/// Not a GGUF file.
pub const XELM_BAD_MAGIC: xelm_status = 2;
/// A GGUF version that is not supported.
pub const XELM_UNSUPPORTED_VERSION: xelm_status = 3;
/// A file's bytes are not aligned to 32 bytes.
pub const XELM_MISALIGNED: xelm_status = 4;
/// A number, length or name in a file is outside its range, or an index is.
pub const XELM_OUT_OF_RANGE: xelm_status = 5;
/// A string is not UTF-8.
pub const XELM_NOT_UTF8: xelm_status = 6;
/// A metadata key is missing.
pub const XELM_MISSING_KEY: xelm_status = 7;
/// A metadata value has the wrong type.
pub const XELM_WRONG_TYPE: xelm_status = 8;
/// The file holds another kind of content.
pub const XELM_WRONG_ARCHITECTURE: xelm_status = 9;
/// A tensor type that this library cannot compute with.
pub const XELM_UNSUPPORTED_DTYPE: xelm_status = 10;
/// A tensor is missing.
pub const XELM_MISSING_TENSOR: xelm_status = 11;
/// A tensor has the wrong shape or type.
pub const XELM_WRONG_SHAPE: xelm_status = 12;
/// The file has no tokenizer tables: it takes ids only.
pub const XELM_NO_TOKENIZER: xelm_status = 13;
/// The memory is smaller than the plan.
pub const XELM_MEMORY_TOO_SMALL: xelm_status = 14;
/// The memory is not aligned to XELM_ALIGN.
pub const XELM_MEMORY_MISALIGNED: xelm_status = 15;
/// The text is longer than the session was planned for (`xelm_params_set_max_text`).
pub const XELM_TEXT_TOO_LONG: xelm_status = 16;
/// The output buffer is too small.
pub const XELM_BUFFER_TOO_SMALL: xelm_status = 17;
/// More tokens than the session has positions.
pub const XELM_CONTEXT_FULL: xelm_status = 18;
/// A token id that is not in the vocabulary.
pub const XELM_BAD_TOKEN: xelm_status = 19;
/// Not a well-formed language tag (BCP 47).
pub const XELM_BAD_LANGUAGE_TAG: xelm_status = 20;
/// No expert for this language is present, and none for a related one.
pub const XELM_NO_EXPERT: xelm_status = 21;
/// A parameter is outside its range.
pub const XELM_BAD_PARAMETER: xelm_status = 22;
/// Cancelled by `xelm_session_cancel`.
pub const XELM_CANCELLED: xelm_status = 23;
/// The operating system refused.
pub const XELM_IO: xelm_status = 24;
/// A file has another size or another SHA-256 than its set records.
pub const XELM_HASH_MISMATCH: xelm_status = 25;
/// A saved state of another version, model or kind of session, or a damaged one.
pub const XELM_FOREIGN_STATE: xelm_status = 26;
/// Experts that shall be mixed do not fit each other or their set.
pub const XELM_EXPERTS_DIFFER: xelm_status = 27;
/// The set has no router.
pub const XELM_NO_ROUTER: xelm_status = 28;
/// The file's weights are packed, and are needed as a standard file has them.
pub const XELM_PACKED: xelm_status = 29;
/// A device cannot be used, or failed.
pub const XELM_DEVICE: xelm_status = 30;
/// A device has not as much memory left as was planned.
pub const XELM_DEVICE_FULL: xelm_status = 31;
/// A pointer is NULL.
pub const XELM_NULL: xelm_status = 64;
/// Not a handle of this kind, or one that was closed.
pub const XELM_BAD_HANDLE: xelm_status = 65;
/// The program was built for another XELM_ABI_VERSION than this library has.
pub const XELM_ABI_MISMATCH: xelm_status = 66;
/// The session is in use: by another thread, or by the call whose callback this is.
pub const XELM_BUSY: xelm_status = 67;
/// A defect of this library; the handle should be closed.
pub const XELM_INTERNAL: xelm_status = 68;

/// Why a call failed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failure<'a> {
    /// A rule of the runtime's, and the name of the file that broke it; empty where none did.
    Runtime(Error, &'a str),
    /// An argument that may not be NULL is.
    Null(&'static str),
    /// Not a handle of the kind named.
    BadHandle(&'static str),
    /// The version that the program was built for.
    AbiMismatch(u32),
    /// The session is in use.
    Busy,
    /// A panic was caught.
    Internal,
}

impl From<Error> for Failure<'_> {
    fn from(error: Error) -> Self {
        Failure::Runtime(error, "")
    }
}

impl<'a> Failure<'a> {
    /// A rule of the runtime's that the file with this name broke.
    pub(crate) fn at(error: impl Into<Error>, name: &'a str) -> Self {
        Failure::Runtime(error.into(), name)
    }

    pub(crate) fn status(&self) -> xelm_status {
        match self {
            Failure::Runtime(error, _) => error.code(),
            Failure::Null(_) => XELM_NULL,
            Failure::BadHandle(_) => XELM_BAD_HANDLE,
            Failure::AbiMismatch(_) => XELM_ABI_MISMATCH,
            Failure::Busy => XELM_BUSY,
            Failure::Internal => XELM_INTERNAL,
        }
    }
}

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Runtime(error, "") => error.fmt(f),
            // The reason first: a long path may not fit.
            Failure::Runtime(error, name) => write!(f, "{error}: {name}"),
            Failure::Null(what) => write!(f, "{what} is NULL"),
            Failure::BadHandle(kind) => write!(f, "not an open {kind}"),
            Failure::AbiMismatch(theirs) => write!(
                f,
                "the program was built for ABI {theirs}, the library has {XELM_ABI_VERSION}"
            ),
            Failure::Busy => f.write_str("the session is in use"),
            Failure::Internal => f.write_str("a defect of the library"),
        }
    }
}

/// Runs a function's body; a panic becomes [`Failure::Internal`] instead of crossing into C.
#[cfg(feature = "std")]
pub(crate) fn guarded<'a, T>(
    work: impl FnOnce() -> Result<T, Failure<'a>>,
) -> Result<T, Failure<'a>> {
    std::panic::catch_unwind(core::panic::AssertUnwindSafe(work)).unwrap_or(Err(Failure::Internal))
}

/// Runs a function's body. Without the standard library a panic, which would be a defect, ends the
/// program.
#[cfg(not(feature = "std"))]
pub(crate) fn guarded<'a, T>(
    work: impl FnOnce() -> Result<T, Failure<'a>>,
) -> Result<T, Failure<'a>> {
    work()
}

/// The status of a body that belongs to no handle with an error text.
pub(crate) fn status_of<'a>(work: impl FnOnce() -> Result<(), Failure<'a>>) -> xelm_status {
    guarded(work).map_or_else(|failure| failure.status(), |()| XELM_OK)
}

/// The text of a handle's last error: a NUL-terminated string of bounded length.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Text<const N: usize> {
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    pub(crate) const EMPTY: Self = Text { bytes: [0; N] };

    /// A message; what does not fit is left out.
    pub(crate) fn new(message: fmt::Arguments<'_>) -> Self {
        let mut text = Text::EMPTY;
        // The only error is that it does not fit.
        let _ = fmt::write(&mut TextWriter { text: &mut text, len: 0 }, message);
        text
    }

    /// Notes how a call ended and returns its status.
    pub(crate) fn record(&mut self, result: &Result<(), Failure<'_>>) -> xelm_status {
        match result {
            Ok(()) => {
                *self = Text::EMPTY;
                XELM_OK
            }
            Err(failure) => {
                *self = Text::new(format_args!("{failure}"));
                failure.status()
            }
        }
    }

    pub(crate) fn as_ptr(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }
}

struct TextWriter<'a, const N: usize> {
    text: &'a mut Text<N>,
    len: usize,
}

impl<const N: usize> fmt::Write for TextWriter<'_, N> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = N - 1 - self.len;
        let n = part.floor_char_boundary(room);
        self.text.bytes[self.len..self.len + n].copy_from_slice(&part.as_bytes()[..n]);
        self.len += n;
        if n == part.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// What a status means, in general; `xelm_params_last_error` and `xelm_session_last_error` say what
/// exactly went wrong.
#[unsafe(no_mangle)]
pub extern "C" fn xelm_status_text(status: xelm_status) -> *const c_char {
    let text: &'static CStr = match status {
        XELM_OK => c"done",
        XELM_TRUNCATED => c"a file ends before its contents do",
        XELM_BAD_MAGIC => c"not a GGUF file",
        XELM_UNSUPPORTED_VERSION => c"unsupported GGUF version",
        XELM_MISALIGNED => c"a file's bytes are not aligned to 32 bytes",
        XELM_OUT_OF_RANGE => c"out of range",
        XELM_NOT_UTF8 => c"not UTF-8",
        XELM_MISSING_KEY => c"a metadata key is missing",
        XELM_WRONG_TYPE => c"a metadata value has the wrong type",
        XELM_WRONG_ARCHITECTURE => c"the file holds another kind of content",
        XELM_UNSUPPORTED_DTYPE => c"unsupported tensor type",
        XELM_MISSING_TENSOR => c"a tensor is missing",
        XELM_WRONG_SHAPE => c"a tensor has the wrong shape or type",
        XELM_NO_TOKENIZER => c"the file has no tokenizer tables",
        XELM_MEMORY_TOO_SMALL => c"the memory is smaller than planned",
        XELM_MEMORY_MISALIGNED => c"the memory is not aligned to XELM_ALIGN",
        XELM_TEXT_TOO_LONG => c"the text is longer than planned",
        XELM_BUFFER_TOO_SMALL => c"the output buffer is too small",
        XELM_CONTEXT_FULL => c"the context is full",
        XELM_BAD_TOKEN => c"the token is not in the vocabulary",
        XELM_BAD_LANGUAGE_TAG => c"not a well-formed language tag",
        XELM_NO_EXPERT => c"no expert for this language is present",
        XELM_BAD_PARAMETER => c"a parameter is out of range",
        XELM_CANCELLED => c"cancelled",
        XELM_IO => c"the operating system refused",
        XELM_HASH_MISMATCH => c"a file is not the one that its set records",
        XELM_FOREIGN_STATE => c"a saved state of another model, version or session, or damaged",
        XELM_EXPERTS_DIFFER => c"the experts do not fit each other or their set",
        XELM_NO_ROUTER => c"the set has no router",
        XELM_PACKED => c"the weights are packed",
        XELM_DEVICE => c"a device cannot be used, or failed",
        XELM_DEVICE_FULL => c"a device has too little memory left",
        XELM_NULL => c"a pointer is NULL",
        XELM_BAD_HANDLE => c"not an open handle",
        XELM_ABI_MISMATCH => c"built for another version of the library",
        XELM_BUSY => c"the session is in use",
        XELM_INTERNAL => c"a defect of the library",
        _ => c"unknown status",
    };
    text.as_ptr()
}

/// The ABI version of the library that is linked.
#[unsafe(no_mangle)]
pub extern "C" fn xelm_abi_version() -> u32 {
    XELM_ABI_VERSION
}

/// The version of the library, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn xelm_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

const _: () = assert!(XELM_ALIGN == xelm_runtime::arena::ALIGN);

#[cfg(test)]
mod tests {
    use super::*;

    /// The header's numbers are the runtime's.
    #[test]
    fn numbers_agree_with_the_runtime() {
        for (status, error) in [
            (XELM_TRUNCATED, Error::Truncated { what: "" }),
            (XELM_BAD_MAGIC, Error::BadMagic),
            (XELM_UNSUPPORTED_VERSION, Error::UnsupportedVersion { found: 1 }),
            (XELM_MISALIGNED, Error::Misaligned),
            (XELM_OUT_OF_RANGE, Error::OutOfRange { what: "" }),
            (XELM_NOT_UTF8, Error::NotUtf8 { what: "" }),
            (XELM_MISSING_KEY, Error::MissingKey { key: "" }),
            (XELM_WRONG_TYPE, Error::WrongType { key: "" }),
            (XELM_WRONG_ARCHITECTURE, Error::WrongArchitecture { expected: "" }),
            (XELM_UNSUPPORTED_DTYPE, Error::UnsupportedDType { found: 1 }),
            (XELM_MISSING_TENSOR, Error::MissingTensor { name: "" }),
            (XELM_WRONG_SHAPE, Error::WrongShape { name: "" }),
            (XELM_NO_TOKENIZER, Error::NoTokenizer),
            (XELM_MEMORY_TOO_SMALL, Error::MemoryTooSmall { needed: 1 }),
            (XELM_MEMORY_MISALIGNED, Error::MemoryMisaligned),
            (XELM_TEXT_TOO_LONG, Error::TextTooLong { needed: 1 }),
            (XELM_BUFFER_TOO_SMALL, Error::BufferTooSmall { needed: 1 }),
            (XELM_CONTEXT_FULL, Error::ContextFull { n_ctx: 1 }),
            (XELM_BAD_TOKEN, Error::BadToken { token: 1 }),
            (XELM_BAD_LANGUAGE_TAG, Error::BadLanguageTag),
            (XELM_NO_EXPERT, Error::NoExpert),
            (XELM_BAD_PARAMETER, Error::BadParameter { what: "" }),
            (XELM_CANCELLED, Error::Cancelled),
            (XELM_IO, Error::Io { errno: 1 }),
            (XELM_HASH_MISMATCH, Error::HashMismatch { what: "" }),
            (XELM_FOREIGN_STATE, Error::ForeignState { what: "" }),
            (XELM_EXPERTS_DIFFER, Error::ExpertsDiffer { what: "" }),
            (XELM_NO_ROUTER, Error::NoRouter),
            (XELM_PACKED, Error::Packed),
            (XELM_DEVICE, Error::Device { what: "", code: 1 }),
            (XELM_DEVICE_FULL, Error::DeviceFull { needed: 1 }),
        ] {
            assert_eq!(status, error.code(), "{error}");
            // SAFETY: the function returns a C string literal.
            let text = unsafe { CStr::from_ptr(xelm_status_text(status)) };
            assert_ne!(text, c"unknown status");
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let mut text = Text::<8>::EMPTY;
        let failure = || Err(Failure::at(Error::Cancelled, "ä"));
        assert_eq!(text.record(&failure()), 23);
        // "cancelled" does not fit; what does ends in NUL.
        assert_eq!(&text.bytes, b"cancell\0");
        let mut text = Text::<13>::EMPTY;
        text.record(&failure());
        assert_eq!(&text.bytes[..12], b"cancelled: \0");
        assert_eq!(text.record(&Ok(())), XELM_OK);
        assert_eq!(text.bytes, [0; 13]);
    }
}
