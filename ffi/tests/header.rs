//! The committed header is what cbindgen makes of the source.

use std::path::Path;

/// `XELM_UPDATE=1 cargo test -p xelm-ffi --test header` writes it anew.
#[test]
fn header_is_up_to_date() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = package.join("../include/xelm.h");
    let config = cbindgen::Config::from_file(package.join("cbindgen.toml")).unwrap();
    let bindings = cbindgen::Builder::new()
        .with_config(config)
        .with_src(package.join("src/status.rs"))
        .with_src(package.join("src/log.rs"))
        .with_src(package.join("src/params.rs"))
        .with_src(package.join("src/set.rs"))
        .with_src(package.join("src/expert.rs"))
        .with_src(package.join("src/ensemble.rs"))
        .with_src(package.join("src/session.rs"))
        .with_src(package.join("src/text.rs"))
        .with_src(package.join("src/state.rs"))
        .generate()
        .unwrap();
    let mut header = Vec::new();
    bindings.write(&mut header);
    if std::env::var_os("XELM_UPDATE").is_some() {
        std::fs::write(&path, &header).unwrap();
    }
    let committed = std::fs::read(&path).unwrap();
    assert!(committed == header, "include/xelm.h is out of date: run with XELM_UPDATE=1");
}
