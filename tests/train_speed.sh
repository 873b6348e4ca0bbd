#!/usr/bin/env bash
# Training speed on a CPU beside PyTorch's: an XGLM of 25 million parameters, forward, backward and AdamW, the same
# first weights and the same batches, turn about; and whether both learn the same.
#
#   [ROUNDS=5] [THREADS=2] [TSV=FILE] [XELM_TRAIN_SPEED=PROGRAM] tests/train_speed.sh
#
# Fails when the loss curves of the f32 runs differ. No speed is asked for: at two threads PyTorch collapses beside
# any other load, so read the figures of a quiet machine only. TSV is a file to write them to. PyTorch comes from
# PyPI (tests/torch_env.sh). Exit code 75: it could not be had. Everything is kept in target/train_speed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(tests/torch_env.sh) || exit 75
cache=target/train_speed
mkdir -p "$cache"
program=${XELM_TRAIN_SPEED:-target/release/examples/train_speed}
[ -n "${XELM_TRAIN_SPEED:-}" ] || cargo build --release --quiet -p xelm-train --example train_speed
# MKL takes the AVX2 path on processors that are not Intel's, unless this function says that they are.
preload=
if grep -q avx512f /proc/cpuinfo && command -v cc > /dev/null; then
    preload=$PWD/$cache/libmkl_avx512.so
    echo 'int mkl_serv_intel_cpu_true(void) { return 1; }' | cc -shared -fPIC -x c -o "$preload" -
fi
exec "$python" tests/train_speed.py "$program" "$cache" "${ROUNDS:-5}" "${THREADS:-2}" "$preload" "${TSV:-}"
