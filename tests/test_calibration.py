"""Limits from good parts: each rule by hand, and the promised rate by simulation."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inspect_cli.calibration.rules import LEAST_LIMIT, RULES, GoodPeaks, limits_from_good
from inspect_cli.calibration.sources import calibrate_good, calibrate_labelled, calibrate_manual, peaks_of
from inspect_cli.errors import InputError, NoInputError, UsageError
from inspect_cli.evaluation.metrics import ScoreHistogram
from inspect_cli.material.manifest import Calibration, MapLimit
from inspect_cli.recipe.schema import MapSpec, Recipe, ThresholdSpec
from inspect_cli.scoring.judge import Judge
from inspect_cli.scoring.precision import round_scores
from inspect_cli.store.part_record import PartRecord
from inspect_cli.tiles.tiling import tiling_of
from tests.helpers import map_record, part_record

QUICK = settings(derandomize=True, deadline=None, max_examples=60)
RECIPE = Recipe.model_validate(
    {
        "material": "foil",
        "maps": {name: MapSpec(files=f"{{part}}_{name}.tif") for name in ("albedo", "normal")},
        "tiles": {"blend": "hann"},
        "scoring": {"smooth_sigma_px": 1.5},
    }
)
SPEC = ThresholdSpec(margin=1.5, quantile=0.75, sigma=3)
#: Tiling that scores are measured with.
MEASURED = tiling_of(RECIPE)


def peaks(*values: float) -> GoodPeaks:
    """Return peaks of which the patches' are a tenth of the pixels'."""
    found = np.array(values, float)
    return GoodPeaks(found, found / 10)


def calibration(**limits: float) -> Calibration:
    return Calibration(
        limits={name: MapLimit(pixel=value, patch=value / 10) for name, value in limits.items()},
        rule="max",
        provisional=True,
        origin="before",
        parts=3,
        smooth_sigma_px=MEASURED.smooth_sigma_px,
        blend=RECIPE.tiles.blend,
        stride_px=64,
        created_utc="",
    )


# ---------------------------------------------------------------- the rules


@pytest.mark.parametrize(
    ("rule", "limit", "rate"),
    [
        ("max", 7 * 1.5, 1 / 8),  # the largest of 7 times the margin
        ("quantile", 6, 2 / 8),  # rank ceil(8 * 0.75) = 6 of 7
        ("sigma", 4 + 3 * math.sqrt(28 / 6), None),  # mean 4, sum of squares around it 28
    ],
)
def test_rule_by_hand(rule: str, limit: float, rate: float | None) -> None:
    limits, found = limits_from_good({"albedo": peaks(3, 1, 7, 2, 6, 5, 4)}, rule, SPEC)
    assert limits["albedo"].pixel == pytest.approx(limit)
    assert limits["albedo"].patch == pytest.approx(limit / 10)
    assert found == (None if rate is None else pytest.approx(rate))


def test_rates_of_the_maps_add_up() -> None:
    good = peaks(1, 2, 3)
    assert limits_from_good({"a": good}, "max", SPEC)[1] == pytest.approx(1 / 4)
    assert limits_from_good({"a": good, "b": good}, "max", SPEC)[1] == pytest.approx(1 / 2)
    assert limits_from_good(dict.fromkeys("abcdef", good), "max", SPEC)[1] is None, "6 / 4 promises nothing"
    assert limits_from_good({"a": good, "b": good}, "sigma", SPEC)[1] is None


def test_each_map_has_its_own_limit() -> None:
    limits, _ = limits_from_good({"a": peaks(1, 2), "b": peaks(30, 10)}, "max", SPEC)
    assert {name: limit.pixel for name, limit in limits.items()} == {"a": 3, "b": 45}


def test_peaks_that_are_no_numbers_do_not_count() -> None:
    limits, rate = limits_from_good({"a": peaks(1, math.nan, 2, math.inf)}, "max", SPEC)
    assert limits["a"].pixel == 3
    assert rate == pytest.approx(1 / 3)
    with pytest.raises(NoInputError, match="map 'a': no good part was scored"):
        limits_from_good({"a": peaks(math.nan)}, "max", SPEC)
    with pytest.raises(NoInputError, match="map 'b'"):
        limits_from_good({"a": peaks(1), "b": peaks()}, "max", SPEC)


def test_limit_is_never_zero() -> None:
    for rule in RULES:
        limits, _ = limits_from_good({"a": peaks(*[0.0] * 9)}, rule, SPEC)
        assert limits["a"].pixel == limits["a"].patch == LEAST_LIMIT


def test_unknown_rule_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"--rule 'quantil' is unknown: did you mean 'quantile'\? Valid: max"):
        limits_from_good({"a": peaks(1)}, "quantil", SPEC)


# ---------------------------------------------------------------- the quantile's promise


def least_parts(quantile: Fraction) -> int:
    """Return the least n whose largest peak is exceeded with probability 1 / (n + 1) <= 1 - quantile."""
    n = 1
    while Fraction(1, n + 1) > 1 - quantile:
        n += 1
    return n


@QUICK
@given(st.integers(1, 99), st.integers(1, 120))
def test_quantile_takes_the_least_rank_that_keeps_the_promise(percent: int, count: int) -> None:
    quantile = Fraction(percent, 100)
    spec = ThresholdSpec(quantile=percent / 100)
    found = peaks(*range(1, count + 1))
    # Rank k of n is exceeded with probability (n + 1 - k) / (n + 1).
    kept = [k for k in range(1, count + 1) if Fraction(count + 1 - k, count + 1) <= 1 - quantile]
    if kept:
        limits, rate = limits_from_good({"a": found}, "quantile", spec)
        assert limits["a"].pixel == kept[0]
        assert rate == pytest.approx((count + 1 - kept[0]) / (count + 1))
        assert count >= least_parts(quantile)
        return
    with pytest.raises(UsageError, match=f"needs at least {least_parts(quantile)} good parts, {count} given"):
        limits_from_good({"a": found}, "quantile", spec)


@pytest.mark.parametrize(
    "quantile",
    [
        "0.95",
        "0.99",
        "0.995",
        "0.999",
        "0.9999",
        "0.99999",
    ],
)
def test_refusal_states_the_number_of_parts_that_is_then_accepted(quantile: str) -> None:
    spec = ThresholdSpec(quantile=float(quantile))
    with pytest.raises(UsageError) as caught:
        limits_from_good({"a": peaks(1)}, "quantile", spec)
    stated = re.search(r"at least (\d+) good parts, 1 given", str(caught.value))
    assert stated is not None
    needed = int(stated[1])
    assert limits_from_good({"a": GoodPeaks(np.arange(needed) + 1.0, np.arange(needed) + 1.0)}, "quantile", spec)
    with pytest.raises(UsageError):
        limits_from_good({"a": GoodPeaks(np.ones(needed - 1), np.ones(needed - 1))}, "quantile", spec)


def test_sigma_needs_two_parts() -> None:
    with pytest.raises(UsageError, match="needs at least 2 good parts, 1 given"):
        limits_from_good({"a": peaks(1)}, "sigma", SPEC)
    assert limits_from_good({"a": peaks(1, 2)}, "sigma", SPEC)


@pytest.mark.parametrize(("count", "quantile"), [(19, 0.95), (30, 0.95), (9, 0.75), (40, 0.9), (3, 0.5)])
def test_new_good_parts_exceed_the_limit_as_often_as_promised(count: int, quantile: float) -> None:
    rng = np.random.default_rng(count)
    rounds = 4000
    drawn: NDArray[np.float64] = rng.lognormal(sigma=1.0, size=(rounds, count + 1))
    spec = ThresholdSpec(quantile=quantile)
    exceeded, promised = 0, 0.0
    for good, new in zip(drawn[:, :-1], drawn[:, -1], strict=True):
        limits, rate = limits_from_good({"a": GoodPeaks(good, good)}, "quantile", spec)
        assert rate is not None
        exceeded, promised = exceeded + int(new > limits["a"].pixel), rate
    noise = 4 * math.sqrt(promised * (1 - promised) / rounds)
    assert promised <= 1 - quantile + 1e-9
    assert exceeded / rounds == pytest.approx(promised, abs=noise)


def test_largest_peak_without_margin_is_exceeded_as_often_as_promised() -> None:
    rng, rounds, count = np.random.default_rng(0), 4000, 6
    drawn = rng.gamma(2.0, size=(rounds, count + 1))
    spec = ThresholdSpec(margin=1)
    limits = [limits_from_good({"a": GoodPeaks(row, row)}, "max", spec) for row in drawn[:, :-1]]
    exceeded = np.mean([new > found["a"].pixel for new, (found, _) in zip(drawn[:, -1], limits, strict=True)])
    assert exceeded == pytest.approx(1 / (count + 1), abs=0.025)
    assert limits[0][1] == pytest.approx(1 / (count + 1))


def test_quantile_is_the_share_of_parts_whatever_the_number_of_maps() -> None:
    good = peaks(*range(1, 100))
    _, rate = limits_from_good({"albedo": good, "normal": good}, "quantile", ThresholdSpec(quantile=0.95))
    assert rate is not None
    assert rate <= 0.05 + 1e-9


# ---------------------------------------------------------------- where limits come from


def test_peaks_come_from_records_and_patch_tables(tmp_path: Path) -> None:
    folders = []
    for number, values in enumerate([[0.1, 0.4], [0.3, 0.2]]):
        table = pa.table(
            {"map": ["albedo", "normal"], "residual_mean": pa.array(values, pa.float32()), "x_px": [0, 1]}
        )
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        pq.write_table(table, folders[-1] / "patches.parquet")
    records = [
        PartRecord.model_validate(
            part_record("p", maps={"albedo": map_record(raw_max=a), "normal": map_record(raw_max=n)})
        )
        for a, n in [(5.0, 2.0), (None, 3.0)]
    ]
    found = peaks_of(records, folders, ["albedo", "normal"])
    assert found["albedo"].pixel.tolist() == [5]
    assert found["normal"].pixel.tolist() == [2, 3]
    np.testing.assert_allclose(found["albedo"].patch, [0.1, 0.3])
    np.testing.assert_allclose(found["normal"].patch, [0.4, 0.2])
    (folders[1] / "patches.parquet").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"patches\.parquet: cannot be read .*score the part again"):
        peaks_of(records, folders, ["albedo", "normal"])


def test_calibration_says_what_it_rests_on() -> None:
    found = calibrate_good({"albedo": peaks(1, 2, 4)}, MEASURED, "quantile", SPEC, 3, "good/")
    assert found.limits == {"albedo": MapLimit(pixel=4, patch=0.4)}
    assert (found.rule, found.provisional, found.parts) == ("quantile", False, 3)
    assert found.false_alarm_rate == pytest.approx(1 / 4)
    assert (found.smooth_sigma_px, found.blend) == (1.5, "hann")
    for word in ("quantile 0.75", "3 good part", "good/"):
        assert word in found.origin


def test_limit_by_hand_replaces_one_and_keeps_the_others() -> None:
    before = calibration(albedo=2, normal=3)
    found = calibrate_manual(MEASURED, before, {"normal": 0.5})
    assert found.limits == {"albedo": before.limits["albedo"], "normal": MapLimit(pixel=0.5, patch=0.3)}
    assert (found.rule, found.provisional, found.false_alarm_rate) == ("manual", True, None)
    assert "normal=0.5" in found.origin
    assert before.limits["normal"].pixel == 3


def test_limits_that_are_kept_keep_the_precision_and_stride_of_their_scores() -> None:
    before = calibration(albedo=2, normal=3).model_copy(update={"precision": "bf16", "stride_px": 96})
    some = calibrate_manual(MEASURED, before, {"normal": 0.5}, "f32")
    assert (some.precision, some.stride_px) == ("bf16", 96)
    every = calibrate_manual(MEASURED, before, {"normal": 0.5, "albedo": 1}, "f32")
    assert (every.precision, every.stride_px) == ("f32", MEASURED.stride_px)


def test_the_origin_says_of_each_map_where_its_limit_comes_from_and_no_more() -> None:
    first = calibration(albedo=2, normal=3)
    once = calibrate_manual(MEASURED, first, {"normal": 0.5})
    again = calibrate_manual(MEASURED, once, {"normal": 0.6})
    assert again.origin == f"set by hand: normal=0.6; albedo as before ({first.origin})"
    other = calibrate_manual(MEASURED, again, {"albedo": 1})
    assert other.origin == "set by hand: albedo=1; normal as before (set by hand: normal=0.6)"


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_limit_by_hand_must_be_a_number_above_zero(value: float) -> None:
    with pytest.raises(UsageError, match=r"--value albedo=.*: a limit is a number of at least 1e-12"):
        calibrate_manual(MEASURED, calibration(albedo=2), {"albedo": value})


def test_limit_for_an_unknown_map_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"--value albdo: .*did you mean 'albedo'"):
        calibrate_manual(MEASURED, calibration(albedo=2), {"albdo": 1})


@pytest.mark.parametrize("rule", ["iou", "f1"])
def test_labelled_parts_scale_all_limits_by_the_best_score(rule: str) -> None:
    pixels = ScoreHistogram()
    pixels.add(np.float32([[0.25, 0.5, 2.0, 4.0]]), np.array([[False, False, False, True]]))
    pixels.add(np.float32([[0.5, 1.0, 3.0, 5.0]]), np.array([[False, False, True, True]]))
    factor = 2.5 / (1 + 2**-12)
    found = calibrate_labelled(MEASURED, calibration(albedo=2, normal=3), pixels, rule, 6, "labelled/")
    assert {name: limit.pixel for name, limit in found.limits.items()} == {"albedo": 2 * factor, "normal": 3 * factor}
    assert found.limits["normal"].patch == pytest.approx(0.3 * factor)


@pytest.mark.parametrize("seed", range(4))
def test_parts_judged_by_the_best_limit_have_the_best_iou(seed: int) -> None:
    """Also where the scores on both sides of the limit are neighbours among those that are kept."""
    rng = np.random.default_rng(seed)
    truth = rng.random((40, 50)) < 0.3
    raw = round_scores((2 * (1 + truth * 2.0**-11) * rng.choice([1, 1 + 2.0**-11], truth.shape)).astype(np.float32))
    before = calibration(albedo=2)
    pixels = ScoreHistogram()
    pixels.add(round_scores(raw / np.float32(2)), truth)
    found = calibrate_labelled(MEASURED, before, pixels, "iou", 1, "labelled/")
    judge = Judge({"albedo": found.limits["albedo"].pixel}, 50, None, 1)
    _, mask = judge.push({"albedo": raw})
    best = pixels.iou_max()
    assert best is not None
    assert (mask & truth).sum() / (mask | truth).sum() == pytest.approx(best.value)


def test_patches_have_no_limit_above_that_of_pixels() -> None:
    """Where pixels had next to no limit, the factor says nothing of patches: their scores are means of pixels'."""
    pixels = ScoreHistogram()
    pixels.add(np.float32([1e9, 2e10]), np.array([False, True]))
    current = calibration(albedo=7e-11)
    current = current.model_copy(update={"limits": {"albedo": MapLimit(pixel=7e-11, patch=0.1)}})
    found = calibrate_labelled(MEASURED, current, pixels, "iou", 2, "x").limits["albedo"]
    assert found.patch == found.pixel < 1


def test_labelled_limits_say_of_which_parts_they_are() -> None:
    pixels = ScoreHistogram()
    pixels.add(np.float32([0.5, 3.0]), np.array([False, True]))
    found = calibrate_labelled(MEASURED, calibration(albedo=2), pixels, "iou", 6, "labelled/")
    assert (found.rule, found.parts, found.false_alarm_rate) == ("iou", 6, None)
    assert "best IOU 1.0000 over 6" in found.origin


def test_labelled_parts_never_make_a_limit_that_is_too_small_to_be_stored() -> None:
    pixels = ScoreHistogram()
    pixels.add(np.float32([0.1, 0.2]), np.array([False, True]))
    current = calibration(albedo=10 * LEAST_LIMIT)  # a tenth of it for patches
    assert calibrate_labelled(MEASURED, current, pixels, "iou", 2, "x").limits["albedo"].patch == LEAST_LIMIT


@pytest.mark.parametrize("defective", [[False, False], [True, False], [True, True]])
def test_labels_without_a_best_score_set_no_limit(defective: list[bool]) -> None:
    pixels = ScoreHistogram()
    pixels.add(np.float32([0, 0]), np.array(defective))
    with pytest.raises(NoInputError, match="labelled/"):
        calibrate_labelled(MEASURED, calibration(albedo=2), pixels, "iou", 2, "labelled/")
