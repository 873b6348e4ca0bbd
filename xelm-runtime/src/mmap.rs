//! Mapped files: an expert or a set with the memory it is read from.

use crate::error::Result;
use crate::expert::{Expert, Layer};
use crate::format::Gguf;
use memmap2::Mmap;
use std::boxed::Box;
use std::fs::File;
use std::path::Path;

/// Bytes that hold the metadata of most files.
#[cfg(unix)]
const HEADER: usize = 2 << 20;

/// A file mapped read-only.
#[derive(Debug)]
pub struct MappedFile(Mmap);

impl MappedFile {
    /// Maps a file.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the mapping is private and read-only. A file that another process truncates
        // meanwhile raises SIGBUS, as in every program that maps files; our own writers replace
        // files by renaming and never truncate one in place.
        let map = unsafe { Mmap::map(&file) }?;
        // Metadata is read at once, in large steps rather than page by page. Weights come when they are
        // needed. It is advice: where the system does not take it, all is well.
        #[cfg(unix)]
        if !map.is_empty() {
            let _ = map.advise_range(memmap2::Advice::WillNeed, 0, map.len().min(HEADER));
        }
        Ok(MappedFile(map))
    }

    /// Maps the bytes `offset..offset + len` of an open file. The descriptor is not kept.
    ///
    /// # Errors
    /// The operating system's; `InvalidInput` where the file is shorter, or the descriptor negative.
    #[cfg(unix)]
    pub fn open_part(fd: std::os::fd::RawFd, offset: u64, len: usize) -> std::io::Result<Self> {
        use std::os::fd::{BorrowedFd, RawFd};
        let invalid = || std::io::Error::from_raw_os_error(EINVAL);
        const EINVAL: i32 = 22;
        const NONE: RawFd = -1;
        if fd <= NONE {
            return Err(invalid());
        }
        // SAFETY: not −1. A descriptor that is not open makes the calls below fail; that nobody
        // closes it meanwhile is the caller's part.
        let file = File::from(unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?);
        // Bytes past the end of a file could be mapped, and would raise SIGBUS.
        if offset
            .checked_add(len as u64)
            .is_none_or(|end| end > file.metadata().map_or(0, |m| m.len()))
        {
            return Err(invalid());
        }
        // SAFETY: as in `open`.
        unsafe { memmap2::MmapOptions::new().offset(offset).len(len).map(&file) }.map(MappedFile)
    }

    /// The bytes; their address is a multiple of the page size, or `offset` bytes after one.
    pub fn bytes(&self) -> &[u8] {
        // An empty file maps to an empty slice at a dangling address, which the reader's alignment
        // rule would report instead of what is wrong with it.
        if self.0.is_empty() { EMPTY.0.as_slice() } else { &self.0 }
    }

    /// The file as GGUF.
    ///
    /// # Errors
    /// The rule that the file breaks.
    pub fn gguf(&self) -> Result<Gguf<'_>> {
        Gguf::open(self.bytes())
    }
}

#[repr(align(64))]
struct Aligned([u8; 0]);
static EMPTY: Aligned = Aligned([]);

/// An expert together with the mapping and the layer table that it borrows from.
#[derive(Debug)]
pub struct ExpertFile {
    // Declared first, so dropped first. `'static` stands for "as long as the fields below"; the
    // only way out is `expert`, which shortens it.
    expert: Expert<'static>,
    _layers: LayerTable,
    file: Box<MappedFile>,
}

#[derive(Debug)]
struct LayerTable(*mut [Layer<'static>]);

// SAFETY: the table is written once, before `ExpertFile::open` returns, and only read afterwards.
unsafe impl Send for LayerTable {}
// SAFETY: as above.
unsafe impl Sync for LayerTable {}

impl Drop for LayerTable {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `Box::into_raw`, and nothing that borrowed it is left.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

impl ExpertFile {
    /// Maps and checks an expert file.
    ///
    /// # Errors
    /// The operating system's, or the rule that the file breaks.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Box::new(MappedFile::open(path)?);
        // SAFETY: the box keeps the mapping at one address until `file` is dropped, which is
        // after `expert`; the reference never leaves this struct with this lifetime.
        let bytes: &'static [u8] = unsafe { core::mem::transmute::<&[u8], &[u8]>(file.bytes()) };
        let gguf = Gguf::open(bytes)?;
        let layers = std::vec![Layer::default(); Expert::n_layer(&gguf)?].into_boxed_slice();
        let layers = LayerTable(Box::into_raw(layers));
        // SAFETY: freshly leaked, so unique and valid until `LayerTable` is dropped, after `expert`.
        let expert = Expert::open(gguf, unsafe { &mut *layers.0 })?;
        Ok(ExpertFile { expert, _layers: layers, file })
    }

    /// Bytes that are mapped: the size of the file.
    pub fn mapped_bytes(&self) -> usize {
        self.file.bytes().len()
    }

    /// The expert.
    pub fn expert<'s>(&'s self) -> &'s Expert<'s> {
        // `Expert` is covariant in its lifetime.
        &self.expert
    }
}
