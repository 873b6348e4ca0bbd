//! Experts: opening one of a set, or a file.

use crate::params::{self, xelm_params};
use crate::pointer::{self, Handle, Out, header_size, place};
use crate::set::xelm_set;
use crate::status::{Failure, XELM_ALIGN, status_of, xelm_status};
use core::ffi::{c_char, c_void};
use core::mem::MaybeUninit;
use std::path::Path;
use xelm_runtime::Error;
use xelm_runtime::expert::{Expert, Layer};
use xelm_runtime::format::Gguf;
use xelm_runtime::mmap::MappedFile;

/// An open expert. Immutable: any number of sessions and threads may use it.
#[derive(Debug)]
pub struct xelm_expert {
    magic: u64,
    /// Borrows from `_file` and from the layer table behind this header.
    expert: Expert<'static>,
    _file: Box<MappedFile>,
}

impl Handle for xelm_expert {
    const KIND: &'static str = "expert";
    const MAGIC: u64 = u64::from_le_bytes(*b"xelmexp1");
    const MAGIC_AT: usize = core::mem::offset_of!(xelm_expert, magic);
}

impl xelm_expert {
    /// The expert behind a pointer from C.
    ///
    /// # Safety
    /// As the header says of handles.
    pub(crate) unsafe fn get<'a>(expert: *const xelm_expert) -> Result<&'a Expert<'a>, Failure> {
        // SAFETY: the caller's promise is the one that `checked` asks for.
        let expert = unsafe { pointer::checked(expert) }?;
        // SAFETY: an open handle, which is never changed before it is closed.
        Ok(unsafe { &(*expert).expert })
    }
}

/// Maps a file and says how much memory its handle takes.
fn plan(path: &Path) -> Result<(Box<MappedFile>, usize), Error> {
    let file = Box::new(MappedFile::open(path)?);
    let layers = Expert::n_layer(&file.gguf()?)?.saturating_mul(size_of::<Layer<'_>>());
    Ok((file, header_size::<xelm_expert>().saturating_add(layers)))
}

/// Opens the expert file at `path` in `memory`.
///
/// # Safety
/// As [`place`].
unsafe fn open(
    path: &Path,
    memory: *mut c_void,
    memory_len: usize,
) -> Result<*mut xelm_expert, Failure> {
    const { assert!(align_of::<Layer<'_>>() <= XELM_ALIGN) };
    let fail = |error: Error| Failure::at(error, path);
    // SAFETY: the caller's promise is ours.
    let (header, rest) = unsafe { place::<xelm_expert>(memory, memory_len) }?;
    let (file, size) = plan(path).map_err(fail)?;
    if memory_len < size {
        return Err(Error::MemoryTooSmall { needed: size }.into());
    }
    let n_layer = (size - header_size::<xelm_expert>()) / size_of::<Layer<'_>>();
    let table: *mut MaybeUninit<Layer<'static>> = rest.as_mut_ptr().cast();
    // SAFETY: `size` has been compared with the memory, which is aligned and used by nothing else.
    let table = unsafe { core::slice::from_raw_parts_mut(table, n_layer) };
    table.fill(MaybeUninit::new(Layer::default()));
    // SAFETY: every element has just been written.
    let table = unsafe { &mut *(core::ptr::from_mut(table) as *mut [Layer<'static>]) };
    // SAFETY: the box keeps the mapping at one address until the handle is closed, and the expert
    // goes with it.
    let bytes: &'static [u8] = unsafe { core::mem::transmute::<&[u8], &[u8]>(file.bytes()) };
    let expert = Gguf::open(bytes).and_then(|gguf| Expert::open(gguf, table)).map_err(fail)?;
    Ok(header.write(xelm_expert { magic: xelm_expert::MAGIC, expert, _file: file }))
}

/// # Safety
/// As [`Out::new`].
unsafe fn plan_into(path: &Path, size: *mut usize) -> Result<(), Failure> {
    // SAFETY: the caller's promise is ours.
    let out = unsafe { Out::new(size, "size") }?;
    out.set(plan(path).map_err(|e| Failure::at(e, path))?.1);
    Ok(())
}

/// # Safety
/// As [`open`] and [`Out::new`].
unsafe fn open_into(
    path: &Path,
    memory: *mut c_void,
    memory_len: usize,
    expert: *mut *mut xelm_expert,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise is ours.
    let out = unsafe { Out::new(expert, "expert") }?;
    // SAFETY: as above.
    out.set(unsafe { open(path, memory, memory_len) }?);
    Ok(())
}

/// Bytes that expert `index` of a set takes of the caller's memory once it is open. Its weights are
/// mapped from the file and not counted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_expert_plan(
    params: *mut xelm_params,
    set: *const xelm_set,
    index: usize,
    size: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for params, handles and outputs.
    unsafe { params::with(params, |_| plan_into(&xelm_set::get(set)?.path(index)?, size)) }
}

/// Opens expert `index` of a set. The set may be closed afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_expert_open(
    params: *mut xelm_params,
    set: *const xelm_set,
    index: usize,
    memory: *mut c_void,
    memory_len: usize,
    expert: *mut *mut xelm_expert,
) -> xelm_status {
    // SAFETY: the header's rules for params, handles, memory and outputs.
    unsafe {
        params::with(params, |_| {
            open_into(&xelm_set::get(set)?.path(index)?, memory, memory_len, expert)
        })
    }
}

/// Bytes that the expert file at `path` (UTF-8) takes of the caller's memory once it is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_expert_file_plan(
    params: *mut xelm_params,
    path: *const c_char,
    path_len: usize,
    size: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for params, inputs and outputs.
    unsafe {
        params::with(params, |_| {
            plan_into(Path::new(pointer::string(path.cast(), path_len, "path")?), size)
        })
    }
}

/// Opens the expert file at `path` (UTF-8).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_expert_file_open(
    params: *mut xelm_params,
    path: *const c_char,
    path_len: usize,
    memory: *mut c_void,
    memory_len: usize,
    expert: *mut *mut xelm_expert,
) -> xelm_status {
    // SAFETY: the header's rules for params, inputs, memory and outputs.
    unsafe {
        params::with(params, |_| {
            let path = Path::new(pointer::string(path.cast(), path_len, "path")?);
            open_into(path, memory, memory_len, expert)
        })
    }
}

/// Closes an expert. Its sessions must be closed before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_expert_close(expert: *mut xelm_expert) -> xelm_status {
    // SAFETY: the header's rule for closing.
    status_of(|| unsafe { pointer::close(expert) })
}

/// Size of the vocabulary; 0 where `expert` is not an open expert.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_expert_n_vocab(expert: *const xelm_expert) -> usize {
    // SAFETY: the header's rule for handles.
    unsafe { xelm_expert::get(expert) }.map_or(0, |expert| expert.config().n_vocab)
}

/// Positions that the model has; 0 where `expert` is not an open expert.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_expert_n_ctx(expert: *const xelm_expert) -> usize {
    // SAFETY: the header's rule for handles.
    unsafe { xelm_expert::get(expert) }.map_or(0, |expert| expert.config().n_ctx)
}

/// The token that opens and closes every text, `</s>`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_expert_end_token(
    expert: *const xelm_expert,
    token: *mut u32,
) -> xelm_status {
    // SAFETY: the header's rules for handles and outputs.
    status_of(|| unsafe {
        let (expert, token) = (xelm_expert::get(expert)?, Out::new(token, "token")?);
        token.set(expert.tokenizer().ok_or(Error::NoTokenizer)?.eos());
        Ok(())
    })
}

/// The vocabulary's string for a token, in which U+2581 stands for a space (not NUL-terminated,
/// valid while the expert is open).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_expert_piece(
    expert: *const xelm_expert,
    token: u32,
    piece: *mut *const c_char,
    piece_len: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles and outputs.
    status_of(|| unsafe {
        let expert = xelm_expert::get(expert)?;
        let (piece, piece_len) = (Out::new(piece, "piece")?, Out::new(piece_len, "piece_len")?);
        if token as usize >= expert.config().n_vocab {
            return Err(Error::BadToken { token }.into());
        }
        let text = expert.tokenizer().ok_or(Error::NoTokenizer)?.piece(token);
        piece.set(text.as_ptr().cast());
        piece_len.set(text.len());
        Ok(())
    })
}

/// What `xelm_params_set_max_text` must be for this text, in bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_expert_text_size(
    expert: *const xelm_expert,
    text: *const c_char,
    text_len: usize,
    size: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles, inputs and outputs.
    status_of(|| unsafe {
        let (expert, size) = (xelm_expert::get(expert)?, Out::new(size, "size")?);
        let text = pointer::bytes(text.cast(), text_len, "text")?;
        size.set(expert.tokenizer().ok_or(Error::NoTokenizer)?.normalizer().normalized_len(text));
        Ok(())
    })
}
