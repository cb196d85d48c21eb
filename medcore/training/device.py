"""Where and how a run computes: the device (GPU first, CPU always), number format, memory layout, compiler.

The format follows from a table of rules, never from a stopwatch. ``kept_between_steps`` tunes the host's memory.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medcore.data.parallel import available_cores
from medcore.errors import MedcoreError


def choose_device(name: str = "auto") -> torch.device:
    """The device of a name; ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Args:
        name: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        MedcoreError: The device does not exist on this machine.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MedcoreError(f"device {name!r} is unknown; use auto, cpu, cuda, cuda:1 or mps") from error
    if not available.get(device.type, False):
        raise MedcoreError(f"device {name!r} is not available here; use device='auto' or 'cpu'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MedcoreError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    return device


@dataclass(frozen=True)
class Precision:
    """How the arithmetic of a run is done.

    Attributes:
        dtype: ``fp32``, or ``bf16`` for autocast to bfloat16 (weights and losses stay in fp32).
        layout: ``contiguous`` (NCHW) or ``channels_last`` (NHWC).
        compiled: Whether the model goes through ``torch.compile``.
        reason: Where the choice comes from.
    """

    dtype: str = "fp32"
    layout: str = "contiguous"
    compiled: bool = False
    reason: str = "asked for"

    def __str__(self) -> str:
        return "+".join([self.dtype, self.layout] + ["compile"] * self.compiled)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout as torch calls it."""
        return torch.channels_last if self.layout == "channels_last" else torch.contiguous_format

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """The context of a forward pass."""
        return torch.autocast(device.type, torch.bfloat16) if self.dtype == "bf16" else nullcontext()

    def place(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Move a model to the device in this layout (in place)."""
        return model.to(device).to(memory_format=self.memory_format)

    def arrange(self, images: Tensor) -> Tensor:
        """Images in this layout."""
        return images.contiguous(memory_format=self.memory_format)


# (capability, family) -> choice; the first line whose capability and family prefix fit decides
RULES: tuple[tuple[str, str, str], ...] = (
    ("cuda-bf16", "", "bf16+channels_last"),
    ("cpu", "efficientnet", "fp32+channels_last"),  # these two families are slower in bfloat16
    ("cpu", "mobilenet", "fp32+channels_last"),
    ("cpu-bf16", "", "bf16+channels_last"),
    ("cpu", "", "fp32+channels_last"),
    ("", "", "fp32+contiguous"),
)


def choose_precision(setting: str, device: torch.device, model: nn.Module) -> Precision:
    """The precision of a run.

    Args:
        setting: ``auto``, or parts joined by ``+``: ``fp32`` or ``bf16``, ``contiguous`` or ``channels_last``,
            ``compile``.
        device: Where the model will be.
        model: Its ``spec`` names the family.

    Raises:
        MedcoreError: A part is unknown.
    """
    if setting != "auto":
        return parse(setting, "asked for")
    capability, family = capability_of(device), family_of(model)
    choice = next(c for need, prefix, c in RULES if capability.startswith(need) and family.startswith(prefix))
    return parse(choice, f"rule for {capability}, {family or 'any model'}")


def parse(setting: str, reason: str) -> Precision:
    """A precision from words such as ``bf16+channels_last+compile``."""
    words = setting.split("+")
    unknown = set(words) - {"fp32", "bf16", "contiguous", "channels_last", "compile"}
    if unknown:
        raise MedcoreError(
            f"precision={setting!r}: {sorted(unknown)[0]!r} is unknown; use 'auto' or join fp32 or bf16, "
            "contiguous or channels_last, and compile with '+'"
        )
    layout = "channels_last" if "channels_last" in words else "contiguous"
    return Precision("bf16" if "bf16" in words else "fp32", layout, "compile" in words, reason)


def family_of(model: nn.Module) -> str:
    """Name of the architecture: ``resnet18`` for a classifier, else its family."""
    spec = getattr(model, "spec", None) or {}
    return str(spec.get("args", {}).get("name") or spec.get("family", ""))


def capability_of(device: torch.device) -> str:
    """What the device can do fast: ``cuda-bf16``, ``cuda``, ``cpu-bf16-amx``, ``cpu-bf16``, ``cpu``, ``mps``."""
    if device.type == "cuda":
        return "cuda-bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "cuda"
    if device.type == "cpu":
        if "amx_bf16" in _cpu_flags():
            return "cpu-bf16-amx"
        return "cpu-bf16" if "avx512_bf16" in _cpu_flags() else "cpu"
    return device.type


@cache
def _cpu_flags() -> frozenset[str]:
    if platform.system() != "Linux":
        return frozenset()
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return frozenset(word for line in file if line.startswith("flags") for word in line.split())
    except OSError:
        return frozenset()


def usable_threads() -> int:
    """Threads of torch's kernels in this process, as far as there are cores for them."""
    return min(torch.get_num_threads(), available_cores())


def waited_for_a_core() -> float:
    """Seconds that this thread could have run and had no core; 0 where the system does not count them."""
    try:
        return int(SCHEDULE.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


@contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """Inside, torch's kernels run on so many threads: sums depend on it, and with them the last bits of the weights."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


SCHEDULE = Path("/proc/thread-self/schedstat")  # time on a core, time waiting for one (ns), time slices

# glibc's names for "blocks from this size on are mapped alone" and "free memory above this goes back"
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
WHILE_TRAINING = {MMAP_THRESHOLD: 1 << 30, TRIM_THRESHOLD: 1 << 30}
AFTERWARDS = {MMAP_THRESHOLD: 1 << 25, TRIM_THRESHOLD: 1 << 26}  # where glibc's own adaptation ends up


@contextmanager
def kept_between_steps() -> Iterator[None]:
    """Have the C library keep what a step frees for the next step, and give it back at the end.

    Every step asks for the same megabytes again. Left alone, glibc hands them to the system after use, and each page
    that comes back costs a fault: a visible share of a small model's step and most of an augmentation's time. Other C
    libraries are left as they are.
    """
    library = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    if library is None:
        yield
        return
    _tune(library, WHILE_TRAINING)
    try:
        yield
    finally:
        _tune(library, AFTERWARDS)
        library.malloc_trim(0)


def _tune(library: ctypes.CDLL, sizes: dict[int, int]) -> None:
    for name, size in sizes.items():
        library.mallopt(name, size)
