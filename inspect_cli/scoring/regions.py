"""Connected regions above the limit, found in a stream of rows.

Each block of rows is labelled by itself; labels that touch across a block's border are joined at the end.
Memory grows with the number of regions, not with the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Region:
    """One connected area (8 neighbours) in which the fused score is above 1."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int
    area_px: int
    score_max: float
    score_mean: float
    peak_x_px: int
    peak_y_px: int
    map: str


class _Block(NamedTuple):
    """Sums of the labels of one block; every array has one entry (or row) a label."""

    area: NDArray[np.int64]
    total: NDArray[np.float64]
    x0: NDArray[np.int64]
    y0: NDArray[np.int64]
    x1: NDArray[np.int64]
    y1: NDArray[np.int64]
    peak: NDArray[np.float64]
    peak_at: NDArray[np.int64]
    by_map: NDArray[np.float64]


class RegionFinder:
    """Collects regions block by block; call :meth:`regions` at the end."""

    def __init__(self, width: int, map_names: list[str]) -> None:
        self._width = width
        self._maps = map_names
        self._blocks: list[_Block] = []
        self._joins: list[NDArray[np.int64]] = []
        self._count = 0
        self._y = 0
        self._last_row = np.full(width, -1, np.int64)

    def push(self, fused: NDArray[np.float32], scores: list[NDArray[np.float32]]) -> None:
        """Add rows (n, width) of the fused score and of each map's score, in the order of the names."""
        flagged = fused > 1
        if flagged.any():
            _, found = cv2.connectedComponents(flagged.astype(np.uint8), connectivity=8)
            labels = np.where(flagged, found.astype(np.int64) - 1 + self._count, -1)
            self._blocks.append(self._measure(flagged, labels, fused, scores))
            self._join(labels[0])
            self._count += int(found.max())
            self._last_row = labels[-1]
        else:
            self._last_row = np.full(self._width, -1, np.int64)
        self._y += len(fused)

    def _measure(
        self,
        flagged: NDArray[np.bool_],
        labels: NDArray[np.int64],
        fused: NDArray[np.float32],
        scores: list[NDArray[np.float32]],
    ) -> _Block:
        y, x = np.nonzero(flagged)
        label = labels[flagged] - self._count
        count = int(label.max()) + 1
        value = fused[flagged].astype(np.float64)
        peak, peak_at = _peaks(label, value, (y + self._y) * self._width + x, count)
        return _Block(
            area=np.bincount(label, minlength=count),
            total=np.bincount(label, value, minlength=count).astype(np.float64),
            x0=_extreme(np.minimum, label, x, count, np.iinfo(np.int64).max),
            y0=_extreme(np.minimum, label, y + self._y, count, np.iinfo(np.int64).max),
            x1=_extreme(np.maximum, label, x, count, -1),
            y1=_extreme(np.maximum, label, y + self._y, count, -1),
            peak=peak,
            peak_at=peak_at,
            by_map=np.stack([_largest(label, s[flagged], count) for s in scores], axis=1),
        )

    def _join(self, first_row: NDArray[np.int64]) -> None:
        """Note which labels of this block's first row touch labels of the last block's last row."""
        last = self._last_row
        for shift in (-1, 0, 1):
            above = last[max(0, -shift) : self._width - max(0, shift)]
            below = first_row[max(0, shift) : self._width - max(0, -shift)]
            touching = (above >= 0) & (below >= 0)
            if touching.any():
                self._joins.append(np.unique(np.stack([above[touching], below[touching]]), axis=1))

    def regions(self, min_area_px: int) -> list[Region]:
        """Return the regions of at least ``min_area_px`` pixels, the highest score first."""
        if not self._blocks:
            return []
        block = _Block(*(np.concatenate(column) for column in zip(*self._blocks, strict=True)))
        whole = self._joined(block)
        order = np.lexsort((whole.peak_at, -whole.peak))
        return [self._region(whole, int(i)) for i in order if whole.area[i] >= min_area_px]

    def _joined(self, block: _Block) -> _Block:
        joins = np.concatenate(self._joins, axis=1) if self._joins else np.empty((2, 0), np.int64)
        graph = coo_array((np.ones(joins.shape[1], bool), (joins[0], joins[1])), shape=(self._count,) * 2)
        count, group = connected_components(graph, directed=False)
        peak, peak_at = _peaks(group, block.peak, block.peak_at, count)
        return _Block(
            area=np.bincount(group, block.area, minlength=count).astype(np.int64),
            total=np.bincount(group, block.total, minlength=count).astype(np.float64),
            x0=_extreme(np.minimum, group, block.x0, count, np.iinfo(np.int64).max),
            y0=_extreme(np.minimum, group, block.y0, count, np.iinfo(np.int64).max),
            x1=_extreme(np.maximum, group, block.x1, count, -1),
            y1=_extreme(np.maximum, group, block.y1, count, -1),
            peak=peak,
            peak_at=peak_at,
            by_map=np.stack([_largest(group, column, count) for column in block.by_map.T], axis=1),
        )

    def _region(self, block: _Block, index: int) -> Region:
        peak_y, peak_x = divmod(int(block.peak_at[index]), self._width)
        return Region(
            x_px=int(block.x0[index]),
            y_px=int(block.y0[index]),
            width_px=int(block.x1[index] - block.x0[index] + 1),
            height_px=int(block.y1[index] - block.y0[index] + 1),
            area_px=int(block.area[index]),
            score_max=float(block.peak[index]),
            score_mean=float(block.total[index] / block.area[index]),
            peak_x_px=peak_x,
            peak_y_px=peak_y,
            map=self._maps[int(block.by_map[index].argmax())],
        )


def _extreme(
    ufunc: np.ufunc, label: NDArray[np.int64], value: NDArray[np.int64], count: int, start: int
) -> NDArray[np.int64]:
    result = np.full(count, start, np.int64)
    ufunc.at(result, label, value)
    return result


def _largest(label: NDArray[np.int64], value: NDArray[np.floating], count: int) -> NDArray[np.float64]:
    result = np.full(count, -np.inf)
    np.maximum.at(result, label, np.nan_to_num(value.astype(np.float64), nan=-np.inf))
    return result


def _peaks(
    label: NDArray[np.int64], value: NDArray[np.float64], at: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return each label's largest value and the first place where it occurs."""
    peak = np.full(count, -np.inf)
    np.maximum.at(peak, label, value)
    top = value == peak[label]
    place = np.full(count, np.iinfo(np.int64).max, np.int64)
    np.minimum.at(place, label[top], at[top])
    return peak, place
