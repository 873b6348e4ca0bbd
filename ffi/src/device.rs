//! Cards: opened where the library was built for them, an error where it was not.

use xelm_runtime::Error;
use xelm_runtime::device::Device;
use xelm_runtime::ensemble::Ensemble;
use xelm_runtime::session::Options;
#[cfg(feature = "cuda")]
use xelm_runtime::session::Session;

/// A card that computes a session's passes.
#[cfg(feature = "cuda")]
pub(crate) type Card = xelm_runtime::cuda::Cuda;
/// What there is none of in a library without CUDA.
#[cfg(not(feature = "cuda"))]
#[derive(Debug)]
pub(crate) enum Card {}

/// Bytes of a card's memory that a session takes; 0 where none computes.
#[cfg(feature = "cuda")]
pub(crate) fn planned(ensemble: Ensemble<'_>, options: &Options) -> Result<usize, Error> {
    if !options.on_device {
        return Ok(0);
    }
    let needs = Session::needs(ensemble, options)?;
    Ok(xelm_runtime::cuda::plan(ensemble, &needs)?.total)
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn planned(_: Ensemble<'_>, options: &Options) -> Result<usize, Error> {
    if options.on_device { Err(NOT_BUILT) } else { Ok(0) }
}

/// Opens the card with a number.
#[cfg(feature = "cuda")]
pub(crate) fn open(index: usize, ensemble: Ensemble<'_>, options: &Options) -> Result<Card, Error> {
    Card::open(index, ensemble, &Session::needs(ensemble, options)?)
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn open(_: usize, _: Ensemble<'_>, _: &Options) -> Result<Card, Error> {
    Err(NOT_BUILT)
}

/// The card as a session takes it.
#[cfg(feature = "cuda")]
pub(crate) fn of(card: &mut Card) -> &mut dyn Device {
    card
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn of(card: &mut Card) -> &mut dyn Device {
    match *card {}
}

#[cfg(not(feature = "cuda"))]
const NOT_BUILT: Error =
    Error::Device { what: "this library was built without CUDA (its feature `cuda`)", code: 0 };
