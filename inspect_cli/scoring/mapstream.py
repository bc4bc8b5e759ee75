"""One map of one part: rows from the file -> tiles -> network -> stitched and smoothed rows.

Memory is one row of tiles, whatever the image's height: rows are read once, each row of tiles is scored,
stitched and smoothed, and finished rows are handed on. Wide rows of tiles are worked on in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inspect_cli.ahead import ahead, behind
from inspect_cli.arrays import Mask
from inspect_cli.engines import Engine
from inspect_cli.engines.base import Wait
from inspect_cli.engines.resident import Band, Finished, ResidentRows
from inspect_cli.images.reader import MapReader
from inspect_cli.images.values import Preprocess, continue_outside
from inspect_cli.scoring.clock import Clock
from inspect_cli.scoring.moments import PixelMoments
from inspect_cli.scoring.precision import round_scores
from inspect_cli.scoring.smooth import RowSmoother
from inspect_cli.scoring.usual import UsualMap
from inspect_cli.tiles.grid import Grid, pad_to_tile
from inspect_cli.tiles.stitch import RowStitcher, move_up
from inspect_cli.tiles.tiling import Tiling, check_size

#: Pixels of a block of rows on its way before the tiles and behind them; never fewer rows than 16.
_BLOCK_PX: Final = 2**19
_LEAST_ROWS: Final = 16


class PatchScores(NamedTuple):
    """Mean residual of each patch that has pixels inside the ROI, with its first pixel and ROI share."""

    x_px: NDArray[np.int32]
    y_px: NDArray[np.int32]
    residual_mean: NDArray[np.float32]
    roi_share: NDArray[np.float32]


class _Tiles(NamedTuple):
    """Neighbours in a row of the grid, and what of each (n, tile, tile) counts.

    ``masks`` are True inside the image and its ROI, ``material`` inside the ROI, mirrored like the pixels beyond a
    small image; None if everything is. ``wanted`` (n,) are those with pixels inside.
    """

    y: int
    columns: list[int]
    masks: Mask | None
    material: Mask | None
    wanted: Mask


class _Piece(NamedTuple):
    """A piece of a row of the grid from its tile ``first`` on, with the pixels of the wanted ones."""

    first: int
    tiles: _Tiles
    pixels: NDArray[np.float32]


@dataclass
class MapStream:
    """Scores one map as a stream of rows; afterwards holds its patches and pixel moments.

    ``on_pixels`` is handed every row of the image once, in the unit range, for a preview. Smoothed rows are
    measured by ``usual``; the means of patches are not.
    """

    reader: MapReader
    preprocess: Preprocess
    engine: Engine
    tiles: Tiling
    roi: Mask | None
    clock: Clock = field(default_factory=Clock)
    usual: UsualMap | None = None
    on_pixels: Callable[[NDArray[np.float32]], None] | None = None
    moments: PixelMoments = field(init=False, default_factory=PixelMoments)
    _patches: list[PatchScores] = field(init=False, default_factory=list)

    def rows(self) -> Iterator[NDArray[np.float32]]:
        """Yield the smoothed residual in blocks of rows (n, width), top to bottom, NaN outside the ROI.

        Raises
        ------
        InputError
            If the image is to be scored whole and is too large for it, or its pixels cannot be decoded.
        """
        header = self.reader.header
        grid = Grid(header.height, header.width, self.tiles.size_px, self.tiles.stride_px, self.tiles.even)
        smoother = RowSmoother(header.height, header.width, self.tiles.smooth_sigma_px, self.roi)
        done = 0
        for rows in self._smoothed(self._residual(grid), smoother):
            with self.clock.phase("smooth"):
                measured = rows if self.usual is None else self.usual.measured(rows, done)
                done += len(rows)
                rounded = round_scores(measured)
            yield rounded

    def _smoothed(
        self, residual: Iterator[NDArray[np.float32]], smoother: RowSmoother
    ) -> Iterator[NDArray[np.float32]]:
        """Yield smoothed rows as they become final, in blocks."""
        for finished in residual:
            for top, end in _blocks(*finished.shape):
                with self.clock.phase("smooth"):
                    smoothed = smoother.push(finished[top:end])
                if len(smoothed):
                    yield smoothed
        with self.clock.phase("smooth"):
            last = smoother.finish()
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
        for row, wait in behind(self._pushed(grid, resident)):
            with self.clock.phase("network"):
                finished = wait()
            self._note_patches(grid, row, finished.means)
            yield finished.rows

    def _pushed(self, grid: Grid, resident: ResidentRows) -> Iterator[tuple[_Tiles, Callable[[], Finished]]]:
        """Yield each row of tiles, in work on the device, with what waits for it."""
        for row, band in ahead(self._bands(grid)):
            with self.clock.phase("network"):
                wait = resident.push(band)
            yield row, wait

    def _bands(self, grid: Grid) -> Iterator[tuple[_Tiles, Band]]:
        """Yield each row of tiles with the pixels that are new in it; every image row is read once."""
        read_to = 0
        for y in grid.rows:
            with self.clock.phase("read"):
                end = min(y + grid.tile_px, grid.height_px)
                fresh = self.reader.read_rows(read_to, end)
                self._measured(fresh, read_to)
                row = self._tiles(grid, y, grid.columns)
                height = grid.tile_px if grid.height_px < grid.tile_px else len(fresh)
                band = Band(pad_to_tile(fresh, height, grid.padded_width_px), row.masks, row.material, row.wanted)
                read_to = end
            yield row, band

    def _stitched(self, grid: Grid) -> Iterator[NDArray[np.float32]]:
        """Yield the raw residual of overlapping tiles, row of tiles by row of tiles, each in pieces."""
        stitcher = RowStitcher(grid, self.tiles.blend)
        for piece, wait in behind(self._started(grid)):
            with self.clock.phase("network"):
                scores = _spread(wait(), piece.tiles.wanted)
            self._note_patches(grid, piece.tiles, _means(scores, piece.tiles))
            with self.clock.phase("stitch"):
                stitcher.add(piece.first, scores)
            if piece.first + len(scores) == len(grid.columns):
                yield from self.clock.each("stitch", stitcher.finish_row(_block_rows(grid.width_px)))

    def _started(self, grid: Grid) -> Iterator[tuple[_Piece, Wait]]:
        """Yield each piece of a row of tiles, in work, with what waits for its scores."""
        for piece in ahead(self._pieces(grid)):
            with self.clock.phase("network"):
                wait = self.engine.start(piece.pixels)
            yield piece, wait

    def _whole(self, grid: Grid) -> Iterator[NDArray[np.float32]]:
        """Yield the raw residual of the image as one tile; patches are the grid's squares of it."""
        header = self.reader.header
        check_size(self.tiles, header.path, header.height, header.width)
        with self.clock.phase("read"):
            unit = np.empty((self.preprocess.channels, header.height, header.width), np.float32)
            self._prepare(unit, 0)
            if self.roi is not None:
                continue_outside(unit[None], self.roi[None], self.preprocess.fill)
            step = self.engine.size_step_px
            down, right = (-side % step for side in unit.shape[1:])
            tile = np.pad(unit, [(0, 0), (0, down), (0, right)], mode="symmetric")
        with self.clock.phase("network"):
            scores = self.engine.score(tile[None])[0, : header.height, : header.width]
        for y in grid.rows:
            row = self._tiles(grid, y, grid.columns)
            band = pad_to_tile(scores[y : y + grid.tile_px], grid.tile_px, grid.padded_width_px)
            self._note_patches(grid, row, _means(_cut(band, grid.columns, grid.tile_px), row))
        yield scores

    def patches(self) -> PatchScores:
        """Return the patch scores of all tiles, row by row."""
        return PatchScores(*(np.concatenate(column) for column in zip(*self._patches, strict=True)))

    def _pieces(self, grid: Grid) -> Iterator[_Piece]:
        """Yield the grid in pieces of its rows, with the pixels of wanted tiles; image rows are read once."""
        window = np.empty((self.preprocess.channels, grid.tile_px, grid.padded_width_px), np.float32)
        read_to = 0
        for y in grid.rows:
            with self.clock.phase("read"):
                known = read_to - y if y else 0
                if y:
                    move_up(window, grid.tile_px - known)
                end = min(y + grid.tile_px, grid.height_px)
                self._prepare(window[:, known : end - y, : grid.width_px], read_to)
                if grid.is_small:
                    beyond = [(0, 0), (0, grid.tile_px - (end - y)), (0, grid.padded_width_px - grid.width_px)]
                    window[...] = np.pad(window[:, : end - y, : grid.width_px], beyond, mode="symmetric")
                read_to = end
            for piece in grid.pieces:
                with self.clock.phase("read"):
                    tiles = self._tiles(grid, y, grid.columns[piece])
                    wanted = [x for x, is_wanted in zip(tiles.columns, tiles.wanted, strict=True) if is_wanted]
                    pixels = _cut(window, wanted, grid.tile_px)
                    if tiles.material is not None:
                        continue_outside(pixels, tiles.material[tiles.wanted], self.preprocess.fill)
                yield _Piece(piece.start, tiles, pixels)

    def _prepare(self, target: NDArray[np.float32], y0: int) -> None:
        """Read rows from ``y0`` on into ``target`` (channels, rows, width), unit range."""
        for top, end in _blocks(*target.shape[1:]):
            unit = self._measured(self.reader.read_rows(y0 + top, y0 + end), y0 + top)
            target[:, top:end] = unit if unit.ndim == 2 else np.moveaxis(unit, 2, 0)

    def _measured(self, fresh: NDArray[Any], y0: int) -> NDArray[np.float32]:
        unit = self.preprocess.range.to_unit(fresh)
        if self.on_pixels is not None:
            self.on_pixels(unit)
        self.moments.add(unit, None if self.roi is None else self.roi[y0 : y0 + len(fresh)])
        return unit

    def _tiles(self, grid: Grid, y: int, columns: list[int]) -> _Tiles:
        masks = material = None
        if self.roi is not None:
            roi = pad_to_tile(self.roi[y : y + grid.tile_px], grid.tile_px, grid.padded_width_px)
            masks = material = _cut(roi, columns, grid.tile_px)
        if grid.is_small:  # what was mirrored does not count
            inside = np.zeros((grid.tile_px, grid.padded_width_px), bool)
            inside[: grid.height_px, : grid.width_px] = True
            image = _cut(inside, columns, grid.tile_px)
            masks = image if masks is None else image & masks
        wanted = np.ones(len(columns), bool) if masks is None else np.any(masks, axis=(1, 2))
        return _Tiles(y, columns, masks, material, wanted)

    def _note_patches(self, grid: Grid, tiles: _Tiles, means: NDArray[np.float64]) -> None:
        columns = np.asarray(tiles.columns, np.int32)[tiles.wanted]
        share = np.ones(len(columns), np.float32)
        if tiles.masks is not None:
            share = (tiles.masks[tiles.wanted].sum(axis=(1, 2)) / grid.tile_px**2).astype(np.float32)
        rows = np.full(len(columns), tiles.y, np.int32)
        self._patches.append(PatchScores(columns, rows, round_scores(means.astype(np.float32)), share))


def _spread(scores: NDArray[np.float32], wanted: Mask) -> NDArray[np.float32]:
    """Return the scores of all tiles, 0 for those that are not wanted."""
    if wanted.all():
        return scores
    spread = np.zeros((len(wanted), *scores.shape[1:]), np.float32)
    spread[wanted] = scores
    return spread


def _means(scores: NDArray[np.float32], tiles: _Tiles) -> NDArray[np.float64]:
    """Return the mean inside the ROI of each wanted tile of scores (n, tile, tile)."""
    if tiles.masks is None:
        return np.asarray(scores.mean(axis=(1, 2), dtype=np.float64))
    inside = tiles.masks[tiles.wanted]
    total = (scores[tiles.wanted] * inside).sum(axis=(1, 2), dtype=np.float64)
    return np.asarray(total / inside.sum(axis=(1, 2)))


def _block_rows(width: int) -> int:
    return max(_LEAST_ROWS, _BLOCK_PX // width)


def _blocks(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield first and end row of blocks of at most ``_BLOCK_PX`` pixels, or of ``_LEAST_ROWS`` rows."""
    rows = _block_rows(width)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def _cut(band: NDArray[Any], columns: list[int], tile_px: int) -> NDArray[Any]:
    """Return the tiles (n, ..., tile_px, tile_px) of a band of pixels (..., tile_px, width)."""
    tiles = np.empty((len(columns), *band.shape[:-1], tile_px), band.dtype)
    for tile, x in zip(tiles, columns, strict=True):
        tile[...] = band[..., x : x + tile_px]
    return tiles
