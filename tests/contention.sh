#!/usr/bin/env bash
# Decoding beside other work: tokens per second with two busy processes and without, ours and
# llama.cpp's, the same random Q8_0 file in both.
#
#   tests/contention.sh [THREADS [REPETITIONS [SECONDS]]]      2 threads, 5 repetitions, 3 seconds each
#
# llama.cpp comes as the PyPI wheel xllamacpp, called through ctypes. Everything is kept in
# target/contention. Fails where our slow-down is more than twice what the lost share of the cores
# explains.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=target/contention
mkdir -p "$cache"
cargo build --release --quiet -p xelm-tests --bin xelm-decode-speed
python=$(tests/venv.sh "$cache/venv" xllamacpp==2026.10.11549)
program=target/release/xelm-decode-speed
[ -e "$cache/random.gguf" ] || "$program" make "$cache/random.gguf" 8 512 16000
exec "$python" tests/contention.py "$program" "$cache/random.gguf" "$@"
