"""Overlapping tile scores -> one map, row by row, in memory of one row of tiles.

Sums are kept in float64: the average of equal float32 values is then that value exactly, whatever the
number of overlaps, so a map that is cut and stitched comes back bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspect_cli.tiles.grid import Grid


def blend_window(kind: str, tile_px: int) -> NDArray[np.float64]:
    """Return the weight of a tile's pixels along one axis, shape (tile_px,), all above zero.

    ``average`` weighs all pixels alike; ``hann`` trusts the middle, where the network sees context on
    both sides.
    """
    if kind == "average":
        return np.ones(tile_px)
    if kind == "hann":
        return np.asarray(np.sin(np.pi * (np.arange(tile_px) + 0.5) / tile_px) ** 2)
    raise ValueError(f"unknown blend {kind!r}; valid: average, hann")


def axis_weight(starts: list[int], length_px: int, tile_px: int, blend: str = "average") -> NDArray[np.float64]:
    """Return the sum of the tiles' weights at each pixel of an axis, shape (length_px,)."""
    window = blend_window(blend, tile_px)
    weight = np.zeros(length_px)
    for start in starts:
        weight[start : start + tile_px] += window
    return weight


def move_up(rows: NDArray[Any], count: int) -> None:
    """Move rows (..., rows, width) up by ``count`` in place; the last ``count`` keep what they hold.

    Pieces that do not overlap need no copy.
    """
    for y in range(count, rows.shape[-2], count):
        piece = rows[..., y : y + count, :]
        rows[..., y - count : y - count + piece.shape[-2], :] = piece


class RowStitcher:
    """Accumulates the tiles of one grid row after the other and gives out finished image rows.

    Weights are separable (a window along y times one along x), so the sum of weights at a pixel is the
    product of two sums along the axes, computed once for the grid.
    """

    def __init__(self, grid: Grid, blend: str = "average") -> None:
        self._grid = grid
        self._window = blend_window(blend, grid.tile_px)
        self._flat = blend == "average"
        self._weight_y = axis_weight(grid.rows, grid.padded_height_px, grid.tile_px, blend)
        self._weight_x = axis_weight(grid.columns, grid.padded_width_px, grid.tile_px, blend)
        self._sum = np.zeros((grid.tile_px, grid.padded_width_px))
        self._row = 0

    def add(self, first: int, scores: NDArray[np.floating]) -> None:
        """Add neighbours (n, tile_px, tile_px) of the grid row in work, from its tile ``first`` on.

        Few large additions are made: tiles that do not overlap each other go in one.

        Raises
        ------
        ValueError
            If they have another size, or are more than the row has.
        """
        grid, tile, stride = self._grid, self._grid.tile_px, self._grid.column_step_px
        if scores.shape[1:] != (tile, tile) or first + len(scores) > len(grid.columns):
            raise ValueError(
                f"scores are {scores.shape}; at most ({len(grid.columns) - first}, {tile}, {tile}) expected"
            )
        if not self._flat:
            scores = scores * np.outer(self._window, self._window)
        last = len(grid.columns) - 1  # the last tile is moved to the edge: added alone
        regular = min(len(scores), last - first)
        apart = -(-tile // stride)
        for start in range(min(apart, regular)):
            group = scores[start:regular:apart]
            x0, pitch = (first + start) * stride, apart * stride
            self._add_group(self._sum[:, x0 : x0 + (len(group) - 1) * pitch + tile], group, pitch)
        if first + len(scores) > last:
            self._sum[:, grid.columns[last] :][:, :tile] += scores[-1]

    def finish_row(self, block_rows: int) -> Iterator[NDArray[np.float32]]:
        """Yield the image rows that are final with this grid row, (n, width_px), at most ``block_rows`` at once.

        After the last of them tiles of the next grid row can be added.
        """
        grid = self._grid
        y0 = grid.rows[self._row]
        self._row += 1
        last = self._row == len(grid.rows)
        done = (grid.height_px if last else grid.rows[self._row]) - y0
        for top in range(0, done, block_rows):
            finished = np.empty((min(block_rows, done - top), grid.width_px), np.float32)
            for row, sums, weight_y in zip(finished, self._sum[top:], self._weight_y[y0 + top :], strict=False):
                row[:] = sums[: grid.width_px] / (weight_y * self._weight_x[: grid.width_px])
            yield finished
        move_up(self._sum, done)
        self._sum[-done:] = 0

    def _add_group(self, target: NDArray[np.float64], group: NDArray[np.floating], pitch: int) -> None:
        tile = self._grid.tile_px
        view = np.lib.stride_tricks.as_strided(
            target,
            shape=(len(group), tile, tile),
            strides=(target.strides[1] * pitch, target.strides[0], target.strides[1]),
        )
        view += group  # windows of one group do not overlap: pitch >= tile
