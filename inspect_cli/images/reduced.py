"""Reduced pictures built while rows arrive: small enough to look at, with no small defect lost."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Longer side of a preview, at most.
PREVIEW_PX: Final = 1600

Array = NDArray[np.float32]


def preview_scale(height: int, width: int) -> int:
    """Return how many full-size pixels one preview pixel stands for, along each axis."""
    return reduction(height, width, PREVIEW_PX)


def reduction(height: int, width: int, most_px: int) -> int:
    """Return the factor by which an image is reduced so that its longer side is ``most_px`` at most."""
    return max(1, -(-max(height, width) // most_px))


class BlockReducer:
    """Reduces rows (n, width[, channels]) by an integer factor.

    ``max`` keeps the largest finite value of a block (NaN if there is none): for scores. ``mean`` averages:
    for pictures.
    """

    def __init__(self, factor: int, how: str) -> None:
        if how not in ("max", "mean"):
            raise ValueError(f"how is {how!r}; valid: max, mean")
        self._factor, self._how = factor, how
        self._waiting: Array | None = None
        self._done: list[Array] = []

    def push(self, rows: Array) -> None:
        """Add rows."""
        rows = rows if self._waiting is None else np.concatenate([self._waiting, rows])
        whole = len(rows) // self._factor * self._factor
        if whole:
            self._done.append(self._reduce(rows[:whole]))
        self._waiting = rows[whole:].copy()

    def result(self) -> Array:
        """Return the reduced picture; the last block may stand for fewer pixels."""
        if self._waiting is not None and len(self._waiting):
            self._done.append(self._reduce(self._waiting))
            self._waiting = None
        return np.concatenate(self._done)

    def _reduce(self, rows: Array) -> Array:
        """Reduce rows to blocks; blocks at the bottom and right edge hold what there is."""
        if self._how == "mean":
            down, across = (_lengths(length, self._factor) for length in rows.shape[:2])
            pixels = np.outer(down, across).astype(np.float32)
            sums = self._blocks(rows, np.add)
            return np.asarray(sums / pixels.reshape(*pixels.shape, *[1] * (rows.ndim - 2)), np.float32)
        return self._blocks(rows, np.fmax)  # a number wins over NaN

    def _blocks(self, rows: Array, join: np.ufunc) -> Array:
        """Join the pixels of each block: whole rows first, then every so many columns, both long operations."""
        factor = self._factor
        down = np.stack([join.reduce(rows[top : top + factor], axis=0) for top in range(0, len(rows), factor)])
        joined = down[:, ::factor].copy()
        for first in range(1, factor):
            columns = down[:, first::factor]
            target = joined[:, : columns.shape[1]]
            join(target, columns, out=target)
        return joined


def _lengths(length_px: int, factor: int) -> NDArray[np.int64]:
    """Return how many pixels each block along an axis has."""
    return np.minimum(factor, length_px - np.arange(0, length_px, factor))
