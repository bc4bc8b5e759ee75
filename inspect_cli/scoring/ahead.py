"""Work on the next item while this one is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar, cast

T = TypeVar("T")
_END: Final = object()


def ahead(items: Iterable[T]) -> Iterator[T]:
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
