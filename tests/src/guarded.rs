//! Memory between pages that nobody may touch.

#![cfg(unix)]

use core::ffi::c_void;
use memmap2::MmapMut;

unsafe extern "C" {
    fn mprotect(address: *mut c_void, len: usize, protection: i32) -> i32;
}

/// A multiple of every page size.
const GUARD: usize = 64 << 10;

/// Memory that begins or ends where a page begins that must not be touched: who does is ended by the
/// operating system. It holds `0xa5`.
#[derive(Debug)]
pub struct Guarded {
    map: MmapMut,
    start: usize,
}

impl Guarded {
    /// `n` bytes at a multiple of `align`.
    pub fn new(n: usize, align: usize, is_at_end: bool) -> Guarded {
        let room = n.next_multiple_of(GUARD);
        let mut map = MmapMut::map_anon(room + 2 * GUARD).expect("memory");
        map.fill(0xa5);
        for guard in [0, GUARD + room] {
            let page = map.as_mut_ptr().wrapping_add(guard);
            // SAFETY: whole pages of the mapping, to which nothing refers.
            let failed = unsafe { mprotect(page.cast(), GUARD, 0) };
            assert_eq!(failed, 0);
        }
        let start = if is_at_end { (GUARD + room - n) / align * align } else { GUARD };
        Guarded { map, start }
    }

    /// Where it begins.
    pub fn address(&mut self) -> *mut u8 {
        self.map[self.start..].as_mut_ptr()
    }

    /// `bytes`, so placed.
    pub fn holding(bytes: &[u8], align: usize, is_at_end: bool) -> Guarded {
        let mut guarded = Guarded::new(bytes.len(), align, is_at_end);
        let start = guarded.start;
        guarded.map[start..start + bytes.len()].copy_from_slice(bytes);
        guarded
    }
}
