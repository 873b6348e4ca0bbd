//! NVIDIA's library that adds up what several cards hold, found at run time.
//!
//! Seven functions are called, so they are bound here: cudarc looks for `libnccl.so`, which only development packages
//! have; programs find `libnccl.so.2`.

#![allow(unsafe_code, reason = "a C library")]

use super::device::Ptr;
use crate::{Error, Result};
use cudarc::driver::sys::CUstream;
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::{env, ptr};

const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// Whether switches between cards may add up: they round differently each time (NVIDIA/nccl issue 1497).
const IN_SWITCHES: &str = "NCCL_NVLS_ENABLE";

/// `ncclResult_t`: 0 for success.
type Status = c_int;
/// `ncclComm_t`.
type Comm = *mut c_void;

// `ncclDataType_t` and `ncclRedOp_t`.
const FLOAT32: c_int = 7;
const SUM: c_int = 0;

/// The functions, by the names that `nccl.h` gives them.
#[derive(Debug)]
struct Api {
    comm_init_all: unsafe extern "C" fn(*mut Comm, c_int, *const c_int) -> Status,
    comm_destroy: unsafe extern "C" fn(Comm) -> Status,
    comm_abort: unsafe extern "C" fn(Comm) -> Status,
    group_start: unsafe extern "C" fn() -> Status,
    group_end: unsafe extern "C" fn() -> Status,
    all_reduce: unsafe extern "C" fn(
        *const c_void,
        *mut c_void,
        usize,
        c_int,
        c_int,
        Comm,
        CUstream,
    ) -> Status,
    error_string: unsafe extern "C" fn(Status) -> *const c_char,
    /// Open for as long as its functions are called.
    _library: Library,
}

impl Api {
    fn load() -> Result<Self> {
        let library = open().ok_or_else(|| {
            Error::Device(
                "training on several cards needs NCCL (libnccl.so.2 is missing), which comes with PyTorch \
                 and as NVIDIA's package libnccl2: put its folder on LD_LIBRARY_PATH, or name one card"
                    .into(),
            )
        })?;
        let wrong = |e: libloading::Error| Error::Device(format!("NCCL cannot be used: {e}"));
        // SAFETY: the name has this type in nccl.h; so with the others.
        let comm_init_all = *unsafe { library.get(b"ncclCommInitAll\0") }.map_err(wrong)?;
        // SAFETY: as above.
        let comm_destroy = *unsafe { library.get(b"ncclCommDestroy\0") }.map_err(wrong)?;
        // SAFETY: as above.
        let comm_abort = *unsafe { library.get(b"ncclCommAbort\0") }.map_err(wrong)?;
        // SAFETY: as above.
        let group_start = *unsafe { library.get(b"ncclGroupStart\0") }.map_err(wrong)?;
        // SAFETY: as above.
        let group_end = *unsafe { library.get(b"ncclGroupEnd\0") }.map_err(wrong)?;
        // SAFETY: as above.
        let all_reduce = *unsafe { library.get(b"ncclAllReduce\0") }.map_err(wrong)?;
        // SAFETY: as above.
        let error_string = *unsafe { library.get(b"ncclGetErrorString\0") }.map_err(wrong)?;
        Ok(Api {
            comm_init_all,
            comm_destroy,
            comm_abort,
            group_start,
            group_end,
            all_reduce,
            error_string,
            _library: library,
        })
    }

    fn check(&self, what: &str, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the library has a text for every number.
        let text = unsafe { (self.error_string)(status) };
        // SAFETY: as above; the text lives as long as the library.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        Err(Error::Device(format!(
            "NCCL cannot {what}: {text} (NCCL_DEBUG=WARN in the environment says more); the last checkpoint is \
             kept: run the command again to resume"
        )))
    }
}

/// Whether the library for several cards is installed.
pub fn has_nccl() -> bool {
    open().is_some()
}

fn open() -> Option<Library> {
    // SAFETY: opens NVIDIA's library, whose initialisers are NVIDIA's.
    NAMES.iter().find_map(|name| unsafe { Library::new(*name) }.ok())
}

/// Lets cards add up by themselves, unless the environment says otherwise.
pub(super) fn keep_out_of_switches() {
    if env::var_os(IN_SWITCHES).is_none() {
        // SAFETY: Rust's own access to the environment is locked; that no C code reads it meanwhile is asked of whoever
        // opens the cards, and NVIDIA's libraries start no threads before that.
        unsafe { env::set_var(IN_SWITCHES, "0") };
    }
}

/// The cards of one group, all driven by the thread that made it.
#[derive(Debug)]
pub(super) struct Nccl {
    api: Api,
    /// One for each card; none once the group has failed.
    comms: Vec<Comm>,
}

impl Nccl {
    /// A group of cards, by their numbers. After [`keep_out_of_switches`] they add up in an order that the library
    /// derives from how they are connected: the same bits every run.
    ///
    /// # Errors
    /// There is no library, or it cannot connect the cards.
    pub(super) fn new(cards: &[usize]) -> Result<Self> {
        let api = Api::load()?;
        let numbers: Vec<c_int> = cards.iter().map(|&card| card as c_int).collect();
        let mut comms = vec![ptr::null_mut(); cards.len()];
        // SAFETY: as many numbers, and room for as many handles, as it is told.
        let status = unsafe {
            (api.comm_init_all)(comms.as_mut_ptr(), cards.len() as c_int, numbers.as_ptr())
        };
        api.check("connect the cards", status)?;
        Ok(Nccl { api, comms })
    }

    /// Queues on each card's stream that its `n` f32 numbers become the sums over all cards: the same bits everywhere.
    ///
    /// # Errors
    /// The library refuses, or the group has failed before.
    pub(super) fn add_up(&self, parts: &[(Ptr, CUstream)], n: usize) -> Result<()> {
        if self.comms.len() != parts.len() {
            return Err(Error::Device("the cards are no longer connected".into()));
        }
        // SAFETY: begins a group of calls, which ends below.
        self.api.check("begin a sum", unsafe { (self.api.group_start)() })?;
        let mut outcome = Ok(());
        for (&comm, &(at, stream)) in self.comms.iter().zip(parts) {
            let at = at.0 as *mut c_void;
            // SAFETY: each card's numbers lie in its own memory, its stream is alive, the group has its handle.
            let status = unsafe { (self.api.all_reduce)(at, at, n, FLOAT32, SUM, comm, stream) };
            outcome = outcome.and(self.api.check("add up gradients", status));
        }
        // SAFETY: begun above.
        outcome.and(self.api.check("add up gradients", unsafe { (self.api.group_end)() }))
    }

    /// Ends whatever the cards still wait for each other with: after one of them has failed.
    pub(super) fn abort(&mut self) {
        for comm in self.comms.drain(..) {
            // SAFETY: a handle of this group, not used again.
            let _ = unsafe { (self.api.comm_abort)(comm) };
        }
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        for comm in self.comms.drain(..) {
            // SAFETY: a handle of this group, not used again; the streams are still alive.
            let _ = unsafe { (self.api.comm_destroy)(comm) };
        }
    }
}
