"""Random training patches from many images, without holding the images.

Every batch follows from (seed, step) alone: training can be resumed at any step and sees the same patches.
Images that fit in the cache are held in their own type; from others a few bands of rows are read a batch,
and several patches are cut from each band, since a compressed strip must be decoded over its whole width.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from inspect_cli.errors import NoInputError
from inspect_cli.images.reader import ImageHeader, MapReader, open_map
from inspect_cli.tiles.grid import pad_to_tile

PATCHES_PER_BAND = 8
#: Megabytes of images that are held decoded.
CACHE_MB: Final = 768


@dataclass(frozen=True)
class SamplerImage:
    """An image to sample from, with its ROI (height, width) or None for the whole image.

    With ``target``, such as a defect's pixels, patches are those that show enough of the target instead of
    those that lie enough inside the ROI.
    """

    path: Path
    roi: NDArray[np.bool_] | None = None
    target: NDArray[np.bool_] | None = None

    @property
    def aim(self) -> NDArray[np.bool_] | None:
        """What patches are placed by: the target inside the ROI, or the ROI."""
        if self.target is None:
            return self.roi
        return self.target if self.roi is None else self.target & self.roi


class PixelCache:
    """Decoded images, so that samplers of the same images read each file once; those not asked for longest go first.

    Parameters
    ----------
    most_mb
        Megabytes that are kept; a larger image is read each time.
    """

    def __init__(self, most_mb: int = CACHE_MB) -> None:
        self._most = most_mb * 2**20
        self._kept: OrderedDict[Path, NDArray[Any]] = OrderedDict()
        self._size = 0

    def read(self, path: Path) -> NDArray[Any]:
        """Return an image (height, width[, channels]) in the file's own type, which must not be changed."""
        found = self._kept.pop(path, None)
        if found is None:
            with open_map(path) as reader:
                found = reader.read()
            self._size += found.nbytes
        self._kept[path] = found
        while self._size > self._most:
            self._size -= self._kept.popitem(last=False)[1].nbytes
        return found


class PatchSource(Protocol):
    """Where patches come from; every batch follows from its step alone."""

    @property
    def tile_px(self) -> int:
        """Side of a patch."""
        ...

    @property
    def side_by_side(self) -> float:
        """How many patches the material makes if they do not overlap."""
        ...

    def batch(self, step: int, size: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return stored patches (size, side, side[, channels]) and ROI masks (size, side, side) or None."""
        ...

    def close(self) -> None:
        """Let go of open files."""
        ...


class PatchSampler:
    """Draws random square patches whose share of the ROI, or of the images' targets, is high enough."""

    def __init__(
        self,
        images: Iterable[SamplerImage],
        tile_px: int,
        seed: int,
        min_share: float = 0.5,
        cache_mb: int = CACHE_MB,
        pixels: PixelCache | None = None,
    ) -> None:
        self._tile = tile_px
        self._seed = seed
        self._min_share = min_share
        self._paths: list[Path] = []
        self._roi_bits: list[NDArray[np.uint8] | None] = []
        self._aim_bits: list[NDArray[np.uint8] | None] = []
        self._rows_inside: list[NDArray[np.int64] | None] = []
        for image in images:  # one after the other: masks of all images at once would take a byte a pixel
            self._paths.append(image.path)
            self._roi_bits.append(_packed(image.roi))
            self._aim_bits.append(self._roi_bits[-1] if image.target is None else _packed(image.aim))
            self._rows_inside.append(self._usable_rows(image.aim))
        if not self._paths:
            raise NoInputError("no image to sample patches from")
        self._headers = [_header(path) for path in self._paths]
        self._open: tuple[int, MapReader] | None = None
        self._reading = threading.Lock()  # several threads may make batches
        self._cache = self._read_cache(cache_mb, pixels or PixelCache(0))
        # As many as lie side by side in the narrowest image: more would show the same again.
        side_by_side = max(1, min(header.width for header in self._headers) // tile_px)
        self._per_band = 1 if self._cache is not None else min(PATCHES_PER_BAND, side_by_side)
        areas = np.array([h.height * h.width for h in self._headers], float)
        areas *= [rows is None or len(rows) > 0 for rows in self._rows_inside]
        if not areas.any():
            raise NoInputError(f"{self._paths[0]}: no place where {min_share:.1%} of a patch lies inside")
        self._share = areas / areas.sum()

    def _read_cache(self, cache_mb: int, pixels: PixelCache) -> list[NDArray[Any]] | None:
        total = sum(np.prod(h.shape) * h.dtype.itemsize for h in self._headers)
        if total > cache_mb * 2**20:
            return None
        return [pixels.read(path) for path in self._paths]

    def _usable_rows(self, aim: NDArray[np.bool_] | None) -> NDArray[np.int64] | None:
        """Return the rows at which some patch shows enough of what is aimed at, None without an aim."""
        if aim is None:
            return None
        rows = range(max(1, aim.shape[0] - self._tile + 1))
        inside = np.zeros(aim.shape[1], np.int64)
        usable = []
        for y in rows:
            if y == 0:
                inside += aim[: self._tile].sum(axis=0)
            else:
                inside += aim[y + self._tile - 1].astype(np.int64) - aim[y - 1]
            if (_window_shares(inside, min(self._tile, aim.shape[0]), self._tile) >= self._min_share).any():
                usable.append(y)
        return np.asarray(usable, np.int64)

    @property
    def tile_px(self) -> int:
        """Side of a patch."""
        return self._tile

    @property
    def side_by_side(self) -> float:
        """How many patches the images make if they do not overlap; what lies outside the ROI counts too."""
        return sum(max(1.0, header.height * header.width / self._tile**2) for header in self._headers)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Pixel type of the images."""
        return self._headers[0].dtype

    def close(self) -> None:
        """Let go of the file that is open."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

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
        patches: list[NDArray[Any]] = []
        masks: list[NDArray[np.bool_]] = []
        while len(patches) < size:
            self._cut_band(rng, size - len(patches), patches, masks)
        has_roi = any(bits is not None for bits in self._roi_bits)
        return np.stack(patches), np.stack(masks) if has_roi else None

    def _cut_band(
        self,
        rng: np.random.Generator,
        most: int,
        patches: list[NDArray[Any]],
        masks: list[NDArray[np.bool_]],
    ) -> None:
        """Cut patches from a band of rows of an image, ``most`` at most."""
        index = int(rng.choice(len(self._paths), p=self._share))
        header = self._headers[index]
        y, xs = self._place(rng, index, min(self._per_band, most))
        y1 = min(y + self._tile, header.height)
        band = self._rows(index, y, y1)
        roi = self._unpacked(self._roi_bits[index], index, y, y1)
        for x in xs:
            patch = pad_to_tile(band[:, x : x + self._tile], self._tile, self._tile)
            patches.append(np.ascontiguousarray(patch))
            masks.append(pad_to_tile(roi[:, x : x + self._tile], self._tile, self._tile).astype(bool))

    def _rows(self, index: int, y0: int, y1: int) -> NDArray[Any]:
        """Return rows of an image; one file is open at a time, however many images there are."""
        if self._cache is not None:
            return self._cache[index][y0:y1]
        with self._reading:
            if self._open is None or self._open[0] != index:
                self.close()
                self._open = (index, open_map(self._paths[index]))
            return self._open[1].read_rows(y0, y1)

    def _unpacked(self, bits: NDArray[np.uint8] | None, index: int, y0: int, y1: int) -> NDArray[np.bool_]:
        """Return some rows of an image's packed mask, all True without one."""
        if bits is None:
            return np.ones((y1 - y0, self._headers[index].width), bool)
        return np.unpackbits(bits[y0:y1], axis=1, count=self._headers[index].width).astype(bool)

    def _place(self, rng: np.random.Generator, index: int, count: int) -> tuple[int, list[int]]:
        """Draw a row and ``count`` columns whose patches show enough of what is aimed at."""
        header = self._headers[index]
        rows = self._rows_inside[index]
        if rows is None:
            y = int(rng.integers(max(1, header.height - self._tile + 1)))
            return y, [int(x) for x in rng.integers(max(1, header.width - self._tile + 1), size=count)]
        y = int(rng.choice(rows))
        inside = self._unpacked(self._aim_bits[index], index, y, min(y + self._tile, header.height))
        good = np.flatnonzero(_window_shares(inside.sum(axis=0), len(inside), self._tile) >= self._min_share)
        return y, [int(x) for x in rng.choice(good, size=count)]


def _packed(mask: NDArray[np.bool_] | None) -> NDArray[np.uint8] | None:
    return None if mask is None else np.packbits(mask, axis=1)


def _header(path: Path) -> ImageHeader:
    with open_map(path) as reader:
        return reader.header


def _window_shares(inside: NDArray[np.int64], height: int, tile_px: int) -> NDArray[np.float64]:
    """Return the ROI share of the patch that starts at each column.

    ``inside`` is the number of ROI pixels in each column of a band of ``height`` rows.
    """
    total = np.concatenate([[0], inside.cumsum()])
    span = min(tile_px, len(inside))
    return np.asarray((total[span:] - total[: len(inside) - span + 1]) / (span * height))
