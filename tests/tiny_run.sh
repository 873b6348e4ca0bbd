#!/bin/sh
# A finished run with a tiny model for the scripts in this folder: four languages, two experts.
#
#   tests/tiny_run.sh DIR
#
# It is made anew where the command line has been built since.
set -eu
cd "$(dirname "$0")/.."
run=${1:?"usage: tests/tiny_run.sh DIR"}
xelm=${CARGO_TARGET_DIR:-target}/release/xelm
cargo build --release --quiet --locked -p xelm-cli
[ ! "$run/set-q4_0/set.gguf" -nt "$xelm" ] || exit 0
rm -rf "$run"
mkdir -p "$(dirname "$run")"
"$xelm" demo --json --out "$run" --corpus xelm-train/corpus --languages de,el,ja,ko --k 2 \
    --vocab-size 2500 --batch 4 --seed-steps 12 --branch-steps 8 \
    --n-layer 2 --n-embd 32 --n-head 2 --n-ctx 64 > "$run.log" 2>&1 || { cat "$run.log" >&2; exit 1; }
