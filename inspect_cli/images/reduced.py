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
            sums = self._blocks(rows, np.add, 0.0)
            return np.asarray(sums / pixels.reshape(*pixels.shape, *[1] * (rows.ndim - 2)), np.float32)
        largest = self._blocks(np.where(np.isnan(rows), np.float32(-np.inf), rows), np.maximum, -np.inf)
        return np.where(np.isneginf(largest), np.float32(np.nan), largest).astype(np.float32)

    def _blocks(self, rows: Array, join: np.ufunc, neutral: float) -> Array:
        """Join the pixels of each block; whole rows first, which is one long operation a row."""
        factor, joined = self._factor, []
        for top in range(0, len(rows), factor):
            joined.append(join.reduce(rows[top : top + factor], axis=0))
        across = np.stack(joined)
        missing = -across.shape[1] % factor
        across = np.pad(across, [(0, 0), (0, missing), *[(0, 0)] * (rows.ndim - 2)], constant_values=neutral)
        blocks = across.reshape(len(across), -1, factor, *across.shape[2:])
        return np.asarray(join.reduce(blocks, axis=2))


def _lengths(length_px: int, factor: int) -> NDArray[np.int64]:
    """Return how many pixels each block along an axis has."""
    return np.minimum(factor, length_px - np.arange(0, length_px, factor))
