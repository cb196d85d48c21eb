"""Many independent jobs — folds, sweeps — over joblib: on this machine, on a Dask cluster or on Ray, by one flag."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from joblib import Parallel, delayed, parallel_config

from medcore.errors import MedcoreError

ENGINES = ("loky", "dask", "ray")


def run_jobs(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], *, engine: str = "loky", jobs: int = 1
) -> Iterator[Any]:
    """Call a function with each tuple of arguments; results come in the order of the calls.

    Args:
        function: A module-level function.
        calls: Its arguments.
        engine: ``loky`` (processes here), ``dask`` (the current ``distributed.Client``, or one started here), ``ray``.
        jobs: How many at a time; 1 runs them in this process (loky).

    Raises:
        MedcoreError: The engine is unknown, or its package is missing.
    """
    with _backend(engine, jobs):
        yield from Parallel(n_jobs=jobs, return_as="generator")(delayed(function)(*call) for call in calls)


@contextlib.contextmanager
def _backend(engine: str, jobs: int) -> Iterator[None]:
    if engine not in ENGINES:
        raise MedcoreError(f"engine={engine!r}: unknown; choose one of {', '.join(ENGINES)}")
    try:
        with contextlib.ExitStack() as stack:
            if engine == "dask":
                from distributed import Client, default_client

                try:
                    default_client()
                except ValueError:
                    stack.enter_context(Client(n_workers=jobs, threads_per_worker=1, dashboard_address=None))
            elif engine == "ray":
                from ray.util.joblib import register_ray

                register_ray()
            stack.enter_context(parallel_config(backend=engine, n_jobs=jobs))
            yield
    except ImportError as error:
        raise MedcoreError(f"engine={engine!r} is not installed: pip install 'medcore[{engine}]' ({error})") from None
