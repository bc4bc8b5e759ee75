"""Tiles cover every pixel, and a map that is cut and stitched comes back."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inspect_cli.tiles.grid import Grid, pad_to_tile, tile_starts
from inspect_cli.tiles.stitch import RowStitcher, blend_window, move_up

QUICK = settings(derandomize=True, deadline=None, max_examples=80)
BLENDS = st.sampled_from(["average", "hann"])


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Draw grids over images smaller and larger than a tile, with every kind of overlap."""
    tile = draw(st.integers(1, 12))
    stride = draw(st.integers(1, tile))
    return Grid(draw(st.integers(1, 40)), draw(st.integers(1, 40)), tile, stride, draw(st.booleans()))


def cut(grid: Grid, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the tiles (rows, columns, tile, tile) of an image, pixel by pixel from the grid's positions."""
    tile = grid.tile_px
    padded = np.asarray(pad_to_tile(image, tile, tile))
    tiles = [padded[y : y + tile, x : x + tile] for y, x in grid.positions()]
    return np.array(tiles, np.float32).reshape(len(grid.rows), len(grid.columns), tile, tile)


def add_row(stitcher: RowStitcher, scores: NDArray[np.float32]) -> NDArray[np.float32]:
    stitcher.add(0, scores)
    return np.concatenate(list(stitcher.finish_row(7)))


def stitched(grid: Grid, tiles: NDArray[np.float32], blend: str) -> NDArray[np.float32]:
    stitcher = RowStitcher(grid, blend)
    blocks = [add_row(stitcher, row) for row in tiles]
    assert all(block.dtype == np.float32 and len(block) for block in blocks)
    return np.concatenate(blocks)


def brute_force(
    grid: Grid, tiles: NDArray[np.float32], blend: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weighted mean at each pixel and the sum of weights, one tile after the other."""
    tile = grid.tile_px
    shape = (grid.padded_height_px, grid.padded_width_px)
    total, weight = np.zeros(shape), np.zeros(shape)
    ramp = np.ones(tile) if blend == "average" else np.sin(np.pi * (np.arange(tile) + 0.5) / tile) ** 2
    window = np.outer(ramp, ramp)
    for (y, x), scores in zip(grid.positions(), tiles.reshape(-1, tile, tile), strict=True):
        total[y : y + tile, x : x + tile] += window * scores
        weight[y : y + tile, x : x + tile] += window
    inside = slice(grid.height_px), slice(grid.width_px)
    return (total / weight)[inside], weight[inside]


# ---------------------------------------------------------------- where tiles lie


@QUICK
@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 40))
def test_starts_step_by_the_stride_and_cover_every_pixel(length: int, tile: int, stride: int) -> None:
    if stride > tile:
        with pytest.raises(ValueError, match="stride <= tile"):
            tile_starts(length, tile, stride)
        return
    starts = tile_starts(length, tile, stride)
    covered = {x for start in starts for x in range(start, start + tile)}
    assert set(range(length)) <= covered
    assert starts[0] == 0
    if length < tile:
        assert starts == [0]
        return
    assert starts[-1] == length - tile
    assert all(start % stride == 0 for start in starts[:-1])
    assert sorted(set(starts)) == starts
    assert all(later - earlier <= stride for earlier, later in pairwise(starts))


@pytest.mark.parametrize("wrong", [(0, 4, 2), (9, 0, 0), (9, 4, 0), (9, 4, 5), (-1, 4, 2)])
def test_lengths_that_make_no_grid_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="need 1 <= stride <= tile"):
        tile_starts(*wrong)


def test_full_size_map_has_the_tiles_that_are_stated() -> None:
    grid = Grid(3672, 5496, 128, 64)
    assert (len(grid.columns), len(grid.rows), len(grid)) == (85, 57, 4845)


def test_even_tiles_overlap_more_where_that_takes_no_more_of_them() -> None:
    plain, even = (Grid(768, 1024, 512, 480, is_even) for is_even in (False, True))
    assert (plain.rows, plain.columns) == ([0, 256], [0, 480, 512])
    assert (even.rows, even.columns) == ([0, 256], [0, 256, 512])
    assert Grid(300, 512, 512, 480, even=True).columns == [0]
    full = Grid(3672, 5496, 512, 480, even=True)
    assert (len(full), full.column_step_px) == (len(Grid(3672, 5496, 512, 480)), 454)


@QUICK
@given(grids())
def test_even_tiles_are_no_more_and_no_farther_apart(grid: Grid) -> None:
    plain, even = replace(grid, even=False), replace(grid, even=True)
    for found, starts in ((even.rows, plain.rows), (even.columns, plain.columns)):
        assert len(found) == len(starts)
        assert (found[0], found[-1]) == (starts[0], starts[-1])
        assert all(0 < b - a <= grid.stride_px for a, b in pairwise(found))


@QUICK
@given(grids())
def test_positions_go_row_by_row(grid: Grid) -> None:
    assert grid.positions().tolist() == [[y, x] for y in grid.rows for x in grid.columns]
    assert len(grid) == len(grid.positions())


@QUICK
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 30), st.integers(1, 3))
def test_small_image_is_mirrored_at_the_bottom_and_right(height: int, width: int, tile: int, channels: int) -> None:
    pixels = np.random.default_rng(0).random((height, width, channels))
    padded = pad_to_tile(pixels, tile, tile)
    assert padded.shape == (max(height, tile), max(width, tile), channels)
    for y, x in np.ndindex(padded.shape[:2]):
        mirrored = [p % (2 * n) if p % (2 * n) < n else 2 * n - 1 - p % (2 * n) for p, n in ((y, height), (x, width))]
        np.testing.assert_array_equal(padded[y, x], pixels[mirrored[0], mirrored[1]])


# ---------------------------------------------------------------- stitching


@QUICK
@given(grids(), BLENDS, st.integers(0, 99))
def test_identity_in_identity_out(grid: Grid, blend: str, seed: int) -> None:
    shape = (grid.height_px, grid.width_px)
    image = (np.random.default_rng(seed).random(shape) * 10.0 ** (seed % 9 - 4)).astype(np.float32)
    found = stitched(grid, cut(grid, image), blend)
    if blend == "average":
        np.testing.assert_array_equal(found, image)
    else:
        np.testing.assert_allclose(found, image, rtol=1e-6)


@QUICK
@given(grids(), BLENDS, st.integers(0, 99))
def test_tiles_that_disagree_are_averaged_as_brute_force_does(grid: Grid, blend: str, seed: int) -> None:
    shape = (len(grid.rows), len(grid.columns), grid.tile_px, grid.tile_px)
    tiles = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    expected, _ = brute_force(grid, tiles, blend)
    np.testing.assert_allclose(stitched(grid, tiles, blend), expected, rtol=1e-5, atol=1e-6)


@QUICK
@given(grids(), BLENDS)
def test_weights_equal_brute_force_and_no_pixel_is_left_out(grid: Grid, blend: str) -> None:
    stitcher = RowStitcher(grid, blend)
    tiles = np.zeros((len(grid.rows), len(grid.columns), grid.tile_px, grid.tile_px), np.float32)
    _, expected = brute_force(grid, tiles, blend)
    found = np.outer(stitcher._weight_y[: grid.height_px], stitcher._weight_x[: grid.width_px])
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert expected.min() > 0


@QUICK
@given(grids())
def test_rows_come_as_soon_as_they_are_final_and_in_order(grid: Grid) -> None:
    ramp = np.repeat(np.arange(grid.height_px, dtype=np.float32)[:, None], grid.width_px, axis=1)
    stitcher, given_out = RowStitcher(grid), 0
    for number, tiles in enumerate(cut(grid, ramp)):
        block = add_row(stitcher, tiles)
        np.testing.assert_array_equal(block[:, 0], np.arange(given_out, given_out + len(block)))
        given_out += len(block)
        later = grid.rows[number + 1] if number + 1 < len(grid.rows) else grid.height_px
        assert given_out == later
        assert block.shape[1] == grid.width_px


@QUICK
@given(grids(), BLENDS, st.integers(0, 99))
def test_no_score_reaches_only_the_pixels_of_its_tile(grid: Grid, blend: str, seed: int) -> None:
    tiles = np.ones((len(grid.rows), len(grid.columns), grid.tile_px, grid.tile_px), np.float32)
    which = int(np.random.default_rng(seed).integers(len(grid)))
    tiles.reshape(-1, grid.tile_px, grid.tile_px)[which] = np.nan
    y, x = grid.positions()[which]
    expected = np.ones((grid.height_px, grid.width_px), bool)
    expected[y : y + grid.tile_px, x : x + grid.tile_px] = False
    np.testing.assert_array_equal(np.isfinite(stitched(grid, tiles, blend)), expected)


def test_wrong_number_of_tiles_is_refused() -> None:
    stitcher = RowStitcher(Grid(20, 20, 8, 4))
    with pytest.raises(ValueError, match="expected"):
        stitcher.add(2, np.zeros((3, 8, 8), np.float32))
    with pytest.raises(ValueError, match="expected"):
        stitcher.add(0, np.zeros((3, 8, 7), np.float32))
    with pytest.raises(ValueError, match="valid: average, hann"):
        blend_window("cosine", 8)


@pytest.mark.parametrize("tile", [1, 2, 7, 128, 1024])
def test_hann_window_is_symmetric_positive_and_highest_in_the_middle(tile: int) -> None:
    window = blend_window("hann", tile)
    np.testing.assert_allclose(window, window[::-1])
    assert window.min() > 0
    assert window.argmax() in (tile // 2, (tile - 1) // 2)
    assert tile < 7 or window.max() == pytest.approx(1, abs=0.05)


@QUICK
@given(grids(), BLENDS, st.integers(1, 400))
def test_rows_of_tiles_added_in_pieces_are_the_same_map(grid: Grid, blend: str, most_px: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inspect_cli.tiles.grid.PIECE_PX", most_px)
        patch.setattr("inspect_cli.tiles.grid.ROW_PX", most_px)
        pieces = grid.pieces
    assert [x for piece in pieces for x in grid.columns[piece]] == grid.columns
    lengths = [len(grid.columns[piece]) for piece in pieces]
    assert max(lengths) <= max(1, most_px // grid.tile_px**2)
    assert set(lengths[:-1]) <= {lengths[0]}
    assert lengths[-1] <= lengths[0]
    shape = (len(grid.rows), len(grid.columns), grid.tile_px, grid.tile_px)
    tiles = np.random.default_rng(0).random(shape, np.float32)
    stitcher, rows = RowStitcher(grid, blend), []
    for row in tiles:
        for piece in pieces:
            stitcher.add(piece.start, row[piece])
        rows += stitcher.finish_row(5)
    np.testing.assert_allclose(np.concatenate(rows), stitched(grid, tiles, blend), rtol=1e-6)


@QUICK
@given(st.integers(1, 12), st.integers(1, 12))
def test_rows_move_up_in_place(count: int, height: int) -> None:
    rows = np.arange(2 * height * 3).reshape(2, height, 3)
    before = rows.copy()
    move_up(rows, count)
    np.testing.assert_array_equal(rows[:, : max(height - count, 0)], before[:, count:])
    np.testing.assert_array_equal(rows[:, max(height - count, 0) :], before[:, max(height - count, 0) :])
