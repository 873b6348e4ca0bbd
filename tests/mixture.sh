#!/usr/bin/env bash
# A mixture of experts recomputed in Python from a set's files and the experts' logits.
#
#   [XELM_PROGRAM=xelm] tests/mixture.sh [SET]
#
# SET is a set of F32 experts with a router (quantised ones give the same to their own precision); without one
# a tiny run is made. NumPy comes from PyPI. Exit code 75: it could not be had. Everything is kept in
# target/mixture.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=target/mixture
mkdir -p "$cache"
xelm=${XELM_PROGRAM:-target/release/xelm}
[ -n "${XELM_PROGRAM:-}" ] || cargo build --release --quiet -p xelm-cli
set=${1:-$cache/run/set}
[ -e "$set/set.gguf" ] || "$xelm" demo --out "$cache/run" --seed 1 --vocab-size 4000 --n-layer 2 --n-embd 64 \
    --n-head 2 --n-ctx 128 --seed-steps 20 --branch-steps 20 --batch 8 > "$cache/demo.log"
if [ ! -x "$cache/venv/bin/python" ]; then
    python3 -m venv "$cache/venv"
    if ! "$cache/venv/bin/pip" install --quiet numpy; then
        echo "tests/mixture.sh: numpy could not be fetched from PyPI"
        rm -r "$cache/venv"
        exit 75
    fi
fi
exec "$cache/venv/bin/python" tests/mixture.py "$xelm" "$set" "$cache"
