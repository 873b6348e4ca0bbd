#!/usr/bin/env bash
# Scores of in-context learning recomputed in Python: prompts, candidates and weights by themselves, from the
# experts' logits.
#
#   XELM_ICL=DIR [XELM_PROGRAM=xelm] tests/icl.sh [SET]
#
# DIR holds xnli/xnli.dev.*.tsv, pawsx/*.dev_2k.tsv and storycloze/*.tsv in their authors' own form; without it
# there is nothing to do. SET is a set of F32 experts with a router; without one a tiny run is made. NumPy comes
# from PyPI. Exit code 75: it could not be had. Everything is kept in target/icl.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${XELM_ICL:-}" ]; then
    echo "tests/icl.sh: skipped, XELM_ICL names no folder with test data"
    exit 0
fi
cache=target/icl
. tests/small_set.sh
exec "$python" tests/icl.py "$xelm" "$set" "$cache" "$XELM_ICL"
