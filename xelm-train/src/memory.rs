//! Heap memory for the runtime's plans.

/// Heap memory with the alignment that the runtime asks for.
#[derive(Debug)]
pub struct Memory(Vec<Line>, usize);

#[derive(Clone, Copy, Debug, bytemuck::NoUninit, bytemuck::AnyBitPattern)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Memory {
    /// `n` bytes.
    pub fn new(n: usize) -> Self {
        Memory(vec![Line([0; 64]); n.div_ceil(64)], n)
    }

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.0)[..self.1]
    }
}
