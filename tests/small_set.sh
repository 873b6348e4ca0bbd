# Sourced by tests/icl.sh and tests/mixture.sh, with `cache` and an optional SET as $1: makes `$xelm`, the set `$set`,
# by default that of a tiny run, and `$python` with NumPy.
# shellcheck shell=bash
mkdir -p "$cache"
xelm=${XELM_PROGRAM:-target/release/xelm}
[ -n "${XELM_PROGRAM:-}" ] || cargo build --release --quiet -p xelm-cli
set=${1:-$cache/run/set}
[ -e "$set/set.gguf" ] || "$xelm" demo --out "$cache/run" --seed 1 --vocab-size 4000 --n-layer 2 --n-embd 64 \
    --n-head 2 --n-ctx 128 --seed-steps 20 --branch-steps 20 --batch 8 > "$cache/demo.log"
python=$(tests/venv.sh "$cache/venv" numpy)
