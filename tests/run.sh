#!/usr/bin/env bash
# What `make test` runs on two workers: every notebook under nbmake with the smoke profile, and in the same kernel the
# solutions of its exercises (plugin `exercises`); then the unit tests. The longest come first, so that no worker idles.
# One pytest process for both, so that there is one closing line; a file's tests stay on one worker, so that what its
# fixtures make is made once.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1 MPLBACKEND=Agg MEDCORE_PROFILE=smoke
export PYTHONHASHSEED=0 JUPYTER_PLATFORM_DIRS=1
unset PYTHONDONTWRITEBYTECODE  # or each of some hundred processes compiles the sources of PyTorch anew
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export MEDCORE_DATA="$scratch/data" MEDCORE_REPORTS="$scratch/reports"
export PYTHONPATH=tests
exec_pytest=(.venv/bin/pytest -p exercises -m "not slow" -n "${WORKERS:-2}" --dist loadfile --no-loadscope-reorder)
"${exec_pytest[@]}" --nbmake --nbmake-timeout=600 notebooks tests "$@"
