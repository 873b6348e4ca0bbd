#!/usr/bin/env bash
# Models of Hugging Face's transformers both ways: logits, tokens and memory.
#
#   [XELM_ORACLE=DIR] [XELM_PROGRAM=xelm] tests/hf.sh
#
# XELM_ORACLE is a folder with a small XGLM (config.json, weights.safetensors), a batch and the logits that
# transformers computed for it. PyTorch and transformers come from PyPI (tests/torch_env.sh). Exit code 75: they
# could not be had. Needs 8 GB of memory and of disk; everything is kept in target/hf.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(tests/torch_env.sh) || exit 75
xelm=${XELM_PROGRAM:-target/release/xelm}
[ -n "${XELM_PROGRAM:-}" ] || cargo build --release --quiet -p xelm-cli
mkdir -p target/hf
exec "$python" tests/hf.py "$xelm" target/hf
