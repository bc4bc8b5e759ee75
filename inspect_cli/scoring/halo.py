"""What of the area above the limit is a defect, and what is only the halo of a strong one.

Tiles, receptive fields and smoothing spread a defect over its surroundings. Where a defect scores a hundred times
the limit, its halo scores many times the limit too, and a mask of all that is above it is far too large. So a pixel
counts as defective only if its score is also a share of the largest score near it. Scores, peaks and verdicts stay
as they are: only masks, and the areas and boxes of regions, are trimmed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from inspect_cli.arrays import Rows


class Trimmed(NamedTuple):
    """Rows that came in earlier: fused score, each map's score (n, width), and the pixels that count as defective."""

    fused: Rows
    scores: list[Rows]
    kept: NDArray[np.bool_]


class HaloTrimmer:
    """Marks defective pixels in a stream of rows: score above 1, and at least ``share`` of the largest score near.

    Near is a square that reaches ``radius_px`` to each side; rows wait until those below them are there. ``share`` 0
    trims nothing, and no row waits.
    """

    def __init__(self, share: float, radius_px: int) -> None:
        self._share = share
        self._radius = radius_px if share > 0 else 0
        self._above: Rows | None = None
        self._waiting: deque[tuple[Rows, list[Rows]]] = deque()
        self._rows_waiting = 0

    def push(self, fused: Rows, scores: list[Rows]) -> Iterator[Trimmed]:
        """Take rows (n, width) in, give those back that have all their neighbours."""
        self._waiting.append((fused, scores))
        self._rows_waiting += len(fused)
        while self._waiting and self._rows_waiting - len(self._waiting[0][0]) >= self._radius:
            yield self._release()

    def finish(self) -> Iterator[Trimmed]:
        """Give the rows back that were still waiting."""
        while self._waiting:
            yield self._release()

    def _release(self) -> Trimmed:
        fused, scores = self._waiting.popleft()
        self._rows_waiting -= len(fused)
        kept = fused > 1
        if self._radius and kept.any():
            kept &= ~self._halo(fused)
        if self._radius:
            self._above = self._last_rows(fused)
        return Trimmed(fused, scores, kept)

    def _last_rows(self, fused: Rows) -> Rows:
        """Return the last rows so far, as many as are near the next one; a copy, which keeps no others in memory."""
        missing = self._radius - len(fused)
        if missing <= 0 or self._above is None:
            return fused[-self._radius :].copy()
        return np.concatenate([self._above[-missing:], fused])

    def _halo(self, fused: Rows) -> NDArray[np.bool_]:
        """Return which pixels are below the share of the largest score near them."""
        parts = [] if self._above is None else [self._above]
        first, missing = sum(map(len, parts)), self._radius
        parts.append(fused)
        for below, _ in self._waiting:
            parts.append(below[:missing])
            missing -= len(parts[-1])
            if missing <= 0:
                break
        around = np.nan_to_num(np.concatenate(parts), nan=0.0)
        halo = np.zeros(fused.shape, np.bool_)
        # Only a score above 1 / share has a halo above 1.
        columns = np.flatnonzero((around * np.float32(self._share) > 1).any(axis=0))
        if len(columns):
            x0, x1 = max(0, int(columns[0]) - self._radius), int(columns[-1]) + self._radius + 1
            side = np.ones(2 * self._radius + 1, np.uint8)
            largest = cv2.dilate(cv2.dilate(around[:, x0:x1], side[:, None]), side[None])
            near = largest[first : first + len(fused)]
            halo[:, x0:x1] = fused[:, x0:x1] < near * np.float32(self._share)
        return halo
