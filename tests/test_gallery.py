"""The gallery of corruptions, read back pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from inspect_cli.pictures import draw
from inspect_cli.pictures.colour import NO_SCORE_RGB, inferno_table
from inspect_cli.pictures.gallery import save_corruptions

GUTTER_PX = 6


@pytest.fixture
def captions(monkeypatch):
    """Note the writing of the three rows."""
    noted: list[str] = []
    strip = draw.caption_strip

    def noting(width, text):
        noted.append(text)
        return strip(width, text)

    monkeypatch.setattr(draw, "caption_strip", noting)
    return noted


def cells(path: Path, columns: int, cell_px: int) -> np.ndarray:
    """Return the cells of the sheet, (3, columns, cell_px, cell_px, 3) RGB."""
    sheet = cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1]
    strip = sheet.shape[0] // 3 - cell_px
    assert sheet.shape[0] == 3 * (strip + cell_px)
    assert sheet.shape[1] >= columns * (cell_px + GUTTER_PX)
    assert 30 <= strip <= 90
    rows = [sheet[row * (strip + cell_px) + strip :][:cell_px] for row in range(3)]
    return np.array(
        [
            [row[:, number * (cell_px + GUTTER_PX) + GUTTER_PX :][:, :cell_px] for number in range(columns)]
            for row in rows
        ]
    )


def pixels(cell: np.ndarray, side: int) -> np.ndarray:
    """Return the cell at the size of its patch, having made sure that each pixel fills its square."""
    factor = cell.shape[0] // side
    small = cell[::factor, ::factor]
    np.testing.assert_array_equal(cell, small.repeat(factor, axis=0).repeat(factor, axis=1))
    return small


def test_grey_patches_are_stretched_by_one_range_and_the_difference_is_coloured(tmp_path, captions):
    clean = np.full((2, 1, 4, 4), 0.5, np.float32)
    clean[0, 0, :2] = 0.4
    clean[1, 0, 3] = 0.6
    corrupted, changed = clean.copy(), np.zeros((2, 1, 4, 4), np.float32)
    corrupted[0, 0, 1, 2] = 0.65
    corrupted[0, 0, 3, 3] = 0.0
    changed[0, 0, 1:, 2:] = 1
    changed[0, 0, 3, 2] = 0.2
    save_corruptions(tmp_path / "a.png", clean, corrupted, changed)
    sheet = cells(tmp_path / "a.png", 2, 256)

    first, second = (pixels(cell, 4) for cell in sheet[0])
    np.testing.assert_array_equal(first[:2], 0)
    np.testing.assert_allclose(first[2:], 127.5, atol=1)
    np.testing.assert_allclose(second[:3], 127.5, atol=1)
    np.testing.assert_array_equal(second[3], 255)

    damaged = pixels(sheet[1, 0], 4)
    np.testing.assert_array_equal(damaged[1, 2], 255)
    np.testing.assert_array_equal(damaged[3, 3], 0)
    damaged[1, 2] = first[1, 2]
    damaged[3, 3] = first[3, 3]
    np.testing.assert_array_equal(damaged, first)
    np.testing.assert_array_equal(sheet[1, 1], sheet[0, 1])

    difference = pixels(sheet[2, 0], 4)
    np.testing.assert_array_equal(difference[3, 3], inferno_table()[255])
    np.testing.assert_allclose(difference[1, 2], inferno_table()[128].astype(int), atol=3)  # 0.25 of 0.5
    for y, x in ((1, 3), (2, 2), (2, 3), (3, 2)):  # might have changed and did not, one of them on a soft edge
        np.testing.assert_array_equal(difference[y, x], inferno_table()[0])
    assert (difference == NO_SCORE_RGB).all(axis=2).sum() == 16 - 6
    assert (sheet[2, 1] == NO_SCORE_RGB).all()

    assert [caption.split()[0].strip(",;") for caption in captions] == ["clean", "corrupted", "difference"]
    assert "0.4" in captions[0]
    assert "0.6" in captions[0]
    assert " 0.5;" in captions[2]


def test_three_channels_are_colours_and_the_range_is_that_of_all_of_them(tmp_path):
    clean = np.zeros((1, 3, 2, 2), np.float32)
    clean[0, :, 0, 0] = (1.0, 0.5, 0.0)
    corrupted = clean.copy()
    corrupted[0, :, 1, 1] = (0.0, 0.25, 1.0)
    changed = (corrupted != clean).any(axis=1, keepdims=True).astype(np.float32)
    save_corruptions(tmp_path / "a.png", clean, corrupted, changed)
    shown = [pixels(cell, 2) for cell in cells(tmp_path / "a.png", 1, 256)[:, 0]]
    np.testing.assert_allclose(shown[0][0, 0], (255, 127.5, 0), atol=1)
    np.testing.assert_allclose(shown[1][1, 1], (0, 64, 255), atol=1)
    np.testing.assert_array_equal(shown[2][1, 1], inferno_table()[255])  # the channel that changed most


@pytest.mark.parametrize("channels", [2, 5])
def test_of_other_numbers_of_channels_the_first_is_shown_but_all_count_in_the_difference(tmp_path, channels):
    clean = np.random.default_rng(0).random((1, channels, 16, 16), dtype=np.float32)
    clean[:, 1] *= 100
    corrupted = clean.copy()
    corrupted[0, 1, 5, 6] += 1
    corrupted[0, :, 9, 9] += 0.75
    changed = (corrupted != clean).any(axis=1, keepdims=True).astype(np.float32)
    save_corruptions(tmp_path / "all.png", clean, corrupted, changed)
    save_corruptions(tmp_path / "first.png", clean[:, :1], corrupted[:, :1], changed)
    every, first = (cells(tmp_path / name, 1, 256)[:, 0] for name in ("all.png", "first.png"))
    np.testing.assert_array_equal(every[:2], first[:2])
    difference = pixels(every[2], 16)
    np.testing.assert_array_equal(difference[5, 6], inferno_table()[255])
    np.testing.assert_allclose(difference[9, 9], inferno_table()[191].astype(int), atol=3)


def test_a_sheet_has_eight_columns_at_most(tmp_path):
    generator = np.random.default_rng(1)
    clean = generator.random((11, 1, 65, 65), dtype=np.float32)
    clean[8:] *= 50
    changed = np.ones_like(clean)
    save_corruptions(tmp_path / "many.png", clean, clean + 0.5, changed)
    save_corruptions(tmp_path / "eight.png", clean[:8], clean[:8] + 0.5, changed[:8])
    assert (tmp_path / "many.png").read_bytes() == (tmp_path / "eight.png").read_bytes()
    assert cells(tmp_path / "many.png", 8, 3 * 65).shape[1] == 8


def test_one_hot_pixel_does_not_take_the_contrast_from_the_others(tmp_path):
    clean = np.tile(np.array([0.50, 0.52], np.float32), (1, 1, 64, 32))
    clean[0, 0, 0, 0] = 40.0
    save_corruptions(tmp_path / "a.png", clean, clean, np.zeros_like(clean))
    shown = pixels(cells(tmp_path / "a.png", 1, 256)[0, 0], 64)
    assert set(np.unique(shown[1:])) == {0, 255}


def test_a_difference_outside_the_mask_is_not_hidden(tmp_path):
    clean = np.zeros((1, 1, 4, 4), np.float32)
    corrupted = clean.copy()
    corrupted[0, 0, 1, 2] = 1
    save_corruptions(tmp_path / "a.png", clean, corrupted, np.zeros_like(clean))
    difference = pixels(cells(tmp_path / "a.png", 1, 256)[2, 0], 4)
    np.testing.assert_array_equal(difference[1, 2], inferno_table()[255])
    assert (difference == NO_SCORE_RGB).all(axis=2).sum() == 15


def test_large_patches_are_reduced(tmp_path):
    clean = np.zeros((1, 1, 600, 600), np.float32)
    clean[..., 300:] = 1
    save_corruptions(tmp_path / "a.png", clean, clean, np.zeros_like(clean))
    shown = cells(tmp_path / "a.png", 1, 256)[0, 0]
    np.testing.assert_array_equal(shown[:, :127], 0)
    np.testing.assert_array_equal(shown[:, 129:], 255)


def test_flat_patches_are_shown_in_the_unit_range(tmp_path):
    clean = np.full((1, 1, 8, 8), 0.25, np.float32)
    save_corruptions(tmp_path / "a.png", clean, clean, np.ones_like(clean))
    sheet = cells(tmp_path / "a.png", 1, 256)[:, 0]
    np.testing.assert_array_equal(sheet[:2], 64)
    assert (sheet[2] == inferno_table()[0]).all()


def test_pixels_that_are_no_numbers_are_grey(tmp_path):
    clean = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)
    clean[0, 0, 2, 3] = np.nan
    save_corruptions(tmp_path / "a.png", clean, clean, np.ones_like(clean))
    sheet = [pixels(cell, 8) for cell in cells(tmp_path / "a.png", 1, 256)[:, 0]]
    np.testing.assert_array_equal(sheet[0][2, 3], 128)
    np.testing.assert_array_equal(sheet[2][2, 3], NO_SCORE_RGB)
    nothing = np.full((1, 1, 8, 8), np.nan, np.float32)
    save_corruptions(tmp_path / "b.png", nothing, nothing, np.ones_like(clean))
    np.testing.assert_array_equal(cells(tmp_path / "b.png", 1, 256)[0, 0], 128)
