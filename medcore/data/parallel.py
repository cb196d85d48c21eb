"""Many files by several threads, in order and within a budget of memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from medcore.errors import MedcoreError

BYTES_AHEAD = 1 << 30  # of images that are being decoded or wait to be taken
T = TypeVar("T")
R = TypeVar("R")


def map_threads(
    function: Callable[[T], R], values: list[T], threads: int | None = None, *, weight: Callable[[T], int] | None = None
) -> Iterator[R]:
    """Results of ``function`` in order, computed by threads (decoders release the GIL), a few ahead at a time.

    With ``weight``, the bytes that a value needs, no more than ``BYTES_AHEAD`` are in work or wait; one always is.
    """
    threads = threads or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[tuple[Any, int]] = deque()
        try:
            for value in values:
                need = weight(value) if weight else 0
                while ahead and (len(ahead) >= 4 * threads or need + sum(w for _, w in ahead) > BYTES_AHEAD):
                    yield ahead.popleft()[0].result()
                ahead.append((pool.submit(function, value), need))
            while ahead:
                yield ahead.popleft()[0].result()
        finally:
            for future, _ in ahead:
                future.cancel()


def attempt(function: Callable[[T], R]) -> Callable[[T], R | MedcoreError]:
    """The function, returning its ``MedcoreError`` where it would raise it."""

    def run(value: T) -> R | MedcoreError:
        try:
            return function(value)
        except MedcoreError as error:
            return error

    return run
