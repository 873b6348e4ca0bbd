#!/usr/bin/env bash
# The CUDA kernels without a GPU.
#
#   tests/cuda_kernels.sh [--update] [ptx] [shim] [mutations]
#
#   ptx        compiles them with NVIDIA's NVRTC, compares the PTX with the committed one, assembles it for
#              four architectures; fails where a kernel spills registers. --update writes PTX and table.
#   shim       runs every kernel on this CPU, under AddressSanitizer, against the CPU backend
#   mutations  plants mistakes in the kernels, one at a time: each must be found
#
# Without a stage, all three. Needs Python 3 with pip, a C++ compiler, x86-64 Linux. NVIDIA's wheels (44 MB)
# are kept in target/. Exit code 75: they could not be fetched.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=target/cuda_kernels
cuda=xelm-train/src/backend/cuda
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
    (cd "$cuda" && LC_ALL=C && sha256sum kernels/* ptx/*.ptx)
}

ptx() {
    fetch_wheels
    python3 tests/cuda_ptx.py "$cache/wheels/nvidia" "$cuda/kernels" "$cache/ptx" > "$cache/table.tsv"
    if [ -n "$update" ]; then
        mkdir -p "$cuda/ptx"
        cp "$cache"/ptx/*.ptx "$cuda/ptx/"
        hashes > "$cuda/ptx/sha256"
        cp "$cache/table.tsv" "$table"
    fi
    for file in f32.ptx bf16.ptx; do
        cmp "$cache/ptx/$file" "$cuda/ptx/$file" || {
            echo "$cuda/ptx/$file is not what the sources compile to: run tests/cuda_kernels.sh --update ptx" >&2
            exit 1
        }
    done
    cmp "$cache/table.tsv" "$table" || { echo "$table is out of date: --update ptx writes it" >&2; exit 1; }
    cat "$table"
    echo "$(($(wc -l < "$table") - 1)) kernels, none spills; the PTX is as committed"
}

build() {
    cargo test --locked -p xelm-tests --test cuda_kernels --no-run 2> "$cache/build.log" || {
        cat "$cache/build.log" >&2
        exit 1
    }
    binary=$(sed -n 's/.*(\(.*cuda_kernels-[0-9a-f]*\)).*/\1/p' "$cache/build.log")
}

shim() {
    build
    # Memory that the test's process keeps to its end is no leak.
    LD_PRELOAD=$(c++ -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 \
        XELM_SHIM_FLAGS=-fsanitize=address "$binary" --nocapture > "$cache/shim.log" 2>&1 || {
        grep -vE "^ +[0-9]+: |^ +at " "$cache/shim.log" | tail -60 >&2
        exit 1
    }
    grep -E " cases, | differ by |^test result" "$cache/shim.log"
    if grep -q skipped "$cache/shim.log"; then
        echo "the kernels were not executed" >&2
        exit 1
    fi
}

mutations() {
    build
    python3 tests/cuda_mutations.py "$cuda/kernels" "$cache/mutant" "$binary"
}

for stage in $stages; do
    printf '== %s\n' "$stage"
    "$stage"
done
