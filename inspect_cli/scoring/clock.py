"""Where a part's time goes."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Clock:
    """Sums seconds by phase (hash, read, network, stitch, smooth, judge, write) of one part."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._spent: defaultdict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside the ``with`` block to ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[name] += time.perf_counter() - start

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Yield ``items``, counting the time that making them takes to ``name``."""
        iterator = iter(items)
        while True:
            with self.phase(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase and ``total``, rounded to milliseconds."""
        spent = {name: round(value, 3) for name, value in self._spent.items()}
        return spent | {"total": round(time.perf_counter() - self._started, 3)}
