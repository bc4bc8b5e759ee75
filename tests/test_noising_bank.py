"""The Noising Filter Bank: each algorithm against its formula, and what the bank promises about all of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import ndimage, spatial, stats

from inspect_cli.corruptions import filters
from inspect_cli.corruptions.filters import FAMILIES, FILTERS
from inspect_cli.corruptions.noising_bank import NoisingFilterBank

MEMBERS = {
    "opaque": {"rectangle", "line", "arc"},
    "transparent": {"shading", "blur"},
    "speckle": {"salt", "pepper", "salt_and_pepper"},
    "distribution": {"gaussian_noise"},
    "morphological": {"erosion", "dilation"},
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def random_patch(channels: int = 1, side: int = 65, seed: int = 0) -> np.ndarray:
    return rng(seed).random((channels, side, side), dtype=np.float32)


def noised(name: str, patch: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask, and the values at the size of the patch."""
    where, values = FILTERS[name][1](patch, rng(seed))
    assert where.shape == patch.shape[1:]
    assert where.dtype == np.bool_
    return where, np.broadcast_to(values, patch.shape)


def bounding_box(where: np.ndarray) -> tuple[int, int, int, int]:
    """Return top, left, height, width."""
    rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
    return rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


@pytest.fixture
def whole_patch(monkeypatch):
    """Let every rectangle be the whole patch."""
    monkeypatch.setattr(filters, "_rectangle", lambda patch, _: np.ones(patch.shape[1:], np.bool_))


@pytest.fixture
def drawn(monkeypatch):
    """Count how often each algorithm is drawn, and do nothing else."""
    counts: Counter[str] = Counter()

    def counting(name):
        def count(patch, _):
            counts[name] += 1
            return filters.Noised(np.ones(patch.shape[1:], np.bool_), patch)

        return count

    for name, (family, _) in list(FILTERS.items()):
        monkeypatch.setitem(FILTERS, name, (family, counting(name)))
    return counts


# ---------------------------------------------------------------- the bank


def test_families_have_the_papers_algorithms():
    assert set(FAMILIES) == set(MEMBERS)
    for family, members in MEMBERS.items():
        assert {name for name, (of, _) in FILTERS.items() if of == family} == members
        assert set(NoisingFilterBank((family,)).algorithms) == {*members, "none"}
        assert set(NoisingFilterBank([family], keep_clean=False).algorithms) == members


def test_an_unknown_family_is_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match=r"opake.*opaque, transparent, speckle, distribution, morphological"):
        NoisingFilterBank(("speckle", "opake"))
    with pytest.raises(ValueError, match=r"no noise family given.*opaque"):
        NoisingFilterBank(())


@pytest.mark.parametrize(
    "families",
    [FAMILIES, *[(family,) for family in FAMILIES], *[tuple(set(FAMILIES) - {left_out}) for left_out in FAMILIES]],
)
def test_each_algorithm_of_the_families_is_drawn_as_often_as_the_next_and_no_other(drawn, families):
    patches = np.full((6000, 1, 1, 1), 0.5, np.float32)
    changed = NoisingFilterBank(families)(patches, rng()).changed
    expected = set().union(*(MEMBERS[family] for family in families))
    assert set(drawn) == expected
    assert stats.chisquare([*drawn.values(), np.count_nonzero(changed == 0)]).pvalue > 1e-3


def test_a_family_given_twice_is_not_drawn_twice_as_often(drawn):
    patches = np.full((4000, 1, 1, 1), 0.5, np.float32)
    NoisingFilterBank(("distribution", "morphological", "distribution"), keep_clean=False)(patches, rng())
    assert stats.chisquare(list(drawn.values())).pvalue > 1e-3
    assert len(drawn) == 3


def test_keep_clean_leaves_its_share_of_the_patches_and_without_it_none_is_left():
    patches = rng().random((2400, 1, 16, 16), dtype=np.float32)
    clean = ~NoisingFilterBank(("morphological",))(patches, rng(1)).changed.any(axis=(1, 2, 3))
    assert clean.mean() == pytest.approx(1 / 3, abs=0.05)
    assert NoisingFilterBank(("morphological",), keep_clean=False)(patches, rng(1)).changed.any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("channels", [1, 3, 5, 64])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (65, 65), (128, 128), (21, 40), (1, 1)])
def test_only_changed_pixels_differ_and_only_they_are_clamped(channels, height, width):
    number = 4 if channels == 64 else 48
    patches = rng(height).uniform(-0.5, 1.5, (number, channels, height, width)).astype(np.float32)
    before = patches.copy()
    corrupted, changed = NoisingFilterBank()(patches, rng(5))
    assert patches.tobytes() == before.tobytes()
    assert corrupted.shape == patches.shape
    assert changed.shape == (number, 1, height, width)
    assert corrupted.dtype == changed.dtype == np.float32
    assert set(np.unique(changed)) <= {0.0, 1.0}
    hit = np.broadcast_to(changed == 1, patches.shape)
    assert hit.any()
    assert corrupted[~hit].tobytes() == patches[~hit].tobytes()
    assert corrupted[hit].min() >= 0
    assert corrupted[hit].max() <= 1


def test_a_pixel_that_is_no_number_stays_so_where_nothing_changes():
    patches = np.full((200, 1, 16, 16), 0.5, np.float32)
    patches[:, :, 3, 4] = np.nan
    corrupted, changed = NoisingFilterBank(("opaque", "speckle"))(patches, rng())
    assert np.array_equal(np.isnan(corrupted[:, 0, 3, 4]), changed[:, 0, 3, 4] == 0)
    assert np.isnan(corrupted).sum() == (changed[:, 0, 3, 4] == 0).sum()


def test_patches_need_not_be_contiguous():
    patches = rng().random((24, 16, 16, 3), dtype=np.float32).transpose(0, 3, 1, 2)
    strided = NoisingFilterBank()(patches, rng(1))
    packed = NoisingFilterBank()(np.ascontiguousarray(patches), rng(1))
    np.testing.assert_array_equal(strided.patches, packed.patches)
    np.testing.assert_array_equal(strided.changed, packed.changed)


def test_the_generators_state_decides_everything():
    patches = rng().random((60, 3, 20, 20), dtype=np.float32)
    bank, generator = NoisingFilterBank(), rng(7)
    first, again = bank(patches, generator), NoisingFilterBank()(patches, rng(7))
    assert first.patches.tobytes() == again.patches.tobytes()
    assert first.changed.tobytes() == again.changed.tobytes()
    assert bank(patches, generator).changed.tobytes() != first.changed.tobytes()


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_no_filter_writes_into_its_patch(name):
    patch = random_patch(3)
    before = patch.copy()
    for seed in range(5):
        noised(name, patch, seed)
    np.testing.assert_array_equal(patch, before)


# ---------------------------------------------------------------- rectangles


RECTANGULAR = ["rectangle", "shading", "blur", "gaussian_noise", "erosion", "dilation"]


@pytest.mark.parametrize("name", RECTANGULAR)
def test_the_mask_is_a_full_rectangle(name):
    patch = random_patch(1, 33)
    for seed in range(20):
        where, _ = noised(name, patch, seed)
        _, _, rows, columns = bounding_box(where)
        assert where.sum() == rows * columns


def test_rectangles_have_every_size_and_reach_every_place():
    patch = np.zeros((1, 8, 12), np.float32)
    boxes = np.array([bounding_box(noised("rectangle", patch, seed)[0]) for seed in range(3000)])
    for first, extent, side in ((0, 2, 8), (1, 3, 12)):
        sizes = np.bincount(boxes[:, extent], minlength=side + 1)[1:]
        assert stats.chisquare(sizes).pvalue > 1e-3
        small = boxes[boxes[:, extent] == 3]
        assert set(small[:, first]) == set(range(side - 2))


# ---------------------------------------------------------------- opaque


def curve_distance(shape: tuple[int, int], points_xy: np.ndarray) -> np.ndarray:
    """Return each pixel's distance to the nearest of many points (n, 2)."""
    y, x = np.indices(shape)
    return spatial.cKDTree(points_xy).query(np.stack([x, y], axis=-1))[0]


@pytest.fixture
def orders(monkeypatch):
    """Note what is asked of the two drawing functions."""
    noted: list[tuple] = []
    for draw in (filters.cv2.line, filters.cv2.ellipse):

        def noting(canvas, *order, draw=draw):
            noted.append(order)
            return draw(canvas, *order)

        monkeypatch.setattr(filters.cv2, draw.__name__, noting)
    return noted


def test_a_line_covers_what_is_within_half_its_thickness(orders):
    patch = np.zeros((1, 65, 40), np.float32)
    for seed in range(60):
        where, _ = noised("line", patch, seed)
        start, end, _, thickness = orders[-1]
        points = np.linspace(start, end, 200)
        distance = curve_distance(where.shape, points)
        assert where[distance <= thickness / 2 - 0.2].all()
        assert not where[distance > thickness / 2 + 1.2].any()
        assert where[start[1], start[0]]
        assert where[end[1], end[0]]
    starts_x, starts_y = zip(*(order[0] for order in orders), strict=True)
    assert max(starts_x) > 33
    assert max(starts_y) > 55
    assert {order[3] for order in orders} == {1, 2, 3, 4, 5, 6}


def test_an_arc_covers_what_is_within_half_its_thickness(orders):
    patch = np.zeros((1, 65, 65), np.float32)
    for seed in range(200):
        where, _ = noised("arc", patch, seed)
        centre, axes, turn_deg, start_deg, end_deg, _, thickness = orders[-1]
        assert 0 <= centre[0] < 65
        assert 0 <= centre[1] < 65
        along, turn = np.deg2rad(np.linspace(start_deg, end_deg, 400)), np.deg2rad(turn_deg)
        x, y = axes[0] * np.cos(along), axes[1] * np.sin(along)
        points = np.stack(
            [centre[0] + x * np.cos(turn) - y * np.sin(turn), centre[1] + x * np.sin(turn) + y * np.cos(turn)], axis=1
        )
        distance = curve_distance(where.shape, points)
        # One pixel for the grid and one for the angles, which are drawn in whole degrees along a polygon.
        assert not where[distance > thickness / 2 + 2].any()
        assert where[distance <= thickness / 2 - 2].all()
        inside = points[((points >= 2) & (points <= 62)).all(axis=1)].round().astype(int)
        assert ndimage.binary_dilation(where, iterations=2)[inside[:, 1], inside[:, 0]].all()
    assert {order[6] for order in orders} == {1, 2, 3, 4, 5, 6}
    assert {axis for order in orders for axis in order[1]} == set(range(1, 31))
    for angle_deg in (
        [order[2] for order in orders],
        [order[3] for order in orders],
        [order[4] - order[3] for order in orders],
    ):
        assert stats.kstest(angle_deg, stats.uniform(0, 360).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", ["rectangle", "line", "arc"])
def test_what_is_drawn_has_one_colour_of_the_whole_range(name):
    patch, grey_of_three = random_patch(3, 20), np.repeat(random_patch(1, 20), 3, axis=0)
    colours = []
    for seed in range(300):
        _, values = noised(name, patch, seed)
        assert (values == values[:, :1, :1]).all()
        colours.append(values[:, 0, 0])
        _, values = noised(name, grey_of_three, seed)
        assert (values == values[0, 0, 0]).all()
    for channel in np.array(colours).T:
        assert stats.kstest(channel, "uniform").pvalue > 1e-3
    assert np.abs(np.corrcoef(np.array(colours).T) - np.eye(3)).max() < 0.25


# ---------------------------------------------------------------- transparent


def test_shading_adds_one_constant_of_at_most_a_quarter_of_the_range():
    patch = random_patch(3)
    constants = []
    for seed in range(300):
        shift = (noised("shading", patch, seed)[1] - patch).ravel()
        assert np.ptp(shift) < 1e-6
        constants.append(shift[0])
    # The paper's -0.5 to 0.5 are of a range that is 2 wide.
    assert stats.kstest(constants, stats.uniform(-0.25, 0.5).cdf).pvalue > 1e-3


def test_shading_is_clamped(monkeypatch):
    kept = {name: entry for name, entry in FILTERS.items() if name == "shading"}
    monkeypatch.setattr("inspect_cli.corruptions.noising_bank.FILTERS", kept)
    patches = np.full((200, 1, 4, 4), 0.875, np.float32)
    corrupted, changed = NoisingFilterBank(("transparent",), keep_clean=False)(patches, rng())
    values = corrupted[changed == 1]
    assert values.max() == 1.0
    assert 0.2 < np.mean(values == 1.0) < 0.3  # a quarter of the shifts are above 0.125
    assert values.min() == pytest.approx(0.625, abs=0.01)


def test_blur_is_a_truncated_gaussian_of_odd_size():
    impulse = np.zeros((1, 41, 41), np.float32)
    impulse[0, 20, 20] = 1.0
    patch = random_patch(3, 41)
    sizes, sigmas = [], []
    for seed in range(150):
        response = noised("blur", impulse, seed)[1][0].astype(np.float64)
        kernels = []
        for axis in (0, 1):
            profile = response.sum(axis=1 - axis)
            taps = profile[profile > 0]
            size, radius = len(taps), len(taps) // 2
            # ln(middle / rim) = radius^2 / (2 sigma^2)
            sigma = radius / np.sqrt(2 * np.log(taps[radius] / taps[0])) if taps[radius] > taps[0] else np.inf
            expected = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
            np.testing.assert_allclose(taps, expected / expected.sum(), rtol=1e-4)
            assert profile.argmax() in range(20 - radius, 21 + radius)
            sizes.append(size)
            sigmas.append(sigma)
            kernels.append(taps)
        np.testing.assert_allclose(
            response[20 - len(kernels[0]) // 2 :, 20 - len(kernels[1]) // 2 :][: len(kernels[0]), : len(kernels[1])],
            np.outer(*kernels),
            rtol=1e-4,
        )
        once = ndimage.correlate1d(patch.astype(np.float64), kernels[0], axis=1, mode="mirror")
        both = ndimage.correlate1d(once, kernels[1], axis=2, mode="mirror")
        np.testing.assert_allclose(noised("blur", patch, seed)[1], both, atol=1e-5)
    assert set(sizes) == {3, 5, 7, 9, 11, 13, 15}
    assert 1.0 <= min(sigmas) < 5.0
    # Wide sigmas are told from flat kernels only roughly, in float32.
    assert np.median(sigmas) == pytest.approx(50, abs=12)
    assert abs(stats.spearmanr(sigmas[::2], sigmas[1::2]).statistic) < 0.3  # the two axes have nothing in common
    assert abs(stats.spearmanr(sizes[::2], sizes[1::2]).statistic) < 0.3


# ---------------------------------------------------------------- speckle


@pytest.mark.parametrize(("name", "levels"), [("salt", {1}), ("pepper", {0}), ("salt_and_pepper", {0, 1})])
def test_speckles_hit_single_pixels_with_a_probability_of_up_to_a_half(whole_patch, name, levels):
    patch = random_patch(3)
    shares, found = [], set()
    for seed in range(200):
        where, values = noised(name, patch, seed)
        shares.append(where.mean())
        found |= set(np.unique(values[:, where]))
        assert (values == values[:1]).all()
    assert found == levels
    assert max(shares) < 0.52
    assert stats.kstest(shares, stats.uniform(0, 0.5).cdf).pvalue > 1e-3


def test_hits_are_independent_of_their_neighbours(whole_patch):
    for seed in range(20):
        where, _ = noised("salt", random_patch(1, 128), seed)
        assert abs(np.corrcoef(where[:, 1:].ravel(), where[:, :-1].ravel())[0, 1]) < 0.05


def test_salt_and_pepper_are_equally_likely(whole_patch):
    for seed in range(20):
        where, values = noised("salt_and_pepper", random_patch(1, 128), seed)
        hits = int(where.sum())
        assert abs(int(values[0][where].sum()) - hits / 2) <= 4 * np.sqrt(hits / 4) + 1


def test_speckles_stay_in_a_rectangle():
    patch = random_patch(1, 128)
    areas = [
        np.prod(bounding_box(where)[2:]) for seed in range(100) if (where := noised("salt", patch, seed)[0]).any()
    ]
    # The mean area of a rectangle with both sides uniform is a quarter of the patch.
    assert np.mean(areas) / 128**2 == pytest.approx(0.25, abs=0.08)


# ---------------------------------------------------------------- distribution


def test_noise_is_normal_with_the_papers_spread():
    spreads = []
    for seed in range(100):
        patch = random_patch(2, 64)
        where, values = noised("gaussian_noise", patch, seed)
        noise = (values - patch)[:, where].astype(np.float64)
        if noise.size < 2000:
            continue
        spreads.append(2 * noise.std())  # in the paper's range, which is twice as wide
        assert abs(noise.mean()) < 5 * noise.std() / np.sqrt(noise.size)
        assert abs(stats.kurtosis(noise.ravel())) < 0.8
        assert abs(np.corrcoef(noise)[0, 1]) < 0.2
    assert 0.29 < min(spreads) < 0.35
    assert 0.55 < max(spreads) < 0.61
    assert len(spreads) > 40


def test_noise_on_a_grey_patch_is_grey():
    grey_of_three = np.repeat(random_patch(1), 3, axis=0)
    where, values = noised("gaussian_noise", grey_of_three, 0)
    assert (values == values[:1]).all()
    assert (values != grey_of_three)[0, where].mean() > 0.99


# ---------------------------------------------------------------- morphological


def discs() -> list[np.ndarray]:
    """Return the eight footprints: discs of 1, 3, 5 and 7 px, applied once and twice."""
    found = []
    for radius in range(4):
        y, x = np.indices((2 * radius + 1, 2 * radius + 1)) - radius
        disc = np.hypot(x, y) <= radius
        found += [disc, ndimage.binary_dilation(np.pad(disc, radius), disc)]
    return found


@pytest.mark.parametrize(
    ("name", "sign", "reference"), [("erosion", -1, ndimage.grey_erosion), ("dilation", 1, ndimage.grey_dilation)]
)
def test_morphology_takes_the_extreme_over_a_disc(name, sign, reference):
    impulse = np.zeros((1, 33, 33), np.float32)
    impulse[0, 16, 16] = sign
    patch = random_patch(5, 33)
    seen = set()
    for seed in range(60):
        response = noised(name, impulse, seed)[1][0] == sign
        top, left, rows, columns = bounding_box(response)
        footprint = response[top : top + rows, left : left + columns]
        assert (top + rows // 2, left + columns // 2) == (16, 16)
        fitting = [number for number, disc in enumerate(discs()) if np.array_equal(disc, footprint)]
        assert fitting
        seen |= set(fitting)
        _, values = noised(name, patch, seed)
        for channel, pixels in zip(values, patch, strict=True):
            expected = reference(pixels, footprint=footprint, mode="constant", cval=-sign * np.inf)
            np.testing.assert_array_equal(channel, expected)
    assert seen == set(range(8))


# ---------------------------------------------------------------- one formula for all, in the paper's range


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_the_bank_replaces_and_clamps_as_the_paper_does_in_its_range(monkeypatch, name):
    family, apply = FILTERS[name]
    monkeypatch.setattr("inspect_cli.corruptions.noising_bank.FILTERS", {name: (family, apply)})
    patches = rng(3).uniform(-0.2, 1.2, (1, 3, 33, 33)).astype(np.float32)
    for seed in range(10):
        corrupted, changed = NoisingFilterBank((family,), keep_clean=False)(patches, rng(seed))
        generator = rng(seed)
        generator.integers(1, size=1)
        where, values = apply(patches[0], generator)
        np.testing.assert_array_equal(changed[0, 0] == 1, where)
        in_papers_range = np.clip(2 * np.broadcast_to(values, patches.shape[1:]) - 1, -1, 1)
        expected = np.where(where, (in_papers_range + 1) / 2, patches[0])
        np.testing.assert_allclose(corrupted[0], expected, atol=1e-6)
