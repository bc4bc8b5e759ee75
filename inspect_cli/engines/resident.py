"""Rows of tiles that never leave the device: each image row is uploaded once, as it is stored.

Conversion to the unit range, cutting, the network, the stitching and the patch means run on the device; what comes
back is finished rows. Uploads and downloads go through pinned memory on a GPU and are not waited for: while a row of
tiles is in work, the one before it is handed on and the one after it is read. Sums are those of ``tiles/stitch.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from inspect_cli.arrays import Mask
from inspect_cli.engines.transfer import upload
from inspect_cli.images.values import Preprocess, is_wide, mirror_sources
from inspect_cli.tiles.grid import Grid
from inspect_cli.tiles.stitch import axis_weight, blend_window

SHOWN = 4


class Band(NamedTuple):
    """What is new in a row of the grid.

    Attributes
    ----------
    fresh
        Stored pixels (rows, padded width[, channels]) below what was handed over before; a tile's rows at first.
    masks
        (columns, tile_px, tile_px), True inside the image and its ROI, for each tile; None if everything is.
    material
        The same for the ROI alone, mirrored like the pixels beyond a small image.
    wanted
        (columns,): tiles with pixels inside.
    """

    fresh: NDArray[Any]
    masks: Mask | None
    material: Mask | None
    wanted: Mask


class Finished(NamedTuple):
    """Rows that are final (rows, width), and the mean score inside the ROI of each wanted tile (n,), float64."""

    rows: NDArray[np.float32]
    means: NDArray[np.float64]


def layers(grid: Grid) -> list[NDArray[np.int64]]:
    """Return the tiles of a row in layers of tiles that do not overlap, as few as there can be.

    Each layer (padded width,) says which column of the tiles, set side by side, lies over a column of the image;
    the number behind the last one where none does.
    """
    side, nothing = grid.tile_px, len(grid.columns) * grid.tile_px
    found: list[NDArray[np.int64]] = []
    ends: list[int] = []
    for index, x in enumerate(grid.columns):
        free = next((i for i, end in enumerate(ends) if end <= x), len(ends))
        if free == len(ends):
            found.append(np.full(grid.padded_width_px, nothing))
            ends.append(0)
        found[free][x : x + side] = np.arange(index * side, (index + 1) * side)
        ends[free] = x + side
    return found


class ResidentRows:
    """Scores an image row of tiles by row of tiles, top to bottom.

    ``score`` takes tiles on the device (n, channels, tile_px, tile_px) and returns their scores there. ``on_scored``
    is handed the first tiles of a row, and their scores, until it returns True.
    """

    on_scored: Callable[[Tensor, Tensor], bool] | None = None

    def __init__(
        self,
        score: Callable[[Tensor], Tensor],
        device: torch.device,
        grid: Grid,
        preprocess: Preprocess,
        blend: str = "average",
    ) -> None:
        self._score, self._device, self._grid, self._preprocess = score, device, grid, preprocess
        tile = grid.tile_px
        window = torch.from_numpy(blend_window(blend, tile)).to(device)
        self._window = torch.outer(window, window)
        self._weight_y = torch.from_numpy(axis_weight(grid.rows, grid.padded_height_px, tile, blend)).to(device)
        self._weight_x = torch.from_numpy(axis_weight(grid.columns, grid.padded_width_px, tile, blend)).to(device)
        self._sum = torch.zeros((tile, grid.padded_width_px), dtype=torch.float64, device=device)
        columns = np.asarray(grid.columns)[:, None] + np.arange(tile)
        self._columns = torch.from_numpy(columns).to(device)
        self._layers = [torch.from_numpy(layer).to(device) for layer in layers(grid)]
        self._pixels = torch.empty((preprocess.channels, 0, grid.padded_width_px), device=device)
        self._row = 0

    @torch.inference_mode()
    def push(self, band: Band) -> Callable[[], Finished]:
        """Start the next row of the grid and return a function that waits for what it finishes."""
        grid = self._grid
        y0 = grid.rows[self._row]
        self._row += 1
        last = self._row == len(grid.rows)
        tiles = self._tiles(self._window_of(band), band.material)
        scores, found = self._scores(tiles, band.wanted)
        self._add(scores * self._window)
        done = (grid.height_px if last else grid.rows[self._row]) - y0
        weight = self._weight_y[y0 : y0 + done, None] * self._weight_x[None, : grid.width_px]
        rows = (self._sum[:done, : grid.width_px] / weight).float()
        self._sum = torch.cat([self._sum[done:], torch.zeros_like(self._sum[:done])])
        return self._download(rows, self._means(found, band))

    def _scores(self, tiles: Tensor, wanted: Mask) -> tuple[Tensor, Tensor]:
        """Return the scores of all tiles of a row, 0 for those that are not wanted, and of the wanted ones alone."""
        if wanted.all():
            scores = self._score(tiles)
            self._show_first(tiles, scores)
            return scores, scores
        scores = torch.zeros((len(tiles), *tiles.shape[2:]), device=self._device)
        if not wanted.any():
            return scores, scores[:0]
        at = self._upload(np.flatnonzero(wanted))  # numbers: a mask would be waited for
        tiles = tiles[at]
        found = self._score(tiles)
        self._show_first(tiles, found)
        scores[at] = found
        return scores, found

    def _add(self, weighted: Tensor) -> None:
        """Add the tiles (columns, tile_px, tile_px) of a row in a fixed order, few operations for all of them."""
        beside = functional.pad(weighted.movedim(0, 1).flatten(1), (0, 1))  # a column of zeros at the end
        for layer in self._layers:
            self._sum += beside[:, layer]

    def _show_first(self, tiles: Tensor, scores: Tensor) -> None:
        if self.on_scored is not None and self.on_scored(tiles[:SHOWN], scores[:SHOWN]):
            self.on_scored = None

    def _window_of(self, band: Band) -> Tensor:
        """Return the pixels (channels, tile_px, padded width) of the row of tiles, in the unit range."""
        limits = self._preprocess.range
        stored = self._upload(band.fresh)
        planes = stored[None] if stored.ndim == 2 else stored.movedim(2, 0)
        planes = planes.double() if is_wide(band.fresh.dtype) else planes.float()
        unit = ((planes - limits.low) * (1.0 / (limits.high - limits.low))).float()
        keep = self._grid.tile_px - unit.shape[1]
        self._pixels = torch.cat([self._pixels[:, self._pixels.shape[1] - keep :], unit], dim=1)
        return self._pixels

    def _tiles(self, pixels: Tensor, material: Mask | None) -> Tensor:
        """Return the tiles (columns, channels, tile_px, tile_px), channels last, material mirrored outwards.

        As :func:`inspect_cli.images.values.continue_outside` does it; which pixel goes where is found on the host.
        """
        tiles = pixels[..., self._columns].permute(2, 0, 1, 3)
        tiles = tiles.contiguous(memory_format=torch.channels_last)
        partly = [] if material is None else [n for n, mask in enumerate(material) if mask.any() and not mask.all()]
        if material is not None and partly:
            outside = [np.flatnonzero(~material[n]) for n in partly]
            tile = self._upload(np.repeat(partly, [len(pixels) for pixels in outside]))
            to = self._upload(np.concatenate(outside))
            source = self._upload(np.concatenate([mirror_sources(material[n]) for n in partly]))
            flat = tiles.view(*tiles.shape[:2], -1)
            flat[tile, :, to] = flat[tile, :, source]
        return tiles

    def _means(self, scores: Tensor, band: Band) -> Tensor:
        """Return the mean inside the ROI of the scores of the wanted tiles."""
        if band.masks is None:
            return scores.mean(dim=(1, 2), dtype=torch.float64)
        masks = self._upload(band.masks[band.wanted])
        return (scores * masks).sum(dim=(1, 2), dtype=torch.float64) / masks.sum(dim=(1, 2))

    def _upload(self, values: NDArray[Any]) -> Tensor:
        return upload(np.ascontiguousarray(values, values.dtype.newbyteorder("=")), self._device)

    def _download(self, *values: Tensor) -> Callable[[], Finished]:
        """Start copying to the host; the function that is returned waits for it."""
        if self._device.type != "cuda":
            there = [value.cpu().numpy() for value in values]
            return lambda: Finished(there[0], there[1])
        hosts = [torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for value in values]
        for host, value in zip(hosts, values, strict=True):
            host.copy_(value, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()

        def wait() -> Finished:
            copied.synchronize()
            return Finished(hosts[0].numpy(), hosts[1].numpy())

        return wait
