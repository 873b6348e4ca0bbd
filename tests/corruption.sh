#!/usr/bin/env bash
# Damaged expert files through the C library, everything under AddressSanitizer: every byte before the
# weights changed once, and 10,000 damages of up to 16 bytes. The file lies before a page that nobody may
# touch.
#
#   tests/corruption.sh [STRIDE [N]]
#
# STRIDE 7 looks at every 7th byte only. Needs gcc with its sanitizers. Kept in target/corruption.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=target/corruption
mkdir -p "$cache"
# The library is instrumented too. The flag is unstable; nothing but this test is built with it.
RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=$cache \
    ffi/install.sh --prefix "$cache/prefix" --target x86_64-unknown-linux-gnu --static-only > /dev/null
prefix=$cache/prefix
libraries=$(sed -n 's/^Libs.private: //p' "$prefix/lib/pkgconfig/xelm.pc")
gcc -std=c11 -g -O1 -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all \
    -I "$prefix/include" tests/c/corruption.c -o "$cache/corruption" "$prefix/lib/libxelm.a" $libraries
"$cache/corruption" tests/fixtures/tiny/expert.gguf "${1:-1}" "${2:-10000}"
echo "no error found"
