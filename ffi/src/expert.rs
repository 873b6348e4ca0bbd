//! Experts: opening one of a set, or from a file, a descriptor, or bytes.

use crate::params::{self, Params, xelm_params};
use crate::pointer::{self, Handle, Out, header_size, place};
#[cfg(feature = "std")]
use crate::set::xelm_set;
use crate::source::Source;
use crate::status::{Failure, XELM_ALIGN, status_of, xelm_status};
use core::ffi::{c_char, c_void};
use core::mem::MaybeUninit;
use xelm_runtime::Error;
use xelm_runtime::expert::{Expert, Layer};

/// An open expert. Immutable: any number of sessions and threads may use it.
#[derive(Debug)]
pub struct xelm_expert {
    magic: u64,
    /// Borrows from `_source` and from the layer table behind this header.
    expert: Expert<'static>,
    _source: Source,
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
    pub(crate) unsafe fn get<'a>(
        expert: *const xelm_expert,
    ) -> Result<&'a Expert<'a>, Failure<'static>> {
        // SAFETY: the caller's promise is the one that `checked` asks for.
        let expert = unsafe { pointer::checked(expert) }?;
        // SAFETY: an open handle, which is never changed before it is closed.
        Ok(unsafe { &(*expert).expert })
    }
}

/// How much memory the handle of an expert takes.
fn size(source: &Source) -> Result<usize, Error> {
    // SAFETY: used in this line only.
    let n_layer = Expert::n_layer(&unsafe { source.gguf() }?)?;
    Ok(header_size::<xelm_expert>().saturating_add(n_layer.saturating_mul(size_of::<Layer<'_>>())))
}

/// # Safety
/// As [`Out::new`].
unsafe fn plan_into<'a>(
    (source, name): (Source, &'a str),
    out: *mut usize,
) -> Result<(), Failure<'a>> {
    // SAFETY: the caller's promise is ours.
    let out = unsafe { Out::new(out, "size") }?;
    out.set(size(&source).map_err(|e| Failure::at(e, name))?);
    Ok(())
}

/// Opens an expert in the caller's memory.
///
/// # Safety
/// As [`place`] and [`Out::new`].
unsafe fn open_into<'a>(
    params: &Params,
    (source, name): (Source, &'a str),
    memory: *mut c_void,
    memory_len: usize,
    expert: *mut *mut xelm_expert,
) -> Result<(), Failure<'a>> {
    const { assert!(align_of::<Layer<'_>>() <= XELM_ALIGN) };
    let fail = |error: Error| Failure::at(error, name);
    // SAFETY: the caller's promises are ours.
    let (out, (header, rest)) =
        unsafe { (Out::new(expert, "expert")?, place::<xelm_expert>(memory, memory_len)?) };
    let needed = size(&source).map_err(fail)?;
    if memory_len < needed {
        return Err(Error::MemoryTooSmall { needed }.into());
    }
    let n_layer = (needed - header_size::<xelm_expert>()) / size_of::<Layer<'_>>();
    let table: *mut MaybeUninit<Layer<'static>> = rest.as_mut_ptr().cast();
    // SAFETY: `needed` has been compared with the memory, which is aligned and used by nothing else.
    let table = unsafe { core::slice::from_raw_parts_mut(table, n_layer) };
    table.fill(MaybeUninit::new(Layer::default()));
    // SAFETY: every element has just been written.
    let table = unsafe { &mut *(core::ptr::from_mut(table) as *mut [Layer<'static>]) };
    // SAFETY: the handle owns the source and is closed before it is gone.
    let gguf = unsafe { source.gguf() }.map_err(fail)?;
    let opened = Expert::open(gguf, table).map_err(fail)?;
    params.log().info(format_args!("expert {}: {} bytes", opened.id(), opened.weight_bytes()));
    out.set(header.write(xelm_expert {
        magic: xelm_expert::MAGIC,
        expert: opened,
        _source: source,
    }));
    Ok(())
}

/// Bytes that expert `index` of a set in a folder takes of the caller's memory once it is open. Its
/// weights are mapped from the file and not counted.
#[cfg(feature = "std")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_expert_plan(
    params: *mut xelm_params,
    set: *const xelm_set,
    index: usize,
    size: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for params, handles and outputs.
    unsafe { params::with(params, |_| plan_into(xelm_set::get(set)?.expert(index)?, size)) }
}

/// Opens expert `index` of a set in a folder. The set may be closed afterwards.
#[cfg(feature = "std")]
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
        params::with(params, |params| {
            let source = xelm_set::get(set)?.expert(index)?;
            open_into(params, source, memory, memory_len, expert)
        })
    }
}

/// Bytes that the expert file at `path` (UTF-8) takes of the caller's memory once it is open.
#[cfg(feature = "std")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_expert_plan_path(
    params: *mut xelm_params,
    path: *const c_char,
    path_len: usize,
    size: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for params, inputs and outputs.
    unsafe {
        params::with(params, |_| {
            let path = pointer::string(path.cast(), path_len, "path")?;
            plan_into((Source::path(path)?, path), size)
        })
    }
}

/// Opens the expert file at `path` (UTF-8).
#[cfg(feature = "std")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_expert_open_path(
    params: *mut xelm_params,
    path: *const c_char,
    path_len: usize,
    memory: *mut c_void,
    memory_len: usize,
    expert: *mut *mut xelm_expert,
) -> xelm_status {
    // SAFETY: the header's rules for params, inputs, memory and outputs.
    unsafe {
        params::with(params, |params| {
            let path = pointer::string(path.cast(), path_len, "path")?;
            open_into(params, (Source::path(path)?, path), memory, memory_len, expert)
        })
    }
}

/// Bytes that the expert in the bytes `offset..offset + len` of an open file takes of the caller's
/// memory once it is open.
#[cfg(all(unix, feature = "std"))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_expert_plan_fd(
    params: *mut xelm_params,
    fd: i32,
    offset: u64,
    len: usize,
    size: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for params and outputs.
    unsafe { params::with(params, |_| plan_into((Source::descriptor(fd, offset, len)?, ""), size)) }
}

/// Opens the expert in the bytes `offset..offset + len` of an open file, such as an uncompressed asset
/// inside an APK. `offset` is a multiple of 32. The bytes are mapped, not copied; the descriptor may be
/// closed afterwards.
#[cfg(all(unix, feature = "std"))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_expert_open_fd(
    params: *mut xelm_params,
    fd: i32,
    offset: u64,
    len: usize,
    memory: *mut c_void,
    memory_len: usize,
    expert: *mut *mut xelm_expert,
) -> xelm_status {
    // SAFETY: the header's rules for params, memory and outputs.
    unsafe {
        params::with(params, |params| {
            let source = (Source::descriptor(fd, offset, len)?, "");
            open_into(params, source, memory, memory_len, expert)
        })
    }
}

/// Bytes that the expert in memory at `data` takes of the caller's memory once it is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_expert_plan_bytes(
    params: *mut xelm_params,
    data: *const c_void,
    len: usize,
    size: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for params, inputs and outputs.
    unsafe { params::with(params, |_| plan_into((Source::bytes(data, len)?, ""), size)) }
}

/// Opens the expert that lies in memory, at a multiple of 32. The bytes stay the caller's and must not
/// change while the expert is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_expert_open_bytes(
    params: *mut xelm_params,
    data: *const c_void,
    len: usize,
    memory: *mut c_void,
    memory_len: usize,
    expert: *mut *mut xelm_expert,
) -> xelm_status {
    // SAFETY: the header's rules for params, inputs, memory and outputs.
    unsafe {
        params::with(params, |params| {
            open_into(params, (Source::bytes(data, len)?, ""), memory, memory_len, expert)
        })
    }
}

/// Closes an expert. Its sessions and ensembles must be closed before.
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

/// Bytes of the weights, which are mapped from the file: what one token reads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_expert_weight_bytes(expert: *const xelm_expert) -> usize {
    // SAFETY: the header's rule for handles.
    unsafe { xelm_expert::get(expert) }.map_or(0, Expert::weight_bytes)
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
