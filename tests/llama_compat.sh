#!/usr/bin/env bash
# Our files in an unmodified llama.cpp: token ids, and logits of F32, Q8_0 and Q4_0 files; and our
# vocabulary and character map in SentencePiece.
#
#   tests/llama_compat.sh [RUN]
#
# RUN is a finished run directory; without one the demo makes it. llama.cpp comes as the PyPI wheel
# xllamacpp, called through ctypes. Everything is kept in target/llama_compat.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=target/llama_compat
mkdir -p "$cache"
cargo build --release --quiet -p xelm-cli
run=${1:-$cache/run}
[ -e "$run/set-q4_0/set.gguf" ] || target/release/xelm demo --out "$run" --seed 1 > "$cache/demo.log"
python=$(tests/venv.sh "$cache/venv" xllamacpp==2026.10.11549 numpy sentencepiece protobuf)
exec "$python" tests/llama_compat.py target/release/xelm "$run" "$cache"
