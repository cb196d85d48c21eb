#!/bin/bash
# A Dask cluster inside of one Slurm job, and one medcore command on it. All nodes must see the same folders.
#   sbatch --ntasks=8 --cpus-per-task=4 benchmarks/slurm.sh predict runs/a slides/ --out answers
#SBATCH --job-name=medcore
#SBATCH --ntasks=4
#SBATCH --cpus-per-task=4
#SBATCH --time=08:00:00
set -eu
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
work=$(mktemp -d "${SLURM_SUBMIT_DIR:-$PWD}/.dask-XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT
python=${PYTHON:-.venv/bin/python}

$python -m distributed.cli.dask_scheduler --port 0 --no-dashboard --scheduler-file "$work/scheduler.json" &
until [ -s "$work/scheduler.json" ]; do sleep 1; done
srun $python -m distributed.cli.dask_worker --scheduler-file "$work/scheduler.json" --nthreads 1 --no-dashboard &
address=$($python -c "import json, sys; print(json.load(open(sys.argv[1]))['address'])" "$work/scheduler.json")
$python -m medcore "$@" --engine dask --scheduler "$address" --jobs "${SLURM_NTASKS:-1}"
