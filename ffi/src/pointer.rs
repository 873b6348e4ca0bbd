//! What comes from C: pointers and memory, checked as far as they can be.

use crate::status::{Failure, XELM_ALIGN};
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use xelm_runtime::Error;

/// The bytes `data[..len]`; NULL stands for no bytes where `len` is 0.
///
/// # Safety
/// As the header says of inputs: `data` points to `len` readable bytes that stay unchanged for `'a`.
pub(crate) unsafe fn bytes<'a>(
    data: *const u8,
    len: usize,
    what: &'static str,
) -> Result<&'a [u8], Failure<'static>> {
    if len == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(Failure::Null(what));
    }
    if len > isize::MAX as usize {
        return Err(Error::OutOfRange { what: "a length" }.into());
    }
    // SAFETY: not null, of a possible size, and readable by the caller's promise.
    Ok(unsafe { core::slice::from_raw_parts(data, len) })
}

/// The numbers `data[..len]`; NULL stands for none where `len` is 0.
///
/// # Safety
/// As [`bytes`]; aligned for a `T`.
pub(crate) unsafe fn items<'a, T>(
    data: *const T,
    len: usize,
    what: &'static str,
) -> Result<&'a [T], Failure<'static>> {
    if len == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(Failure::Null(what));
    }
    if len > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(Error::OutOfRange { what: "a length" }.into());
    }
    // SAFETY: not null, of a possible size, and readable by the caller's promise.
    Ok(unsafe { core::slice::from_raw_parts(data, len) })
}

/// A buffer of the caller's for `capacity` results, and the place for their number. With no buffer and
/// no capacity only the number is wanted.
#[derive(Debug)]
pub(crate) struct Buffer<T> {
    data: *mut T,
    capacity: usize,
    n: Out<usize>,
}

impl<T: Copy> Buffer<T> {
    /// # Safety
    /// `data` is NULL or points to `capacity` writable elements, `n` as in [`Out::new`].
    pub(crate) unsafe fn new(
        data: *mut T,
        capacity: usize,
        n: *mut usize,
        what: &'static str,
    ) -> Result<Self, Failure<'static>> {
        // SAFETY: the caller's promise is ours.
        let n = unsafe { Out::new(n, "the place for the number of results") }?;
        if data.is_null() && capacity > 0 {
            Err(Failure::Null(what))
        } else {
            Ok(Buffer { data, capacity, n })
        }
    }

    /// Hands over the results, or only their number where none were asked for.
    pub(crate) fn set(self, results: &[T]) -> Result<(), Failure<'static>> {
        if self.capacity > 0 {
            if results.len() > self.capacity {
                return Err(Error::BufferTooSmall { needed: results.len() }.into());
            }
            // SAFETY: writable for `capacity` elements by the promise made in `new`.
            unsafe { core::ptr::copy_nonoverlapping(results.as_ptr(), self.data, results.len()) };
        }
        self.n.set(results.len());
        Ok(())
    }
}

/// The string `data[..len]`.
///
/// # Safety
/// As [`bytes`].
pub(crate) unsafe fn string<'a>(
    data: *const u8,
    len: usize,
    what: &'static str,
) -> Result<&'a str, Failure<'static>> {
    // SAFETY: the caller's promise is ours.
    let bytes = unsafe { bytes(data, len, what) }?;
    core::str::from_utf8(bytes).map_err(|_| Error::NotUtf8 { what }.into())
}

/// A place for a result: written only when a call succeeds, never read.
#[derive(Debug)]
pub(crate) struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    /// # Safety
    /// `place` is NULL or points to a writable `T` until [`Out::set`].
    pub(crate) unsafe fn new(place: *mut T, what: &'static str) -> Result<Self, Failure<'static>> {
        NonNull::new(place).map(Out).ok_or(Failure::Null(what))
    }

    pub(crate) fn set(self, value: T) {
        // SAFETY: writable by the promise made in `new`.
        unsafe { self.0.write(value) };
    }
}

/// The bytes that a `T` takes at the front of a handle's memory.
pub(crate) const fn header_size<T>() -> usize {
    size_of::<T>().next_multiple_of(XELM_ALIGN)
}

/// Divides a handle's memory into the place of its header and the rest.
///
/// # Safety
/// `memory` is NULL or points to `len` writable bytes that nothing else uses until the handle is
/// closed.
pub(crate) unsafe fn place<T>(
    memory: *mut c_void,
    len: usize,
) -> Result<(&'static mut MaybeUninit<T>, &'static mut [u8]), Failure<'static>> {
    const { assert!(align_of::<T>() <= XELM_ALIGN) };
    if memory.is_null() {
        return Err(Failure::Null("memory"));
    }
    if !memory.addr().is_multiple_of(XELM_ALIGN) {
        return Err(Error::MemoryMisaligned.into());
    }
    let head = header_size::<T>();
    if len < head || len > isize::MAX as usize {
        return Err(Error::MemoryTooSmall { needed: head }.into());
    }
    // SAFETY: `head` bytes lie inside the memory, aligned for `T`, and no value is assumed in them.
    let header = unsafe { &mut *memory.cast::<MaybeUninit<T>>() };
    // SAFETY: the bytes after the header, disjoint from it. They come from outside of Rust, where
    // memory always holds some value, and every value is a `u8`.
    let rest =
        unsafe { core::slice::from_raw_parts_mut(memory.cast::<u8>().add(head), len - head) };
    Ok((header, rest))
}

/// A handle holds a number that says what it is; closing wipes it.
pub(crate) trait Handle {
    /// Name in error texts.
    const KIND: &'static str;
    /// The number.
    const MAGIC: u64;
    /// Where it lies, in bytes.
    const MAGIC_AT: usize;
}

/// The handle behind a pointer from C.
///
/// # Safety
/// `handle` is NULL or points to as many readable bytes as a `T` has. Where they hold the handle's
/// number, they belong to a handle that stays open while the result is used.
pub(crate) unsafe fn checked<T: Handle>(handle: *const T) -> Result<*const T, Failure<'static>> {
    if handle.is_null() {
        return Err(Failure::Null(T::KIND));
    }
    if !handle.is_aligned() {
        return Err(Failure::BadHandle(T::KIND));
    }
    // SAFETY: inside the readable bytes; aligned, as the field of an aligned struct.
    let magic = unsafe { handle.byte_add(T::MAGIC_AT).cast::<u64>().read() };
    if magic == T::MAGIC { Ok(handle) } else { Err(Failure::BadHandle(T::KIND)) }
}

/// Ends a handle: drops it and wipes its number, so that a second close is an error.
///
/// # Safety
/// As [`checked`]; nothing uses the handle at the same time.
pub(crate) unsafe fn close<T: Handle>(handle: *mut T) -> Result<(), Failure<'static>> {
    // SAFETY: the caller's promise is ours.
    let _ = unsafe { checked(handle) }?;
    // SAFETY: an open handle, which nothing else uses.
    unsafe { core::ptr::drop_in_place(handle) };
    // SAFETY: the memory is still the caller's; only the value in it is gone.
    unsafe { handle.byte_add(T::MAGIC_AT).cast::<u64>().write(0) };
    Ok(())
}
