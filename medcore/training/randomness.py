"""Random numbers that are a function of (seed, epoch, sample), never of what was drawn before.

A counter-based generator (the finaliser of SplitMix64, Steele et al. 2014, doi:10.1145/2660193.2660195) hashes a
seed, an epoch, a purpose and a sample's id. Batch order, batch size, worker count, rank, device and a resume
after a kill therefore cannot change a draw. All arithmetic is int64 with wrap-around, equal on CPU and GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

# purposes: two purposes never share a draw
ORDER, AUGMENT, NOISE, MODEL = 1, 2, 3, 4

_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as int64
_FIRST = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_SECOND = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB


def mix(words: Tensor) -> Tensor:
    """Hash every int64 to an int64 that looks random. **Shape** any -> the same."""
    words = (words ^ _shift(words, 30)) * _FIRST
    words = (words ^ _shift(words, 27)) * _SECOND
    return words ^ _shift(words, 31)


def keys(ids: Tensor, *words: int) -> Tensor:
    """One key per sample from its id and the words (seed, epoch, purpose). **Shape** ``(B,)`` int64 -> ``(B,)``."""
    return mix(mix(ids + _GOLDEN) + _state(*words))


@lru_cache(maxsize=64)
def _state(*words: int) -> int:
    """The words hashed one after the other, as int64."""
    state = torch.zeros((), dtype=torch.int64)
    for word in words:
        state = mix(state + _GOLDEN + word)
    return int(state)


def uniform(sample_keys: Tensor, count: int, start: int = 0) -> Tensor:
    """``count`` numbers in [0, 1) per key, from counter ``start`` on. **Shape** ``(B,)`` -> ``(B, count)`` float32."""
    counters = torch.arange(start, start + count, device=sample_keys.device) * _GOLDEN
    return _shift(mix(sample_keys[:, None] + counters), 40).to(torch.float32) * 2.0**-24


def normal(sample_keys: Tensor, count: int) -> Tensor:
    """``count`` standard normal numbers per key (Box–Muller). **Shape** ``(B,)`` -> ``(B, count)`` float32."""
    half = (count + 1) // 2
    counters = torch.arange(1, half + 1, device=sample_keys.device) * _GOLDEN
    words = mix(sample_keys[:, None] + counters)  # one 64-bit word serves two draws
    radius = (((words >> 32) & 0xFFFFFFFF).float() * 2.0**-32).clamp_(min=2.0**-33).log_().mul_(-2).sqrt_()
    angle = (words & 0xFFFFFFFF).float() * (2.0 * math.pi * 2.0**-32)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :count]


def permutation(ids: Tensor, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits samples. **Shape** ``(N,)`` ids -> ``(N,)`` positions."""
    return torch.argsort(keys(ids, seed, epoch, ORDER), stable=True)


@contextmanager
def model_randomness(seed: int, epoch: int, rank: int, device: torch.device) -> Iterator[None]:
    """Seed what a model draws inside (dropout, VAE noise) for one epoch; the caller's generators are put back."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(keys(torch.tensor([rank]), seed, epoch, MODEL)) & 0x7FFFFFFFFFFFFFFF)
        yield


@lru_cache(maxsize=256)
def constant(values: tuple, device: torch.device) -> Tensor:
    """A small table of numbers on the device, uploaded once: an upload per batch would wait for the GPU each time."""
    return torch.tensor(values, dtype=torch.float32, device=device)


def _shift(words: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's own is arithmetic and would drag the sign along."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)
