#!/usr/bin/env bash
# Our blocks against those of ggml's own C, bit for bit: every type, with and without an importance of the
# columns, random rows and those that go wrong.
#
#   tests/ggml_quants.sh [N_BLOCKS]     at least so many super-blocks of each type, by default a million
#   tests/ggml_quants.sh --update       writes the committed blocks, fixtures/ggml_quants.bin
#
# ggml comes with the sources of llama-cpp-python from PyPI. Exit code 75: they could not be had. Everything is
# kept in target/ggml.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=target/ggml
mkdir -p "$cache"
if [ ! -d "$cache/src" ]; then
    rm -rf "$cache/sdist" "$cache/unpacked"
    python3 -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$cache/sdist" \
        llama-cpp-python==0.3.36 || exit 75
    mkdir "$cache/unpacked"
    tar -xzf "$cache"/sdist/*.tar.gz -C "$cache/unpacked" --strip-components=3 --wildcards \
        '*/vendor/llama.cpp/ggml/*'
    mv "$cache/unpacked" "$cache/src"
fi
# What a compiler may do to floating point without being asked, it may not do here. Without NDEBUG, numbers that
# ggml quantises all the same would stop it.
gcc -O2 -ffp-contract=off -DNDEBUG -std=gnu11 -ffunction-sections -Wl,--gc-sections \
    -I "$cache/src/ggml/include" -I "$cache/src/ggml/src" \
    tests/ggml_quants.c "$cache/src/ggml/src/ggml-quants.c" -o "$cache/ggml_quants" -lm
if [ "${1-}" = --update ]; then
    "$cache/ggml_quants" 1 1 19 > tests/fixtures/ggml_quants.bin
    exec cargo test --quiet -p xelm-quantize --test ggml
fi
cargo test --quiet -p xelm-quantize --test ggml --no-run
fifo=$cache/blocks.$$
trap 'rm -f "$fifo"' EXIT
mkfifo "$fifo"
# A row has one super-block of 256 numbers or two; 1,000 rows are a batch.
"$cache/ggml_quants" "${SEED:-2}" $(((${1:-1000000} + 1399) / 1400)) 1000 > "$fifo" &
XELM_GGML_BLOCKS=$PWD/$fifo cargo test --quiet -p xelm-quantize --test ggml -- --ignored --nocapture
wait $!
