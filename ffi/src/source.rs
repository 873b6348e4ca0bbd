//! Where the bytes of a set or an expert come from: a path, a descriptor, or the caller's memory.

use crate::pointer;
use crate::status::Failure;
use core::ffi::c_void;
use xelm_runtime::Error;
use xelm_runtime::format::Gguf;
#[cfg(feature = "std")]
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::set::Set;

/// Bytes that stay where they are for as long as a handle is open.
#[derive(Debug)]
pub(crate) enum Source {
    /// The caller's.
    Bytes(&'static [u8]),
    /// Mapped from a file.
    #[cfg(feature = "std")]
    File(MappedFile),
}

impl Source {
    /// The bytes at `data`.
    ///
    /// # Safety
    /// `data` points to `len` readable bytes, or is NULL; they stay unchanged while the source lives.
    pub(crate) unsafe fn bytes(data: *const c_void, len: usize) -> Result<Self, Failure<'static>> {
        // SAFETY: the caller's promise is ours.
        Ok(Source::Bytes(unsafe { pointer::bytes(data.cast(), len, "data") }?))
    }

    /// The file at `path`.
    #[cfg(feature = "std")]
    pub(crate) fn path(path: &str) -> Result<Self, Failure<'_>> {
        let file = MappedFile::open(std::path::Path::new(path));
        Ok(Source::File(file.map_err(|e| Failure::at(e, path))?))
    }

    /// Part of an open file, such as an asset inside a package. The descriptor is not kept.
    #[cfg(unix)]
    #[cfg(feature = "std")]
    pub(crate) fn descriptor(fd: i32, offset: u64, len: usize) -> Result<Self, Failure<'static>> {
        let file = MappedFile::open_part(fd, offset, len).map_err(Error::from)?;
        Ok(Source::File(file))
    }

    fn all(&self) -> &[u8] {
        match self {
            Source::Bytes(bytes) => bytes,
            #[cfg(feature = "std")]
            Source::File(file) => file.bytes(),
        }
    }

    /// Whether these are the bytes of expert `index` of a set.
    pub(crate) fn verify(&self, set: &Set<'_>, index: usize) -> Result<(), Error> {
        set.verify(index, self.all())
    }

    /// The bytes as GGUF.
    ///
    /// # Safety
    /// The result is used only while this source lives, moved though it may be.
    pub(crate) unsafe fn gguf(&self) -> Result<Gguf<'static>, Error> {
        // SAFETY: the bytes, mapped or the caller's, stay at their address until this source is
        // dropped, whoever owns it; that the result is not used longer is the caller's promise.
        Gguf::open(unsafe { core::mem::transmute::<&[u8], &[u8]>(self.all()) })
    }
}
