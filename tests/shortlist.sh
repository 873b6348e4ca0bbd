#!/usr/bin/env bash
# What a shortlist gives a large vocabulary: speed and memory of decoding with an output layer of 256,008 tokens, with
# those of a shortlist for two languages, and with the latter packed, beside llama.cpp with all of them, which is built
# for this very processor. Turn about; a dated table on stdout.
#
#   [ROUNDS=7] [THREADS="1 2"] [LANGS=de,en] [SIZE=32768] tests/shortlist.sh CORPUS > TSV
#
# The file is a random one of XGLM-564M's shape, in Q8_0; the list is that of CORPUS, a folder of train and valid texts
# of the languages. No speed is asked for: read the figures of a quiet machine. Exit code 75: llama.cpp could not be had
# (tests/llama_native.sh). Models are kept in target/speed: 2 GB.
set -euo pipefail
corpus=$(realpath "${1:?usage: tests/shortlist.sh CORPUS}")
cd "$(dirname "$0")/.."
llama=$(tests/llama_native.sh)
langs=${LANGS:-de,en} size=${SIZE:-32768}
cargo build --release --quiet -p xelm-cli
cargo build --release --quiet -p xelm-tests --bin xelm-decode-speed
models=target/speed/24-256008
mkdir -p "$models"
whole=$models/q8_0.gguf list=$models/q8_0-$langs-$size.gguf
[ -e "$whole" ] || target/release/xelm-decode-speed make "$whole" 24 1024 256008 2048 q8_0
[ -e "$list" ] || target/release/xelm shortlist --expert "$whole" --corpus "$corpus" --lang "$langs" --size "$size" \
    --out "$list" >&2
[ -e "${list%.gguf}-packed.gguf" ] ||
    target/release/xelm repack --expert "$list" --out "${list%.gguf}-packed.gguf" >&2
exec python3 tests/shortlist.py target/release/xelm "$llama/llama-bench" "$whole" "$list" "${list%.gguf}-packed.gguf" \
    "${THREADS:-1 2}" "${ROUNDS:-7}"
