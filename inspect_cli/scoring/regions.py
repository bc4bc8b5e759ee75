"""Connected regions above the limit, found in a stream of rows.

What makes a region, and whether it is large enough to be one, is all of its area above the limit; what it measures is
what is left of that without the halo (``scoring/halo.py``), and its peak.

Each block of rows is labelled by itself; labels that touch across a block's border are joined at the end.
Memory grows with the number of regions, not with the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Region:
    """One connected area (8 neighbours) in which the fused score is above 1.

    ``area_px`` and ``score_mean`` are those of its pixels that are no halo, the box holds them and the peak.
    """

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
    """Sums of the labels of one block; every array has one entry (or row) a label.

    ``above``, ``peak``, ``peak_at`` and ``by_map`` are of all its pixels, the others of those that are no halo.
    """

    above: NDArray[np.int64]
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

    def push(self, fused: NDArray[np.float32], scores: list[NDArray[np.float32]], kept: NDArray[np.bool_]) -> None:
        """Add rows (n, width): the fused score, each map's score in the order of the names, what is no halo."""
        flagged = fused > 1
        if flagged.any():
            _, found = cv2.connectedComponents(flagged.astype(np.uint8), connectivity=8)
            labels = np.where(flagged, found.astype(np.int64) - 1 + self._count, -1)
            self._blocks.append(self._measure(flagged, labels, fused, scores, kept))
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
        kept: NDArray[np.bool_],
    ) -> _Block:
        y, x = np.nonzero(flagged)
        label = labels[flagged] - self._count
        count = int(label.max()) + 1
        value = fused[flagged].astype(np.float64)
        peak, peak_at = _peaks(label, value, (y + self._y) * self._width + x, count)
        own = kept[flagged]
        within, y, x = label[own], y[own] + self._y, x[own]
        return _Block(
            above=np.bincount(label, minlength=count),
            area=np.bincount(within, minlength=count),
            total=np.bincount(within, value[own], minlength=count).astype(np.float64),
            x0=_extreme(np.minimum, within, x, count, np.iinfo(np.int64).max),
            y0=_extreme(np.minimum, within, y, count, np.iinfo(np.int64).max),
            x1=_extreme(np.maximum, within, x, count, -1),
            y1=_extreme(np.maximum, within, y, count, -1),
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
        """Return the regions of at least ``min_area_px`` pixels above the limit, the highest score first.

        One that is wholly in the halo of another has an area of 0: nothing above the limit goes unsaid.
        """
        if not self._blocks:
            return []
        block = _Block(*(np.concatenate(column) for column in zip(*self._blocks, strict=True)))
        whole = self._joined(block)
        order = np.lexsort((whole.peak_at, -whole.peak))
        return [self._region(whole, int(i)) for i in order if whole.above[i] >= min_area_px]

    def _joined(self, block: _Block) -> _Block:
        count, group = self._groups()
        peak, peak_at = _peaks(group, block.peak, block.peak_at, count)
        return _Block(
            above=np.bincount(group, block.above, minlength=count).astype(np.int64),
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

    def _groups(self) -> tuple[int, NDArray[np.int64]]:
        """Return the number of regions and, for each label of a block, the region that it is a piece of."""
        if not self._joins:
            return self._count, np.arange(self._count)
        from scipy.sparse import coo_array  # noqa: PLC0415 - slow, and most parts are good
        from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

        joins = np.concatenate(self._joins, axis=1)
        graph = coo_array((np.ones(joins.shape[1], bool), (joins[0], joins[1])), shape=(self._count,) * 2)
        count, group = connected_components(graph, directed=False)
        return int(count), group.astype(np.int64)

    def _region(self, block: _Block, index: int) -> Region:
        peak_y, peak_x = divmod(int(block.peak_at[index]), self._width)
        x0, x1 = min(int(block.x0[index]), peak_x), max(int(block.x1[index]), peak_x)
        y0, y1 = min(int(block.y0[index]), peak_y), max(int(block.y1[index]), peak_y)
        area, peak = int(block.area[index]), float(block.peak[index])
        return Region(
            x_px=x0,
            y_px=y0,
            width_px=x1 - x0 + 1,
            height_px=y1 - y0 + 1,
            area_px=area,
            score_max=peak,
            score_mean=float(block.total[index] / area) if area else peak,
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
