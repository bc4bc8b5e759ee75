"""How bright good parts are at each place: cells, what changing light and position explain, and what a stain adds."""

import cv2
import numpy as np
import pytest

from inspect_cli.images import open_map
from inspect_cli.images.values import ValueRange
from inspect_cli.scoring.brightness import SMOOTH_CELLS, UsualBrightness, cell_means, laid_alike
from inspect_cli.scoring.smooth import smoothed
from inspect_cli.scoring.usual import UsualMap
from inspect_cli.training.usual import usual_brightness

RNG = np.random.default_rng(5)
#: What parts reflect, (rows, columns, channels), and where along both axes.
PART = RNG.uniform(0.2, 0.8, (30, 40, 1)).astype(np.float32)
DOWN, ACROSS = np.meshgrid(np.linspace(-1, 1, 30), np.linspace(-1, 1, 40), indexing="ij")


def lit(part, rng, noise=0.004):
    light = 1 + rng.uniform(-0.2, 0.2) + rng.uniform(-0.15, 0.15) * DOWN + rng.uniform(-0.15, 0.15) * ACROSS
    shown = part * light[..., None] + rng.uniform(-0.05, 0.05) + rng.normal(0, noise, part.shape)
    return shown.astype(np.float32)


@pytest.fixture
def good():
    return np.stack([lit(PART, np.random.default_rng(number)) for number in range(12)])


def test_other_light_explains_a_difference_and_a_stain_does_not(good):
    usual = UsualBrightness.learnt(good)
    rng = np.random.default_rng(100)
    later = usual.distance(lit(PART, rng))
    assert later.mean() < 2
    stained = lit(PART, rng)
    stained[5:10, 5:10] -= 0.05
    found = usual.distance(stained)
    assert found[6:9, 6:9].min() > 20
    assert found[15:, 20:].mean() < 2, "the rest of the part looks as usual"


def test_far_distances_are_not_squared():
    mean, part = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4, 1), np.zeros((3, 4, 1), np.float32)
    usual = UsualBrightness(mean, np.full_like(mean, 1e4))
    part[...] = mean
    part[1, 1] += 0.03  # three standard deviations of .01
    part[2, 2] += 0.4  # forty
    found = usual.distance(part)
    assert found[1, 1] == pytest.approx(9, rel=0.1)
    assert found[2, 2] == pytest.approx(4 * 40, rel=0.1)


def test_a_large_stain_does_not_pass_for_light(good):
    usual = UsualBrightness.learnt(good)
    stained = lit(PART, np.random.default_rng(101))
    stained[:, :8] *= 0.8  # a fifth of the part, all on one side
    found = usual.distance(stained)
    assert np.median(found[:, :7]) > 60
    assert np.median(found[:, 10:]) < 2


def test_a_place_where_good_parts_differ_counts_less():
    rng = np.random.default_rng(7)
    parts = np.stack([PART + rng.normal(0, 0.01, PART.shape) for _ in range(12)]).astype(np.float32)
    parts[:, :, :20] += rng.normal(0, 0.05, parts[:, :, :20].shape)
    usual = UsualBrightness.learnt(parts)
    assert usual.precision[:, 25:].mean() > 3 * usual.precision[:, :15].mean()


def test_what_lies_outside_the_roi_adds_nothing_and_does_not_disturb(good):
    good[:, :, :3] = np.nan
    usual = UsualBrightness.learnt(good)
    assert np.isnan(usual.mean[:, :3]).all()
    assert not usual.precision[:, :3].any()
    part = lit(PART, np.random.default_rng(102))
    inside = usual.distance(np.where(np.arange(40)[:, None] < 3, np.nan, part))
    assert np.isfinite(inside).all()
    assert not inside[:, :3].any()
    part[:2] = np.nan  # this part's own ROI
    found = usual.distance(part)
    assert not found[:2].any()
    assert found[4:, 5:].mean() < 2


def test_smoothing_is_a_mean_of_known_neighbours():
    cells = np.ones((9, 9, 2), np.float32)
    cells[4, 4, 1] = np.nan
    assert smoothed(cells, 1.0)[..., 0] == pytest.approx(1)
    found = smoothed(cells, 1.0)[..., 1]
    assert np.isnan(found[4, 4])
    assert np.nanmin(found) == pytest.approx(1)
    assert np.nanmax(found) == pytest.approx(1)


@pytest.mark.parametrize("channels", [1, 3])
def test_cells_are_means_inside_the_roi(tmp_path, channels):
    image = RNG.integers(0, 255, (150, 45, channels), dtype=np.uint8).squeeze()
    cv2.imwrite(str(tmp_path / "a.png"), image)
    roi = np.ones((150, 45), bool)
    roi[:, :6] = False  # less than half of each first cell is left
    roi[:3, 20:30] = False
    with open_map(tmp_path / "a.png") as reader:
        pixels = reader.read_rows(0, 150).reshape(150, 45, channels)
        whole = cell_means(reader, ValueRange(0, 255), None, 10)
        inside = cell_means(reader, ValueRange(0, 255), roi, 10)
    assert whole.shape == inside.shape == (15, 5, channels)
    assert whole[14, 4] == pytest.approx(pixels[140:, 40:].mean(axis=(0, 1)) / 255, rel=1e-4)
    assert np.isnan(inside[:, 0]).all()
    assert inside[0, 2] == pytest.approx(pixels[3:10, 20:30].mean(axis=(0, 1)) / 255, rel=1e-4)
    assert inside[1:, 1:] == pytest.approx(whole[1:, 1:], rel=1e-4)


def test_the_weight_makes_an_ordinary_part_gain_a_share_of_its_highest_score(good):
    usual, unlike = usual_brightness(good, peak=40.0)
    assert unlike == []
    peaks = [usual.distance(cells).max() for cells in good]
    assert 0.1 * 40 < usual.weight * np.median(peaks) < 0.5 * 40
    assert usual.weight == pytest.approx(2 * usual_brightness(good, peak=20.0)[0].weight)


def test_a_stained_part_among_the_good_ones_is_named_and_not_learnt_from(good):
    stained = good.copy()
    stained[4, 6:10, 7:11] -= 0.2
    usual, unlike = usual_brightness(stained, peak=40.0)
    ((number, times, (row, column)),) = unlike
    assert number == 4
    assert times > 3
    assert 6 <= row < 10
    assert 7 <= column < 11
    clean, _ = usual_brightness(np.delete(good, 4, axis=0), peak=40.0)
    np.testing.assert_allclose(usual.mean, clean.mean, atol=1e-6)
    np.testing.assert_allclose(usual.precision, clean.precision, rtol=1e-4)


def test_parts_that_are_all_the_same_do_not_make_a_hair_stand_out():
    same = np.repeat(PART[None], 8, axis=0)
    usual, _ = usual_brightness(same, peak=3.0)
    assert np.isfinite(usual.weight)
    assert usual.weight * usual.distance(PART + np.float32(1e-4)).max() < 0.1


def test_a_part_is_read_once_and_a_window_of_it_is_measured_alike(tmp_path):
    image = RNG.integers(60, 90, (96, 128), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    mean = np.full((12, 16, 1), 75 / 255, np.float32)
    bright = UsualBrightness(mean, np.full_like(mean, 1e4), weight=0.5)
    usual = UsualMap(RNG.uniform(0.5, 2, (12, 16)).astype(np.float32), 8, 96, 128, bright)
    with open_map(tmp_path / "a.png") as reader:
        part = usual.of_part(reader, ValueRange(0, 255), None)
        cells = cell_means(reader, ValueRange(0, 255), None, 8)
    assert part.added == pytest.approx(
        0.5 * bright.distance(smoothed(cells, SMOOTH_CELLS))
    )  # even: it cannot be laid
    scores = RNG.uniform(1, 3, (96, 128)).astype(np.float32)
    whole = part.measured(scores, 0)
    assert (whole >= scores / usual.rows(0, 96)).all()
    window = part.window(16, 24, 40, 56)
    assert np.array_equal(window.measured(scores[20:30, 24:80], 4), whole[20:30, 24:80])


def test_a_stain_in_one_channel_of_three_stands_out(good):
    colour = np.concatenate([good, good[..., ::-1] * 0.5, good * 0.8], axis=3)
    usual = UsualBrightness.learnt(colour)
    stained = colour[0].copy()
    stained[5:10, 5:10, 1] -= 0.05  # one of three channels
    assert usual.distance(stained)[6:9, 6:9].min() > 5 > 2 * usual.distance(colour[1]).mean()


def test_good_parts_are_laid_onto_each_other_and_a_later_one_onto_them():
    """A scene seen from places that differ by a cell or two: at its edges nothing stands out, and a stain does."""
    scene = smoothed(np.random.default_rng(1).uniform(0.2, 0.8, (60, 70, 1)).astype(np.float32), 2.0) * 3 - 1

    def seen(number):
        rng = np.random.default_rng(number)
        turn = cv2.getRotationMatrix2D((35, 30), rng.uniform(-2, 2), 1)
        turn[:, 2] += rng.uniform(-1.5, 1.5, 2)
        return cv2.warpAffine(scene, turn, (70, 60), flags=cv2.INTER_CUBIC)[6:-6, 6:-6, None].astype(np.float32)

    parts = np.stack([seen(number) for number in range(10)])
    laid, motions = laid_alike(parts)
    at_rest = np.stack([smoothed(part, SMOOTH_CELLS) for part in parts])
    assert np.nanstd(laid, axis=0).mean() < 0.3 * at_rest.std(axis=0).mean()
    usual, plain = UsualBrightness.learnt(laid), UsualBrightness.learnt(at_rest)
    assert len(motions) == 10
    stained = seen(100)
    stained[20:26, 30:36] -= 0.05
    found, motion = usual.found(stained)
    peak = np.unravel_index(np.argmax(usual.distance(found)), found.shape[:2])
    at = motion @ [peak[1], peak[0], 1]
    assert 29 <= at[0] <= 36
    assert 19 <= at[1] <= 26
    assert usual.distance(found).max() > 3 * plain.distance(smoothed(stained, SMOOTH_CELLS)).max()
    good, _ = usual.found(seen(101))
    assert usual.distance(good).max() < 0.3 * usual.distance(found).max()


def test_parts_at_any_angle_are_laid_onto_an_ordinary_one_of_them():
    """The first part is another thing: the others are laid onto each other all the same."""
    part = smoothed(np.random.default_rng(2).uniform(0, 1, (64, 64)).astype(np.float32), 3.0) * 4 - 1
    rows, columns = np.mgrid[:64, :64] - 31.5
    part *= np.hypot(rows, columns) < 26
    turns = [cv2.getRotationMatrix2D((31.5, 31.5), degrees, 1) for degrees in range(0, 360, 50)]
    parts = np.stack([np.full_like(part, 3.0), *(cv2.warpAffine(part, turn, (64, 64)) for turn in turns)])[..., None]
    at_rest, _ = laid_alike(parts)
    laid, motions = laid_alike(parts, turned=True)
    inside = (slice(1, None), slice(16, 48), slice(16, 48))
    assert laid[inside].std(axis=0).mean() < 0.15 * at_rest[inside].std(axis=0).mean()
    angles = [np.degrees(np.arctan2(motion[0, 1], motion[0, 0])) for motion in motions[1:]]
    steps = np.diff(angles) % 360
    assert steps == pytest.approx(np.full(7, 50.0), abs=2)
