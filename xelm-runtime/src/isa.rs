//! Instruction sets: which one the CPU has, and running a loop compiled for it.
//!
//! A loop is written once, as a [`Vectorised`] value. [`Isa::run`] compiles it three times
//! (portable, AVX2, AVX-512) and calls the one that this CPU supports. No fused multiply-add is
//! ever formed from separate operations in Rust, so all three give the same bits.

/// Proof that the CPU can execute an instruction set: a value exists only where its instructions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Portable,
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    Avx2,
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    Avx512,
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

    /// The best instruction set of this CPU. With `std`, `XELM_ISA=portable|avx2|avx512` chooses a
    /// lesser one; a name that the CPU does not support is ignored.
    #[cfg(feature = "std")]
    pub fn detect() -> Isa {
        let supported = Isa::supported();
        let wanted = std::env::var("XELM_ISA").ok();
        let named = supported.iter().flatten().find(|isa| wanted.as_deref() == Some(isa.name()));
        named.or(supported.iter().flatten().last()).copied().unwrap_or(Isa::PORTABLE)
    }

    /// Every instruction set that this CPU supports, weakest first.
    #[cfg(feature = "std")]
    pub fn supported() -> [Option<Isa>; 3] {
        #[allow(unused_mut, reason = "only some targets add to it")]
        let mut found = [Some(Isa::PORTABLE), None, None];
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        {
            let avx2 = std::is_x86_feature_detected!("avx2")
                && std::is_x86_feature_detected!("f16c")
                && std::is_x86_feature_detected!("fma");
            if avx2 {
                found[1] = Some(Isa(Kind::Avx2));
            }
            if avx2
                && std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512dq")
                && std::is_x86_feature_detected!("avx512vl")
                && std::is_x86_feature_detected!("avx512vnni")
            {
                found[2] = Some(Isa(Kind::Avx512));
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
            Kind::Avx512 => "avx512",
        }
    }

    /// Bytes of its vectors.
    pub const fn vector_bytes(self) -> usize {
        match self.0 {
            Kind::Portable => 16,
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            Kind::Avx2 => 32,
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            Kind::Avx512 => 64,
        }
    }

    /// Runs `work` compiled for this instruction set.
    #[inline]
    pub fn run<V: Vectorised>(self, work: V) -> V::Output {
        match self.0 {
            Kind::Portable => work.run(),
            // SAFETY: an `Isa` of this kind exists only where `supported` found the features.
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            Kind::Avx2 => unsafe { run_avx2(work) },
            // SAFETY: as above.
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            Kind::Avx512 => unsafe { run_avx512(work) },
        }
    }
}

#[cfg(all(target_arch = "x86_64", feature = "std"))]
#[target_feature(enable = "avx2,f16c,fma")]
fn run_avx2<V: Vectorised>(work: V) -> V::Output {
    work.run()
}

#[cfg(all(target_arch = "x86_64", feature = "std"))]
#[target_feature(enable = "avx2,f16c,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn run_avx512<V: Vectorised>(work: V) -> V::Output {
    work.run()
}
