"""A training step on a machine that others use: beside busy processes, and under a quota of one core.

    python benchmarks/busy.py                                                # five minutes; wants an idle machine
    python benchmarks/busy.py --models small_cnn --beside 1 --seconds 0.2 --dry

The step is that of ``fit``: loader, augmentation, number format and metrics. One process for each number of threads
waits between its turns; they take turns round by round. *Fair* is the CPU time of the step alone on one thread over the
share that one of so many processes gets of the cores. *Asleep* are threads told to wait without spinning.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import torch
from results import machine, record

from medcore.data.parallel import available_cores, thread_share

MODELS, BESIDE = ("small_cnn", "autoencoder"), (0, 1, 2, 4)
LOOP = "while True: pass"
ASLEEP = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
SIDE, BATCH, STEPS = 64, 64, 4  # steps an epoch


def serve(model: str) -> None:
    """Train two epochs and tell the hash of the weights; then, for each line of seconds, milliseconds of a step."""
    import paths as ways

    from medcore.training.device import kept_between_steps

    state = ways.our_state(model, ways.make_set(STEPS * BATCH, SIDE), torch.device("cpu"), batch_size=BATCH)
    display = ways.Display(state, None, show=False)
    with kept_between_steps():
        for number in (1, 2):
            ways.loop.train_epoch(state, number, display)
        weights = b"".join(value.detach().numpy().tobytes() for value in state.model.state_dict().values())
        print(json.dumps(sha256(weights).hexdigest()), flush=True)
        for line in sys.stdin:
            wall, cpu, done = time.perf_counter(), time.process_time(), 0
            while not done or time.perf_counter() - wall < float(line):
                ways.loop.train_epoch(state, number := number + 1, display)
                done += STEPS
            taken = time.perf_counter() - wall, time.process_time() - cpu
            print(json.dumps([1e3 * seconds / done for seconds in taken]), flush=True)


class Trainer:
    """A process that trains one model with so many threads, when it is asked to."""

    def __init__(self, model: str, threads: int, *, asleep: bool = False) -> None:
        self.threads, self.label = threads, f"{threads}, asleep" if asleep else str(threads)
        variables = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")} | (ASLEEP if asleep else {})
        self.child = subprocess.Popen(
            [sys.executable, __file__, "--serve", model], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | variables,
        )  # fmt: skip
        self.weights = self.answer()

    def answer(self) -> str | list[float]:
        """The next line that it says."""
        assert self.child.stdout is not None
        return json.loads(self.child.stdout.readline())

    def step(self, seconds: float) -> list[float]:
        """Wall and CPU milliseconds of a step."""
        assert self.child.stdin is not None
        self.child.stdin.write(f"{seconds}\n")
        self.child.stdin.flush()
        found = self.answer()
        assert isinstance(found, list)
        return found

    def end(self) -> None:
        """No further turn."""
        self.child.kill()
        self.child.wait()


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that never wait."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextlib.contextmanager
def held_to_one_core(pid: int) -> Iterator[None]:
    """A quota of one core for a process, by a control group; where none can be made, one core for all its threads."""
    root = Path("/sys/fs/cgroup/cpu") if Path("/sys/fs/cgroup/cpu").is_dir() else Path("/sys/fs/cgroup")
    group = root / "medcore-benchmark"
    try:
        group.mkdir(exist_ok=True)
        first = group / "cpu.cfs_quota_us"
        (first if first.exists() else group / "cpu.max").write_text("100000")
        (group / "cgroup.procs").write_text(str(pid))
    except OSError:
        cores = os.sched_getaffinity(0)
        _pin(pid, {min(cores)})
        yield
        _pin(pid, cores)
        return
    yield
    (root / "cgroup.procs").write_text(str(pid))
    group.rmdir()


def _pin(pid: int, cpus: set[int]) -> None:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cpus)


def measured(trainers: list[Trainer], beside: list[int], seconds: float, rounds: int) -> dict[str, list[list[float]]]:
    """Steps of every trainer in every company, a value per round; keys are ``company|label``."""
    found: dict[str, list[list[float]]] = {}
    for _ in range(rounds):
        for count in beside:
            with busy(count):
                for one in trainers:
                    found.setdefault(f"{count} busy|{one.label}", []).append(one.step(seconds))
        for one in trainers:
            with held_to_one_core(one.child.pid):
                found.setdefault(f"a quota of one core|{one.label}", []).append(one.step(seconds))
    return found


def lines_of(model: str, beside: list[int], seconds: float, rounds: int) -> list[str]:
    """The rows of one model, and whether the number of threads shows in the weights."""
    cores = available_cores()
    trainers = [Trainer(model, number) for number in sorted({1, thread_share(), cores})]
    trainers += [Trainer(model, cores, asleep=True)] if cores > 1 else []
    try:
        found = measured(trainers, beside, seconds, rounds)
    finally:
        for one in trainers:
            one.end()
    alone = statistics.median(cpu for _, cpu in found.get("0 busy|1") or next(iter(found.values())))
    lines = []
    for key, values in found.items():
        company, label = key.split("|")
        wall, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        share = cores / (int(company.split()[0]) + 1) if "busy" in company else 1
        chosen = " (medcore's choice)" if label == str(thread_share()) else ""
        fair = alone / share
        lines.append(f"| {model} | {company} | {label}{chosen} | {wall:.0f} | {cpu:.0f} | {wall / fair:.2f} |")
    same = len({one.weights for one in trainers if not one.label.endswith("asleep")}) == 1
    lines.append(f"| {model} | weights after two epochs | all | {'equal' if same else 'differ in the last bits'} | | |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--beside", nargs="+", type=int, default=list(BESIDE), help="busy processes")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md alone")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    start = machine(torch.device("cpu"))
    lines = ["| model | beside | threads | wall, ms | CPU, ms | wall / fair |", "|---" * 6 + "|"]
    for model in options.models:
        lines += lines_of(model, options.beside, options.seconds, options.rounds)
        print("\n".join(lines), flush=True)
    if not options.dry:
        note = f"{start}; batch {BATCH}, median of {options.rounds} interleaved rounds;"
        record(f"A training step beside busy processes, {SIDE} px", note, lines)


if __name__ == "__main__":
    main()
