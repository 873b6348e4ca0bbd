//! What the CUDA backend asks of a device: memory, copies, launches. The driver provides it on a real
//! card; the tests provide one that runs the same kernels on a CPU.

use crate::Result;
use crate::backend::Plans;
use std::ffi::c_void;
use std::fmt::Debug;

/// The kind of number in which activations and weights are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32 throughout: for comparing with the CPU.
    F32,
    /// bf16 activations and weights, f32 sums, f32 master weights.
    Bf16,
}

impl Precision {
    /// Bytes of an activation.
    pub fn n_bytes(self) -> usize {
        match self {
            Precision::F32 => 4,
            Precision::Bf16 => 2,
        }
    }
}

/// An address in the device's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ptr(pub u64);

impl Ptr {
    /// No memory.
    pub const NULL: Ptr = Ptr(0);

    /// The address `n` bytes further on.
    pub fn offset(self, n: usize) -> Ptr {
        Ptr(self.0 + n as u64)
    }
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the types say it")]
pub enum Arg {
    Ptr(Ptr),
    U32(u32),
    U64(u64),
    F32(f32),
}

impl Arg {
    /// Where the argument's value lies: what a launch wants to know.
    pub fn as_ptr(&self) -> *mut c_void {
        match self {
            Arg::Ptr(Ptr(x)) | Arg::U64(x) => (x as *const u64).cast_mut().cast(),
            Arg::U32(x) => (x as *const u32).cast_mut().cast(),
            Arg::F32(x) => (x as *const f32).cast_mut().cast(),
        }
    }
}

/// How operands of a product are stored, row-major: `N` as they are multiplied, `T` transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// a `[m, k]`, b `[n, k]`: x · weightᵀ.
    NT,
    /// a `[m, k]`, b `[k, n]`: the gradient of an input.
    NN,
    /// a `[k, m]`, b `[k, n]`: the gradient of a weight.
    TN,
}

/// A product of matrices: out `[m, n]` = a · b + bias, in the precision of the device's kernels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// How a and b are stored.
    pub layout: Layout,
    /// Where the result goes.
    pub out: Ptr,
    /// The result is f32, whatever the operands are.
    pub wide: bool,
    /// The result is added to what is there.
    pub accumulate: bool,
    /// Left operand.
    pub a: Ptr,
    /// Right operand.
    pub b: Ptr,
    /// `[n]`, added to every row; null for none.
    pub bias: Ptr,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Numbers in each sum.
    pub k: usize,
}

/// A device in one precision. Calls are queued and carried out in order; the first failure is kept,
/// makes the later calls do nothing, and comes back from [`Device::finish`] and [`Device::download`].
pub trait Device: Debug {
    /// The precision of its kernels.
    fn precision(&self) -> Precision;
    /// New memory, its content arbitrary, aligned to 256 bytes.
    ///
    /// # Errors
    /// There is not as much.
    fn allocate(&mut self, n_bytes: usize) -> Result<Ptr>;
    /// Gives memory back.
    fn free(&mut self, memory: Ptr);
    /// Copies from the host.
    fn upload(&mut self, to: Ptr, bytes: &[u8]);
    /// Copies to the host, when all that was queued before is done.
    ///
    /// # Errors
    /// The device's first failure.
    fn download(&mut self, from: Ptr, bytes: &mut [u8]) -> Result<()>;
    /// Sets bytes to zero.
    fn clear(&mut self, at: Ptr, n_bytes: usize);
    /// Runs a kernel of `grid` blocks of `block` threads.
    fn launch(&mut self, kernel: &'static str, grid: [u32; 3], block: u32, args: &[Arg]);
    /// Multiplies with the vendor's library; false where there is none.
    fn multiply(&mut self, product: &Product) -> bool;
    /// Which of the library's algorithms multiply; none where there is no library.
    fn plans(&self) -> Option<Plans> {
        None
    }
    /// Multiplies from now on as recorded; false where the record is that of another card or library.
    fn repeat(&mut self, plans: &Plans) -> bool {
        let _ = plans;
        false
    }
    /// What was queued since the last call, copy or wait belongs together. Where all of it is queued a second time, a
    /// device may have a faster way.
    fn submit(&mut self) {}
    /// Waits until all that was queued is done.
    ///
    /// # Errors
    /// The device's first failure.
    fn finish(&mut self) -> Result<()>;
}
