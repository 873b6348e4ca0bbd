#!/usr/bin/env bash
# The C library for 64-bit ARM, without such a machine.
#
#   tests/aarch64.sh [linux] [phones]
#
#   linux   compares the runtime's kernels with the portable ones under qemu, on a CPU with dotprod and on one
#           without. Builds the library for aarch64 Linux, as installed and without std, and runs the C
#           examples with the small model of tests/fixtures/tiny: the text must be golden.txt's, which x86-64
#           writes. Checks the alignment of the shared library's segments
#   phones  type-checks the library for Android and iOS, and the runtime without std for a target without
#           an operating system, against std and core from their source
#
# Without a stage, linux. The compiler for aarch64 is Debian's own (its package of the standard library, 260 MB
# in all), the emulator qemu-user; everything built is kept in target/aarch64. The stage phones needs a
# nightly toolchain with the component rust-src. Exit code 75: what is needed could not be had.
#
# Threads hang in this emulator: the examples have one.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=$PWD/target/aarch64
triple=aarch64-unknown-linux-gnu
packages="rustc-web cargo-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
mkdir -p "$cache"

unavailable() {
    echo "tests/aarch64.sh: $*" >&2
    exit 75
}

# Whether all packages are there, or could be installed.
have_packages() {
    dpkg -s $packages > /dev/null 2>&1 && return
    [ "$(dpkg --print-architecture)" = amd64 ] && [ "$(id -u)" = 0 ] || return
    dpkg --add-architecture arm64 && apt-get update &&
        apt-get install --yes --no-install-recommends $packages
}

# Runs a program on an emulated machine with CPU $1.
emulated() {
    timeout 120 qemu-aarch64 -cpu "$1" -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH="$cache/installed/lib" \
        "${@:2}"
}

linux() {
    have_packages > "$cache/apt.log" 2>&1 ||
        unavailable "Debian's packages for aarch64 could not be installed: see $cache/apt.log"
    local model=$PWD/tests/fixtures/tiny/expert.gguf program cpu
    # Cargo has folders of its own in the cache, one of them named embedded.
    local out=$cache/programs
    mkdir -p "$out"
    export RUSTC=/usr/bin/rustc CARGO=/usr/bin/cargo CARGO_TARGET_DIR=$cache
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    # Cargo runs `echo` with the program's path.
    local kernels
    kernels=$(CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=echo \
        $CARGO test --quiet --locked --release -p xelm-runtime --test kernels --target $triple)
    [ "$(emulated max "$kernels")" = "kernels: portable dotprod" ]
    [ "$(emulated cortex-a53 "$kernels")" = "kernels: portable" ]
    echo "aarch64 Linux: the kernels give the portable ones' bits"

    ffi/install.sh --prefix "$cache/installed" --target $triple > /dev/null
    $CARGO rustc --quiet --locked -p xelm-ffi --lib --profile embedded --no-default-features \
        --crate-type staticlib --target $triple
    local cc="aarch64-linux-gnu-gcc -std=c11 -Wall -Wextra -Werror -I include"
    local libraries
    libraries=$(sed -n 's/^Libs.private: //p' "$cache/installed/lib/pkgconfig/xelm.pc")
    $cc ffi/examples/generate.c -o "$out/static" "$cache/installed/lib/libxelm.a" $libraries
    $cc ffi/examples/generate.c -o "$out/shared" -L "$cache/installed/lib" -lxelm
    $cc -DMODEL="\"$model\"" ffi/examples/embedded.c -o "$out/embedded" "$cache/$triple/embedded/libxelm.a"
    head -n 1 tests/fixtures/tiny/golden.txt > "$out/golden.out"
    for cpu in max cortex-a53; do
        emulated $cpu "$out/static" "$model" - "Am Morgen" 200 > "$out/static.out"
        emulated $cpu "$out/shared" "$model" - "Am Morgen" 200 > "$out/shared.out"
        emulated $cpu "$out/embedded" > "$out/embedded.out"
        for program in static shared embedded; do
            cmp "$out/golden.out" "$out/$program.out"
        done
    done

    local segments bad
    segments=$(readelf -lW "$cache/installed/lib/libxelm.so" | awk '$1 == "LOAD" { print $NF }')
    # Pages of 16 KiB need segments aligned to a multiple of them.
    bad=$(for align in $segments; do ((align % 0x4000 == 0)) || echo "$align"; done)
    echo "aarch64 Linux: static library, shared library and library without std write the golden text"
    echo "aarch64 Linux: LOAD segments aligned to" $segments
    [ -n "$segments" ] && [ -z "$bad" ]
}

# Type-checks for target $1 with $2 of std from its source; the rest says what. std's own dependencies come
# from crates.io.
checked() {
    local target=$1 std=$2
    shift 2
    cargo +nightly check --quiet --target-dir "$cache/phones" -Z build-std="$std" --target "$target" "$@"
    echo "$target: type-checked, $*"
}

phones() {
    local sysroot target
    sysroot=$(rustc +nightly --print sysroot 2> "$cache/nightly.log") &&
        [ -d "$sysroot/lib/rustlib/src/rust/library" ] ||
        unavailable "no nightly toolchain with the component rust-src"
    for target in aarch64-linux-android aarch64-apple-ios aarch64-apple-ios-sim; do
        checked $target std,panic_abort -p xelm-ffi
    done
    checked aarch64-unknown-none core -p xelm-runtime --no-default-features
}

for stage in ${*:-linux}; do
    case $stage in
        linux | phones) ($stage) ;;
        *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
