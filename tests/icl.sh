#!/usr/bin/env bash
# Scores of in-context learning recomputed in Python: prompts, candidates and weights by themselves, from the
# experts' logits.
#
#   XELM_ICL=DIR [XELM_PROGRAM=xelm] tests/icl.sh [SET]
#
# DIR holds xnli/xnli.dev.*.tsv, pawsx/*.dev_2k.tsv and storycloze/*.tsv in their authors' own form; without it
# there is nothing to do. SET is a set of F32 experts with a router; without one a tiny run is made. NumPy comes
# from PyPI. Exit code 75: it could not be had. Everything is kept in target/icl.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${XELM_ICL:-}" ]; then
    echo "tests/icl.sh: skipped, XELM_ICL names no folder with test data"
    exit 0
fi
cache=target/icl
mkdir -p "$cache"
xelm=${XELM_PROGRAM:-target/release/xelm}
[ -n "${XELM_PROGRAM:-}" ] || cargo build --release --quiet -p xelm-cli
set=${1:-$cache/run/set}
[ -e "$set/set.gguf" ] || "$xelm" demo --out "$cache/run" --seed 1 --vocab-size 4000 --n-layer 2 --n-embd 64 \
    --n-head 2 --n-ctx 128 --seed-steps 20 --branch-steps 20 --batch 8 > "$cache/demo.log"
if [ ! -x "$cache/venv/bin/python" ]; then
    python3 -m venv "$cache/venv"
    if ! "$cache/venv/bin/pip" install --quiet numpy; then
        echo "tests/icl.sh: numpy could not be fetched from PyPI"
        rm -r "$cache/venv"
        exit 75
    fi
fi
exec "$cache/venv/bin/python" tests/icl.py "$xelm" "$set" "$cache" "$XELM_ICL"
