//! How the shared library is linked.
//!
//! What it exports needs no list here: rustc gives the linker one of the `#[no_mangle]` functions,
//! all of which are `xelm_*`, and `tests/c_abi.sh` checks that nothing else is visible.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |what: &str| env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    let major = env::var("CARGO_PKG_VERSION_MAJOR").unwrap_or_default();
    let link = |arg: &str| println!("cargo::rustc-cdylib-link-arg=-Wl,{arg}");
    match target("OS").as_str() {
        "linux" | "freebsd" | "netbsd" | "openbsd" | "dragonfly" => {
            link(&format!("-soname,libxelm.so.{major}"));
        }
        // An application's own copy: Android installs no names with versions. Devices with pages of
        // 16 KiB refuse libraries whose segments are aligned to less. On other 64-bit ARM systems the
        // linker's own alignment of 64 KiB serves every page size that their kernels have.
        "android" => {
            link("-soname,libxelm.so");
            link("-z,max-page-size=16384");
        }
        "macos" => link(&format!("-install_name,@rpath/libxelm.{major}.dylib")),
        _ => {}
    }
}
