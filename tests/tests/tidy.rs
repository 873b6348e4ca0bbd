//! Rules of the source that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};

/// The files that may say `unsafe`, and what for.
const UNSAFE: &[&str] = &[
    "ffi/src/expert.rs",                  // pointers from C
    "ffi/src/params.rs",                  // pointers from C
    "ffi/src/pointer.rs",                 // pointers from C
    "ffi/src/session.rs",                 // pointers from C
    "ffi/src/set.rs",                     // pointers from C
    "ffi/src/status.rs",                  // reads back a C string, in its tests
    "tests/tests/c_abi.rs",               // calls the C ABI
    "tests/tests/memory.rs",              // a counting allocator
    "xelm-runtime/src/isa.rs",            // calls into functions with target features
    "xelm-runtime/src/mmap.rs",           // mapped files, and what borrows from them
    "xelm-runtime/src/parallel.rs",       // disjoint parts of one output
    "xelm-runtime/src/pool.rs",           // borrowed work on other threads
    "xelm-train/src/backend/cpu/gemm.rs", // calls the GEMM crate
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
