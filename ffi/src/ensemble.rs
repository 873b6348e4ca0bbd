//! Ensembles: experts of a set that sessions mix.

use crate::expert::xelm_expert;
use crate::params::{self, Params, xelm_params};
use crate::pointer::{self, Handle, Out, header_size, place};
use crate::set::xelm_set;
use crate::status::{Failure, XELM_ALIGN, status_of, xelm_status};
use core::ffi::c_void;
use core::mem::MaybeUninit;
use xelm_runtime::Error;
use xelm_runtime::ensemble::{Active, Ensemble};
use xelm_runtime::expert::Expert;

/// Experts of a set, weighed by its router. Immutable: any number of sessions and threads may use it.
#[derive(Debug)]
pub struct xelm_ensemble {
    magic: u64,
    /// Borrows from the experts, from the set, and from the table behind this header.
    ensemble: Ensemble<'static>,
}

/// An expert that takes part in a step, and its share of the mixture.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct xelm_active {
    /// Index in the set; 0 where a session runs one expert.
    pub expert: u32,
    /// Weight; those of a step sum to 1.
    pub weight: f32,
}

const _: () = assert!(size_of::<xelm_active>() == size_of::<Active>());
const _: () =
    assert!(core::mem::offset_of!(xelm_active, weight) == core::mem::offset_of!(Active, weight));

impl Handle for xelm_ensemble {
    const KIND: &'static str = "ensemble";
    const MAGIC: u64 = u64::from_le_bytes(*b"xelmens1");
    const MAGIC_AT: usize = core::mem::offset_of!(xelm_ensemble, magic);
}

impl xelm_ensemble {
    /// The ensemble behind a pointer from C.
    ///
    /// # Safety
    /// As the header says of handles.
    pub(crate) unsafe fn get(
        ensemble: *const xelm_ensemble,
    ) -> Result<Ensemble<'static>, Failure<'static>> {
        // SAFETY: the caller's promise is the one that `checked` asks for.
        let ensemble = unsafe { pointer::checked(ensemble) }?;
        // SAFETY: an open handle, which is never changed before it is closed.
        Ok(unsafe { (*ensemble).ensemble })
    }
}

/// An entry of the table behind the handle.
type Member = Option<&'static Expert<'static>>;

/// Bytes that an ensemble of `n_experts` takes of the caller's memory, present or not.
#[unsafe(no_mangle)]
pub extern "C" fn xelm_ensemble_size(n_experts: usize) -> usize {
    header_size::<xelm_ensemble>().saturating_add(n_experts.saturating_mul(size_of::<Member>()))
}

/// Makes an ensemble of a set's experts: `experts` has one pointer for each expert of the set, NULL for
/// those that are not present or shall not take part. They must share dimensions and vocabulary. The
/// set and the experts stay open while the ensemble is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_ensemble_open(
    params: *mut xelm_params,
    set: *const xelm_set,
    experts: *const *const xelm_expert,
    n_experts: usize,
    memory: *mut c_void,
    memory_len: usize,
    ensemble: *mut *mut xelm_ensemble,
) -> xelm_status {
    const { assert!(align_of::<Member>() <= XELM_ALIGN) };
    let work = |params: &mut Params| {
        // SAFETY: the header's rules for handles, inputs, memory and outputs.
        let (set, out, experts, (header, rest)) = unsafe {
            let experts = pointer::items(experts, n_experts, "experts")?;
            let out = Out::new(ensemble, "ensemble")?;
            (xelm_set::get(set)?, out, experts, place::<xelm_ensemble>(memory, memory_len)?)
        };
        if n_experts != set.tables().len() {
            return Err(Error::ExpertsDiffer { what: "number from their set" }.into());
        }
        let needed = xelm_ensemble_size(n_experts);
        if memory_len < needed {
            return Err(Error::MemoryTooSmall { needed }.into());
        }
        let table: *mut MaybeUninit<Member> = rest.as_mut_ptr().cast();
        // SAFETY: `needed` has been compared with the memory, which is aligned and used by nothing
        // else.
        let table = unsafe { core::slice::from_raw_parts_mut(table, n_experts) };
        for (member, &expert) in table.iter_mut().zip(experts) {
            member.write(match expert.is_null() {
                true => None,
                // SAFETY: the header's rule for handles; they stay open while the ensemble is.
                false => Some(unsafe { xelm_expert::get(expert) }?),
            });
        }
        // SAFETY: every element has just been written.
        let table = unsafe { &*(core::ptr::from_ref(table) as *const [Member]) };
        let made = Ensemble::new(table, set.router())?;
        let (n, bytes) = (made.n_present(), made.weight_bytes());
        params.log().info(format_args!("ensemble: {n} of {n_experts} experts, {bytes} bytes"));
        out.set(header.write(xelm_ensemble { magic: xelm_ensemble::MAGIC, ensemble: made }));
        Ok(())
    };
    // SAFETY: the header's rule for params.
    unsafe { params::with(params, work) }
}

/// Closes an ensemble. Its sessions must be closed before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xelm_ensemble_close(ensemble: *mut xelm_ensemble) -> xelm_status {
    // SAFETY: the header's rule for closing.
    status_of(|| unsafe { pointer::close(ensemble) })
}
