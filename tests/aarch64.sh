#!/usr/bin/env bash
# The C library for 64-bit ARM, without such a machine.
#
#   tests/aarch64.sh [linux] [phones]
#
#   linux   builds it for aarch64 Linux and runs the C example under qemu, whose output must be that of the
#           x86-64 build; checks the runtime without std, and the alignment of the library's segments
#   phones  type-checks the library for Android and iOS, and the runtime without std for a target without
#           an operating system, against std and core from their source
#
# Without a stage, linux. The compiler for aarch64 is Debian's own (its package of the standard library, 260 MB
# in all), the emulator qemu-user; everything built is kept in target/aarch64. The stage phones needs a
# nightly toolchain with the component rust-src. Exit code 75: what is needed could not be had.
#
# Threads hang in this emulator, so programs run with one.
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

# Builds the C example as generate.$2 with compiler $1; the rest is how to find the library.
build() {
    local cc=$1 kind=$2
    shift 2
    $cc -std=c11 -Wl,--wrap=xelm_params_set_n_threads -I include ffi/examples/generate.c \
        "$cache/one_thread.c" -o "$cache/generate.$kind" "$@"
}

# What a program that links the static library must link besides.
libraries() {
    sed -n 's/^Libs.private: //p' "$cache/$1/lib/pkgconfig/xelm.pc"
}

linux() {
    have_packages > "$cache/apt.log" 2>&1 ||
        unavailable "Debian's packages for aarch64 could not be installed: see $cache/apt.log"
    tests/tiny_run.sh target/tiny/run
    ffi/install.sh --prefix "$cache/x86_64" > /dev/null
    local aarch64=(env RUSTC=/usr/bin/rustc CARGO=/usr/bin/cargo CARGO_TARGET_DIR="$cache"
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc)
    "${aarch64[@]}" ffi/install.sh --prefix "$cache/aarch64" --target $triple > /dev/null
    "${aarch64[@]}" /usr/bin/cargo check --quiet --locked -p xelm-runtime --no-default-features --target $triple

    cat > "$cache/one_thread.c" <<'C'
/* Whatever number of threads the example asks for, it gets one. */
#include <xelm.h>
xelm_status __real_xelm_params_set_n_threads(xelm_params *params, size_t n_threads);
xelm_status __wrap_xelm_params_set_n_threads(xelm_params *params, size_t n_threads) {
    (void)n_threads;
    return __real_xelm_params_set_n_threads(params, 1);
}
C
    build gcc x86_64 "$cache/x86_64/lib/libxelm.a" $(libraries x86_64)
    build aarch64-linux-gnu-gcc static "$cache/aarch64/lib/libxelm.a" $(libraries aarch64)
    build aarch64-linux-gnu-gcc shared -L "$cache/aarch64/lib" -lxelm
    local arguments=("$PWD/target/tiny/run/set-q8_0" de "Am Morgen" 40) kind
    XELM_ISA=portable "$cache/generate.x86_64" "${arguments[@]}" > "$cache/x86_64.out"
    for kind in static shared; do
        timeout 120 qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH="$cache/aarch64/lib" \
            "$cache/generate.$kind" "${arguments[@]}" > "$cache/$kind.out"
        cmp "$cache/x86_64.out" "$cache/$kind.out"
    done

    local segments bad
    segments=$(readelf -lW "$cache/aarch64/lib/libxelm.so" | awk '$1 == "LOAD" { print $NF }')
    # Pages of 16 KiB need segments aligned to a multiple of them.
    bad=$(for align in $segments; do ((align % 0x4000 == 0)) || echo "$align"; done)
    echo "aarch64 Linux: output of the C example equals that of x86-64, static and shared library:" \
        "$(wc -c < "$cache/x86_64.out") bytes"
    echo "aarch64 Linux: runtime without std checked"
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
        linux | phones) $stage ;;
        *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
