//! A card through NVIDIA's driver, found at run time: a program with this backend starts on machines
//! that have none.
//!
//! The kernels are PTX of compute_80, embedded in the program; the driver compiles them for its card.

#![allow(unsafe_code, reason = "the driver is a C library")]

use super::cards::{cards, has_cublaslt};
use super::cublaslt::CublasLt;
use super::device::{Arg, Device, Precision, Product, Ptr};
use super::errors::{describe, failure};
use super::graphs::Graphs;
use super::queue::{Command, Commands};
use super::staging::{STAGED, Staging};
use crate::backend::Plans;
use crate::{Error, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::mem;

/// The kernels, one module per precision. `tests/cuda_kernels.sh` makes them.
const PTX_F32: &str = include_str!("ptx/f32.ptx");
const PTX_BF16: &str = include_str!("ptx/bf16.ptx");

/// An open card with its kernels loaded.
#[derive(Debug)]
pub struct Driver {
    precision: Precision,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    module: sys::CUmodule,
    functions: HashMap<&'static str, sys::CUfunction>,
    cublaslt: Option<CublasLt>,
    /// Memory that was not given back yet.
    memory: Vec<Ptr>,
    staging: [Staging; 4],
    /// Which of them the next upload takes.
    next: usize,
    /// What the card was not told of yet.
    queued: Commands,
    graphs: Graphs,
    /// The first failure; nothing is queued after it.
    failed: Option<String>,
}

impl Driver {
    /// Opens a card by its number.
    ///
    /// # Errors
    /// No driver, no such card, a card or driver that is too old; the text says what to do.
    pub fn open(index: usize, precision: Precision) -> Result<Self> {
        let cards = cards()?;
        let card = cards.get(index).ok_or_else(|| {
            Error::Device(format!(
                "there is no card {index}: {} found (`xelm devices` lists them)",
                cards.len()
            ))
        })?;
        if let Some(why) = card.unfit() {
            return Err(Error::Device(format!("card {index}, {}: {why}", card.name)));
        }
        let wrong = || failure("open the card");
        let device = result::device::get(index as i32).map_err(wrong())?;
        // SAFETY: `device` comes from the driver; `drop` releases the context.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(wrong())?;
        // SAFETY: the context was just retained.
        unsafe { result::ctx::set_current(context) }.map_err(wrong())?;
        let stream =
            result::stream::create(result::stream::StreamKind::NonBlocking).map_err(wrong())?;
        let ptx = match precision {
            Precision::F32 => PTX_F32,
            Precision::Bf16 => PTX_BF16,
        };
        let image = CString::new(ptx).expect("PTX is text");
        // SAFETY: the image is PTX that ends in a zero byte.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) };
        let module = module.map_err(failure("load the kernels"))?;
        let stage = || Staging::new().map_err(wrong());
        Ok(Driver {
            precision,
            device,
            context,
            stream,
            module,
            functions: HashMap::new(),
            cublaslt: has_cublaslt().then(|| CublasLt::new(&card.name, stream)).flatten(),
            staging: [stage()?, stage()?, stage()?, stage()?],
            memory: Vec::new(),
            next: 0,
            queued: Commands::default(),
            graphs: Graphs::default(),
            failed: None,
        })
    }

    /// The same card without the library for products: our own kernel multiplies.
    pub fn without_cublaslt(mut self) -> Self {
        self.cublaslt = None;
        self
    }

    /// The same card with the library's first proposal for every product, instead of the fastest one.
    pub fn without_timing(mut self) -> Self {
        self.cublaslt.iter_mut().for_each(CublasLt::without_timing);
        self
    }

    /// The same card, told of every kernel by itself.
    pub fn without_graphs(mut self) -> Self {
        self.graphs.off = true;
        self
    }

    /// Makes this card the one that the thread's calls mean: another may have been before.
    fn enter(&mut self) {
        // SAFETY: the context is retained until `drop`.
        let outcome = unsafe { result::ctx::set_current(self.context) };
        self.keep("choose the card", outcome);
    }

    /// The stream of all work; it lives as long as this device.
    pub(super) fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// Whether a failure was noticed, after which nothing is queued.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Whether all that was queued is done.
    ///
    /// # Errors
    /// The first failure.
    pub(super) fn is_done(&mut self) -> Result<bool> {
        self.submit();
        // SAFETY: the stream lives as long as `self`.
        let state = unsafe { sys::cuStreamQuery(self.stream) };
        if state != CUresult::CUDA_ERROR_NOT_READY {
            self.keep("finish the queued work", state.result());
        }
        self.check()?;
        Ok(state == CUresult::CUDA_SUCCESS)
    }

    /// Keeps a call's failure, if it is the first.
    fn keep(&mut self, what: &str, outcome: std::result::Result<(), DriverError>) {
        if let Err(error) = outcome
            && self.failed.is_none()
        {
            self.failed = Some(describe(what, error));
        }
    }

    fn check(&self) -> Result<()> {
        self.failed.as_ref().map_or(Ok(()), |why| Err(Error::Device(why.clone())))
    }

    /// Tells the card of commands, one by one.
    fn perform(&mut self, commands: &Commands) -> std::result::Result<(), String> {
        for (command, args) in commands.iter() {
            match command {
                Command::Clear { at, n_bytes } => {
                    // SAFETY: `at` lies in memory of this device with room for the bytes.
                    unsafe { result::memset_d8_async(at.0, 0, n_bytes, self.stream) }
                        .map_err(|e| describe("clear memory", e))?;
                }
                Command::Launch { kernel, grid, block, .. } => {
                    let function = self.function(kernel)?;
                    // The driver copies each argument's bytes during the call.
                    let mut args: Vec<*mut c_void> = args.iter().map(Arg::as_ptr).collect();
                    let (grid, block) = ((grid[0], grid[1], grid[2]), (block, 1, 1));
                    // SAFETY: the arguments are those of the kernel (the tests run every launch through a
                    // shim that counts them), and the addresses among them lie in memory of this device.
                    unsafe {
                        result::launch_kernel(function, grid, block, 0, self.stream, &mut args)
                    }
                    .map_err(|e| describe(kernel, e))?;
                }
                Command::Multiply(product) => {
                    let library =
                        self.cublaslt.as_ref().expect("it was asked when this was queued");
                    library
                        .multiply(&product, self.precision)
                        .map_err(|e| format!("cuBLASLt cannot multiply {product:?}: {e:?}"))?;
                }
            }
        }
        Ok(())
    }

    fn function(&mut self, name: &'static str) -> std::result::Result<sys::CUfunction, String> {
        if let Some(&function) = self.functions.get(name) {
            return Ok(function);
        }
        let c_name = CString::new(name).expect("a kernel's name");
        // SAFETY: the module lives as long as `self`.
        let function = unsafe { result::module::get_function(self.module, c_name) }
            .map_err(|e| describe(&format!("find the kernel {name}"), e))?;
        self.functions.insert(name, function);
        Ok(function)
    }
}

impl Device for Driver {
    fn precision(&self) -> Precision {
        self.precision
    }

    fn allocate(&mut self, n_bytes: usize) -> Result<Ptr> {
        self.enter();
        self.check()?;
        // SAFETY: memory without type; every kernel that reads it is told its extent.
        let memory = unsafe { result::malloc_sync(n_bytes.max(1)) };
        let memory = memory.map(Ptr).map_err(|error| match error {
            DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY) => Error::Device(format!(
                "the card has no {} MiB left: choose a smaller --micro-batch, --n-ctx or model, or \
                 end what else runs on it",
                n_bytes.div_ceil(1 << 20)
            )),
            error => Error::Device(describe("allocate memory", error)),
        })?;
        self.memory.push(memory);
        Ok(memory)
    }

    fn free(&mut self, memory: Ptr) {
        self.submit();
        // SAFETY: the stream lives as long as `self`.
        let outcome = unsafe { result::stream::synchronize(self.stream) };
        self.keep("finish the queued work", outcome);
        // SAFETY: the caller gives back what `allocate` gave, and nothing uses it any more.
        let outcome = unsafe { result::free_sync(memory.0) };
        self.keep("free memory", outcome);
        self.memory.retain(|&kept| kept != memory);
    }

    fn upload(&mut self, to: Ptr, bytes: &[u8]) {
        self.submit();
        if self.failed.is_some() {
            return;
        }
        let outcome = if bytes.len() <= STAGED {
            self.next = (self.next + 1) % self.staging.len();
            self.staging[self.next].copy(to, bytes, self.stream)
        } else {
            // SAFETY: `to` lies in memory of this device with room for the bytes; the driver has read
            // pageable memory when the call returns.
            unsafe { result::memcpy_htod_async(to.0, bytes, self.stream) }
        };
        self.keep("copy to the card", outcome);
    }

    fn download(&mut self, from: Ptr, bytes: &mut [u8]) -> Result<()> {
        self.submit();
        self.check()?;
        let wrong = || failure("copy from the card");
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }.map_err(wrong())?;
        // SAFETY: `from` lies in memory of this device that holds as many bytes.
        unsafe { result::memcpy_dtoh_sync(bytes, from.0) }.map_err(wrong())
    }

    fn clear(&mut self, at: Ptr, n_bytes: usize) {
        if n_bytes > 0 {
            self.queued.push(Command::Clear { at, n_bytes });
        }
    }

    fn launch(&mut self, kernel: &'static str, grid: [u32; 3], block: u32, args: &[Arg]) {
        self.queued.launch(kernel, grid, block, args);
    }

    fn multiply(&mut self, product: &Product) -> bool {
        let precision = self.precision;
        match self.cublaslt.as_ref().map(|library| library.is_planned(product, precision)) {
            None => return false,
            Some(true) => {}
            // Algorithms that are tried write where what is queued may still read.
            Some(false) => self.submit(),
        }
        let planned = match &mut self.cublaslt {
            Some(library) if self.failed.is_none() => library.plan(product, precision),
            _ => false,
        };
        if planned {
            self.queued.push(Command::Multiply(*product));
        }
        planned
    }

    fn submit(&mut self) {
        self.enter();
        let commands = mem::take(&mut self.queued);
        if self.failed.is_some() || commands.len() == 0 {
            return;
        }
        let mut graphs = mem::take(&mut self.graphs);
        let outcome = graphs.run(commands, self.stream, &mut |commands| self.perform(commands));
        self.graphs = graphs;
        self.failed = outcome.err();
    }

    fn plans(&self) -> Option<Plans> {
        Some(self.cublaslt.as_ref()?.record().clone())
    }

    fn repeat(&mut self, plans: &Plans) -> bool {
        self.submit();
        // They hold the algorithms of before.
        self.graphs.clear();
        self.cublaslt.as_mut().is_some_and(|library| library.repeat(plans))
    }

    fn finish(&mut self) -> Result<()> {
        self.submit();
        self.check()?;
        // SAFETY: the stream lives as long as `self`.
        let outcome = unsafe { result::stream::synchronize(self.stream) };
        self.keep("finish the queued work", outcome);
        self.check()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // A card that failed refuses all of these; there is nobody to tell.
        self.enter();
        // SAFETY: the stream is this device's own and not used again.
        let _ = unsafe { result::stream::synchronize(self.stream) };
        self.graphs.clear();
        self.cublaslt = None;
        // The context may outlive this device: another one may be open on the same card.
        for memory in &self.memory {
            // SAFETY: allocated by this device, and nothing uses it any more.
            let _ = unsafe { result::free_sync(memory.0) };
        }
        self.staging.iter().for_each(Staging::free);
        // SAFETY: nothing of the module runs any more.
        let _ = unsafe { result::module::unload(self.module) };
        // SAFETY: the stream is not used again.
        let _ = unsafe { result::stream::destroy(self.stream) };
        // SAFETY: retained in `open`.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}
