#!/usr/bin/env bash
# What only a GPU can tell, in under eight minutes: the open rows of RESULTS.md, the CUDA tests, notebooks at full size.
#   bash benchmarks/gpu.sh OUT           # OUT/log.txt, OUT/RESULTS.md, OUT/reports; benchmarks/RESULTS.md is written
#   bash benchmarks/gpu.sh --tiny OUT    # the same steps on the CPU in seconds, RESULTS.md left alone
# Needs Python with torch (PYTHON names it), and nothing of Jupyter. Where WHEELS names a folder of wheels, those are
# used for what is missing; nothing is downloaded.
set -uo pipefail
tiny=
[ "${1:-}" = --tiny ] && tiny=1 && shift
out=$(mkdir -p "${1:?name a folder for the results}" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH="$PWD:$PWD/tests:${PYTHONPATH:-}" PYTHONUNBUFFERED=1 MPLBACKEND=Agg
export MEDCORE_DATA=$out/data MEDCORE_REPORTS=$out/reports
if [ -n "${WHEELS:-}" ]; then
    $python -m pip install -q --no-index --no-deps --target "$out/site" "$WHEELS"/*.whl || exit 1
    PYTHONPATH=$PYTHONPATH:$out/site
fi

step() {  # NAME SECONDS COMMAND…: run it, at most so long, and tell how it ended
    local name=$1 limit=$2 began=$SECONDS status=0
    shift 2
    timeout "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
    case $status in
        0) status=ok ;;
        124) status="stopped after $limit s" ;;
        *) status="failed: $(tail -n 1 "$out/$name.log")" ;;
    esac
    echo "$name: $status ($((SECONDS - began)) s)" | tee -a "$out/log.txt"
}

bench() { step "$1" "$2" $python benchmarks/"${@:3}"; }

: >"$out/log.txt"
step where 30 $python -c "import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU')"
if [ -n "$tiny" ]; then
    bench training 300 training.py end stall gpu --side 16 --batch 8 --images 16 --rounds 1 --workers 0 --models small_cnn --device cpu --dry
    bench predict 300 predict.py --model small_cnn --images 300 --side 16 --rounds 1 --dry
    tests=(--collect-only tests/test_resampling.py) profile=smoke notebooks=(03)
else
    bench end 60 training.py end --side 224 --batch 256 --images 2048 --rounds 2 --workers 14 --models resnet50
    bench stall 60 training.py stall --side 224 --batch 256 --images 4096 --rounds 3 --models resnet50
    bench gpu 80 training.py gpu --side 224 --batch 256 --rounds 3 --models resnet50 efficientnet_b3 unet_resnet50
    bench predict 60 predict.py --device cuda --model resnet18 --images 5000
    bench intervals 30 intervals.py speed --device cuda
    tests=(tests/test_{augment,batches,fit,resampling}.py) profile=full notebooks=(02 03 04 05 06)
fi
for number in "${notebooks[@]}"; do  # side by side, and beside the tests: nothing is timed any more
    MEDCORE_PROFILE=$profile step "notebook-$number" "${NOTEBOOK_SECONDS:-200}" $python benchmarks/cells.py notebooks/"$number"_*.ipynb &
done
step tests 150 $python -m pytest -q -p no:cacheprovider -m gpu "${tests[@]}"
wait
cp benchmarks/RESULTS.md "$out"
! grep -qv ': ok (' "$out/log.txt"
