"""Where tiles lie: every ``stride``, the last one moved back to the edge."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Pixels of neighbouring tiles that are cut, scored and stitched together: a row of up to 96 tiles of 128 px, the
#: pieces of a longer one up to 64.
ROW_PX: Final = 96 * 128**2
PIECE_PX: Final = 64 * 128**2


def tile_starts(length_px: int, tile_px: int, stride_px: int) -> list[int]:
    """Return the first pixel of each tile along one axis.

    Tiles step by ``stride_px``; the last one is moved back so that it ends at the edge. An axis shorter
    than a tile gets one tile at 0, which the caller fills by mirroring.

    Raises
    ------
    ValueError
        If a length is not positive, or the stride is above the tile (pixels would stay uncovered).
    """
    if min(length_px, tile_px, stride_px) < 1 or stride_px > tile_px:
        raise ValueError(f"length {length_px}, tile {tile_px}, stride {stride_px}: need 1 <= stride <= tile")
    if length_px <= tile_px:
        return [0]
    starts = list(range(0, length_px - tile_px, stride_px))
    return [*starts, length_px - tile_px]


def even_stride_px(length_px: int, tile_px: int, stride_px: int) -> int:
    """Return the least step with which there are no more tiles along an axis than with ``stride_px``."""
    gaps = -(-(length_px - tile_px) // stride_px)
    return stride_px if gaps < 1 else -(-(length_px - tile_px) // gaps)


@dataclass(frozen=True)
class Grid:
    """Tiles over an image of ``height_px`` x ``width_px``; ``even`` ones overlap more if that takes no more tiles."""

    height_px: int
    width_px: int
    tile_px: int
    stride_px: int
    even: bool = False

    @cached_property
    def rows(self) -> list[int]:
        """First row of each row of tiles."""
        return tile_starts(self.height_px, self.tile_px, self._step(self.height_px))

    @cached_property
    def columns(self) -> list[int]:
        """First column of each column of tiles."""
        return tile_starts(self.width_px, self.tile_px, self.column_step_px)

    @property
    def column_step_px(self) -> int:
        """Step from one column of tiles to the next, but for the last."""
        return self._step(self.width_px)

    def _step(self, length_px: int) -> int:
        return even_stride_px(length_px, self.tile_px, self.stride_px) if self.even else self.stride_px

    @cached_property
    def pieces(self) -> list[slice]:
        """Slices of the columns that are worked on at once: the whole row, or pieces of one length.

        A row of up to ``ROW_PX`` stays whole; pieces have ``PIECE_PX`` at most, or one tile. So memory does not grow
        with the width.
        """
        columns, area = len(self.columns), self.tile_px**2
        most = max(1, (ROW_PX if columns * area <= ROW_PX else PIECE_PX) // area)
        length = -(-columns // -(-columns // most))
        return [slice(first, min(first + length, columns)) for first in range(0, columns, length)]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def is_small(self) -> bool:
        """Whether a side of the image is smaller than a tile."""
        return min(self.height_px, self.width_px) < self.tile_px

    @property
    def padded_height_px(self) -> int:
        """Height after mirroring an image that is smaller than a tile."""
        return max(self.height_px, self.tile_px)

    @property
    def padded_width_px(self) -> int:
        """Width after mirroring an image that is smaller than a tile."""
        return max(self.width_px, self.tile_px)

    def positions(self) -> NDArray[np.int64]:
        """Return the first (y, x) of every tile, row by row: shape (tiles, 2)."""
        yy, xx = np.meshgrid(self.rows, self.columns, indexing="ij")
        return np.stack([yy.ravel(), xx.ravel()], axis=1)


def pad_to_tile(pixels: NDArray[np.generic], height_px: int, width_px: int) -> NDArray[np.generic]:
    """Mirror ``pixels`` (height, width[, channels]) at the bottom and right up to the size given."""
    down = max(0, height_px - pixels.shape[0])
    right = max(0, width_px - pixels.shape[1])
    if not down and not right:
        return pixels
    return np.pad(pixels, [(0, down), (0, right), *[(0, 0)] * (pixels.ndim - 2)], mode="symmetric")
