//! Rules of the source that no compiler checks.

use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use xelm_runtime::tokenizer::hex;

/// The files that may say `unsafe`, and what for.
const UNSAFE: &[&str] = &[
    "ffi/src/ensemble.rs",                       // pointers from C
    "ffi/src/expert.rs",                         // pointers from C
    "ffi/src/log.rs",                            // calls the app's callback
    "ffi/src/params.rs",                         // pointers from C
    "ffi/src/pointer.rs",                        // pointers from C
    "ffi/src/session.rs",                        // pointers from C
    "ffi/src/set.rs",                            // pointers from C
    "ffi/src/source.rs",                         // bytes that stay where they are
    "ffi/src/state.rs",                          // pointers from C
    "ffi/src/status.rs",                         // reads back a C string, in its tests
    "ffi/src/text.rs",                           // pointers from C
    "tests/src/c_abi.rs",                        // calls the C ABI
    "tests/src/counting.rs",                     // a counting allocator
    "tests/src/guarded.rs",                      // memory between guard pages
    "tests/src/shim.rs",                         // calls the kernels compiled for the CPU
    "tests/tests/c_abi.rs",                      // calls the C ABI
    "tests/tests/c_abi_device.rs",               // calls the C ABI
    "tests/tests/c_abi_ensembles.rs",            // calls the C ABI
    "tests/tests/c_abi_memory.rs",               // calls the C ABI
    "tests/tests/c_abi_states.rs",               // calls the C ABI
    "tests/tests/ensemble.rs",                   // an executor that cancels
    "xelm-runtime/src/crew.rs",                  // borrowed work on other threads
    "xelm-runtime/src/cuda/driver.rs",           // calls the CUDA driver
    "xelm-runtime/src/isa.rs",                   // calls into functions with target features
    "xelm-runtime/src/kernels/avx2.rs",          // vector instructions
    "xelm-runtime/src/kernels/avx512.rs",        // vector instructions
    "xelm-runtime/src/kernels/neon.rs",          // vector instructions
    "xelm-runtime/src/kernels/simd.rs",          // loads, calls of vector instructions
    "xelm-runtime/src/mmap.rs",                  // mapped files, and what borrows from them
    "xelm-runtime/src/parallel.rs",              // disjoint parts of one output
    "xelm-runtime/src/pool.rs",                  // passes on the promise of its crew
    "xelm-train/src/backend/cpu/gemm/tiles.rs",  // vector registers and pointers
    "xelm-train/src/backend/cpu/gemm/vector.rs", // vector instructions
    "xelm-train/src/backend/cuda/cards.rs",      // calls the CUDA driver
    "xelm-train/src/backend/cuda/clock.rs",      // calls the CUDA driver
    "xelm-train/src/backend/cuda/cublaslt.rs",   // calls the cuBLASLt library
    "xelm-train/src/backend/cuda/driver.rs",     // calls the CUDA driver
    "xelm-train/src/backend/cuda/graphs.rs",     // calls the CUDA driver
    "xelm-train/src/backend/cuda/nccl.rs",       // calls the NCCL library
    "xelm-train/src/backend/cuda/plan.rs",       // calls the cuBLASLt library
    "xelm-train/src/backend/cuda/staging.rs",    // calls the CUDA driver
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn unsafe_is_where_it_is_meant_to_be() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    sources(root, &mut files);
    assert!(files.len() > 50);
    let mut found = Vec::new();
    for path in files {
        let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        let source = fs::read_to_string(&path).unwrap();
        // Attributes and signatures need no promise; blocks, impls and traits do.
        let promises = ["unsafe {", "unsafe impl", "unsafe trait"];
        let says = source.lines().filter(|l| !l.trim_start().starts_with("//"));
        if name != "tests/tests/tidy.rs" && { says }.any(|l| promises.iter().any(|p| l.contains(p)))
        {
            found.push(name);
        }
    }
    found.sort();
    assert_eq!(found, UNSAFE);
}

/// The committed PTX belongs to the committed kernels: `tests/cuda_kernels.sh --update` writes both the
/// PTX and the hashes of what it was made from.
#[test]
fn the_ptx_is_made_from_these_kernels() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for cuda in ["xelm-train/src/backend/cuda", "xelm-runtime/src/cuda"].map(|at| root.join(at)) {
        let mut found = Vec::new();
        for folder in ["kernels", "ptx"] {
            for entry in fs::read_dir(cuda.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if name != "sha256" {
                    let hash = Sha256::digest(fs::read(&path).unwrap());
                    found.push(format!("{}  {folder}/{name}", hex(&hash)));
                }
            }
        }
        found.sort_by(|a, b| a[64..].cmp(&b[64..]));
        let written = fs::read_to_string(cuda.join("ptx/sha256")).unwrap();
        assert_eq!(found, written.lines().collect::<Vec<_>>());
    }
}
