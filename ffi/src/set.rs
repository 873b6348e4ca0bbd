//! Sets: opening one, what is in it, choosing an expert by language tag or by text.

use crate::params::{self, Params, xelm_params};
use crate::pointer::{self, Handle, Out, header_size, place};
use crate::source::Source;
use crate::status::{Failure, XELM_ALIGN, status_of, xelm_status};
use core::ffi::{c_char, c_void};
use xelm_runtime::Error;
use xelm_runtime::arena::Arena;
use xelm_runtime::router::{Context, Router};
#[cfg(feature = "std")]
use xelm_runtime::set::SET_FILE;
use xelm_runtime::set::{Match, Set};

/// An open set of experts. Immutable: any number of threads may use it.
#[derive(Debug)]
pub struct xelm_set {
    magic: u64,
    /// Borrow from `_source`.
    set: Set<'static>,
    router: Option<Router<'static>>,
    #[cfg_attr(not(feature = "std"), allow(dead_code, reason = "there are no folders"))]
    /// Where the experts lie, copied behind this header; empty where the set is not in a folder.
    folder: &'static str,
    _source: Source,
}

impl Handle for xelm_set {
    const KIND: &'static str = "set";
    const MAGIC: u64 = u64::from_le_bytes(*b"xelmset1");
    const MAGIC_AT: usize = core::mem::offset_of!(xelm_set, magic);
}

/// How a language tag led to an expert.
pub type xelm_match = i32;
/// The tag itself.
pub const XELM_MATCH_EXACT: xelm_match = 0;
/// A form of the same language that says less or more, such as "de" for "de-AT", or its
/// macrolanguage, "ar" for "arz".
pub const XELM_MATCH_PREFIX: xelm_match = 1;
/// No expert that is present speaks the language so: this one speaks it in another script or region,
/// or speaks the nearest relative.
pub const XELM_MATCH_RELATED: xelm_match = 2;
/// Another name of the same, such as "he" for "iw" or "zh-Hant-TW" for "zh-TW".
pub const XELM_MATCH_ALIAS: xelm_match = 3;

impl xelm_set {
    /// The set behind a pointer from C.
    ///
    /// # Safety
    /// As the header says of handles.
    pub(crate) unsafe fn get<'a>(set: *const xelm_set) -> Result<&'a xelm_set, Failure<'static>> {
        // SAFETY: the caller's promise is the one that `checked` asks for.
        let set = unsafe { pointer::checked(set) }?;
        // SAFETY: an open handle, which is never changed before it is closed.
        Ok(unsafe { &*set })
    }

    /// The set's tables.
    pub(crate) fn tables(&self) -> &Set<'static> {
        &self.set
    }

    /// Number of experts and the router, which may be none.
    pub(crate) fn router(&self) -> Option<Router<'static>> {
        self.router
    }

    /// Maps the file of expert `index`; also gives its name.
    #[cfg(feature = "std")]
    pub(crate) fn expert(&self, index: usize) -> Result<(Source, &'static str), Failure<'static>> {
        let entry = self.set.entry(index).ok_or(Error::OutOfRange { what: "the index" })?;
        let fail = |error: Error| Failure::at(error, entry.file);
        let path = Path::join(self.folder, entry.file).map_err(fail)?;
        match Source::path(path.as_str()) {
            Ok(source) => Ok((source, entry.file)),
            Err(Failure::Runtime(error, _)) => Err(fail(error)),
            Err(_) => Err(Failure::Internal),
        }
    }

    /// Whether expert `index` is there: by `present`, one byte per expert, where the caller says so,
    /// otherwise by a look into the folder.
    fn is_present(&self, present: &[u8], index: usize) -> bool {
        if let Some(&is_present) = present.get(index) {
            return is_present != 0;
        }
        #[cfg(feature = "std")]
        if !self.folder.is_empty() {
            let file = self.set.entry(index).map_or("", |entry| entry.file);
            return Path::join(self.folder, file)
                .is_ok_and(|path| std::path::Path::new(path.as_str()).exists());
        }
        index < self.set.len()
    }

    /// What the caller says of the experts' presence: a byte each, or nothing.
    ///
    /// # Safety
    /// `present` is NULL or points to as many readable bytes as there are experts.
    unsafe fn presence<'a>(&self, present: *const u8) -> Result<&'a [u8], Failure<'static>> {
        let n = if present.is_null() { 0 } else { self.set.len() };
        // SAFETY: the caller's promise is ours.
        unsafe { pointer::bytes(present, n, "present") }
    }
}

/// A path put together without the heap.
#[cfg(feature = "std")]
struct Path {
    bytes: [u8; Path::LONGEST],
    len: usize,
}

#[cfg(feature = "std")]
impl Path {
    /// What Linux takes.
    const LONGEST: usize = 4096;

    fn join(folder: &str, file: &str) -> Result<Path, Error> {
        let mut path = Path { bytes: [0; Path::LONGEST], len: 0 };
        for part in [folder, std::path::MAIN_SEPARATOR_STR, file] {
            let place = path.bytes.get_mut(path.len..path.len + part.len());
            let long = Error::OutOfRange { what: "the length of a path" };
            place.ok_or(long)?.copy_from_slice(part.as_bytes());
            path.len += part.len();
        }
        Ok(path)
    }

    fn as_str(&self) -> &str {
        // Made of whole strings.
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

/// Opens a set in the caller's memory.
///
/// # Safety
/// As [`place`] and [`Out::new`].
unsafe fn open<'a>(
    source: Source,
    (folder, name): (&str, &'a str),
    memory: *mut c_void,
    memory_len: usize,
    set: *mut *mut xelm_set,
) -> Result<(), Failure<'a>> {
    let fail = |error: Error| Failure::at(error, name);
    // SAFETY: the caller's promises are ours.
    let (out, (header, rest)) =
        unsafe { (Out::new(set, "set")?, place::<xelm_set>(memory, memory_len)?) };
    let needed = xelm_set_size(folder.len());
    let short = Error::MemoryTooSmall { needed };
    let copy = rest.get_mut(..needed - header_size::<xelm_set>()).ok_or(short)?;
    // SAFETY: the handle owns the source and is closed before it is gone.
    let gguf = unsafe { source.gguf() }.map_err(fail)?;
    let (opened, router) =
        Set::open(&gguf).and_then(|set| Ok((set, Router::open(&gguf)?))).map_err(fail)?;
    let copy = &mut copy[..folder.len()];
    copy.copy_from_slice(folder.as_bytes());
    out.set(header.write(xelm_set {
        magic: xelm_set::MAGIC,
        set: opened,
        router,
        folder: core::str::from_utf8(copy).unwrap_or_default(),
        _source: source,
    }));
    Ok(())
}

/// Bytes that an open set takes of the caller's memory, `path_len` being the length of its folder's
/// path; 0 for a set that is opened by descriptor or bytes.
#[unsafe(no_mangle)]
pub extern "C" fn xelm_set_size(path_len: usize) -> usize {
    header_size::<xelm_set>().saturating_add(path_len).saturating_next_multiple(XELM_ALIGN)
}

/// Rounding up that stops at the largest number.
trait SaturatingMultiple {
    fn saturating_next_multiple(self, of: usize) -> usize;
}

impl SaturatingMultiple for usize {
    fn saturating_next_multiple(self, of: usize) -> usize {
        self.checked_next_multiple_of(of).unwrap_or(usize::MAX)
    }
}

/// Opens the set in the folder `path` (UTF-8). Experts may be missing from the folder: the set then
/// works with those that are there.
#[cfg(feature = "std")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_set_open(
    params: *mut xelm_params,
    path: *const c_char,
    path_len: usize,
    memory: *mut c_void,
    memory_len: usize,
    set: *mut *mut xelm_set,
) -> xelm_status {
    let work = |params: &mut Params| {
        // SAFETY: the header's rule for inputs.
        let folder: &str = unsafe { pointer::string(path.cast(), path_len, "path") }?;
        let name = Path::join(folder, SET_FILE)?;
        let source = Source::path(name.as_str()).map_err(|failure| match failure {
            Failure::Runtime(error, _) => Failure::at(error, folder),
            _ => Failure::Internal,
        })?;
        // SAFETY: the header's rules for memory and outputs.
        unsafe { open(source, (folder, folder), memory, memory_len, set) }?;
        params.log().info(format_args!("set {folder}"));
        Ok(())
    };
    // SAFETY: the header's rule for params.
    unsafe { params::with(params, work) }
}

/// Opens the set whose `set.gguf` is the bytes `offset..offset + len` of an open file, such as an
/// uncompressed asset inside an APK. `offset` is a multiple of 32. The descriptor may be closed
/// afterwards. Experts are opened one by one (`xelm_expert_open_fd`, `xelm_expert_open_bytes`).
#[cfg(all(unix, feature = "std"))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_set_open_fd(
    params: *mut xelm_params,
    fd: i32,
    offset: u64,
    len: usize,
    memory: *mut c_void,
    memory_len: usize,
    set: *mut *mut xelm_set,
) -> xelm_status {
    // SAFETY: the header's rules for params, memory and outputs.
    unsafe {
        params::with(params, |_| {
            open(Source::descriptor(fd, offset, len)?, ("", ""), memory, memory_len, set)
        })
    }
}

/// Opens the set whose `set.gguf` lies in memory, at a multiple of 32. The bytes stay the caller's and
/// must not change while the set is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_set_open_bytes(
    params: *mut xelm_params,
    data: *const c_void,
    len: usize,
    memory: *mut c_void,
    memory_len: usize,
    set: *mut *mut xelm_set,
) -> xelm_status {
    // SAFETY: the header's rules for params, inputs, memory and outputs.
    unsafe {
        params::with(params, |_| open(Source::bytes(data, len)?, ("", ""), memory, memory_len, set))
    }
}

/// Closes a set. Its ensembles must be closed before; experts opened from it stay open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_set_close(set: *mut xelm_set) -> xelm_status {
    // SAFETY: the header's rule for closing.
    status_of(|| unsafe { pointer::close(set) })
}

/// Number of experts in the set, present or not; 0 where `set` is not an open set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_set_n_experts(set: *const xelm_set) -> usize {
    // SAFETY: the header's rule for handles.
    unsafe { xelm_set::get(set) }.map_or(0, |set| set.set.len())
}

/// Number of (language, expert) pairs; 0 where `set` is not an open set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_set_n_languages(set: *const xelm_set) -> usize {
    // SAFETY: the header's rule for handles.
    unsafe { xelm_set::get(set) }.map_or(0, |set| set.set.languages().count())
}

/// Pair `index`: the language tag (not NUL-terminated, valid while the set is open) and its expert.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_set_language(
    set: *const xelm_set,
    index: usize,
    tag: *mut *const c_char,
    tag_len: *mut usize,
    expert: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles and outputs.
    status_of(|| unsafe {
        let (set, tag, tag_len) =
            (xelm_set::get(set)?, Out::new(tag, "tag")?, Out::new(tag_len, "tag_len")?);
        let expert = Out::new(expert, "expert")?;
        let pair = set.set.languages().nth(index).ok_or(Error::OutOfRange { what: "the index" })?;
        tag.set(pair.1.as_ptr().cast());
        tag_len.set(pair.1.len());
        expert.set(pair.0);
        Ok(())
    })
}

/// The name of expert `index` and its file's (not NUL-terminated, valid while the set is open), and
/// whether the file is present: 1 or 0, always 1 for a set that is not in a folder.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_set_expert(
    set: *const xelm_set,
    index: usize,
    id: *mut *const c_char,
    id_len: *mut usize,
    file: *mut *const c_char,
    file_len: *mut usize,
    is_present: *mut i32,
) -> xelm_status {
    // SAFETY: the header's rules for handles and outputs.
    status_of(|| unsafe {
        let (set, id, id_len) =
            (xelm_set::get(set)?, Out::new(id, "id")?, Out::new(id_len, "id_len")?);
        let (file, file_len) = (Out::new(file, "file")?, Out::new(file_len, "file_len")?);
        let is_present = Out::new(is_present, "is_present")?;
        let entry = set.set.entry(index).ok_or(Error::OutOfRange { what: "the index" })?;
        id.set(entry.id.as_ptr().cast());
        id_len.set(entry.id.len());
        file.set(entry.file.as_ptr().cast());
        file_len.set(entry.file.len());
        is_present.set(i32::from(set.is_present(&[], index)));
        Ok(())
    })
}

/// Chooses the expert for a language tag (BCP 47) among those that are present: the tag itself or
/// another name of it, then its shorter forms, then relatives, the nearest first. `present` is NULL,
/// and the folder decides, or one byte per expert, 0 for absent. `how` is one of XELM_MATCH_*;
/// `language` is the expert's language that matched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_set_select(
    set: *const xelm_set,
    tag: *const c_char,
    tag_len: usize,
    present: *const u8,
    expert: *mut usize,
    how: *mut xelm_match,
    language: *mut *const c_char,
    language_len: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles, inputs and outputs.
    status_of(|| unsafe {
        let set = xelm_set::get(set)?;
        let tag = pointer::string(tag.cast(), tag_len, "tag")?;
        let present = set.presence(present)?;
        let (expert, how) = (Out::new(expert, "expert")?, Out::new(how, "how")?);
        let language = Out::new(language, "language")?;
        let language_len = Out::new(language_len, "language_len")?;
        let selected = set.set.select(tag, |i| set.is_present(present, i))?;
        expert.set(selected.expert);
        how.set(match selected.how {
            Match::Exact => XELM_MATCH_EXACT,
            Match::Alias => XELM_MATCH_ALIAS,
            Match::Prefix => XELM_MATCH_PREFIX,
            Match::Related => XELM_MATCH_RELATED,
        });
        language.set(selected.language.as_ptr().cast());
        language_len.set(selected.language.len());
        Ok(())
    })
}

/// Checks that the file of expert `index` is whole and undamaged, and fits the set: size, SHA-256,
/// structure, vocabulary, width. It reads the whole file: do it once, after it was fetched.
/// XELM_HASH_MISMATCH where it is another file.
#[cfg(feature = "std")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_set_verify(
    params: *mut xelm_params,
    set: *const xelm_set,
    index: usize,
) -> xelm_status {
    // SAFETY: the header's rules for params and handles.
    unsafe {
        params::with(params, |_| {
            let set = xelm_set::get(set)?;
            let (source, name) = set.expert(index)?;
            source.verify(&set.set, index).map_err(|e| Failure::at(e, name))
        })
    }
}

/// The same for a file that is not in its place yet, such as one just fetched: when it is found good, a
/// program renames it to the expert's file name, which is atomic.
#[cfg(feature = "std")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_set_verify_path(
    params: *mut xelm_params,
    set: *const xelm_set,
    index: usize,
    path: *const c_char,
    path_len: usize,
) -> xelm_status {
    // SAFETY: the header's rules for params, handles and inputs.
    unsafe {
        params::with(params, |_| {
            let (set, path) =
                (xelm_set::get(set)?, pointer::string(path.cast(), path_len, "path")?);
            Source::path(path)?.verify(&set.set, index).map_err(|e| Failure::at(e, path))
        })
    }
}

/// The same for an expert that lies in memory, at a multiple of 32.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_set_verify_bytes(
    params: *mut xelm_params,
    set: *const xelm_set,
    index: usize,
    data: *const c_void,
    len: usize,
) -> xelm_status {
    // SAFETY: the header's rules for params, handles and inputs.
    unsafe {
        params::with(params, |_| {
            let set = xelm_set::get(set)?;
            Ok(Source::bytes(data, len)?.verify(&set.set, index)?)
        })
    }
}

/// Bytes of scratch that `xelm_set_route` takes; 0 where the set has no router.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_set_route_size(set: *const xelm_set) -> usize {
    // SAFETY: the header's rule for handles.
    let Ok(set) = (unsafe { xelm_set::get(set) }) else { return 0 };
    let mut arena = Arena::measure();
    match Context::carve(&mut arena, set.router.as_ref()) {
        Ok(_) if set.router.is_some() => arena.used(),
        _ => 0,
    }
}

/// Weighs the experts by the words of a text, for programs that know no language tag: `weights` has
/// room for one number per expert of the set; absent ones get 0, the others sum to 1. All are equal
/// where the text has no known word. `present` is as for `xelm_set_select`; power and temperature are
/// those of `params`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_set_route(
    params: *mut xelm_params,
    set: *const xelm_set,
    text: *const c_char,
    text_len: usize,
    present: *const u8,
    memory: *mut c_void,
    memory_len: usize,
    weights: *mut f32,
) -> xelm_status {
    let work = |params: &mut Params| {
        // SAFETY: the header's rules for handles, inputs, memory and outputs.
        let (set, text, present, (_, memory)) = unsafe {
            let set = xelm_set::get(set)?;
            let text = pointer::bytes(text.cast(), text_len, "text")?;
            (set, text, set.presence(present)?, place::<()>(memory, memory_len)?)
        };
        let router = set.router.as_ref().ok_or(Error::NoRouter)?;
        if weights.is_null() {
            return Err(Failure::Null("weights"));
        }
        let mut context = Context::carve(&mut Arena::new(memory)?, Some(router))?;
        for part in text.utf8_chunks() {
            context.feed(router, part.valid());
            if !part.invalid().is_empty() {
                context.feed(router, "\u{fffd}");
            }
        }
        // SAFETY: the caller's room for one number per expert; any bits are a number.
        let weights = unsafe { core::slice::from_raw_parts_mut(weights, set.set.len()) };
        let is_present = |i: usize| set.is_present(present, i);
        router.weights(context.vector(router), &params.mixing().route, &is_present, weights)?;
        Ok(())
    };
    // SAFETY: the header's rule for params.
    unsafe { params::with(params, work) }
}
