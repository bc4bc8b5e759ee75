"""Random training patches from many images, without holding the images.

Every batch follows from (seed, step) alone: training can be resumed at any step and sees the same patches.
Images that fit in the cache are held in their own type; from others a few bands of rows are read a batch,
and several patches are cut from each band, since a compressed strip must be decoded over its whole width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspect_cli.errors import NoInputError
from inspect_cli.images.reader import MapReader, open_map
from inspect_cli.tiles.grid import pad_to_tile

PATCHES_PER_BAND = 8
_ROI_TRIES = 64


@dataclass(frozen=True)
class SamplerImage:
    """An image to sample from, with its ROI (height, width) or None for the whole image."""

    path: Path
    roi: NDArray[np.bool_] | None = None


class PatchSampler:
    """Draws random square patches whose ROI share is high enough."""

    def __init__(
        self,
        images: Sequence[SamplerImage],
        tile_px: int,
        seed: int,
        min_roi_share: float = 0.5,
        cache_mb: int = 768,
    ) -> None:
        if not images:
            raise NoInputError("no image to sample patches from")
        self._tile = tile_px
        self._seed = seed
        self._min_share = min_roi_share
        self._paths = [image.path for image in images]
        self._readers: list[MapReader] = [open_map(image.path) for image in images]
        self._headers = [reader.header for reader in self._readers]
        self._cache = self._read_cache(cache_mb)
        self._roi_bits = [None if i.roi is None else np.packbits(i.roi, axis=1) for i in images]
        pixels = np.array([h.height * h.width for h in self._headers], float)
        self._share = pixels / pixels.sum()

    def _read_cache(self, cache_mb: int) -> list[NDArray[Any]] | None:
        total = sum(np.prod(h.shape) * h.dtype.itemsize for h in self._headers)
        if total > cache_mb * 2**20:
            return None
        pixels = [reader.read() for reader in self._readers]
        self.close()
        return pixels

    @property
    def dtype(self) -> np.dtype[Any]:
        """Pixel type of the images."""
        return self._headers[0].dtype

    def close(self) -> None:
        """Let go of all files."""
        for reader in self._readers:
            reader.close()

    def batch(self, step: int, size: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return the patches of a step and their ROI masks.

        Returns
        -------
        patches
            (size, tile_px, tile_px[, channels]) in the images' own type.
        masks
            (size, tile_px, tile_px), or None if no image has an ROI.
        """
        rng = np.random.default_rng([self._seed, step])
        per_band = 1 if self._cache is not None else PATCHES_PER_BAND
        patches: list[NDArray[Any]] = []
        masks: list[NDArray[np.bool_]] = []
        while len(patches) < size:
            self._cut_band(rng, min(per_band, size - len(patches)), patches, masks)
        has_roi = any(bits is not None for bits in self._roi_bits)
        return np.stack(patches), np.stack(masks) if has_roi else None

    def _cut_band(
        self,
        rng: np.random.Generator,
        count: int,
        patches: list[NDArray[Any]],
        masks: list[NDArray[np.bool_]],
    ) -> None:
        index = int(rng.choice(len(self._paths), p=self._share))
        header = self._headers[index]
        y, xs = self._place(rng, index, count)
        y1 = min(y + self._tile, header.height)
        band = self._rows(index, y, y1)
        roi = self._roi_rows(index, y, y1)
        for x in xs:
            patch = pad_to_tile(band[:, x : x + self._tile], self._tile, self._tile)
            inside = np.ones(band.shape[:2], bool) if roi is None else roi
            patches.append(np.ascontiguousarray(patch))
            masks.append(pad_to_tile(inside[:, x : x + self._tile], self._tile, self._tile).astype(bool))

    def _rows(self, index: int, y0: int, y1: int) -> NDArray[Any]:
        if self._cache is not None:
            return self._cache[index][y0:y1]
        return self._readers[index].read_rows(y0, y1)

    def _roi_rows(self, index: int, y0: int, y1: int) -> NDArray[np.bool_] | None:
        bits = self._roi_bits[index]
        if bits is None:
            return None
        width = self._headers[index].width
        return np.unpackbits(bits[y0:y1], axis=1, count=width).astype(bool)

    def _place(self, rng: np.random.Generator, index: int, count: int) -> tuple[int, list[int]]:
        """Draw a row and ``count`` columns whose patches lie enough inside the ROI."""
        header = self._headers[index]
        high_y = max(1, header.height - self._tile + 1)
        high_x = max(1, header.width - self._tile + 1)
        bits = self._roi_bits[index]
        if bits is None:
            return int(rng.integers(high_y)), [int(x) for x in rng.integers(high_x, size=count)]
        for _ in range(_ROI_TRIES):
            y = int(rng.integers(high_y))
            rows = np.unpackbits(bits[y : y + self._tile], axis=1, count=header.width)
            shares = _window_shares(rows.astype(bool), self._tile)
            good = np.flatnonzero(shares >= self._min_share)
            if good.size:
                return y, [int(x) for x in rng.choice(good, size=count)]
        raise NoInputError(
            f"{self._paths[index]}: no place where {self._min_share:.0%} of a patch lies inside the ROI"
        )


def _window_shares(roi_rows: NDArray[np.bool_], tile_px: int) -> NDArray[np.float64]:
    """Return the ROI share of the patch that starts at each column of a band of rows."""
    height, width = roi_rows.shape
    total = np.concatenate([[0], roi_rows.sum(axis=0).cumsum()])
    span = min(tile_px, width)
    return np.asarray((total[span:] - total[: width - span + 1]) / (span * height))
