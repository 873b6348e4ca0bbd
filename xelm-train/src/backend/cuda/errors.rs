//! What the driver's errors mean.

use crate::Error;
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::CUresult;

/// The same as an error.
pub(super) fn failure(what: &str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Device(describe(what, error))
}

/// One line: what failed, why, what to do.
pub(super) fn describe(what: &str, error: DriverError) -> String {
    let name = error.error_name().map_or("an unknown error".into(), |s| s.to_string_lossy());
    let advice = match error.0 {
        CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => ": the driver is older than 530; update it",
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => ": the card is too old for these kernels",
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => ": the card is full; end what else runs on it",
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            ": the driver was updated without a restart; restart the machine"
        }
        _ => "; the last checkpoint is kept: run the command again to resume",
    };
    format!("cannot {what} ({name}){advice}")
}
