"""One map of one part: rows from the file -> tiles -> network -> stitched and smoothed rows.

Memory is one row of tiles, whatever the image's height: rows are read once, each row of tiles is scored,
stitched and smoothed, and finished rows are handed on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inspect_cli.engines import Engine
from inspect_cli.engines.resident import Band, Finished, ResidentRows
from inspect_cli.errors import InputError
from inspect_cli.images.reader import MapReader
from inspect_cli.images.values import Preprocess
from inspect_cli.recipe.schema import ScoringSpec
from inspect_cli.scoring.ahead import ahead
from inspect_cli.scoring.clock import Clock
from inspect_cli.scoring.precision import round_scores
from inspect_cli.scoring.smooth import RowSmoother
from inspect_cli.tiles.grid import Grid, pad_to_tile
from inspect_cli.tiles.stitch import RowStitcher
from inspect_cli.tiles.tiling import Tiling

Mask = NDArray[np.bool_]


class PatchScores(NamedTuple):
    """Mean residual of each patch that has pixels inside the ROI, with its first pixel and ROI share."""

    x_px: NDArray[np.int32]
    y_px: NDArray[np.int32]
    residual_mean: NDArray[np.float32]
    roi_share: NDArray[np.float32]


@dataclass
class PixelMoments:
    """Running mean and spread of the finite pixels inside the ROI; ``missing`` counts the others."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    missing: int = 0

    def add(self, unit: NDArray[np.float32], inside: Mask | None) -> None:
        """Add rows (n, width[, channels])."""
        values = unit.ravel() if inside is None else unit[inside].ravel()
        finite = np.isfinite(values)
        if not finite.all():
            self.missing += int(len(values) - finite.sum())
            values = values[finite]
        self.count += values.size
        self.total += float(values.sum(dtype=np.float64))
        self.squares += float(np.square(values, dtype=np.float64).sum())

    @property
    def mean(self) -> float:
        """Mean of the pixels seen."""
        return self.total / max(self.count, 1)

    @property
    def spread(self) -> float:
        """Standard deviation of the pixels seen."""
        return float(max(self.squares / max(self.count, 1) - self.mean**2, 0.0) ** 0.5)


class _TileRow(NamedTuple):
    """A row of the grid: its tiles' ROI masks (columns, tile, tile), if any, and which tiles have pixels inside."""

    y: int
    masks: Mask | None
    wanted: Mask


@dataclass
class MapStream:
    """Scores one map as a stream of rows; afterwards holds its patches and pixel moments.

    ``on_pixels`` is handed every row of the image once, in the unit range, for a preview.
    """

    reader: MapReader
    preprocess: Preprocess
    engine: Engine
    tiles: Tiling
    scoring: ScoringSpec
    roi: Mask | None
    clock: Clock
    on_pixels: Callable[[NDArray[np.float32]], None] | None = None
    moments: PixelMoments = field(default_factory=PixelMoments)
    _patches: list[PatchScores] = field(default_factory=list)

    def rows(self) -> Iterator[NDArray[np.float32]]:
        """Yield the smoothed residual in blocks of rows (n, width), top to bottom, NaN outside the ROI.

        Raises
        ------
        InputError
            If the image is to be scored whole and is too large for it, or its pixels cannot be decoded.
        """
        header = self.reader.header
        grid = Grid(header.height, header.width, self.tiles.size_px, self.tiles.stride_px)
        smoother = RowSmoother(header.height, header.width, self.scoring.smooth_sigma_px, self.roi)
        for finished in self._residual(grid):
            with self.clock.phase("smooth"):
                smoothed = round_scores(smoother.push(finished))
            if len(smoothed):
                yield smoothed
        with self.clock.phase("smooth"):
            last = round_scores(smoother.finish())
        if len(last):
            yield last

    def _residual(self, grid: Grid) -> Iterator[NDArray[np.float32]]:
        """Yield the raw residual in blocks of rows, in the way that fits the settings and the engine."""
        if self.tiles.whole:
            return self._whole(grid)
        resident = self.engine.rows_on_device(grid, self.preprocess, self.tiles.blend)
        return self._stitched(grid) if resident is None else self._resident(grid, resident)

    def _resident(self, grid: Grid, resident: ResidentRows) -> Iterator[NDArray[np.float32]]:
        """Yield the raw residual as it comes back from the device, one row of tiles behind what is in work there."""
        in_work: list[tuple[_TileRow, Callable[[], Finished]]] = []
        for step in chain(ahead(self._bands(grid)), [None]):
            with self.clock.phase("network"):
                if step is not None:
                    in_work.append((step[0], resident.push(step[1])))
                if len(in_work) <= (step is not None):
                    continue
                row, wait = in_work.pop(0)
                finished = wait()
            self._note_patches(grid, row, finished.means)
            yield finished.rows

    def _bands(self, grid: Grid) -> Iterator[tuple[_TileRow, Band]]:
        """Yield each row of tiles with the pixels that are new in it; every image row is read once."""
        read_to = 0
        for y in grid.rows:
            with self.clock.phase("read"):
                end = min(y + grid.tile_px, grid.height_px)
                fresh = self.reader.read_rows(read_to, end)
                self._measured(fresh, read_to)
                row = self._tile_row(grid, y)
                roi = None if self.roi is None else self.roi[read_to:end]
                read_to = end
            yield row, Band(fresh, roi, row.masks, row.wanted)

    def _stitched(self, grid: Grid) -> Iterator[NDArray[np.float32]]:
        """Yield the raw residual of overlapping tiles, row of tiles by row of tiles."""
        stitcher = RowStitcher(grid, self.tiles.blend)
        for row, tiles in ahead(self._cut_rows(grid)):
            scores = np.zeros((len(grid.columns), grid.tile_px, grid.tile_px), np.float32)
            with self.clock.phase("network"):
                if len(tiles):
                    scores[row.wanted] = self.engine.score(tiles)
            self._note_patches(grid, row, _means(scores, row))
            with self.clock.phase("stitch"):
                finished = stitcher.add_row(scores)
            yield finished

    def _whole(self, grid: Grid) -> Iterator[NDArray[np.float32]]:
        """Yield the raw residual of the image as one tile; patches are the grid's squares of it."""
        header = self.reader.header
        if header.height * header.width > self.tiles.whole_max_mpx * 1e6:
            raise InputError(
                f"{header.path}: {header.width}x{header.height} px is above tiles.whole_max_mpx "
                f"{self.tiles.whole_max_mpx:g}; raise it if memory allows, or score in tiles"
            )
        with self.clock.phase("read"):
            unit = self._prepared(0, header.height)
            step = self.engine.size_step_px
            down, right = (-side % step for side in unit.shape[1:])
            tile = np.pad(unit, [(0, 0), (0, down), (0, right)], mode="symmetric")
        with self.clock.phase("network"):
            scores = self.engine.score(tile[None])[0, : header.height, : header.width]
        for y in grid.rows:
            row = self._tile_row(grid, y)
            band = pad_to_tile(scores[y : y + grid.tile_px], grid.tile_px, grid.padded_width_px)
            self._note_patches(grid, row, _means(_cut(band, grid.columns, grid.tile_px), row))
        yield scores

    def patches(self) -> PatchScores:
        """Return the patch scores of all tiles, row by row."""
        return PatchScores(*(np.concatenate(column) for column in zip(*self._patches, strict=True)))

    def _cut_rows(self, grid: Grid) -> Iterator[tuple[_TileRow, NDArray[np.float32]]]:
        """Yield each row of tiles with its wanted tiles (n, channels, tile, tile); image rows are read once."""
        window = np.empty((0, 0, 0), np.float32)
        read_to = 0
        for y in grid.rows:
            with self.clock.phase("read"):
                end = min(y + grid.tile_px, grid.height_px)
                fresh = self._prepared(read_to, end)
                known = read_to - y
                window = (
                    fresh if known <= 0 else np.concatenate([window[:, window.shape[1] - known :], fresh], axis=1)
                )
                read_to = end
                row = self._tile_row(grid, y)
                tiles = self._cut_row(grid, row, window)
            yield row, tiles

    def _prepared(self, y0: int, y1: int) -> NDArray[np.float32]:
        """Read rows: unit range, (channels, rows, width), filled outside the ROI; measured on the way."""
        unit = self._measured(self.reader.read_rows(y0, y1), y0)
        planes = unit[..., None] if unit.ndim == 2 else unit
        if self.roi is not None:
            planes = np.where(self.roi[y0:y1, :, None], planes, np.asarray(self.preprocess.fill, np.float32))
        return np.ascontiguousarray(np.moveaxis(planes, 2, 0))

    def _measured(self, fresh: NDArray[Any], y0: int) -> NDArray[np.float32]:
        unit = self.preprocess.range.to_unit(fresh)
        if self.on_pixels is not None:
            self.on_pixels(unit)
        self.moments.add(unit, None if self.roi is None else self.roi[y0 : y0 + len(fresh)])
        return unit

    def _tile_row(self, grid: Grid, y: int) -> _TileRow:
        inside = self._inside(grid, y)
        if inside is None:
            return _TileRow(y, None, np.ones(len(grid.columns), bool))
        masks = _cut(inside, grid.columns, grid.tile_px)
        return _TileRow(y, masks, np.any(masks, axis=(1, 2)))

    def _cut_row(self, grid: Grid, row: _TileRow, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cut the wanted tiles of a row from a window (channels, rows, width)."""
        columns = [x for x, is_wanted in zip(grid.columns, row.wanted, strict=True) if is_wanted]
        if not columns:
            return np.empty((0, len(window), grid.tile_px, grid.tile_px), np.float32)
        return _cut(self._padded(window, grid.tile_px, grid.padded_width_px), columns, grid.tile_px)

    def _padded(self, window: NDArray[np.float32], height_px: int, width_px: int) -> NDArray[np.float32]:
        """Fill up a window of an image that is smaller than a tile."""
        down, right = height_px - window.shape[1], width_px - window.shape[2]
        if not down and not right:
            return window
        fill = np.asarray(self.preprocess.fill, np.float32)[:, None, None]
        full = np.broadcast_to(fill, (len(window), height_px, width_px)).copy()
        full[:, : window.shape[1], : window.shape[2]] = window
        return full

    def _inside(self, grid: Grid, y: int) -> Mask | None:
        """Return the ROI of a row of tiles; what was mirrored onto a small image is outside."""
        height, width = min(grid.tile_px, grid.height_px), grid.width_px
        small = grid.height_px < grid.tile_px or grid.width_px < grid.tile_px
        if self.roi is None and not small:
            return None
        inside = np.zeros((grid.tile_px, grid.padded_width_px), bool)
        inside[:height, :width] = True if self.roi is None else self.roi[y : y + height]
        return inside

    def _note_patches(self, grid: Grid, row: _TileRow, means: NDArray[np.float64]) -> None:
        columns = np.asarray(grid.columns, np.int32)[row.wanted]
        share = np.ones(len(columns), np.float32)
        if row.masks is not None:
            share = (row.masks[row.wanted].sum(axis=(1, 2)) / grid.tile_px**2).astype(np.float32)
        rows = np.full(len(columns), row.y, np.int32)
        self._patches.append(PatchScores(columns, rows, round_scores(means.astype(np.float32)), share))


def _means(scores: NDArray[np.float32], row: _TileRow) -> NDArray[np.float64]:
    """Return the mean inside the ROI of each wanted tile of scores (columns, tile, tile)."""
    if row.masks is None:
        return np.asarray(scores.mean(axis=(1, 2), dtype=np.float64))
    inside = row.masks[row.wanted]
    total = (scores[row.wanted] * inside).sum(axis=(1, 2), dtype=np.float64)
    return np.asarray(total / inside.sum(axis=(1, 2)))


def _cut(band: NDArray[Any], columns: list[int], tile_px: int) -> NDArray[Any]:
    """Return the tiles (columns, ..., tile_px, tile_px) of a band of pixels (..., tile_px, width)."""
    return np.stack([band[..., x : x + tile_px] for x in columns])
