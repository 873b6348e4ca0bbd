#!/usr/bin/env bash
# Makes the Python environment with PyTorch and transformers that tests/hf.sh and tests/train_speed.sh compare
# with, and prints its interpreter's path. PyPI's PyTorch for x86 brings CUDA along (7 GB on disk); it is kept in
# target/torch. Exit code 75: the packages could not be had.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$PWD/target/torch/venv
packages="torch==2.8.0 transformers==4.56.2 safetensors sentencepiece protobuf numpy"
if [ "$(cat "$venv/.packages" 2> /dev/null)" != "$packages" ]; then
    # The list is split into packages on purpose.
    # shellcheck disable=SC2086
    if ! { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --no-cache-dir $packages; } >&2; then
        echo "tests/torch_env.sh: PyTorch could not be fetched from PyPI" >&2
        exit 75
    fi
    printf '%s' "$packages" > "$venv/.packages"
fi
echo "$venv/bin/python"
