#!/usr/bin/env bash
# `xelm tokenize` against SentencePiece, id for id: texts of the bundled corpus and pieces of them, decomposed
# characters, all blocks of Unicode, odd spaces, control characters, emoji, invalid UTF-8.
#
#   [XELM_SPM=spm.model] [XELM_PROGRAM=xelm] tests/tokenizer.sh [RUN]
#
# RUN is a finished run directory; without one a tiny one is made. XELM_SPM is a SentencePiece unigram model in
# XGLM's form, which is imported and compared too. SentencePiece comes from PyPI. Exit code 75: it could not be
# had. Everything is kept in target/tokenizer.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=target/tokenizer
mkdir -p "$cache"
xelm=${XELM_PROGRAM:-target/release/xelm}
[ -n "${XELM_PROGRAM:-}" ] || cargo build --release --quiet -p xelm-cli
run=${1:-$cache/run}
[ -e "$run/set/set.gguf" ] || "$xelm" demo --out "$run" --seed 1 --vocab-size 8000 --n-layer 1 \
    --n-embd 32 --n-head 2 --n-ctx 64 --seed-steps 2 --branch-steps 2 --batch 4 > "$cache/demo.log"
python=$(tests/venv.sh "$cache/venv" sentencepiece protobuf)
exec "$python" tests/tokenizer.py "$xelm" "$run" "$cache" ${XELM_SPM:+"$XELM_SPM"}
