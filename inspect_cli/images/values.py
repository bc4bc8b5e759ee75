"""Stored pixel values -> the network's range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ValueRange:
    """Stored values that become 0 and 1 at the network's input; nothing is clipped."""

    low: float
    high: float

    @classmethod
    def of_type(cls, dtype: np.dtype[Any]) -> ValueRange:
        """Return the limits of ``dtype``: symmetric around zero for signed integers, 0 to 1 for floats.

        With the symmetric range a surface normal's component 0 lies at .5, and -x mirrors +x.
        """
        if dtype.kind == "f":
            return cls(0.0, 1.0)
        limit = float(np.iinfo(dtype).max)
        return cls(-limit if dtype.kind == "i" else 0.0, limit)

    def to_unit(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Return ``pixels`` as float32, ``low`` at 0 and ``high`` at 1; the shape stays."""
        scale = 1.0 / (self.high - self.low)
        if is_wide(pixels.dtype):
            return ((pixels - self.low) * scale).astype(np.float32)
        unit = pixels.astype(np.float32)
        unit -= np.float32(self.low)
        unit *= np.float32(scale)
        return unit


def is_wide(dtype: np.dtype[Any]) -> bool:
    """Whether values do not fit into the 24 bits of a float32: heights far from 0 would lose what differs in them."""
    return dtype.itemsize > 4 or (dtype.itemsize == 4 and dtype.kind != "f")


@dataclass(frozen=True)
class Preprocess:
    """How a map's pixels become the network's input; part of the trained model.

    Pixels outside the ROI are replaced by material (:func:`continue_outside`), so that background beside the part
    neither trains the network nor disturbs the score next to it. Tiles without material hold ``fill`` (one value a
    channel, unit range).
    """

    range: ValueRange
    fill: tuple[float, ...]
    dtype: str

    @property
    def channels(self) -> int:
        """Channels of the map."""
        return len(self.fill)

    def to_network(self, patches: NDArray[Any], masks: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Return patches (n, h, w[, channels]) as float32 (n, channels, h, w) in the unit range.

        ``masks`` (n, h, w) is True inside the ROI.
        """
        unit = self.range.to_unit(patches)
        tiles = np.ascontiguousarray(np.moveaxis(unit[..., None] if unit.ndim == 3 else unit, 3, 1))
        if masks is not None:
            continue_outside(tiles, masks, self.fill)
        return tiles


def continue_outside(tiles: NDArray[np.float32], masks: NDArray[np.bool_], fill: Sequence[float]) -> None:
    """Replace what lies outside the ROI by the material next to it, mirrored, in place.

    A constant there would make an edge along the ROI's border, which networks see and score.

    Parameters
    ----------
    tiles
        (n, channels, h, w).
    masks
        (n, h, w), True inside.
    fill
        What a tile gets that lies outside all over, one value a channel.
    """
    for tile, mask in zip(tiles, masks, strict=True):
        if mask.all():
            continue
        if mask.any():
            tile[:, ~mask] = tile.reshape(len(tile), -1)[:, mirror_sources(mask)]
        else:
            tile[...] = np.asarray(fill, np.float32)[:, None, None]


def mirror_sources(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for each pixel outside ``mask`` (h, w), in row order, the flat index of one inside that stands for it.

    That lies as far inside as the pixel lies outside, straight across the nearest pixel inside; where that is not
    inside either, it is the nearest one.
    """
    height, width = mask.shape
    _, labels = cv2.distanceTransformWithLabels(
        (~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    inside = np.flatnonzero(mask)
    of_label = np.zeros(int(labels.max()) + 1, np.int64)
    of_label[labels.ravel()[inside]] = inside
    y, x = np.nonzero(~mask)
    nearest = of_label[labels[y, x]]
    mirrored_y, mirrored_x = 2 * (nearest // width) - y, 2 * (nearest % width) - x
    there = (mirrored_y >= 0) & (mirrored_y < height) & (mirrored_x >= 0) & (mirrored_x < width)
    mirrored = np.where(there, mirrored_y * width + mirrored_x, nearest)
    return np.asarray(np.where(mask.ravel()[mirrored], mirrored, nearest), np.int64)
