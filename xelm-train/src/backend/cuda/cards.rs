//! The cards of a machine.

#![allow(unsafe_code, reason = "the driver is a C library")]

use super::errors::failure;
use crate::{Error, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};

/// What the PTX and bf16's matrix instructions need.
const MIN_COMPUTE: (i32, i32) = (8, 0);

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

impl Card {
    /// Why the kernels cannot run on this card, if so.
    pub fn unfit(&self) -> Option<String> {
        (self.compute < MIN_COMPUTE).then(|| {
            format!(
                "compute capability {}.{}; {}.{} (Ampere) or later is needed",
                self.compute.0, self.compute.1, MIN_COMPUTE.0, MIN_COMPUTE.1
            )
        })
    }
}

/// The cards of this machine.
///
/// # Errors
/// There is no driver, or it does not work; the text says what to do.
pub fn cards() -> Result<Vec<Card>> {
    // SAFETY: opens the driver's library, whose initialisers are NVIDIA's.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Device(
            "no NVIDIA driver on this machine (libcuda.so.1 is missing): install the driver, or \
             compute on the CPU with --device cpu"
                .into(),
        ));
    }
    match result::init() {
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(Vec::new()),
        other => other.map_err(failure("start the driver"))?,
    }
    let n = result::device::get_count().map_err(failure("count the cards"))?;
    (0..n).map(card).collect()
}

fn card(index: i32) -> Result<Card> {
    let wrong = || failure("ask for a card's properties");
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

/// Whether the library for matrix products is installed; without it our own kernel multiplies.
pub fn has_cublaslt() -> bool {
    // SAFETY: opens NVIDIA's library, whose initialisers are NVIDIA's.
    unsafe { cudarc::cublaslt::sys::is_culib_present() }
}
