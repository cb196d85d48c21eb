"""Many processes: one model on several under ``torchrun``, or many independent jobs side by side.

    torchrun --nproc-per-node=2 -m medcore train classifier --data phantom-crc --out runs/a

Without torchrun's environment everything here is a no-op. A step's images are dealt out to the processes, gradients
are averaged by DistributedDataParallel, batch norm uses the statistics of all processes, and metrics are added up;
so the result is that of one process with the same batch size, up to rounding.

    for number, result in run_jobs(train_one, tasks, jobs=2): ...

Jobs run in joblib's own processes here, with Dask or Ray on a cluster: ``dask@tcp://HOST:8786`` joins that scheduler
(else the one of ``DASK_SCHEDULER_ADDRESS``), ``ray@HOST:6379`` that cluster (else the one of ``RAY_ADDRESS``); without
an address a local one is started on loopback and stopped at the end. The workers must see the same folders. A job whose
process dies is done again elsewhere, with a warning. Each job gets cores / jobs threads: two spinning threads on a busy
core are slower.
"""

from __future__ import annotations

import atexit
import importlib
import os
import re
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medcore.data.parallel import thread_share
from medcore.errors import MedcoreError
from medcore.training.device import choose_device

PATIENCE = timedelta(minutes=10)  # how long to wait for a process that may be loading data
_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|socket|broken pipe|peer|watchdog", re.IGNORECASE)


def _started() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, 0 for the one that writes."""
    return dist.get_rank() if _started() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _started() else 1


def sum_over_processes(values: Tensor) -> Tensor:
    """The elementwise sum over all processes, the same on each. **Shape** any."""
    if world() > 1:
        dist.all_reduce(values)
    return values


def max_over_processes(values: Tensor) -> Tensor:
    """The elementwise maximum over all processes, the same on each. **Shape** any."""
    if world() > 1:
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def joined_lists(values: list[int]) -> list[int]:
    """The lists of all processes one after the other, the same on each."""
    if world() == 1:
        return values
    gathered: list[list[int]] = [[] for _ in range(world())]
    dist.all_gather_object(gathered, values)
    return [value for part in gathered for value in part]


def barrier() -> None:
    """Wait for all processes."""
    if world() > 1:
        dist.barrier()


@contextmanager
def session(name: str) -> Iterator[torch.device]:
    """Join the processes that torchrun started, if any; gives the device of this one.

    Raises:
        MedcoreError: The device does not exist, or another process of the run was lost.
    """
    many = "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    device = choose_device(
        f"cuda:{os.environ['LOCAL_RANK']}" if many and name in ("auto", "cuda") and _gpus() else name
    )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if many and not _started():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        atexit.register(_leave)
    try:
        yield device
    except RuntimeError as error:
        if world() > 1 and _LOST.search(str(error)):
            raise MedcoreError(
                f"process {rank()} of {world()} lost another process of this run, whose own message says why; "
                f"go on from the last checkpoint with resume ({str(error).splitlines()[0]})"
            ) from error
        raise


def _gpus() -> bool:
    return torch.cuda.is_available()


def _leave() -> None:
    if _started():
        dist.destroy_process_group()


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """The model as it is called in training: averages gradients over processes where there are several."""
    if world() == 1 or not any(weight.requires_grad for weight in model.parameters()):
        return model
    return nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


@contextmanager
def synced_batch_norm(model: nn.Module) -> Iterator[None]:
    """Inside, batch norm in training uses mean and variance over all processes.

    torch's own SyncBatchNorm exists for GPUs only, and replaces the modules for good.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)] if world() > 1 else []
    for layer in layers:
        layer.forward = types.MethodType(_synced_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _synced_forward(layer: _BatchNorm, values: Tensor) -> Tensor:
    if not layer.training:
        return type(layer).forward(layer, values)
    from torch.distributed.nn.functional import all_reduce

    axes = [0, *range(2, values.ndim)]
    shape = [1, -1] + [1] * (values.ndim - 2)
    floating = values.float()
    count = sum_over_processes(torch.tensor(float(values.numel() // values.shape[1]), device=values.device))
    mean = all_reduce(floating.sum(axes)) / count
    centred = floating - mean.view(shape)
    variance = all_reduce(centred.square().sum(axes)) / count
    _follow(layer, mean.detach(), variance.detach() * count / (count - 1).clamp_min(1))
    normalised = centred * torch.rsqrt(variance + layer.eps).view(shape)
    if layer.affine:
        normalised = normalised * layer.weight.view(shape) + layer.bias.view(shape)
    return normalised.to(values.dtype)


def _follow(layer: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Update the running statistics as torch does."""
    if not layer.track_running_stats or layer.running_mean is None or layer.running_var is None:
        return
    with torch.no_grad():
        tracked: Any = layer.num_batches_tracked
        tracked += 1
        share: Any = 1.0 / tracked if layer.momentum is None else layer.momentum
        layer.running_mean.lerp_(mean.to(layer.running_mean), share)
        layer.running_var.lerp_(variance.to(layer.running_var), share)


@contextmanager
def deterministic(wanted: bool, device: torch.device) -> Iterator[None]:
    """Algorithms that give the same bits each time, for a GPU; the settings are put back afterwards."""
    if device.type != "cuda":  # on a CPU torch is deterministic anyway, for a given number of threads
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    benchmark, fill = torch.backends.cudnn.benchmark, settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    torch.backends.cudnn.benchmark = not wanted
    settings.fill_uninitialized_memory = False  # costs a write per buffer, and helps only debugging
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
        settings.fill_uninitialized_memory = fill


Task = TypeVar("Task")
Result = TypeVar("Result")
ENGINES = ("loky", "dask", "ray")
RETRIES = 2  # times that a job is done again whose process died


def run_jobs(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, jobs: int = 1, engine: str = "loky"
) -> Iterator[tuple[int, Result]]:
    """Call a function on every task, some at a time; gives (number of the task, result) as they finish.

    Args:
        function: Works in another process: it and the tasks are pickled.
        jobs: How many at a time; 1 runs them here, one after the other.
        engine: ``loky``, ``dask`` or ``ray``, the last two also with ``jobs=1``, and with ``@ADDRESS`` of a running
            cluster.

    Raises:
        MedcoreError: The engine is unknown, not installed or not reached; or the process of a job died each time.
    """
    name, _, address = engine.partition("@")
    if name not in ENGINES or (address and name == "loky"):
        raise MedcoreError(f"engine={engine!r}: unknown; choose one of {', '.join(ENGINES)}, or dask@ADDRESS")
    if jobs < 1:
        raise MedcoreError(f"jobs={jobs}: must be at least 1")
    if name == "loky" and jobs == 1:
        yield from ((number, _with_threads(function, task, thread_share(jobs))) for number, task in enumerate(tasks))
        return
    calls = [(function, number, task, thread_share(jobs)) for number, task in enumerate(tasks)]
    run = {"loky": _on_loky, "dask": _on_dask, "ray": _on_ray}[name]
    yield from run(calls, jobs, address)


Call = tuple[Callable[[Any], Any], int, Any, int]


def _numbered(function: Callable[[Task], Result], number: int, task: Task, threads: int) -> tuple[int, Result]:
    return number, _with_threads(function, task, threads)


def _on_loky(calls: list[Call], jobs: int, _: str) -> Iterator[tuple[int, Any]]:
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    left = {call[1]: call for call in calls}
    for again in range(RETRIES + 1):
        try:
            with parallel_config(backend="loky", inner_max_num_threads=calls[0][3]):
                parallel = Parallel(n_jobs=jobs, return_as="generator_unordered")
                for number, result in parallel(delayed(_numbered)(*call) for call in list(left.values())):
                    del left[number]
                    yield number, result
            return
        except TerminatedWorkerError as error:
            _say_lost(f"{len(left)} unfinished jobs are", again, error)


def _say_lost(what: str, again: int, error: Exception | None = None) -> None:
    """A warning that a process died; an error when that was the last try."""
    text = "a worker process was killed (by the system, for lack of memory, or from outside)"
    if again >= RETRIES:
        raise MedcoreError(f"{text} {again + 1} times; take fewer --jobs, or look at its machine's log") from error
    warnings.warn(f"{text}: {what} done again", stacklevel=3)


def _on_dask(calls: list[Call], jobs: int, address: str) -> Iterator[tuple[int, Any]]:
    from joblib import Parallel, delayed, parallel_config

    with _dask(jobs, address) as client:
        workers = set(client.nthreads())
        with parallel_config(backend="dask"):
            parallel = Parallel(n_jobs=jobs, return_as="generator_unordered")
            for number, result in parallel(delayed(_numbered)(*call) for call in calls):
                for gone in sorted(workers - set(client.nthreads())):
                    warnings.warn(f"worker {gone} was lost; Dask does its jobs again on others", stacklevel=2)
                workers = set(client.nthreads())
                yield number, result


def _on_ray(calls: list[Call], jobs: int, address: str) -> Iterator[tuple[int, Any]]:
    with _ray(jobs, address) as ray:
        remote = ray.remote(num_cpus=1, max_retries=0)(_numbered)  # tried again below, where it is said
        died = (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError)
        running = {remote.remote(*call): (call, 0) for call in calls}
        while running:
            (first, *_), _ = ray.wait(list(running), num_returns=1)
            call, again = running.pop(first)
            try:
                result = ray.get(first)
            except died as error:
                _say_lost(f"job {call[1] + 1} of {len(calls)} is", again, error)
                running[remote.remote(*call)] = call, again + 1
                continue
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, MedcoreError) else error from None
            yield result


def _with_threads(function: Callable[[Task], Result], task: Task, threads: int) -> Result:
    """One job with its share of the cores. The number of threads decides roundings, so no engine may choose it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return function(task)
    finally:
        torch.set_num_threads(before)


@contextmanager
def _dask(jobs: int, address: str) -> Iterator[Any]:
    distributed: Any = _needed("distributed", "dask")
    address = address or os.environ.get("DASK_SCHEDULER_ADDRESS", "")
    if address:
        try:
            client = distributed.Client(address, timeout="30s")
        except (OSError, ValueError) as error:
            raise MedcoreError(
                f"no Dask scheduler answers at {address!r} ({error}); start one: dask scheduler"
            ) from error
        with client:
            yield client
        return
    local = {"n_workers": jobs, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(host="127.0.0.1", **local) as cluster, distributed.Client(cluster) as client:
        yield client


@contextmanager
def _ray(jobs: int, address: str) -> Iterator[Any]:
    ray: Any = _needed("ray", "ray")
    started = not ray.is_initialized()
    if started:
        address = address or os.environ.get("RAY_ADDRESS", "")
        here = {} if address else {"num_cpus": jobs, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        try:
            ray.init(address=address or None, log_to_driver=False, logging_level="ERROR", **here)
        except Exception as error:  # whatever a node that does not come up raises
            raise MedcoreError(
                f"no Ray cluster answers at {address!r} ({error}); start one: ray start --head"
                if address
                else f"Ray did not start on this machine ({error}); try again when it is less busy, or --engine dask"
            ) from error
    try:
        yield ray
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
