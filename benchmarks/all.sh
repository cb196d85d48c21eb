#!/usr/bin/env bash
# Every table of RESULTS.md anew, on one machine and one day: about 25 minutes on two idle cores (`make bench`).
# Short forms: fewer rounds and smaller sizes than each script takes by itself. PEERS may name a folder with packages
# that are not declared (pip install --target PEERS --no-deps monai confidenceinterval statsmodels patsy); without it their rows are empty.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH=${PEERS:-} MPLBACKEND=Agg
unset OMP_NUM_THREADS PYTHONDONTWRITEBYTECODE
rm -f benchmarks/RESULTS.md  # git has the earlier one; nothing of another day stays

failed=0
run() {
    local began=$SECONDS
    echo "== $*"
    $python benchmarks/"$@" || { echo "FAILED: $*"; failed=1; }
    echo "== $1: $((SECONDS - began)) s, $((SECONDS / 60)) min altogether"
}

run startup.py
run busy.py --rounds 2 --seconds 1.5
run growth.py
run training.py end --rounds 1
run training.py stall --models autoencoder resnet18 --rounds 3
run training.py precision --rounds 1
run training.py augment gpu
run predict.py --model small_cnn
run predict.py --model resnet18 --images 2000 --rounds 2
$python -c "import monai" 2>/dev/null && run sliding.py 2048 --peer
run sliding.py 10000
run formats.py
run slides.py
run features.py --images 150
run patchset.py --sparse 100
run intervals.py speed
run endurance.py --shrink 8
exit $failed
