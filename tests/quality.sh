#!/usr/bin/env bash
# What every recipe costs on a trained expert, beside llama-quantize's files of the same type with the same importance
# matrix: bits per weight, perplexity, KL divergence from the expert, and agreement of the most probable token, on
# held-out text of each of its languages, all measured by `xelm eval quality`. A table on stdout.
#
#   [TOKENS=32768] [DOCUMENTS=5001] [TYPES="q8_0 q6_k q5_k_m q4_k_m q4_1 q4_0"] tests/quality.sh EXPERT CORPUS
#
# EXPERT is an F32 file, CORPUS a folder with training and held-out text; TOKENS of each language are read for the
# importance matrix, DOCUMENTS are measured at most. Fails where a recipe is worse than llama.cpp's, or xq4 takes
# more than 4.6 bits a weight or costs more than 1 % of perplexity. Exit code 75: llama.cpp could not be had
# (tests/llama_native.sh). Files are kept in target/quality.
set -euo pipefail
cd "$(dirname "$0")/.."
expert=${1:?an expert file in F32} corpus=${2:?the folder of a corpus}
llama=$(tests/llama_native.sh)
cargo build --release --quiet -p xelm-cli
out=target/quality
rm -rf "$out"
mkdir -p "$out"
exec python3 tests/quality.py target/release/xelm "$llama/llama-quantize" "$expert" "$corpus" "$out" \
    "${TYPES:-q8_0 q6_k q5_k_m q4_k_m q4_1 q4_0}" "${TOKENS:-32768}" "${DOCUMENTS:-5001}"
