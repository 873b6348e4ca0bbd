#!/usr/bin/env bash
# What a large expert costs: the time to open it, cold and warm, the time to its first token, and the memory
# while decoding beside what was planned; llama.cpp with the same file beside it.
#
#   tests/footprint.sh
#
# For Linux. llama.cpp comes as the PyPI wheel xllamacpp, called through ctypes. Everything is kept in
# target/footprint. Fails where memory is not what was planned, by a tenth.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=target/footprint
mkdir -p "$cache"
cargo build --release --quiet -p xelm-tests --bin xelm-decode-speed
python=$(tests/venv.sh "$cache/venv" xllamacpp==2026.10.11549)
program=target/release/xelm-decode-speed
[ -e "$cache/large.gguf" ] || "$program" make "$cache/large.gguf" 20 1024 32000
exec "$python" tests/footprint.py "$program" "$cache/large.gguf"
