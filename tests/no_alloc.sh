#!/usr/bin/env bash
# Nothing is allocated between the opening of a session and its closing, in the whole process: counted
# under malloc itself, in a C program that does all that the C ABI offers. llama.cpp's count for the
# same file stands beside it. And the library built without std has no allocator in it.
#
#   tests/no_alloc.sh
#
# For Linux with glibc. llama.cpp comes as the PyPI wheel xllamacpp, called through ctypes. Everything
# is kept in target/no_alloc.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=$PWD/target/no_alloc
mkdir -p "$cache"
tests/tiny_run.sh target/tiny/run
ffi/install.sh --prefix "$cache/prefix" > /dev/null
python=$(tests/venv.sh "$cache/venv" xllamacpp==2026.10.11549)
set=target/tiny/run/set-q8_0
counter=$cache/libcount_malloc.so
strict=(-std=c11 -O1 -Wall -Wextra -Werror -I include -I ffi/examples)
cc "${strict[@]}" -shared -fPIC -o "$counter" tests/c/count_malloc.c -ldl
cc "${strict[@]}" -pedantic -o "$cache/no_alloc" tests/c/no_alloc.c -L "$cache/prefix/lib" -lxelm \
    -lpthread -Wl,-rpath,"$cache/prefix/lib"

# An archive without std: no symbol of an allocator, neither called nor defined.
target=target/embedded/libxelm.a
cargo rustc --quiet -p xelm-ffi --profile embedded --no-default-features --crate-type staticlib
nm "$target" > "$cache/symbols" 2> /dev/null
grep -q ' T xelm_session_prefill$' "$cache/symbols"
allocators='(^| )_?(malloc|calloc|realloc|free|posix_memalign|aligned_alloc|memalign|mmap|s?brk)$'
allocators+='|__rust_(no_)?(re|de)?alloc|_Zn[wa]|_Zd[la]'
n_symbols=$(grep -cE "$allocators" "$cache/symbols" || true)
grep -E "$allocators" "$cache/symbols" || true

failed=0
LD_PRELOAD=$counter "$cache/no_alloc" "$set" || failed=1
expert=$(find "$set" -name '*.gguf' ! -name set.gguf | sort | head -1)
LD_PRELOAD=$counter "$python" tests/no_alloc.py "$expert"
echo "symbols of an allocator in the library without std: $n_symbols"
[ "$failed" = 0 ] && [ "$n_symbols" = 0 ]
