//! Sets: opening one, what is in it, choosing an expert by language tag.

use crate::params::{self, Params, xelm_params};
use crate::pointer::{self, Handle, Out, header_size, place};
use crate::status::{Failure, status_of, xelm_status};
use core::ffi::{c_char, c_void};
use std::path::{Path, PathBuf};
use xelm_runtime::Error;
use xelm_runtime::format::Gguf;
use xelm_runtime::mmap::MappedFile;
use xelm_runtime::set::{Match, SET_FILE, Set};

/// An open set of experts. Immutable: any number of threads may use it.
#[derive(Debug)]
pub struct xelm_set {
    magic: u64,
    /// Borrows from `_file`; declared first, so dropped first.
    set: Set<'static>,
    folder: PathBuf,
    _file: Box<MappedFile>,
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
    pub(crate) unsafe fn get<'a>(set: *const xelm_set) -> Result<&'a xelm_set, Failure> {
        // SAFETY: the caller's promise is the one that `checked` asks for.
        let set = unsafe { pointer::checked(set) }?;
        // SAFETY: an open handle, which is never changed before it is closed.
        Ok(unsafe { &*set })
    }

    /// Where expert `index` lies.
    pub(crate) fn path(&self, index: usize) -> Result<PathBuf, Failure> {
        let entry = self.set.entry(index).ok_or(Error::OutOfRange { what: "the index" })?;
        Ok(self.folder.join(entry.file))
    }

    fn is_present(&self, index: usize) -> bool {
        self.path(index).is_ok_and(|path| path.exists())
    }
}

/// Bytes that an open set takes of the caller's memory.
#[unsafe(no_mangle)]
pub extern "C" fn xelm_set_size() -> usize {
    header_size::<xelm_set>()
}

/// Opens the set in the folder `path` (UTF-8). Experts may be missing from the folder: the set then
/// works with those that are there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_set_open(
    params: *mut xelm_params,
    path: *const c_char,
    path_len: usize,
    memory: *mut c_void,
    memory_len: usize,
    set: *mut *mut xelm_set,
) -> xelm_status {
    let open = |_: &mut Params| {
        // SAFETY: the header's rules for inputs, memory and outputs.
        let (out, path, (header, _)) = unsafe {
            let path = pointer::string(path.cast(), path_len, "path")?;
            (Out::new(set, "set")?, Path::new(path), place::<xelm_set>(memory, memory_len)?)
        };
        let name = path.join(SET_FILE);
        let file = MappedFile::open(&name).map_err(|e| Failure::at(e, &name))?;
        let file = Box::new(file);
        // SAFETY: the box keeps the mapping at one address until `_file` is dropped, after `set`.
        let bytes: &'static [u8] = unsafe { core::mem::transmute::<&[u8], &[u8]>(file.bytes()) };
        let opened = Gguf::open(bytes).and_then(|gguf| Set::open(&gguf));
        out.set(header.write(xelm_set {
            magic: xelm_set::MAGIC,
            set: opened.map_err(|e| Failure::at(e, &name))?,
            folder: path.to_owned(),
            _file: file,
        }));
        Ok(())
    };
    // SAFETY: the header's rule for params.
    unsafe { params::with(params, open) }
}

/// Closes a set. Experts opened from it stay open.
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

/// The name of expert `index` (not NUL-terminated, valid while the set is open), and whether its
/// file is present (1 or 0).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_set_expert(
    set: *const xelm_set,
    index: usize,
    id: *mut *const c_char,
    id_len: *mut usize,
    is_present: *mut i32,
) -> xelm_status {
    // SAFETY: the header's rules for handles and outputs.
    status_of(|| unsafe {
        let (set, id, id_len) =
            (xelm_set::get(set)?, Out::new(id, "id")?, Out::new(id_len, "id_len")?);
        let is_present = Out::new(is_present, "is_present")?;
        let entry = set.set.entry(index).ok_or(Error::OutOfRange { what: "the index" })?;
        id.set(entry.id.as_ptr().cast());
        id_len.set(entry.id.len());
        is_present.set(i32::from(set.is_present(index)));
        Ok(())
    })
}

/// Chooses the expert for a language tag (BCP 47) among those whose files are present: the tag
/// itself or another name of it, then its shorter forms, then relatives, the nearest first. `how` is
/// one of XELM_MATCH_*; `language` is the expert's language that matched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_set_select(
    set: *const xelm_set,
    tag: *const c_char,
    tag_len: usize,
    expert: *mut usize,
    how: *mut xelm_match,
    language: *mut *const c_char,
    language_len: *mut usize,
) -> xelm_status {
    // SAFETY: the header's rules for handles, inputs and outputs.
    status_of(|| unsafe {
        let set = xelm_set::get(set)?;
        let tag = pointer::string(tag.cast(), tag_len, "tag")?;
        let (expert, how) = (Out::new(expert, "expert")?, Out::new(how, "how")?);
        let language = Out::new(language, "language")?;
        let language_len = Out::new(language_len, "language_len")?;
        let selected = set.set.select(tag, |i| set.is_present(i))?;
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
