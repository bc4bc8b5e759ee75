"""Work on the next item while this one is used."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar, cast

T = TypeVar("T")
_END: Final = object()


def ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """Yield ``items`` in their order, each made by another thread while its predecessor is in use.

    Never more than one item waits. What making an item raises is raised here, in its place; when the
    consumer stops early, the item in hand is finished and no more are made.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, iterator, _END)
        while (item := following.result()) is not _END:
            following = pool.submit(next, iterator, _END)
            yield cast(T, item)


def behind(items: Iterable[T]) -> Iterator[T]:
    """Yield each of ``items`` when its successor has been made, the last one at the end.

    For items that are computed while nobody waits: an item is only handed on once the next has been started.
    """
    waiting: list[T] = []
    for item in items:
        waiting.append(item)
        if len(waiting) == 2:
            yield waiting.pop(0)
    yield from waiting
