#!/usr/bin/env bash
# Makes a Python environment with packages from PyPI, unless it is there, and prints its interpreter's path.
# Exit code 75: the packages could not be had.
#
#   tests/venv.sh FOLDER PACKAGE...
set -euo pipefail
venv=$1
shift
if [ ! -x "$venv/bin/python" ]; then
    if ! { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet "$@"; } >&2; then
        echo "tests/venv.sh: $* could not be fetched from PyPI" >&2
        rm -rf "$venv"
        exit 75
    fi
fi
echo "$venv/bin/python"
