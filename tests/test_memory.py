"""Between two steps of a run, freed memory stays with the process."""

from __future__ import annotations

import platform
from types import SimpleNamespace

import pytest
import torch

from medcore.training import device as memory

ROUNDS, FLOATS = 40, 1 << 20  # 4 MB a tensor


def pages_fetched() -> int:
    """Page faults of rounds that ask for the same tensors again and again, as the steps of a run do."""
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(ROUNDS):
        kept = [torch.empty(FLOATS).zero_() for _ in range(4)]
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tunes glibc only")
def test_a_step_fetches_the_memory_of_the_step_before_without_page_faults() -> None:
    with memory.kept_between_steps():
        pages_fetched()  # the first round takes the memory
        assert pages_fetched() < ROUNDS * 100  # left alone, about 2,000 a round


def test_the_memory_goes_back_when_a_run_ends_also_by_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list = []
    monkeypatch.setattr(memory, "_tune", lambda library, sizes: calls.append(sizes))
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: SimpleNamespace(malloc_trim=calls.append))
    with pytest.raises(RuntimeError), memory.kept_between_steps():
        raise RuntimeError("a step failed")
    assert calls == [memory.WHILE_TRAINING, memory.AFTERWARDS, 0]
    calls.clear()
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    with memory.kept_between_steps():
        assert calls == []
