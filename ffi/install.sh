#!/bin/sh
# Builds the C library and installs it, with what pkg-config and CMake need to find it.
#
#   ffi/install.sh [--prefix DIR] [--target TRIPLE] [--static-only] [--cuda]
#
#   --prefix DIR      where to; the default is /usr/local
#   --target TRIPLE   for another machine than this one (a target of `rustup target add`)
#   --static-only     libxelm.a alone, without the shared library
#   --cuda            for NVIDIA cards, too; the driver is looked for at run time
#
# DESTDIR is put in front of the prefix, as package builders expect. The installed tree may be moved.
# Needs cargo, nothing else.
set -eu

prefix=/usr/local
target=
static_only=
features=
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) prefix=${2:?"--prefix needs a folder"}; shift ;;
        --prefix=*) prefix=${1#*=} ;;
        --target) target=${2:?"--target needs a triple"}; shift ;;
        --target=*) target=${1#*=} ;;
        --static-only) static_only=1 ;;
        --cuda) features=cuda ;;
        *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done
case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
major=${version%%.*}
crate_types=cdylib,staticlib
[ -z "$static_only" ] || crate_types=staticlib
built=${CARGO_TARGET_DIR:-target}/${target:+$target/}release
log=${CARGO_TARGET_DIR:-target}/install.log
mkdir -p "${CARGO_TARGET_DIR:-target}"

echo "building libxelm $version" >&2
"${CARGO:-cargo}" rustc --color never --release --locked -p xelm-ffi --lib --crate-type "$crate_types" \
    ${target:+--target "$target"} ${features:+--features "$features"} -- --print native-static-libs 2> "$log" || { cat "$log" >&2; exit 1; }
# What a program that links the static library must link besides, as rustc says.
libs=$(sed -n 's/^note: native-static-libs: //p' "$log")
[ -n "$libs" ] || { echo "rustc named no libraries: see $log" >&2; exit 1; }

to=${DESTDIR:-}$prefix
mkdir -p "$to/include" "$to/lib/pkgconfig" "$to/lib/cmake/xelm"
copy() {
    cp "$1" "$2"
    chmod "$3" "$2"
    echo "$2"
}
# A file of ffi/install with the names that differ from build to build filled in.
fill() {
    sed -e "s|@VERSION@|$version|" -e "s|@SHARED@|$shared|" -e "s|@PUBLIC_LIBS@|$public_libs|" \
        -e "s|@PRIVATE_LIBS@|$libs|" -e "s|@PRIVATE_LIST@|$(echo "$libs" | tr ' ' ';')|" \
        "ffi/install/$1.in" > "$to/lib/$2"
    chmod 644 "$to/lib/$2"
    echo "$to/lib/$2"
}

for header in include/xelm.h include/xelm.hpp; do
    [ ! -e "$header" ] || copy "$header" "$to/$header" 644
done
copy "$built/libxelm.a" "$to/lib/libxelm.a" 644
shared=
public_libs=$libs
if [ -z "$static_only" ]; then
    if [ -e "$built/libxelm.dylib" ]; then
        shared=libxelm.$major.dylib
        plain=libxelm.dylib
    else
        shared=libxelm.so.$major
        plain=libxelm.so
    fi
    public_libs=
    copy "$built/$plain" "$to/lib/$shared" 755
    ln -sf "$shared" "$to/lib/$plain"
    echo "$to/lib/$plain"
fi
fill xelm.pc pkgconfig/xelm.pc
fill xelmConfig.cmake cmake/xelm/xelmConfig.cmake
fill xelmConfigVersion.cmake cmake/xelm/xelmConfigVersion.cmake
