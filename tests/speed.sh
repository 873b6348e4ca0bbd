#!/usr/bin/env bash
# Speed on a CPU beside llama.cpp's, which is built for this very processor: prefill and decode of the same random
# GGUF files and of their packed twins, turn about, and the ratios of each round; then two experts mixed beside one. A
# dated table on stdout.
#
#   [QUICK=1] [ROUNDS=7] [TYPES="q8_0 q4_0 q4_k_m"] [THREADS="1 2"] [LAYERS=24] [VOCAB=32000] tests/speed.sh > TSV
#
# The layers are XGLM-564M's: width 1,024, 16 heads, 4,096 in between. VOCAB=256008 is the whole model; 32,000 is
# what a vocabulary for a few languages has. QUICK=1 takes 3 rounds. TYPES are those of `xelm quantize`, and f32. No
# speed is asked for: read the figures of a quiet machine. Exit code 75: llama.cpp could not be had
# (tests/llama_native.sh). Models are kept in target/speed: 1.4 GB for each vocabulary while they are made.
set -euo pipefail
cd "$(dirname "$0")/.."
llama=$(tests/llama_native.sh)
layers=${LAYERS:-24} vocabulary=${VOCAB:-32000} types=${TYPES:-q8_0 q4_0 q4_k_m}
cargo build --release --quiet -p xelm-cli
cargo build --release --quiet -p xelm-tests --bin xelm-decode-speed
mkdir -p target/speed
cc -O2 -march=native -pthread tests/int8_peak.c -o target/speed/int8-peak
make=target/release/xelm-decode-speed
models=target/speed/$layers-$vocabulary
mkdir -p "$models"
for type in $types; do
    [ -e "$models/$type-packed.gguf" ] && continue
    [ -e "$models/f32.gguf" ] || "$make" make "$models/f32.gguf" "$layers" 1024 "$vocabulary" 2048 f32
    [ "$type" = f32 ] ||
        target/release/xelm quantize --expert "$models/f32.gguf" --type "$type" --out "$models/$type.gguf" >&2
    target/release/xelm repack --expert "$models/$type.gguf" --out "$models/$type-packed.gguf" >&2
done
[[ " $types " = *" f32 "* ]] || rm -f "$models/f32.gguf"
# Two files: an expert of its own does not find its weights in the caches.
first=${types%% *}
if [ ! -e "$models/set-$first/set.gguf" ]; then
    mkdir -p "$models/set-$first"
    cp "$models/$first.gguf" "$models/set-$first/a.gguf"
    cp "$models/$first.gguf" "$models/set-$first/b.gguf"
    "$make" set "$models/set-$first" a.gguf b.gguf
fi
rounds=${ROUNDS:-7}
[ -z "${QUICK:-}" ] || rounds=3
exec python3 tests/speed.py target/release/xelm "$llama/llama-bench" target/speed/int8-peak "$models" "$types" \
    "${THREADS:-1 2}" "$rounds"
