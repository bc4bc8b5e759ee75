"""Replaced regions: what the mask promises, and each kind of content against what it must be by definition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from inspect_cli.corruptions.patches import GRAIN_PX, STRENGTH, Box, PatchCorruption, elastic_deformation, region_mask

KINDS = ["elastic", "cutout", "swap"]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(count: int = 4, channels: int = 1, side: int = 64, seed: int = 0) -> np.ndarray:
    """Return patches with values from .4 to .6, so that nothing is clipped."""
    return (0.4 + 0.2 * rng(seed).random((count, channels, side, side))).astype(np.float32)


def ramps(side: int = 128) -> np.ndarray:
    """Return a patch of two channels whose values are a pixel's row and column over 128."""
    return np.stack(np.mgrid[:side, :side]).astype(np.float32) / 128


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "side"), [(1, 32), (3, 64), (64, 48)])
def test_pixels_outside_the_mask_keep_every_bit_and_those_inside_change(kind, channels, side):
    clean = noise(3, channels, side)
    before = clean.copy()
    damaged, changed = PatchCorruption(kind)(clean, rng())
    np.testing.assert_array_equal(clean, before)
    assert damaged.shape == clean.shape
    assert changed.shape == (3, 1, side, side)
    assert damaged.dtype == changed.dtype == np.float32
    assert changed.min() == 0
    assert changed.max() <= 1
    assert (changed == 1).any(axis=(1, 2, 3)).all()
    kept = np.broadcast_to(changed == 0, clean.shape)
    np.testing.assert_array_equal(damaged[kept], clean[kept])
    inside = np.broadcast_to(changed == 1, clean.shape)
    assert np.abs(damaged - clean)[inside].mean() > 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_damage_follows_from_the_generators_state(kind):
    corruption, clean = PatchCorruption(kind), noise()
    first, again, other = corruption(clean, rng(1)), corruption(clean, rng(1)), corruption(clean, rng(2))
    np.testing.assert_array_equal(first.patches, again.patches)
    np.testing.assert_array_equal(first.changed, again.changed)
    assert (first.changed != other.changed).any()


@pytest.mark.parametrize("kind", KINDS)
def test_values_stay_in_the_unit_range(kind):
    clean = rng(3).choice(np.array([0, 1], np.float32), (4, 2, 64, 64))
    damaged, _ = PatchCorruption(kind, brightness=0.0 if kind == "cutout" else 2.0)(clean, rng())
    assert damaged.min() >= 0
    assert damaged.max() <= 1


def test_cutout_leaves_the_share_of_the_original_that_the_mask_says_overlaps_included():
    clean = np.ones((3, 2, 64, 64), np.float32)
    damaged, changed = PatchCorruption("cutout", regions=(12, 12))(clean, rng())
    np.testing.assert_allclose(damaged, np.broadcast_to(1 - changed, clean.shape), atol=1e-6)


def test_swap_brings_the_other_patch():
    clean = np.full((2, 1, 64, 64), 0.2, np.float32)
    clean[1] = 0.8
    damaged, changed = PatchCorruption("swap", brightness=0, regions=(1, 1))(clean, rng())
    np.testing.assert_allclose(damaged, (1 - changed) * clean + changed * clean[::-1], atol=1e-6)


def test_swap_within_a_lone_patch_brings_another_place():
    clean = (np.arange(64 * 64, dtype=np.float32) / 4096).reshape(1, 1, 64, 64)
    for seed in range(20):
        damaged, changed = PatchCorruption("swap", brightness=0, regions=(1, 1))(clean, rng(seed))
        moved = np.round((damaged - clean)[changed == 1] * 4096)
        assert len(np.unique(moved)) == 1
        assert moved[0] != 0


def test_swap_moves_even_where_the_drawn_place_is_the_same():
    """A region nearly as large as the patch has few places to come from."""
    clean = (np.arange(16 * 16, dtype=np.float32) / 256).reshape(1, 1, 16, 16)
    corruption = PatchCorruption("swap", brightness=0, regions=(1, 1), size=(0.93, 0.94))
    for seed in range(60):
        damaged, changed = corruption(clean, rng(seed))
        assert (damaged != clean)[changed == 1].all()


def test_displacements_have_the_stated_strength_and_grain():
    patch, box = ramps(), Box(40, 40, 48)
    original = patch[:, 40:88, 40:88]
    for seed in range(10):
        shift_px = (elastic_deformation(patch, box, rng(seed)) - original) * 128
        strength_px = np.sqrt((shift_px**2).mean())
        assert GRAIN_PX[0] * STRENGTH[0] * 0.99 < strength_px < GRAIN_PX[1] * STRENGTH[1] * 1.01
        for component in shift_px:
            neighbours = np.corrcoef(component[:, :-1].ravel(), component[:, 1:].ravel())[0, 1]
            assert neighbours > 0.75
            assert component.max() > 0 > component.min()


def test_all_channels_are_displaced_alike():
    plane = noise(1, 1, 64)[0, 0]
    content = elastic_deformation(np.stack([plane, plane]), Box(8, 8, 32), rng())
    np.testing.assert_array_equal(content[0], content[1])


@pytest.mark.parametrize("period_px", [6, 10, 20])
def test_deformation_shows_on_fine_stripes(period_px):
    rows = np.arange(128)[:, None]
    stripes = np.broadcast_to(0.5 + 0.3 * np.sin(2 * np.pi * rows / period_px), (16, 1, 128, 128))
    clean = stripes.astype(np.float32)
    damaged, changed = PatchCorruption("elastic", brightness=0)(clean, rng())
    assert np.abs(damaged - clean)[changed > 0.9].mean() > 0.3 * 0.25


def test_brightness_shifts_each_channel_by_its_own_spread():
    clean = noise(1, 2, 64)
    clean[:, 1] = 0.5 + (clean[:, 1] - 0.5) / 4
    spread = clean.std(axis=(2, 3)).ravel()
    shifts = []
    for seed in range(20):
        plain, changed = PatchCorruption("elastic", 0, regions=(1, 1))(clean, rng(seed))
        shifted, _ = PatchCorruption("elastic", 1.5, regions=(1, 1))(clean, rng(seed))
        found = [
            np.unique(np.round((s - p)[changed[0, 0] == 1], 4)) for s, p in zip(shifted[0], plain[0], strict=True)
        ]
        assert all(np.ptp(values) <= 1.1e-4 for values in found)
        shifts.append([values.mean() for values in found] / spread)
    shifts = np.array(shifts)
    np.testing.assert_allclose(shifts[:, 0], shifts[:, 1], atol=0.02)
    assert np.abs(shifts).max() <= 1.5
    assert shifts.min() < -0.5
    assert shifts.max() > 0.5


@pytest.mark.parametrize("side", [9, 21, 65])
def test_region_is_whole_in_the_middle_and_ends_softly_within_its_square(side):
    for seed in range(30):
        mask = region_mask(side, rng(seed))
        assert mask.shape == (side, side)
        assert mask.dtype == np.float32
        assert mask[side // 2, side // 2] == 1
        assert max(mask[0].max(), mask[-1].max(), mask[:, 0].max(), mask[:, -1].max()) == 0
        assert ((mask > 0) & (mask < 1)).any()
        assert ndimage.label(mask > 0.5)[1] == 1


def test_number_and_size_of_regions_are_the_ones_asked_for():
    clean = np.ones((60, 1, 128, 128), np.float32)
    _, changed = PatchCorruption("cutout", regions=(1, 3), size=(0.25, 0.5))(clean, rng())
    counts = [ndimage.label(mask[0] > 0)[1] for mask in changed]
    assert set(counts) == {1, 2, 3}
    for mask, count in zip(changed, counts, strict=True):
        for rows, columns in ndimage.find_objects(ndimage.label(mask[0] > 0)[0]):
            if count == 3:
                assert max(rows.stop - rows.start, columns.stop - columns.start) <= 64


def test_regions_lie_anywhere_in_the_patch():
    _, changed = PatchCorruption("cutout")(np.ones((600, 1, 32, 32), np.float32), rng())
    often = changed.mean(axis=(0, 1))
    assert often.min() > 0


def test_flat_patches_stay_as_they_are():
    clean = np.full((2, 1, 32, 32), 0.5, np.float32)
    damaged, changed = PatchCorruption("elastic")(clean, rng())
    np.testing.assert_allclose(damaged, clean, atol=1e-6)
    assert changed.max() == 1
