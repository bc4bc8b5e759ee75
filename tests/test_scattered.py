"""Scattered defects: what is marked was changed, and every shape and content is what it says."""

import numpy as np
import pytest
from scipy import ndimage

from inspect_cli.corruptions import scattered
from inspect_cli.corruptions.patches import Box
from inspect_cli.corruptions.scattered import ScatteredDefects

ALL = ScatteredDefects(clean=0.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def weave(count: int = 4, channels: int = 1, side: int = 96, seed: int = 0) -> np.ndarray:
    x = np.arange(side, dtype=np.float32)
    waves = 0.5 + 0.2 * np.sin(x * 0.7)[None] * np.cos(x * 0.3)[:, None]
    noise = rng(seed).normal(0, 0.03, (count, channels, side, side))
    return (waves + noise).astype(np.float32)


@pytest.mark.parametrize(("channels", "side"), [(1, 48), (3, 96), (2, 200)])
def test_what_is_marked_was_changed_visibly_and_every_patch_has_something(channels, side):
    clean = weave(6, channels, side)
    before = clean.copy()
    damaged, changed = ALL(clean, rng())
    np.testing.assert_array_equal(clean, before)
    assert damaged.dtype == changed.dtype == np.float32
    assert changed.shape == (6, 1, side, side)
    assert set(np.unique(changed)) <= {0.0, 1.0}
    moved = np.abs(damaged - clean).max(axis=1, keepdims=True)
    deviation = clean.std(axis=(2, 3)).max()
    assert np.median(moved[changed == 1]) > 0.5 * deviation
    assert (moved[changed == 0] > 2 * deviation).mean() < 0.001
    assert changed.any(axis=(1, 2, 3)).mean() > 0.8
    assert changed.mean() < 0.5


def test_damage_follows_from_the_generators_state():
    first, again, other = ALL(weave(), rng(1)), ALL(weave(), rng(1)), ALL(weave(), rng(2))
    np.testing.assert_array_equal(first.patches, again.patches)
    np.testing.assert_array_equal(first.changed, again.changed)
    assert (first.changed != other.changed).any()


def test_a_share_of_the_patches_stays_as_it_is_to_the_bit():
    clean = weave(60, side=48)
    damaged, changed = ScatteredDefects(clean=0.5)(clean, rng())
    same = (damaged == clean).all(axis=(1, 2, 3))
    assert 0.3 < same.mean() < 0.7
    assert not changed[same].any()


def test_larger_patches_have_more_defects():
    counts = [ndimage.label(ALL(weave(8, side=side), rng()).changed)[1] for side in (100, 300)]
    assert counts[1] > 3 * counts[0]


def test_values_stay_in_the_unit_range_or_the_patchs_own():
    clean = rng(3).choice(np.array([0, 1], np.float32), (4, 2, 64, 64))
    damaged, _ = ALL(clean, rng())
    assert damaged.min() >= 0
    assert damaged.max() <= 1
    wide = weave(4) * 4 - 1
    damaged, _ = ALL(wide, rng())
    assert damaged.min() >= min(0.0, wide.min())
    assert damaged.max() <= max(1.0, wide.max())


BOX = Box(20, 30, 25)


def content(name: str, patches: np.ndarray, seed: int = 0) -> np.ndarray:
    found = getattr(scattered, name)(patches, 1, BOX, rng(seed))
    assert found.shape == (patches.shape[1], 25, 25)
    return np.asarray(found)


def cut(patches: np.ndarray) -> np.ndarray:
    return patches[1][:, 20:45, 30:55]


def test_shifted_adds_one_value_to_a_channel():
    patches = weave(3, 3)
    for seed in range(8):
        shift = content("_shifted", patches, seed) - cut(patches)
        assert np.ptp(shift, axis=(1, 2)).max() < 1e-5
        size = np.abs(shift[:, 0, 0]) / patches[1].std(axis=(1, 2))
        assert (size > 0.69).all()
        assert (size < 3.01).all()


def test_misplaced_is_a_turned_square_of_a_patch():
    patches = np.arange(2 * 60 * 60, dtype=np.float32).reshape(2, 1, 60, 60)
    found = content("_misplaced", patches)[0]
    steps = {abs(float(found[0, 1] - found[0, 0])), abs(float(found[1, 0] - found[0, 0]))}
    assert steps == {1.0, 60.0}
    assert not (found[0, 1] - found[0, 0] == 1 and found[1, 0] - found[0, 0] == 60)


def test_scaled_has_coarser_or_finer_structure():
    x = np.arange(128, dtype=np.float32)
    patches = np.broadcast_to(0.5 + 0.4 * np.sin(x * 0.8), (2, 1, 128, 128)).copy()
    ratios = []
    for seed in range(12):
        spectrum = np.abs(np.fft.rfft(content("_scaled", patches, seed)[0].mean(axis=0) - 0.5, 512))
        ratios.append(2 * np.pi * spectrum.argmax() / 512 / 0.8)
    assert min(ratios) < 0.7
    assert max(ratios) > 1.3


def test_sharpness_goes_both_ways_and_grain_and_plain_do_what_they_say():
    patches = weave(2)
    fine = [np.abs(np.diff(content("_sharpness", patches, seed))).mean() for seed in range(12)]
    own = np.abs(np.diff(cut(patches))).mean()
    assert min(fine) < 0.7 * own
    assert max(fine) > 1.3 * own
    added = content("_grain", patches) - cut(patches)
    assert 0.1 * patches.std() < added.std() < 3 * patches.std()
    plain = content("_plain", patches)
    assert np.ptp(plain) == 0
    assert patches[1].min() <= plain[0, 0, 0] <= patches[1].max()


@pytest.mark.parametrize("shape", ["_rectangle", "_thread"])
def test_shapes_lie_in_their_square(shape):
    shares = []
    for seed in range(20):
        mask = getattr(scattered, shape)(41, rng(seed))
        assert mask.shape == (41, 41)
        assert mask.dtype == np.float32
        assert mask.min() >= 0
        assert mask.max() == 1 or shape != "_rectangle"
        shares.append((mask > 0.5).mean())
    assert 0.005 < np.median(shares) < (0.9 if shape == "_rectangle" else 0.25)


def test_small_patches_are_no_trouble():
    damaged, changed = ALL(weave(8, side=16), rng())
    assert np.isfinite(damaged).all()
    assert changed.any()
