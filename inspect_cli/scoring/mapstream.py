"""One map of one part: rows from the file -> tiles -> network -> stitched and smoothed rows.

Memory is one row of tiles, whatever the image's height: rows are read once, each row of tiles is scored,
stitched and smoothed, and finished rows are handed on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inspect_cli.engines.torch_engine import Engine
from inspect_cli.images.reader import MapReader
from inspect_cli.images.values import Preprocess
from inspect_cli.recipe.schema import ScoringSpec, TilesSpec
from inspect_cli.scoring.clock import Clock
from inspect_cli.scoring.precision import round_scores
from inspect_cli.scoring.smooth import RowSmoother
from inspect_cli.tiles.grid import Grid, pad_to_tile
from inspect_cli.tiles.stitch import RowStitcher

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


@dataclass
class MapStream:
    """Scores one map as a stream of rows; afterwards holds its patches and pixel moments.

    ``on_pixels`` is handed every row of the image once, in the unit range, for a preview.
    """

    reader: MapReader
    preprocess: Preprocess
    engine: Engine
    tiles: TilesSpec
    scoring: ScoringSpec
    roi: Mask | None
    clock: Clock
    on_pixels: Callable[[NDArray[np.float32]], None] | None = None
    moments: PixelMoments = field(default_factory=PixelMoments)
    _patches: list[PatchScores] = field(default_factory=list)

    def rows(self) -> Iterator[NDArray[np.float32]]:
        """Yield the smoothed residual in blocks of rows (n, width), top to bottom, NaN outside the ROI."""
        header = self.reader.header
        grid = Grid(header.height, header.width, self.tiles.size_px, self.tiles.stride_px)
        stitcher = RowStitcher(grid, self.tiles.blend)
        smoother = RowSmoother(header.height, header.width, self.scoring.smooth_sigma_px, self.roi)
        for y, band in self._bands(grid):
            scores = self._score_row(grid, y, band)
            with self.clock.phase("stitch"):
                finished = stitcher.add_row(scores)
            with self.clock.phase("smooth"):
                smoothed = round_scores(smoother.push(finished))
            if len(smoothed):
                yield smoothed
        with self.clock.phase("smooth"):
            last = round_scores(smoother.finish())
        if len(last):
            yield last

    def patches(self) -> PatchScores:
        """Return the patch scores of all tiles, row by row."""
        return PatchScores(*(np.concatenate(column) for column in zip(*self._patches, strict=True)))

    def _bands(self, grid: Grid) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield each row of tiles as pixels (tile, width[, channels]); every image row is read once."""
        band: NDArray[Any] | None = None
        read_to = 0
        for y in grid.rows:
            with self.clock.phase("read"):
                end = min(y + grid.tile_px, grid.height_px)
                fresh = self.reader.read_rows(read_to, end)
                self._measure(fresh, read_to)
                band = fresh if band is None else np.concatenate([band[len(band) - (read_to - y) :], fresh])
                read_to = end
            yield y, pad_to_tile(band, grid.tile_px, grid.padded_width_px)

    def _measure(self, fresh: NDArray[Any], y0: int) -> None:
        unit = self.preprocess.range.to_unit(fresh)
        if self.on_pixels is not None:
            self.on_pixels(unit)
        self.moments.add(unit, None if self.roi is None else self.roi[y0 : y0 + len(fresh)])

    def _score_row(self, grid: Grid, y: int, band: NDArray[Any]) -> NDArray[np.float32]:
        tile = grid.tile_px
        with self.clock.phase("read"):
            inside = self._inside(grid, y)
            masks = None if inside is None else _cut(inside, grid.columns, tile)
            wanted = np.ones(len(grid.columns), bool) if masks is None else np.any(masks, axis=(1, 2))
            cut = _cut(band, grid.columns, tile)[wanted]
            tiles = self.preprocess.to_network(cut, None if masks is None else masks[wanted])
        scores = np.zeros((len(grid.columns), tile, tile), np.float32)
        with self.clock.phase("network"):
            if len(tiles):
                scores[wanted] = self.engine.score(tiles)
        self._note_patches(grid, y, scores, masks, wanted)
        return scores

    def _inside(self, grid: Grid, y: int) -> Mask | None:
        """Return the ROI of a row of tiles; what was mirrored onto a small image is outside."""
        height, width = min(grid.tile_px, grid.height_px), grid.width_px
        small = grid.height_px < grid.tile_px or grid.width_px < grid.tile_px
        if self.roi is None and not small:
            return None
        inside = np.zeros((grid.tile_px, grid.padded_width_px), bool)
        inside[:height, :width] = True if self.roi is None else self.roi[y : y + height]
        return inside

    def _note_patches(
        self, grid: Grid, y: int, scores: NDArray[np.float32], masks: Mask | None, wanted: Mask
    ) -> None:
        columns = np.asarray(grid.columns, np.int32)[wanted]
        if masks is None:
            means = scores.mean(axis=(1, 2), dtype=np.float64)
            share = np.ones(len(columns), np.float32)
        else:
            inside = masks[wanted]
            area = inside.sum(axis=(1, 2))
            means = (scores[wanted] * inside).sum(axis=(1, 2), dtype=np.float64) / area
            share = (area / grid.tile_px**2).astype(np.float32)
        rows = np.full(len(columns), y, np.int32)
        self._patches.append(PatchScores(columns, rows, round_scores(means.astype(np.float32)), share))


def _cut(band: NDArray[Any], columns: list[int], tile_px: int) -> NDArray[Any]:
    """Return the tiles (columns, tile_px, tile_px[, channels]) of a band of pixels."""
    return np.stack([band[:, x : x + tile_px] for x in columns])
