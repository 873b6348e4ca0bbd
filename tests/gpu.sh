#!/usr/bin/env bash
# Everything that a card must show, training and running experts, from programs that were built elsewhere.
#
#   tests/gpu.sh build       where Rust is: builds the programs into target/gpu
#   tests/gpu.sh run [OUT]   where the card is, with target/gpu beside the sources: prints one table and writes
#                            it to OUT/<date>-<card>.tsv (default docs/gpu); fails where a check falls short.
#                            XELM_GPU=train or =runtime runs only those checks
#
# The machine with the card needs a driver and Python 3. cuBLASLt, NCCL and PyTorch are used where they are
# found, compute-sanitizer too; what is missing is said in the table.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
    build)
        cargo build --release --locked --package xelm-tests --bins
        mkdir -p target/gpu
        for program in xelm-under-test xelm-gpu-check xelm-decode-speed; do
            strip -o "target/gpu/$program" "target/release/$program"
        done
        ls -l target/gpu
        ;;
    run)
        exec python3 tests/gpu.py target/gpu "${2:-docs/gpu}"
        ;;
    *)
        sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'
        exit 2
        ;;
esac
