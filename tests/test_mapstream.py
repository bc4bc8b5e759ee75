"""One map as a stream, with an engine that only copies: what is cut comes back, at the right place."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inspect_cli.engines.base import Blocking
from inspect_cli.engines.resident import ResidentRows
from inspect_cli.images.reader import ImageHeader, MapReader, open_map
from inspect_cli.images.values import Preprocess, ValueRange, continue_outside
from inspect_cli.scoring.mapstream import MapStream
from inspect_cli.scoring.moments import PixelMoments
from inspect_cli.scoring.precision import round_scores
from inspect_cli.scoring.smooth import RowSmoother
from inspect_cli.tiles.grid import Grid, pad_to_tile
from inspect_cli.tiles.tiling import Tiling

QUICK = settings(derandomize=True, deadline=None, max_examples=50)
Mask = NDArray[np.bool_]
FILL = 0.25


class Memory(MapReader):
    """An image in memory that notes which rows are read."""

    def __init__(self, pixels: NDArray[Any]) -> None:
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        self.header = ImageHeader(Path("memory"), "memory", pixels.shape[1], pixels.shape[0], channels, pixels.dtype)
        self._pixels = pixels
        self.rows_read: list[int] = []

    def read_rows(self, y0: int, y1: int) -> NDArray[Any]:
        assert 0 <= y0 < y1 <= self.header.height
        self.rows_read += range(y0, y1)
        return self._pixels[y0:y1].copy()


class Copying(Blocking):
    """An engine that returns each tile's first channel, and keeps what it was given."""

    name, device_name, precision, size_step_px = "copying", "none", "f32", 1
    batch = 4

    def __init__(self, resident: bool = False) -> None:
        self.tiles: list[NDArray[np.float32]] = []
        self._resident = resident

    def rows_on_device(self, grid: Grid, preprocess: Preprocess, blend: str) -> ResidentRows | None:
        if not self._resident:
            return None
        return ResidentRows(lambda tiles: tiles[:, 0], torch.device("cpu"), grid, preprocess, blend)

    def score(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        assert tiles.dtype == np.float32
        assert tiles.ndim == 4
        self.tiles += list(tiles)
        return tiles[:, 0].copy()


class Rows(MapReader):
    """An image of any height that is nowhere whole."""

    def __init__(self, height: int, width: int) -> None:
        self.header = ImageHeader(Path("rows"), "rows", width, height, 1, np.dtype(np.uint8))

    def read_rows(self, y0: int, y1: int) -> NDArray[Any]:
        return np.full((y1 - y0, self.header.width), y0 % 251, np.uint8)


def stream_of(
    pixels: NDArray[Any],
    tile: int,
    stride: int,
    roi: Mask | None = None,
    sigma: float = 0,
    blend: str = "average",
    resident: bool = False,
) -> tuple[MapStream, Memory, Copying]:
    reader, engine = Memory(pixels), Copying(resident)
    channels = reader.header.channels
    return (
        MapStream(
            reader=reader,
            preprocess=Preprocess(ValueRange.of_type(pixels.dtype), (FILL,) * channels, str(pixels.dtype)),
            engine=engine,
            # Tiles below the recipe's least size keep the examples small.
            tiles=Tiling(size_px=tile, stride_px=stride, blend=blend, smooth_sigma_px=sigma),
            roi=roi,
        ),
        reader,
        engine,
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[NDArray[Any], int, int, Mask | None]:
    """Draw an image smaller or larger than a tile, with or without channels and ROI."""
    tile = draw(st.integers(2, 12))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    shape: tuple[int, ...] = (draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    roi = None
    if draw(st.booleans()):
        y, x = rng.integers(0, shape)
        roi = np.zeros(shape, bool)
        roi[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = True
    channels = draw(st.sampled_from([1, 3]))
    pixels = rng.integers(0, 65535, shape if channels == 1 else (*shape, channels), np.uint16)
    return pixels, tile, draw(st.integers(1, tile)), roi


def first_channel(pixels: NDArray[Any]) -> NDArray[np.float32]:
    unit = ValueRange.of_type(pixels.dtype).to_unit(pixels)
    return unit if unit.ndim == 2 else unit[..., 0]


@QUICK
@given(cases(), st.sampled_from(["average", "hann"]), st.booleans())
def test_copying_engine_gives_the_first_channel_back(
    case: tuple[NDArray[Any], int, int, Mask | None], blend: str, resident: bool
) -> None:
    pixels, tile, stride, roi = case
    stream, reader, _ = stream_of(pixels, tile, stride, roi, blend=blend, resident=resident)
    found = np.concatenate(list(stream.rows()))
    expected = round_scores(first_channel(pixels))
    if roi is not None:
        expected = np.where(roi, expected, np.float32(np.nan))
    if blend == "average":
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=6e-4)
    assert reader.rows_read == list(range(len(pixels)))  # every row once, top to bottom


@QUICK
@given(cases(), st.sampled_from([0.5, 2.0]))
def test_smoothing_comes_after_the_stitch(case: tuple[NDArray[Any], int, int, Mask | None], sigma: float) -> None:
    pixels, tile, stride, roi = case
    stream, _, _ = stream_of(pixels, tile, stride, roi, sigma)
    found = np.concatenate(list(stream.rows()))
    smoother = RowSmoother(*pixels.shape[:2], sigma, roi)
    whole = np.concatenate([smoother.push(first_channel(pixels)), smoother.finish()])
    np.testing.assert_allclose(found, round_scores(whole), rtol=6e-4)


@QUICK
@given(cases())
def test_patches_equal_brute_force_and_tiles_outside_the_roi_are_skipped(
    case: tuple[NDArray[Any], int, int, Mask | None],
) -> None:
    pixels, tile, stride, roi = case
    stream, _, engine = stream_of(pixels, tile, stride, roi)
    list(stream.rows())
    found = stream.patches()
    unit = first_channel(pixels).astype(np.float64)
    inside = np.ones(unit.shape, bool) if roi is None else roi
    expected = []
    for y, x in Grid(*unit.shape, tile, stride).positions():
        window = slice(y, y + tile), slice(x, x + tile)
        if inside[window].any():
            expected.append((x, y, unit[window][inside[window]].mean(), inside[window].sum() / tile**2))
    assert len(engine.tiles) == len(expected)
    np.testing.assert_array_equal(found.x_px, [row[0] for row in expected])
    np.testing.assert_array_equal(found.y_px, [row[1] for row in expected])
    np.testing.assert_allclose(found.residual_mean, [row[2] for row in expected], rtol=6e-4)
    np.testing.assert_allclose(found.roi_share, [row[3] for row in expected], rtol=1e-6)


@QUICK
@given(cases())
def test_network_sees_material_mirrored_outside_the_roi_and_beyond_a_small_image(
    case: tuple[NDArray[Any], int, int, Mask | None],
) -> None:
    pixels, tile, stride, roi = case
    stream, _, engine = stream_of(pixels, tile, stride, roi)
    list(stream.rows())
    patches = stream.patches()
    unit = ValueRange.of_type(pixels.dtype).to_unit(pixels).reshape(*pixels.shape[:2], -1)
    inside = np.ones(pixels.shape[:2], bool) if roi is None else roi
    for y, x, seen in zip(patches.y_px, patches.x_px, engine.tiles, strict=True):
        window = np.asarray(pad_to_tile(unit[y : y + tile, x : x + tile], tile, tile), np.float32)
        mask = np.asarray(pad_to_tile(inside[y : y + tile, x : x + tile], tile, tile), bool)
        expected = np.moveaxis(window, 2, 0).copy()
        continue_outside(expected[None], mask[None], (FILL,) * unit.shape[2])
        np.testing.assert_array_equal(seen, expected)


@QUICK
@given(cases())
def test_moments_and_preview_see_every_pixel_once(case: tuple[NDArray[Any], int, int, Mask | None]) -> None:
    pixels, tile, stride, roi = case
    stream, _, _ = stream_of(pixels, tile, stride, roi)
    seen: list[NDArray[np.float32]] = []
    stream.on_pixels = seen.append
    list(stream.rows())
    unit = ValueRange.of_type(pixels.dtype).to_unit(pixels)
    np.testing.assert_array_equal(np.concatenate(seen), unit)
    values = unit if roi is None else unit[roi]
    assert stream.moments.count == values.size
    assert stream.moments.mean == pytest.approx(values.mean(dtype=np.float64), abs=1e-9)
    assert stream.moments.spread == pytest.approx(values.std(dtype=np.float64), abs=1e-6)
    channels = values.reshape(-1, 1 if pixels.ndim == 2 else pixels.shape[2])
    assert stream.moments.channel_means == pytest.approx(channels.mean(axis=0, dtype=np.float64), abs=1e-7)
    assert stream.moments.channel_spreads == pytest.approx(channels.std(axis=0, dtype=np.float64), abs=1e-6)


def test_moments_of_nothing_are_zero() -> None:
    assert (PixelMoments().mean, PixelMoments().spread) == (0.0, 0.0)


def test_values_that_are_no_numbers_are_counted_in_their_channel_alone() -> None:
    unit = np.random.default_rng(0).random((6, 7, 3)).astype(np.float32)
    unit[2, 3, 1] = np.nan
    unit[4, :2, 2] = np.inf
    inside = np.ones((6, 7), bool)
    inside[4, 0] = False
    found = PixelMoments()
    found.add(unit, inside)
    assert (found.missing, found.counts) == (2, [41, 40, 40])
    for channel in range(3):
        values = unit[inside][:, channel]
        values = values[np.isfinite(values)]
        assert found.channel_means[channel] == pytest.approx(values.mean(dtype=np.float64))
        assert found.channel_spreads[channel] == pytest.approx(values.std(dtype=np.float64))


def test_missing_pixel_makes_its_tiles_missing_and_nothing_else() -> None:
    class Spreading(Copying):
        """Like a network: one pixel that is no number spoils the whole tile."""

        def score(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
            return tiles[:, 0] + 0 * tiles.sum(axis=(1, 2, 3))[:, None, None]

    pixels = np.random.default_rng(0).random((40, 40)).astype(np.float32)
    pixels[20, 20] = np.nan
    stream, _, _ = stream_of(pixels, 8, 8)
    stream.engine = Spreading()
    found = np.concatenate(list(stream.rows()))
    expected = np.zeros(pixels.shape, bool)
    expected[16:24, 16:24] = True
    np.testing.assert_array_equal(np.isnan(found), expected)


@pytest.mark.parametrize("blend", ["average", "hann"])
def test_overlaps_are_blended_as_the_recipe_says(blend: str) -> None:
    tile, stride, side = 8, 3, 30
    ramp = np.arange(tile * tile, dtype=np.float32).reshape(tile, tile)

    class Ramp(Copying):
        """Scores that depend on the place in the tile, so that overlapping tiles disagree."""

        def score(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.repeat(ramp[None], len(tiles), axis=0)

    stream, _, _ = stream_of(np.zeros((side, side), np.uint16), tile, stride, blend=blend)
    stream.engine = Ramp()
    axis = np.ones(tile) if blend == "average" else np.sin(np.pi * (np.arange(tile) + 0.5) / tile) ** 2
    window = np.outer(axis, axis)
    total, weight = np.zeros((2, side, side))
    for y, x in Grid(side, side, tile, stride).positions():
        total[y : y + tile, x : x + tile] += window * ramp
        weight[y : y + tile, x : x + tile] += window
    np.testing.assert_allclose(np.concatenate(list(stream.rows())), total / weight, rtol=3e-4)


def test_rows_of_a_file_stream_through(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65535, (300, 210), np.uint16)
    tifffile.imwrite(tmp_path / "map.tif", pixels, tile=(64, 64), compression="zlib")
    memory, _, _ = stream_of(pixels, 128, 64, sigma=2.0, blend="hann")
    with open_map(tmp_path / "map.tif") as reader:
        from_file, _, _ = stream_of(pixels, 128, 64, sigma=2.0, blend="hann")
        from_file.reader = reader
        np.testing.assert_array_equal(np.concatenate(list(from_file.rows())), np.concatenate(list(memory.rows())))
    assert {"read", "network", "stitch", "smooth", "total"} <= set(from_file.clock.seconds())


@pytest.mark.parametrize("blend", ["average", "hann"])
def test_pieces_of_rows_and_small_blocks_change_nothing(blend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    pixels = rng.integers(0, 65535, (75, 61), np.uint16)
    roi = np.zeros(pixels.shape, bool)
    roi[10:70, 30:] = True
    for inside in (None, roi):
        stream, _, engine = stream_of(pixels, 12, 5, inside, sigma=1.0, blend=blend)
        expected, patches, count = np.concatenate(list(stream.rows())), stream.patches(), len(engine.tiles)
        with monkeypatch.context() as patch:
            patch.setattr("inspect_cli.tiles.grid.PIECE_PX", 3 * 12**2)
            patch.setattr("inspect_cli.tiles.grid.ROW_PX", 3 * 12**2)
            patch.setattr("inspect_cli.scoring.mapstream._BLOCK_PX", 61 * 2)
            patch.setattr("inspect_cli.scoring.mapstream._LEAST_ROWS", 1)
            stream, _, engine = stream_of(pixels, 12, 5, inside, sigma=1.0, blend=blend)
            np.testing.assert_allclose(np.concatenate(list(stream.rows())), expected, rtol=1e-3)
        for found, known in zip(stream.patches(), patches, strict=True):
            np.testing.assert_array_equal(found, known)
        assert len(engine.tiles) == count


def test_memory_does_not_grow_with_the_height_of_an_image() -> None:
    def peak(height: int) -> int:
        preprocess = Preprocess(ValueRange(0, 255), (FILL,), "uint8")
        engine = Copying()
        engine.score = lambda tiles: tiles[:, 0].copy()  # type: ignore[method-assign]  # keeps nothing
        stream = MapStream(Rows(height, 512), preprocess, engine, Tiling(64, 32, smooth_sigma_px=2.0), None)
        tracemalloc.start()
        for rows in stream.rows():
            assert len(rows)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(64)  # what is made once
    assert peak(4096) < 1.1 * peak(1024)
