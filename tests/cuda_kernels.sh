#!/usr/bin/env bash
# The CUDA kernels without a GPU.
#
#   tests/cuda_kernels.sh [--update] [ptx] [shim] [mutations]
#
#   ptx        compiles them with NVIDIA's NVRTC, compares the PTX with the committed one, assembles it for
#              four architectures; fails where a kernel spills registers. --update writes PTX and table.
#   shim       runs every kernel on this CPU, under AddressSanitizer, against the CPU backend and runtime
#   mutations  plants mistakes in the kernels, one at a time: each must be found
#
# Without a stage, all three. Needs Python 3 with pip, a C++ compiler, x86-64 Linux. NVIDIA's wheels (44 MB)
# are kept in target/. Exit code 75: they could not be fetched.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=target/cuda_kernels
# Each folder has kernels, PTX of some names, and the hashes of both.
train=xelm-train/src/backend/cuda
runtime=xelm-runtime/src/cuda
table=docs/cuda_kernels.tsv
update=
if [ "${1:-}" = --update ]; then
    update=1
    shift
fi
stages=${*:-ptx shim mutations}
mkdir -p "$cache"

# The oldest NVRTC that knows all instructions: its PTX loads on every driver since 530.
fetch_wheels() {
    [ -e "$cache/wheels/done" ] && return
    rm -rf "$cache/wheels"
    python3 -m pip install --quiet --root-user-action ignore --no-deps --target "$cache/wheels" \
        nvidia-cuda-nvrtc-cu12==12.1.105 nvidia-cuda-runtime-cu12==12.1.105 nvidia-cuda-nvcc-cu12==12.1.105 \
        || exit 75
    chmod +x "$cache/wheels/nvidia/cuda_nvcc/bin/ptxas"
    touch "$cache/wheels/done"
}

hashes() {
    (cd "$1" && LC_ALL=C && sha256sum kernels/* ptx/*.ptx)
}

# Calls $1 with the folder and the name of every PTX file.
each_ptx() {
    for name in f32 bf16; do "$1" "$train" "$name"; done
    "$1" "$runtime" runtime
}

update_ptx() {
    cp "$cache/ptx/$2.ptx" "$1/ptx/"
    hashes "$1" > "$1/ptx/sha256"
}

compare_ptx() {
    cmp "$cache/ptx/$2.ptx" "$1/ptx/$2.ptx" || {
        echo "$1/ptx/$2.ptx is not what the sources compile to: run tests/cuda_kernels.sh --update ptx" >&2
        exit 1
    }
}

ptx() {
    fetch_wheels
    python3 tests/cuda_ptx.py "$cache/wheels/nvidia" "$cache/ptx" > "$cache/table.tsv"
    if [ -n "$update" ]; then
        each_ptx update_ptx
        cp "$cache/table.tsv" "$table"
    fi
    each_ptx compare_ptx
    cmp "$cache/table.tsv" "$table" || { echo "$table is out of date: --update ptx writes it" >&2; exit 1; }
    cat "$table"
    echo "$(($(wc -l < "$table") - 1)) kernels, none spills; the PTX is as committed"
}

build() {
    cargo test --locked -p xelm-tests --test cuda_kernels --test cuda_runtime --no-run 2> "$cache/build.log" || {
        cat "$cache/build.log" >&2
        exit 1
    }
    kernels=$(sed -n 's/.*(\(.*cuda_kernels-[0-9a-f]*\)).*/\1/p' "$cache/build.log")
    sessions=$(sed -n 's/.*(\(.*cuda_runtime-[0-9a-f]*\)).*/\1/p' "$cache/build.log")
}

shim() {
    build
    for binary in "$kernels" "$sessions"; do
        # Memory that the test's process keeps to its end is no leak.
        LD_PRELOAD=$(c++ -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 \
            XELM_SHIM_FLAGS=-fsanitize=address "$binary" --nocapture > "$cache/shim.log" 2>&1 || {
            grep -vE "^ +[0-9]+: |^ +at " "$cache/shim.log" | tail -60 >&2
            exit 1
        }
        grep -E " cases, | differ by | models: |bytes of cache|^test result" "$cache/shim.log"
        if grep -q skipped "$cache/shim.log"; then
            echo "the kernels were not executed" >&2
            exit 1
        fi
    done
}

mutations() {
    build
    python3 tests/cuda_mutations.py "$cache/mutant" "$train/kernels" "$kernels" "$runtime/kernels" "$sessions"
}

for stage in $stages; do
    printf '== %s\n' "$stage"
    "$stage"
done
