//! Which kernel multiplies, and the sizes of its tiles.

use xelm_runtime::isa::Isa;

/// Rows of the left factor that are packed together, about: with [`BLOCK_INNER`] numbers each they stay in a cache of
/// the second level.
const BLOCK_ROWS: usize = 144;

/// Packed numbers along the inner dimension that a tile sums before it goes to memory.
pub(super) const BLOCK_INNER: usize = 512;

/// How products are computed. The sums of every f32 kernel that fuses are the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cpu) struct Kernel {
    isa: Isa,
    variant: Variant,
}

/// A loop over tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    Portable,
    PortableBf16,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
}

impl Kernel {
    /// f32 throughout.
    pub(in crate::backend::cpu) fn f32(isa: Isa) -> Kernel {
        let variant = match isa.vector_bytes() {
            #[cfg(target_arch = "x86_64")]
            64 => Variant::Avx512,
            #[cfg(target_arch = "x86_64")]
            32 => Variant::Avx2,
            _ => Variant::Portable,
        };
        Kernel { isa, variant }
    }

    /// Factors rounded to bf16, sums in f32: in hardware where [`Kernel::has_bf16`], slowly elsewhere.
    pub(in crate::backend::cpu) fn bf16(isa: Isa) -> Kernel {
        let variant = match Kernel::has_bf16(isa) {
            #[cfg(target_arch = "x86_64")]
            true => Variant::Avx512Bf16,
            _ => Variant::PortableBf16,
        };
        Kernel { isa, variant }
    }

    /// Whether the CPU multiplies bf16, and `isa` lets it.
    pub(in crate::backend::cpu) fn has_bf16(isa: Isa) -> bool {
        #[cfg(target_arch = "x86_64")]
        let found = std::is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        let found = false;
        found && isa.vector_bytes() == 64
    }

    /// The loop; the CPU has its instructions.
    pub(super) fn variant(self) -> Variant {
        self.variant
    }

    /// The instruction set that everything but the products is compiled for.
    pub(super) fn isa(self) -> Isa {
        self.isa
    }

    /// Rows of a tile: with two vectors of sums in each, as many as leave registers for a row of the right factor and
    /// a number of the left.
    pub(super) fn rows(self) -> usize {
        match self.variant {
            Variant::Portable | Variant::PortableBf16 => PORTABLE_ROWS,
            #[cfg(target_arch = "x86_64")]
            Variant::Avx2 => AVX2_ROWS,
            #[cfg(target_arch = "x86_64")]
            Variant::Avx512 | Variant::Avx512Bf16 => AVX512_ROWS,
        }
    }

    /// Columns of a tile.
    pub(super) fn columns(self) -> usize {
        match self.variant {
            Variant::Portable | Variant::PortableBf16 => 8,
            #[cfg(target_arch = "x86_64")]
            Variant::Avx2 => 16,
            #[cfg(target_arch = "x86_64")]
            Variant::Avx512 | Variant::Avx512Bf16 => 32,
        }
    }

    /// Numbers along the inner dimension in a packed number.
    pub(super) fn depth(self) -> usize {
        match self.variant {
            Variant::PortableBf16 => 2,
            #[cfg(target_arch = "x86_64")]
            Variant::Avx512Bf16 => 2,
            _ => 1,
        }
    }

    /// Most tiles one below the other in a product.
    pub(super) fn block_tiles(self) -> usize {
        BLOCK_ROWS / self.rows()
    }
}

/// NEON has twice the registers of SSE.
pub(super) const PORTABLE_ROWS: usize = if cfg!(target_arch = "aarch64") { 12 } else { 6 };
#[cfg(target_arch = "x86_64")]
pub(super) const AVX2_ROWS: usize = 6;
#[cfg(target_arch = "x86_64")]
pub(super) const AVX512_ROWS: usize = 14;
