#!/usr/bin/env bash
# A mixture of experts recomputed in Python from a set's files and the experts' logits.
#
#   [XELM_PROGRAM=xelm] tests/mixture.sh [SET]
#
# SET is a set of F32 experts with a router (quantised ones give the same to their own precision); without one
# a tiny run is made. NumPy comes from PyPI. Exit code 75: it could not be had. Everything is kept in
# target/mixture.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=target/mixture
. tests/small_set.sh
exec "$python" tests/mixture.py "$xelm" "$set" "$cache"
