#!/usr/bin/env bash
# Builds llama.cpp's tools for this machine's own processor, and prints the folder that they are in. The sources come
# with llama-cpp-python from PyPI, as do cmake and ninja. Exit code 75: they could not be had. Everything is kept in
# target/llama; the build takes 10 to 30 minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=$PWD/target/llama
tools="llama-bench llama-quantize llama-perplexity llama-imatrix"
# The list is split into names on purpose, here and below.
# shellcheck disable=SC2086
if ! (cd "$cache/build/bin" && ls $tools) > /dev/null 2>&1; then
    mkdir -p "$cache"
    fetch() {
        python3 -m venv "$cache/venv" && "$cache/venv/bin/pip" install --quiet cmake==3.31.6 ninja==1.13.0 || return
        [ -d "$cache/src" ] && return
        rm -rf "$cache/sdist" "$cache/unpacked"
        "$cache/venv/bin/pip" download --quiet --no-deps --no-binary llama-cpp-python --dest "$cache/sdist" \
            llama-cpp-python==0.3.36
    }
    if ! fetch >&2; then
        echo "tests/llama_native.sh: llama.cpp could not be fetched from PyPI" >&2
        exit 75
    fi
    if [ ! -d "$cache/src" ]; then
        mkdir "$cache/unpacked"
        tar -xzf "$cache"/sdist/*.tar.gz -C "$cache/unpacked" --strip-components=3 --wildcards '*/vendor/llama.cpp/*'
        mv "$cache/unpacked" "$cache/src"
    fi
    export PATH=$cache/venv/bin:$PATH
    {
        cmake -G Ninja -S "$cache/src" -B "$cache/build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
            -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF
        ninja -C "$cache/build" $tools
    } > "$cache/build.log" 2>&1 || { tail -n 20 "$cache/build.log" >&2; exit 1; }
fi
echo "$cache/build/bin"
