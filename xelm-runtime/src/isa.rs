//! Instruction sets: which one the CPU has, and running a loop compiled for it.
//!
//! A loop is written once, as a [`Vectorised`] value. [`Isa::run`] compiles it for each instruction set of
//! the architecture (portable; AVX2 and AVX-512, or NEON with dotprod) and calls the one that this CPU supports.
//! AVX-VNNI, which AVX2 lacks and AVX-512 has at its own width, matters to products of bytes alone: other loops run as AVX2.
//! No fused multiply-add is ever formed from separate operations in Rust, so all give the same bits.

/// Proof that the CPU can execute an instruction set: a value exists only where its instructions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Portable,
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    Avx2,
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    AvxVnni,
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// Asks for the cache line at `bytes[at]`, or where it would be behind the end; nothing where the target has no such
/// instruction.
#[inline(always)]
pub(crate) fn prefetch(bytes: &[u8], at: usize) {
    let line = bytes.as_ptr().wrapping_add(at);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction; nothing is read, so that any address will do.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(line.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: every 64-bit ARM has the instruction; nothing is read, so that any address will do.
    unsafe {
        core::arch::asm!("prfm pldl1keep, [{}]", in(reg) line, options(readonly, nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = line;
}

/// A computation that [`Isa::run`] compiles for several instruction sets. `run` and everything it
/// calls in its inner loops must be `#[inline(always)]`, or it is compiled for the baseline only; so are
/// closures and function values, which the inner loops therefore avoid.
pub trait Vectorised {
    /// What the computation returns.
    type Output;
    /// Performs it.
    fn run(self) -> Self::Output;
}

impl Isa {
    /// The instruction set that every CPU of the target has.
    pub const PORTABLE: Isa = Isa(Kind::Portable);

    /// The best one that the program is compiled to rely on, for where the CPU cannot be asked.
    #[cfg(target_arch = "aarch64")]
    pub const COMPILED: Isa =
        if cfg!(target_feature = "dotprod") { Isa(Kind::Neon) } else { Isa::PORTABLE };
    /// The best one that the program is compiled to rely on, for where the CPU cannot be asked.
    #[cfg(not(target_arch = "aarch64"))]
    pub const COMPILED: Isa = Isa::PORTABLE;

    /// The best instruction set of this CPU. `XELM_ISA=portable|avx2|avxvnni|avx512|dotprod` chooses a lesser
    /// one; a name that the CPU does not support is ignored.
    #[cfg(feature = "std")]
    pub fn detect() -> Isa {
        let supported = Isa::supported();
        let wanted = std::env::var("XELM_ISA").ok();
        let named = supported.iter().flatten().find(|isa| wanted.as_deref() == Some(isa.name()));
        named.or(supported.iter().flatten().last()).copied().unwrap_or(Isa::PORTABLE)
    }

    /// Every instruction set that this CPU supports, weakest first.
    #[cfg(feature = "std")]
    pub fn supported() -> [Option<Isa>; 4] {
        #[allow(unused_mut, reason = "only some targets add to it")]
        let mut found = [Some(Isa::PORTABLE), None, None, None];
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            found[1] = Some(Isa(Kind::Neon));
        }
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = std::is_x86_feature_detected!("avx2")
                && std::is_x86_feature_detected!("f16c")
                && std::is_x86_feature_detected!("fma");
            if avx2 {
                found[1] = Some(Isa(Kind::Avx2));
            }
            if avx2 && std::is_x86_feature_detected!("avxvnni") {
                found[2] = Some(Isa(Kind::AvxVnni));
            }
            if avx2
                && std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512dq")
                && std::is_x86_feature_detected!("avx512vl")
                && std::is_x86_feature_detected!("avx512vnni")
            {
                found[3] = Some(Isa(Kind::Avx512));
            }
        }
        found
    }

    /// The name that `XELM_ISA` takes.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            Kind::Avx2 => "avx2",
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            Kind::AvxVnni => "avxvnni",
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "dotprod",
        }
    }

    /// Bytes of its vectors.
    pub const fn vector_bytes(self) -> usize {
        match self.0 {
            Kind::Portable => 16,
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            Kind::Avx2 | Kind::AvxVnni => 32,
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            Kind::Avx512 => 64,
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => 16,
        }
    }

    /// Whether it is AVX2 and one instruction for products of bytes summed in 32 bits.
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    pub(crate) const fn has_avx_vnni(self) -> bool {
        matches!(self.0, Kind::AvxVnni)
    }

    /// Runs `work` compiled for this instruction set.
    #[inline]
    pub fn run<V: Vectorised>(self, work: V) -> V::Output {
        match self.0 {
            Kind::Portable => work.run(),
            // SAFETY: an `Isa` of this kind exists only where `supported` found the features.
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            Kind::Avx2 | Kind::AvxVnni => unsafe { run_avx2(work) },
            // SAFETY: as above.
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            Kind::Avx512 => unsafe { run_avx512(work) },
            // SAFETY: as above, or where the compiler may use the feature anywhere.
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => unsafe { run_neon(work) },
        }
    }
}

#[cfg(all(target_arch = "x86_64", feature = "std"))]
#[target_feature(enable = "avx2,f16c,fma")]
pub(crate) fn run_avx2<V: Vectorised>(work: V) -> V::Output {
    work.run()
}

#[cfg(all(target_arch = "x86_64", feature = "std"))]
#[target_feature(enable = "avx2,f16c,fma,avxvnni")]
pub(crate) fn run_avx_vnni<V: Vectorised>(work: V) -> V::Output {
    work.run()
}

#[cfg(all(target_arch = "x86_64", feature = "std"))]
#[target_feature(enable = "avx2,f16c,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn run_avx512<V: Vectorised>(work: V) -> V::Output {
    work.run()
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
pub(crate) fn run_neon<V: Vectorised>(work: V) -> V::Output {
    work.run()
}
