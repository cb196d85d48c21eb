"""Many independent jobs side by side: joblib's own processes here, Dask or Ray on a cluster, with the same code.

    for number, result in run_jobs(train_one, tasks, jobs=2): ...

- Each job gets cores / jobs threads: two spinning threads on a busy core are slower than one.
- ``dask`` joins the scheduler named by ``DASK_SCHEDULER_ADDRESS``, ``ray`` the cluster named by ``RAY_ADDRESS``;
  without these a local one is started on loopback and stopped at the end.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from joblib import Parallel, cpu_count, delayed, parallel_config

from medcore.errors import MedcoreError

Task = TypeVar("Task")
Result = TypeVar("Result")
ENGINES = ("loky", "dask", "ray")


def run_jobs(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, jobs: int = 1, engine: str = "loky"
) -> Iterator[tuple[int, Result]]:
    """Call a function on every task, some at a time; gives (number of the task, result) as they finish.

    Args:
        function: Works in another process: it and the tasks are pickled.
        tasks: One argument each.
        jobs: How many at a time; 1 runs them here, one after the other.
        engine: ``loky``, ``dask`` or ``ray``; the last two also with ``jobs=1``.

    Raises:
        MedcoreError: The engine is unknown or not installed.
    """
    if engine not in ENGINES:
        raise MedcoreError(f"engine={engine!r}: unknown; choose one of {', '.join(ENGINES)}")
    if jobs < 1:
        raise MedcoreError(f"jobs={jobs}: must be at least 1")
    threads = max(1, cpu_count() // jobs)
    if engine == "loky" and jobs == 1:
        yield from ((number, _with_threads(function, task, threads)) for number, task in enumerate(tasks))
        return
    with _cluster(engine, jobs), parallel_config(backend=engine):
        # Ray's backend for joblib hands results out only when all of them are there
        parallel = Parallel(n_jobs=jobs, return_as="list" if engine == "ray" else "generator_unordered")
        yield from parallel(delayed(_numbered)(function, number, task, threads) for number, task in enumerate(tasks))


def _numbered(function: Callable[[Task], Result], number: int, task: Task, threads: int) -> tuple[int, Result]:
    return number, _with_threads(function, task, threads)


def _with_threads(function: Callable[[Task], Result], task: Task, threads: int) -> Result:
    """One job with its share of the cores. The number of threads decides roundings, so no engine may choose it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return function(task)
    finally:
        torch.set_num_threads(before)


@contextmanager
def _cluster(engine: str, jobs: int) -> Iterator[None]:
    if engine == "dask":
        with _dask(jobs):
            yield
    elif engine == "ray":
        with _ray(jobs):
            yield
    else:
        yield


@contextmanager
def _dask(jobs: int) -> Iterator[None]:
    distributed: Any = _needed("distributed", "dask")
    address = os.environ.get("DASK_SCHEDULER_ADDRESS")
    if address:
        with distributed.Client(address):
            yield
        return
    local = {"n_workers": jobs, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(host="127.0.0.1", **local) as cluster, distributed.Client(cluster):
        yield


@contextmanager
def _ray(jobs: int) -> Iterator[None]:
    ray: Any = _needed("ray", "ray")
    importlib.import_module("ray.util.joblib").register_ray()
    started = not ray.is_initialized()
    if started:
        address = os.environ.get("RAY_ADDRESS")
        here = {} if address else {"num_cpus": jobs, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **here)
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def _needed(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MedcoreError(
            f'engine={extra!r} is not installed ({error}); run: pip install "medcore[{extra}]", or use engine="loky"'
        ) from error
