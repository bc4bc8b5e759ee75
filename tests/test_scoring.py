"""Smoothing inside the ROI, regions and the verdict, each against an independent computation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from inspect_cli.outputs.record import findings
from inspect_cli.scoring.judge import Judge, Judgement
from inspect_cli.scoring.precision import round_scores
from inspect_cli.scoring.regions import Region, RegionFinder
from inspect_cli.scoring.smooth import RowSmoother, gaussian_kernel
from inspect_cli.store.part_record import PartRecord
from tests.helpers import map_record, part_record

QUICK = settings(derandomize=True, deadline=None, max_examples=50)
Rows = NDArray[np.float32]
Mask = NDArray[np.bool_]


def blocks(height: int, seed: int) -> Iterator[slice]:
    """Yield slices that cut ``height`` rows at random places, in order."""
    rng = np.random.default_rng(seed)
    cuts = sorted({0, height, *rng.integers(0, height + 1, size=rng.integers(0, 5)).tolist()})
    yield from (slice(first, last) for first, last in pairwise(cuts))


# ---------------------------------------------------------------- smoothing


def smoothed(raw: Rows, sigma: float, roi: Mask | None, seed: int) -> Rows:
    smoother = RowSmoother(*raw.shape, sigma, roi)
    found = [smoother.push(raw[rows]) for rows in blocks(len(raw), seed)]
    last = smoother.finish()
    return np.concatenate([*found, last]) if len(last) else np.concatenate(found)


def whole_image(raw: Rows, sigma: float, roi: Mask | None) -> NDArray[np.float64]:
    """Return the normalised convolution of the whole map, in double precision."""
    inside = np.ones(raw.shape, bool) if roi is None else roi
    values = np.where(inside, raw, 0).astype(np.float64)
    top = ndimage.gaussian_filter(values, sigma, mode="constant")
    weight = ndimage.gaussian_filter(inside.astype(np.float64), sigma, mode="constant")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(inside, top / weight, np.nan))


@QUICK
@given(
    st.integers(1, 50),
    st.integers(1, 50),
    st.sampled_from([0.5, 1.0, 1.5, 2.0, 5.0]),
    st.sampled_from([None, 0.1, 0.6, 1.0]),
    st.integers(0, 999),
)
def test_smoothing_in_blocks_equals_the_whole_image(
    height: int, width: int, sigma: float, share: float | None, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.gamma(0.5, size=(height, width)).astype(np.float32)
    roi = None if share is None else rng.random((height, width)) < share
    found = smoothed(raw, sigma, roi, seed)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, whole_image(raw, sigma, roi), rtol=3e-5)


@QUICK
@given(st.integers(1, 40), st.sampled_from([0.0, 2.0]), st.integers(0, 999))
def test_nothing_outside_the_roi_reaches_what_is_inside(height: int, sigma: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.random((height, 30)).astype(np.float32)
    roi = rng.random(raw.shape) < 0.5
    disturbed = np.where(roi, raw, rng.choice([np.nan, np.inf, -np.inf, 3e38, -1], raw.shape)).astype(np.float32)
    found = smoothed(disturbed, sigma, roi, seed)
    np.testing.assert_array_equal(found, smoothed(raw, sigma, roi, seed))
    np.testing.assert_array_equal(np.isnan(found), ~roi)


@pytest.mark.parametrize("with_roi", [False, True])
def test_no_smoothing_passes_the_values_through(with_roi: bool) -> None:
    raw = np.random.default_rng(0).random((23, 9)).astype(np.float32)
    roi = np.random.default_rng(1).random(raw.shape) < 0.5 if with_roi else None
    kept = raw.copy()
    expected = raw if roi is None else np.where(roi, raw, np.float32(np.nan))
    np.testing.assert_array_equal(smoothed(raw, 0, roi, 5), expected)
    np.testing.assert_array_equal(raw, kept)


@pytest.mark.parametrize("with_roi", [False, True])
def test_missing_value_spreads_no_further_than_the_kernel(with_roi: bool) -> None:
    raw = np.ones((60, 50), np.float32)
    raw[30, 25] = np.nan
    found = smoothed(raw, 2.0, np.ones(raw.shape, bool) if with_roi else None, 3)
    expected = np.zeros(raw.shape, bool)
    expected[22:39, 17:34] = True
    np.testing.assert_array_equal(np.isnan(found), expected)


def test_constant_map_stays_constant_up_to_border_and_roi() -> None:
    roi = np.zeros((40, 40), bool)
    roi[3:20, 5:30] = True
    raw = np.full((40, 40), 0.7, np.float32)
    np.testing.assert_allclose(smoothed(raw, 3.0, None, 1), 0.7, rtol=1e-5)
    np.testing.assert_allclose(smoothed(raw, 3.0, roi, 1)[roi], 0.7, rtol=1e-5)


def test_kernel_is_the_normal_density_to_four_sigmas() -> None:
    kernel = gaussian_kernel(1.3)
    assert len(kernel) == 2 * 6 + 1
    assert kernel.sum() == pytest.approx(1)
    assert kernel[6 + 3] / kernel[6] == pytest.approx(np.exp(-9 / (2 * 1.3**2)))


# ---------------------------------------------------------------- regions

NAMES = ["albedo", "normal"]


def expected_regions(scores: list[Rows], fused: Rows) -> list[Region]:
    """Return the regions of a whole map by scipy's labels, region by region."""
    labels, count = ndimage.label(fused > 1, np.ones((3, 3)))
    found = []
    for number in range(1, count + 1):
        y, x = np.nonzero(labels == number)
        values = fused[y, x]
        at = int(values.argmax())
        found.append(
            Region(
                x_px=int(x.min()),
                y_px=int(y.min()),
                width_px=int(np.ptp(x)) + 1,
                height_px=int(np.ptp(y)) + 1,
                area_px=len(y),
                score_max=float(values[at]),
                score_mean=float(values.mean(dtype=np.float64)),
                peak_x_px=int(x[at]),
                peak_y_px=int(y[at]),
                map=NAMES[int(np.argmax([score[y, x].max() for score in scores]))],
            )
        )
    return sorted(found, key=lambda r: (-r.score_max, r.peak_y_px, r.peak_x_px))


def found_regions(scores: list[Rows], fused: Rows, seed: int, min_area_px: int = 1) -> list[Region]:
    finder = RegionFinder(fused.shape[1], NAMES)
    for rows in blocks(len(fused), seed):
        finder.push(fused[rows], [score[rows] for score in scores], fused[rows] > 1)
    return finder.regions(min_area_px)


def assert_same(found: list[Region], expected: list[Region]) -> None:
    assert [r.score_mean for r in found] == pytest.approx([r.score_mean for r in expected])
    exact = [name for name in Region.__dataclass_fields__ if name != "score_mean"]
    for one, other in zip(found, expected, strict=True):
        assert [getattr(one, name) for name in exact] == [getattr(other, name) for name in exact]


@QUICK
@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.integers(0, 9999))
def test_regions_in_blocks_equal_labels_of_the_whole_map(height: int, width: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = [
        np.where(rng.random((height, width)) < share, 1 + rng.random((height, width)), rng.random((height, width)))
        for _ in NAMES
    ]
    scores[0][rng.random((height, width)) < 0.05] = np.nan
    rounded = [score.astype(np.float32) for score in scores]
    fused = np.maximum(*rounded)
    min_area_px = 1 + seed % 4
    expected = [r for r in expected_regions(rounded, fused) if r.area_px >= min_area_px]
    assert_same(found_regions(rounded, fused, seed, min_area_px), expected)


@QUICK
@given(st.integers(0, 999))
def test_equal_scores_have_the_first_peak_and_a_fixed_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fused = np.where(rng.random((12, 14)) < 0.4, 2, 0).astype(np.float32)
    assert_same(found_regions([fused, fused], fused, seed), expected_regions([fused, fused], fused))


SNAKES = {
    "arms that join in the last row": ["x.x.x.x", "x.x.x.x", "x.x.x.x", "xxxxxxx"],
    "arms that join by corners": ["x...x", "x...x", ".x.x.", "..x.."],
    "spiral": ["xxxxxxx", "......x", "xxxxx.x", "x...x.x", "x.xxx.x", "x.....x", "xxxxxxx"],
    "two that never meet": ["xx.xx", "x...x", "xx.xx", "x...x"],
    "diagonal to the right": ["x....", ".x...", "..x..", "...x.", "....x"],
    "diagonal to the left": ["....x", "...x.", "..x..", ".x...", "x...."],
}


@pytest.mark.parametrize("name", SNAKES)
@pytest.mark.parametrize("step", [1, 2, 3, 99])
def test_snakes_are_one_region_wherever_rows_are_cut(name: str, step: int) -> None:
    mask = np.array([[cell == "x" for cell in line] for line in SNAKES[name]])
    fused = np.where(mask, 1 + np.random.default_rng(0).random(mask.shape), 0).astype(np.float32)
    finder = RegionFinder(mask.shape[1], NAMES)
    for y in range(0, len(mask), step):
        rows = fused[y : y + step]
        finder.push(rows, [rows] * 2, rows > 1)
    assert_same(finder.regions(1), expected_regions([fused, fused], fused))
    assert len(finder.regions(1)) == (2 if name == "two that never meet" else 1)


def test_limit_itself_is_no_region_and_nothing_is_none() -> None:
    fused = np.array([[1, np.nan, np.nextafter(np.float32(1), np.float32(2))]], np.float32)
    assert [r.x_px for r in found_regions([fused, fused], fused, 0)] == [2]
    assert found_regions([fused * 0] * 2, fused * 0, 0) == []
    assert RegionFinder(5, NAMES).regions(1) == []


# ---------------------------------------------------------------- verdict


def judged(
    raw: dict[str, Rows], limits: dict[str, float], roi: Mask | None = None, seed: int = 0, area: int = 1
) -> Judge:
    height, width = next(iter(raw.values())).shape
    judge = Judge(limits, width, roi, area)
    pushed = [judge.push({name: rows[part] for name, rows in raw.items()}) for part in blocks(height, seed)]
    expected = round_scores(np.fmax.reduce([raw[name] / np.float32(limit) for name, limit in limits.items()]))
    np.testing.assert_array_equal(np.concatenate([fused for fused, _ in pushed]), expected)
    np.testing.assert_array_equal(np.concatenate([mask for _, mask in pushed]), expected > 1)
    return judge


@QUICK
@given(st.integers(1, 25), st.integers(1, 25), st.integers(0, 999))
def test_late_fusion_takes_the_largest_score_and_names_its_map(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = {name: rng.gamma(0.7, size=(height, width)).astype(np.float32) for name in NAMES}
    limits = {"albedo": 3.0, "normal": 1.5}
    found = judged(raw, limits, seed=seed).decide([])
    peaks = {name: float(round_scores(np.array([raw[name].max() / np.float32(limits[name])]))[0]) for name in NAMES}
    assert found.score == max(peaks.values())
    assert found.peak_map == max(NAMES, key=lambda name: peaks[name])
    assert raw[found.peak_map][found.peak_y_px, found.peak_x_px] == raw[found.peak_map].max()
    for name in NAMES:
        at = found.map_peaks[name]
        assert at.raw_max == raw[name].max() == raw[name][at.y_px, at.x_px]
    assert found.verdict == ("fail" if max(peaks.values()) > 1 else "pass")
    assert (found.roi_px, found.uncovered_px) == (height * width, 0)


@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_score_at_the_limit_passes_and_one_step_of_precision_above_fails(sign: int) -> None:
    raw = np.full((4, 5), 0.1, np.float32)
    raw[1, 2] = np.float32(0.3) * np.float32(1 + sign / 1000)
    found = judged({"albedo": raw}, {"albedo": 0.3}).decide([])
    assert found.verdict == ("fail" if sign > 0 else "pass")
    assert (found.peak_x_px, found.peak_y_px) == (2, 1)


def test_score_of_a_map_is_the_peak_of_the_fused_map_bit_for_bit() -> None:
    rng = np.random.default_rng(3)
    for limit in rng.random(200) + 0.01:
        raw = round_scores(rng.random((3, 4)).astype(np.float32))
        judge = Judge({"albedo": float(limit)}, 4, None, 1)
        assert judge.push({"albedo": raw})[0].max() == judge.decide([]).score


def test_small_regions_do_not_fail_a_part() -> None:
    raw = np.zeros((9, 9), np.float32)
    raw[2, 2:6] = 2
    assert judged({"a": raw}, {"a": 1.0}, area=4).decide([]).verdict == "fail"
    found = judged({"a": raw}, {"a": 1.0}, area=5).decide([])
    assert (found.verdict, found.regions, found.score) == ("pass", [], 2.0)


def test_verdict_fails_closed() -> None:
    good = np.full((6, 7), 0.5, np.float32)
    hole = good.copy()
    hole[2, 3] = np.nan
    roi = np.ones(good.shape, bool)
    roi[2] = False
    outside = np.where(roi, good, np.float32(np.nan))
    assert judged({"a": good}, {"a": 1.0}).decide([]).verdict == "pass"
    assert judged({"a": outside}, {"a": 1.0}, roi).decide([]).verdict == "pass"
    found = judged({"a": hole}, {"a": 1.0}).decide([])
    assert (found.verdict, found.reasons) == ("undecided", ["1 ROI pixels have no finite score"])
    assert judged({"a": good, "b": hole}, {"a": 1.0, "b": 1.0}).decide([]).verdict == "undecided"
    found = judged({"a": good}, {"a": 1.0}).decide([], ["the model says little"])
    assert (found.verdict, found.reasons) == ("undecided", ["the model says little"])
    found = judged({"a": good * 3}, {"a": 1.0}).decide([], ["the model says little"])
    assert (found.verdict, len(found.reasons)) == ("fail", 2)
    found = judged({"a": good}, {"a": 1.0}).decide(["the lamp is dark"])
    assert (found.verdict, found.reasons) == ("undecided", ["the lamp is dark"])
    assert judged({"a": good * 3}, {"a": 1.0}).decide(["the lamp is dark"]).verdict == "undecided"
    found = judged({"a": good * np.nan}, {"a": 1.0}, np.zeros(good.shape, bool)).decide([])
    assert (found.verdict, found.score, found.peak_map) == ("undecided", None, None)
    assert Judge({"a": 1.0}, 7, None, 1).decide([]).verdict == "undecided"


def test_defect_beside_a_hole_still_fails() -> None:
    raw = np.full((6, 7), 0.5, np.float32)
    raw[2, 3], raw[4, 4] = np.nan, 9
    found = judged({"a": raw}, {"a": 1.0}).decide([])
    assert (found.verdict, found.uncovered_px) == ("fail", 1)
    assert found.reasons == ["1 ROI pixels have no finite score", "1 region above the limit"]


def test_defect_of_one_map_where_another_has_no_score_fails_and_the_pixel_stays_uncovered() -> None:
    high, hole = np.full((6, 7), 0.5, np.float32), np.full((6, 7), 0.5, np.float32)
    high[2, 3], hole[2, 3] = 5, np.nan
    for raw in ({"a": high, "b": hole}, {"a": hole, "b": high}):
        found = judged(raw, {"a": 1.0, "b": 1.0}).decide([])
        assert (found.verdict, found.score, found.uncovered_px, len(found.regions)) == ("fail", 5.0, 1, 1)


def test_rows_that_never_come_are_uncovered() -> None:
    judge = Judge({"a": 1.0}, 7, np.ones((6, 7), bool), 1)
    judge.push({"a": np.full((4, 7), 0.5, np.float32)})
    assert judge.decide([]).verdict == "undecided"


def test_scores_outside_the_roi_do_not_hide_missing_ones_inside() -> None:
    roi = np.ones((4, 5), bool)
    roi[0] = False
    raw = np.full((4, 5), 0.5, np.float32)
    raw[2] = np.nan
    judge = Judge({"a": 1.0}, 5, roi, 1)
    judge.push({"a": raw})
    assert judge.decide([]).verdict == "undecided"


def recorded(found: Judgement, judge: Judge) -> PartRecord:
    """Return the record of what was found; numbers that are not finite are refused."""
    part, maps = findings(found, judge, 5.0)
    return PartRecord.model_validate(part_record("p") | part | {"maps": {"a": map_record() | maps["a"]}})


def test_infinite_residual_can_be_recorded() -> None:
    raw = np.full((4, 5), 0.5, np.float32)
    raw[1, 1] = np.inf
    judge = Judge({"a": 1.0}, 5, None, 1)
    judge.push({"a": raw})
    found = judge.decide([])
    assert found.verdict != "pass"
    recorded(found, judge)


def test_limit_that_float32_cannot_hold_does_not_divide_by_zero() -> None:
    judge = Judge({"a": 1e-50}, 5, None, 1)
    judge.push({"a": np.zeros((1, 5), np.float32)})
    assert judge.decide([]).verdict != "undecided"


def test_score_beyond_float32_can_be_recorded() -> None:
    judge = Judge({"a": 1e-12}, 5, None, 1)
    judge.push({"a": np.full((1, 5), 1e30, np.float32)})
    found = judge.decide([])
    assert found.verdict != "pass"
    recorded(found, judge)


def test_a_score_above_the_limit_without_a_region_is_said_to_be_of_few_pixels():
    spot = np.full((6, 7), 0.5, np.float32)
    spot[2, 2:4] = 3.0
    judge = Judge({"a": 1.0}, 7, None, min_area_px=3)
    judge.push({"a": spot})
    found = judge.decide([])
    assert (found.verdict, found.score) == ("pass", 3.0)
    assert found.reasons == ["above the limit in fewer than 3 px side by side only"]
    hole = np.full((6, 7), np.nan, np.float32)
    judge = Judge({"a": 1.0, "b": 1.0}, 7, None, min_area_px=3)
    judge.push({"a": spot, "b": hole})
    assert judge.decide([]).reasons == ["42 ROI pixels have no finite score"]
