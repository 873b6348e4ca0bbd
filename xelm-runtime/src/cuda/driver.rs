//! A card through NVIDIA's driver, found at run time: a program with this feature starts on machines that have
//! none.
//!
//! The kernels are PTX of compute_80, embedded in the program; the driver compiles them for its card when it is
//! opened. Everything is allocated then, on the card and here.

#![allow(unsafe_code, reason = "the driver is a C library")]

use crate::error::{Error, Result};
use core::ffi::{CStr, c_void};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute, CUmemorytype, CUresult};
use std::ffi::CString;
use std::string::String;
use std::vec::Vec;

/// The kernels. `tests/cuda_kernels.sh` makes them.
const PTX: &str = include_str!("ptx/runtime.ptx");
/// What the PTX needs.
const MIN_COMPUTE: (i32, i32) = (8, 0);
/// Threads of every block.
const BLOCK: u32 = 256;
/// Arguments of a kernel at most.
const MAX_ARGS: usize = 16;

/// What is known of a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its number among the cards that the driver shows.
    pub index: usize,
    /// NVIDIA's name for it.
    pub name: String,
    /// Compute capability.
    pub compute: (i32, i32),
    /// Memory in bytes.
    pub memory: usize,
}

/// The cards of this machine.
///
/// # Errors
/// [`Error::Device`]: there is no driver, or it does not work.
pub fn cards() -> Result<Vec<Card>> {
    // SAFETY: opens the driver's library, whose initialisers are NVIDIA's.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Device {
            what: "there is no NVIDIA driver on this machine (libcuda.so.1 is missing): install it, or compute \
                   on the CPU",
            code: 0,
        });
    }
    match result::init() {
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(Vec::new()),
        other => other.map_err(cannot("cannot start the NVIDIA driver"))?,
    }
    let n = result::device::get_count().map_err(cannot("cannot count the cards"))?;
    (0..n).map(card).collect()
}

fn card(index: i32) -> Result<Card> {
    let wrong = || cannot("cannot ask for a card's properties");
    let device = result::device::get(index).map_err(wrong())?;
    // SAFETY: `device` comes from the driver.
    let memory = unsafe { result::device::total_mem(device) }.map_err(wrong())?;
    let attribute = |what| {
        // SAFETY: `device` comes from the driver.
        unsafe { result::device::get_attribute(device, what) }.map_err(wrong())
    };
    let compute = (
        attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    let name = result::device::get_name(device).map_err(wrong())?;
    Ok(Card { index: index as usize, name, compute, memory })
}

/// What makes an error of the driver's one of ours.
fn cannot(what: &'static str) -> impl Fn(DriverError) -> Error {
    move |DriverError(code)| Error::Device { what, code: code as i32 }
}

/// An address in the card's memory; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ptr(pub(super) u64);

impl Ptr {
    pub(super) const NULL: Ptr = Ptr(0);

    /// The address `n` bytes further on.
    pub(super) fn offset(self, n: usize) -> Ptr {
        Ptr(self.0 + n as u64)
    }
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arg {
    Ptr(Ptr),
    U32(u32),
    F32(f32),
}

impl Arg {
    /// Where the argument's value lies: what a launch wants to know.
    fn as_ptr(&self) -> *mut c_void {
        match self {
            Arg::Ptr(Ptr(x)) => core::ptr::from_ref(x).cast_mut().cast(),
            Arg::U32(x) => core::ptr::from_ref(x).cast_mut().cast(),
            Arg::F32(x) => core::ptr::from_ref(x).cast_mut().cast(),
        }
    }
}

/// A kernel of the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function(sys::CUfunction);

// SAFETY: a name for the driver, which takes it from any thread.
unsafe impl Send for Function {}
// SAFETY: as above; nothing is changed through it.
unsafe impl Sync for Function {}

/// A recorded sequence of launches.
#[derive(Debug)]
pub(super) struct Graph(sys::CUgraphExec);

/// Keys or values of a slot's heads, as rows of a rectangle: `n_rows` rows of `row_bytes`, `pitch` bytes apart on
/// the card and without gaps here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    pub(super) at: Ptr,
    pub(super) pitch: usize,
    pub(super) row_bytes: usize,
    pub(super) n_rows: usize,
}

/// An open card with its kernels loaded, and all the memory that a session takes of it.
#[derive(Debug)]
pub(super) struct Driver {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    module: sys::CUmodule,
    memory: Vec<Ptr>,
    /// Page-locked memory here, through which numbers travel.
    staging: *mut c_void,
    staging_len: usize,
    graphs: Vec<Graph>,
}

// SAFETY: the driver's calls may come from any thread once the context is current there, which every method
// sees to; staging is written through `&mut self` only.
unsafe impl Send for Driver {}
// SAFETY: as above; what takes `&self` queues work on the stream, which the driver orders.
unsafe impl Sync for Driver {}

impl Driver {
    /// Opens a card by its number and takes `n_staged` bytes here.
    ///
    /// # Errors
    /// No driver, no such card, a card or driver that is too old.
    pub(super) fn open(index: usize, n_staged: usize) -> Result<Self> {
        let cards = cards()?;
        let missing = "there is no such card (`xelm devices` lists those of this machine)";
        let card = cards.get(index).ok_or(Error::Device { what: missing, code: 0 })?;
        if card.compute < MIN_COMPUTE {
            let what = "the card is too old: compute capability 8.0 (Ampere) or later is needed";
            return Err(Error::Device { what, code: 0 });
        }
        let wrong = || cannot("cannot open the card");
        let device = result::device::get(index as i32).map_err(wrong())?;
        // SAFETY: `device` comes from the driver; `drop` releases the context.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(wrong())?;
        // From here on `drop` gives back what has been taken.
        let mut driver = Driver {
            device,
            context,
            stream: core::ptr::null_mut(),
            module: core::ptr::null_mut(),
            memory: Vec::new(),
            staging: core::ptr::null_mut(),
            staging_len: n_staged,
            graphs: Vec::new(),
        };
        driver.enter()?;
        let kind = result::stream::StreamKind::NonBlocking;
        driver.stream = result::stream::create(kind).map_err(wrong())?;
        let image = CString::new(PTX)
            .map_err(|_| Error::Device { what: "the kernels are no text", code: 0 })?;
        // SAFETY: the image is PTX that ends in a zero byte.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) };
        driver.module = module.map_err(|error| {
            let what = match error.0 {
                CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
                    "the NVIDIA driver is older than 530: update it"
                }
                _ => "cannot load the kernels",
            };
            cannot(what)(error)
        })?;
        // SAFETY: memory without type, freed in `drop`.
        driver.staging = unsafe { result::malloc_host(n_staged.max(1), 0) }.map_err(wrong())?;
        // SAFETY: as many bytes have just been allocated.
        unsafe { core::ptr::write_bytes(driver.staging.cast::<u8>(), 0, n_staged) };
        Ok(driver)
    }

    /// Takes memory of the card; it is given back with `self`. Only what is opened does so.
    ///
    /// # Errors
    /// [`Error::DeviceFull`].
    pub(super) fn allocate(&mut self, n_bytes: usize) -> Result<Ptr> {
        // SAFETY: memory without type; every kernel that reads it is told its extent.
        let memory = unsafe { result::malloc_sync(n_bytes.max(1)) };
        let memory = memory.map(Ptr).map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::DeviceFull { needed: n_bytes },
            _ => cannot("cannot take memory of the card")(error),
        })?;
        self.memory.push(memory);
        Ok(memory)
    }

    /// Makes the card the calling thread's. Every sequence of calls begins with it.
    pub(super) fn enter(&self) -> Result<()> {
        // SAFETY: the context is retained until `drop`.
        unsafe { result::ctx::set_current(self.context) }.map_err(cannot("cannot use the card"))
    }

    /// The kernel with a name.
    pub(super) fn function(&self, name: &CStr) -> Result<Function> {
        // SAFETY: the module lives as long as `self`.
        let function = unsafe { result::module::get_function(self.module, name.into()) };
        function.map(Function).map_err(cannot("a kernel is missing"))
    }

    /// Copies to the card, now. For opening: later copies go through the staging memory.
    pub(super) fn upload(&self, to: Ptr, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: the plan gave `to` room for the bytes; the driver has read pageable memory when the call
        // returns.
        unsafe { result::memcpy_htod_async(to.0, bytes, self.stream) }
            .map_err(cannot("cannot copy to the card"))
    }

    /// Waits for all queued work, then queues a copy to the card.
    pub(super) fn send(&mut self, to: Ptr, bytes: &[u8]) -> Result<()> {
        self.finish()?;
        self.staging_mut(bytes.len())?.copy_from_slice(bytes);
        let staged = self.staged(bytes.len())?;
        // SAFETY: the plan gave `to` room for the bytes; the memory is not written again before the next
        // `finish`.
        unsafe { result::memcpy_htod_async(to.0, staged, self.stream) }
            .map_err(cannot("cannot copy to the card"))
    }

    /// Copies from the card, when all that was queued before is done.
    pub(super) fn receive(&mut self, from: Ptr, n: usize) -> Result<&[u8]> {
        let stream = self.stream;
        let staging = self.staging_mut(n)?;
        // SAFETY: the plan has as many bytes at `from`.
        unsafe { result::memcpy_dtoh_async(staging, from.0, stream) }
            .map_err(cannot("cannot copy from the card"))?;
        self.finish()?;
        self.staged(n)
    }

    fn staged(&self, n: usize) -> Result<&[u8]> {
        let len = self.staging_len;
        if n > len {
            return Err(Error::BufferTooSmall { needed: n });
        }
        // SAFETY: page-locked memory of `len` bytes, cleared in `open`, borrowed with `self`.
        Ok(unsafe { core::slice::from_raw_parts(self.staging.cast(), n) })
    }

    fn staging_mut(&mut self, n: usize) -> Result<&mut [u8]> {
        if n > self.staging_len {
            return Err(Error::BufferTooSmall { needed: n });
        }
        // SAFETY: page-locked memory of at least `n` bytes, cleared in `open`; nothing is queued that uses it
        // (`send` and `receive` wait), and it is borrowed with `self`.
        Ok(unsafe { core::slice::from_raw_parts_mut(self.staging.cast(), n) })
    }

    /// Queues a kernel over a grid of blocks.
    pub(super) fn launch(
        &self,
        Function(function): Function,
        grid: [usize; 3],
        args: &[Arg],
    ) -> Result<()> {
        let mut pointers = [core::ptr::null_mut(); MAX_ARGS];
        for (pointer, arg) in pointers.iter_mut().zip(args) {
            *pointer = arg.as_ptr();
        }
        let [x, y, z] = grid.map(|n| n as u32);
        // SAFETY: the arguments are those of the kernel (the tests run every launch through a stand-in that
        // executes it under AddressSanitizer), and the addresses among them lie in its memory. The driver copies
        // them during the call.
        unsafe {
            result::launch_kernel(function, (x, y, z), (BLOCK, 1, 1), 0, self.stream, &mut pointers)
        }
        .map_err(cannot("cannot start a kernel"))
    }

    /// Records what `work` launches; the number of the graph is what [`Driver::replay`] takes.
    pub(super) fn record(&mut self, work: impl FnOnce(&Self) -> Result<()>) -> Result<usize> {
        let wrong = || cannot("cannot record a graph of kernels");
        self.finish()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::begin_capture(self.stream, mode) }.map_err(wrong())?;
        let worked = work(self);
        // SAFETY: as above; ended also where the work failed.
        let graph = unsafe { result::stream::end_capture(self.stream) };
        worked?;
        let graph = graph.map_err(wrong())?;
        // SAFETY: the graph was just recorded.
        let ready = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) };
        // SAFETY: what was instantiated does not need it any more.
        unsafe { result::graph::destroy(graph) }.map_err(wrong())?;
        let ready = ready.map_err(wrong())?;
        self.graphs.push(Graph(ready));
        // What the card keeps of it is there from now on, not from its first launch on.
        // SAFETY: graph and stream live as long as `self`.
        unsafe { result::graph::upload(ready, self.stream) }.map_err(wrong())?;
        Ok(self.graphs.len() - 1)
    }

    /// Queues what was recorded.
    pub(super) fn replay(&self, graph: usize) -> Result<()> {
        let Graph(graph) = self.graphs[graph];
        // SAFETY: graph and stream live as long as `self`.
        unsafe { result::graph::launch(graph, self.stream) }.map_err(cannot("cannot start a graph"))
    }

    /// Copies rows from the card and waits.
    pub(super) fn save(&self, rows: Rows, out: &mut [u8]) -> Result<()> {
        self.enter()?;
        assert_eq!(out.len(), rows.row_bytes * rows.n_rows);
        let mut copy = rectangle(rows);
        copy.srcMemoryType = CUmemorytype::CU_MEMORYTYPE_DEVICE;
        copy.srcDevice = rows.at.0;
        copy.srcPitch = rows.pitch;
        copy.dstMemoryType = CUmemorytype::CU_MEMORYTYPE_HOST;
        copy.dstHost = out.as_mut_ptr().cast();
        copy.dstPitch = rows.row_bytes;
        self.copy(&copy)
    }

    /// Copies rows to the card and waits.
    pub(super) fn restore(&mut self, rows: Rows, from: &[u8]) -> Result<()> {
        self.enter()?;
        assert_eq!(from.len(), rows.row_bytes * rows.n_rows);
        let mut copy = rectangle(rows);
        copy.srcMemoryType = CUmemorytype::CU_MEMORYTYPE_HOST;
        copy.srcHost = from.as_ptr().cast();
        copy.srcPitch = rows.row_bytes;
        copy.dstMemoryType = CUmemorytype::CU_MEMORYTYPE_DEVICE;
        copy.dstDevice = rows.at.0;
        copy.dstPitch = rows.pitch;
        self.copy(&copy)
    }

    fn copy(&self, copy: &sys::CUDA_MEMCPY2D) -> Result<()> {
        if copy.WidthInBytes == 0 {
            return Ok(());
        }
        // SAFETY: the host's side is a borrowed slice of exactly the rectangle's size (asserted above), the card's
        // lies in the cache as planned; `finish` waits before the borrow ends.
        let outcome = unsafe { sys::cuMemcpy2DAsync_v2(copy, self.stream) }.result();
        outcome.map_err(cannot("cannot copy keys and values"))?;
        self.finish()
    }

    /// Waits until all that was queued is done.
    pub(super) fn finish(&self) -> Result<()> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }.map_err(cannot("the card failed"))
    }
}

/// A copy of rows without its ends.
fn rectangle(rows: Rows) -> sys::CUDA_MEMCPY2D {
    sys::CUDA_MEMCPY2D {
        srcXInBytes: 0,
        srcY: 0,
        srcMemoryType: CUmemorytype::CU_MEMORYTYPE_HOST,
        srcHost: core::ptr::null(),
        srcDevice: 0,
        srcArray: core::ptr::null_mut(),
        srcPitch: 0,
        dstXInBytes: 0,
        dstY: 0,
        dstMemoryType: CUmemorytype::CU_MEMORYTYPE_HOST,
        dstHost: core::ptr::null_mut(),
        dstDevice: 0,
        dstArray: core::ptr::null_mut(),
        dstPitch: 0,
        WidthInBytes: rows.row_bytes,
        Height: rows.n_rows,
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // A card that failed refuses all of these; there is nobody to tell.
        let _ = self.enter();
        let _ = self.finish();
        for Graph(graph) in &self.graphs {
            // SAFETY: nothing of it runs any more.
            let _ = unsafe { result::graph::exec_destroy(*graph) };
        }
        for memory in &self.memory {
            // SAFETY: allocated by this driver, and nothing uses it any more.
            let _ = unsafe { result::free_sync(memory.0) };
        }
        if !self.staging.is_null() {
            // SAFETY: as above.
            let _ = unsafe { result::free_host(self.staging) };
        }
        if !self.module.is_null() {
            // SAFETY: nothing of the module runs any more.
            let _ = unsafe { result::module::unload(self.module) };
        }
        if !self.stream.is_null() {
            // SAFETY: the stream is not used again.
            let _ = unsafe { result::stream::destroy(self.stream) };
        }
        // SAFETY: retained in `open`.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}
