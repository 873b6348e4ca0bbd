//! Carving typed slices out of one block of memory that the caller supplies.

use crate::error::{Error, Result};
use bytemuck::{AnyBitPattern, NoUninit};

/// Alignment that every block handed to the runtime must have, in bytes.
pub const ALIGN: usize = 64;

/// A block of memory being divided, or only measured.
///
/// The same code measures and carves, so a plan is exact by construction. Carved slices keep
/// whatever bytes the memory held: nothing relies on their initial values.
#[derive(Debug)]
pub struct Arena<'m> {
    /// `None` while measuring.
    rest: Option<&'m mut [u8]>,
    used: usize,
}

impl<'m> Arena<'m> {
    /// An arena that only counts; the slices it gives are empty.
    pub const fn measure() -> Self {
        Arena { rest: None, used: 0 }
    }

    /// An arena over `memory`.
    ///
    /// # Errors
    /// [`Error::MemoryMisaligned`] where the memory does not begin at a multiple of [`ALIGN`].
    pub fn new(memory: &'m mut [u8]) -> Result<Self> {
        if memory.as_ptr().addr().is_multiple_of(ALIGN) {
            Ok(Arena { rest: Some(memory), used: 0 })
        } else {
            Err(Error::MemoryMisaligned)
        }
    }

    /// Bytes taken so far, a multiple of [`ALIGN`].
    pub fn used(&self) -> usize {
        self.used
    }

    /// Takes `n` elements, aligned to [`ALIGN`].
    ///
    /// # Errors
    /// [`Error::MemoryTooSmall`] where they do not fit, [`Error::OutOfRange`] where their size does
    /// not fit an address.
    pub fn take<T: NoUninit + AnyBitPattern>(&mut self, n: usize) -> Result<&'m mut [T]> {
        const { assert!(align_of::<T>() <= ALIGN) };
        let too_large = Error::OutOfRange { what: "a memory size" };
        let bytes = n.checked_mul(size_of::<T>()).ok_or(too_large)?;
        let padded = bytes.checked_next_multiple_of(ALIGN).ok_or(too_large)?;
        let used = self.used.checked_add(padded).ok_or(too_large)?;
        if used > isize::MAX as usize {
            return Err(too_large);
        }
        self.used = used;
        let Some(rest) = self.rest.take() else { return Ok(&mut []) };
        let (head, rest) =
            rest.split_at_mut_checked(padded).ok_or(Error::MemoryTooSmall { needed: used })?;
        self.rest = Some(rest);
        let (head, _) = head.split_at_mut(bytes);
        bytemuck::try_cast_slice_mut(head).map_err(|_| Error::MemoryMisaligned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(64))]
    struct Block([u8; 512]);

    #[test]
    fn measuring_equals_carving() {
        let carve = |arena: &mut Arena<'_>| -> Result<()> {
            assert!(arena.take::<f32>(3)?.len() <= 3);
            arena.take::<u8>(65)?;
            arena.take::<u64>(0)?;
            Ok(())
        };
        let mut measured = Arena::measure();
        carve(&mut measured).unwrap();
        assert_eq!(measured.used(), 64 + 128);
        let mut block = Block([0; 512]);
        assert!(carve(&mut Arena::new(&mut block.0[..192]).unwrap()).is_ok());
        assert_eq!(
            carve(&mut Arena::new(&mut block.0[..191]).unwrap()),
            Err(Error::MemoryTooSmall { needed: 192 })
        );
        assert!(matches!(Arena::new(&mut block.0[1..]), Err(Error::MemoryMisaligned)));
    }

    #[test]
    fn absurd_sizes_are_errors() {
        assert!(Arena::measure().take::<u64>(usize::MAX).is_err());
        assert!(Arena::measure().take::<u8>(usize::MAX - 3).is_err());
    }
}
