"""Limits to start with: held-out parts set them, but for one that lies far above the others."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from scipy.stats import norm

from inspect_cli.images import Part, ValueRange
from inspect_cli.images.values import Preprocess
from inspect_cli.material.manifest import MapLimit
from inspect_cli.recipe import Budget, parse_recipe
from inspect_cli.scoring.outliers import LEAST_PARTS, outliers
from inspect_cli.scoring.usual import UsualMap
from inspect_cli.tiles.tiling import tiling_of
from inspect_cli.training import provisional
from inspect_cli.training.provisional import (
    MARGIN,
    WINDOWS,
    Extent,
    HeldOut,
    TrainedNetwork,
    _far_above,
    _windows,
    provisional_calibration,
)

RECIPE = parse_recipe("material: stuff\nmaps: {image: {files: '{part}.png'}}\ntiles: {size_px: 32}\n", "test")


def held_out(parts, extent=None, tiling=None, rois=None):
    rois = dict.fromkeys(part.id for part in parts) | (rois or {})
    return HeldOut(RECIPE, tiling or tiling_of(RECIPE), parts, rois, 0, extent or Extent())


def calibrated(monkeypatch, tmp_path, peaks: list[float]):
    """Return what is made of held-out parts whose windows have these peaks; each part has two windows."""
    parts = [Part(f"p{number}", {}, tmp_path) for number in range(len(peaks))]
    windows = [(part, (0, 0, 32, 32)) for part in parts * 2]
    by_part = {part.id: [0.5 * peak, peak] for part, peak in zip(parts, peaks, strict=True)}
    monkeypatch.setattr(provisional, "_windows", lambda *_: windows)
    monkeypatch.setattr(
        provisional, "_peaks", lambda held, network, part, *_: ((peak := by_part[part.id].pop()), 0.1 * peak)
    )
    return provisional_calibration(held_out(parts), [TrainedNetwork("image", None, None)])


def test_the_largest_peak_of_any_window_sets_the_limit(monkeypatch, tmp_path):
    found, warnings = calibrated(monkeypatch, tmp_path, [1.0, 1.2, 0.9, 1.1, 1.0, 1.3, 1.0, 1.1])
    assert found.limits["image"].pixel == pytest.approx(1.3 * MARGIN)
    assert found.limits["image"].patch == pytest.approx(0.13 * MARGIN)
    assert warnings == []


def test_parts_that_there_was_no_time_for_are_not_counted(monkeypatch, tmp_path):
    monkeypatch.setattr(Extent, "is_used_up", lambda self, spent_s, looked, parts: looked == 3)
    found, _ = calibrated(monkeypatch, tmp_path, [1.0, 1.2, 0.9, 1.1, 1.0])
    assert found.parts == 3
    assert "in 3 windows" in found.origin


def test_a_part_far_above_the_others_sets_no_limit_and_is_told(monkeypatch, tmp_path):
    found, warnings = calibrated(monkeypatch, tmp_path, [1.0, 1.2, 0.9, 9.0, 1.0, 1.3, 1.0, 1.1])
    assert found.limits["image"].pixel == pytest.approx(1.3 * MARGIN)
    assert found.parts == 7
    assert found.origin.endswith("windows of held-out good parts, times 1.5, without p3")
    assert len(warnings) == 1
    assert "map image: held-out part p3 scores 8.6 times as high as is usual" in warnings[0]


def test_a_part_far_above_the_others_in_its_patches_alone_is_no_less_so(monkeypatch, tmp_path):
    usual = MapLimit(pixel=1.0, patch=0.1)
    peaks = {f"p{number}": usual for number in range(LEAST_PARTS)} | {"odd": MapLimit(pixel=1.1, patch=0.9)}
    assert _far_above(peaks) == {"odd": pytest.approx(9.0)}


def test_more_than_a_tenth_of_the_parts_are_a_kind_and_no_exceptions(monkeypatch, tmp_path):
    found, warnings = calibrated(monkeypatch, tmp_path, [1.0, 1.1, 0.9, 1.0, 1.0, 1.05, 3.0, 3.1])
    assert found.limits["image"].pixel == pytest.approx(3.1 * MARGIN)
    assert warnings == []


def test_where_most_parts_score_nothing_none_is_left_out(monkeypatch, tmp_path):
    found, warnings = calibrated(monkeypatch, tmp_path, [0.0] * 9 + [0.3])
    assert found.limits["image"].pixel == pytest.approx(0.3 * MARGIN)
    assert warnings == []


@pytest.mark.parametrize(("parts", "windows"), [(1, 12), (5, 15), (8, 16), (12, 12), (40, 40)])
def test_every_part_has_as_many_windows_each_at_a_place_of_its_own(parts, windows, tmp_path):
    cv2.imwrite(str(tmp_path / "p.png"), np.zeros((600, 500), np.uint8))
    some = [Part(f"p{number}", {"image": tmp_path / "p.png"}, tmp_path) for number in range(parts)]
    drawn = _windows(held_out(some, Extent(12)), "image")
    assert len(drawn) == windows
    assert len(set(Counter(part.id for part, _ in drawn).values())) == 1
    assert len({(part.id, window) for part, window in drawn}) == windows


def test_windows_cover_the_roi_of_a_part_and_no_more(tmp_path):
    cv2.imwrite(str(tmp_path / "p.png"), np.zeros((600, 500), np.uint8))
    part = Part("p", {"image": tmp_path / "p.png"}, tmp_path)
    roi = np.zeros((600, 500), bool)
    roi[300:, 10:250] = True
    drawn = _windows(held_out([part], Extent(99), rois={"p": roi}), "image")
    seen = np.zeros_like(roi)
    for _, (y, x, height, width) in drawn:
        assert roi[y : y + height, x : x + width].any()
        seen[y : y + height, x : x + width] = True
    assert seen[roi].all()
    assert len(drawn) == 9


def test_a_part_that_is_scored_whole_is_one_window(tmp_path):
    cv2.imwrite(str(tmp_path / "p.png"), np.zeros((200, 300), np.uint8))
    part = Part("p", {"image": tmp_path / "p.png"}, tmp_path)
    whole = replace(tiling_of(RECIPE), whole=True)
    assert _windows(held_out([part], tiling=whole), "image") == [(part, (0, 0, 200, 300))]


def test_a_part_with_little_room_takes_no_windows_from_the_others(tmp_path):
    parts = []
    for name, (height, width) in {"large": (3000, 2000), "small": (130, 120)}.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((height, width), np.uint8))
        parts.append(Part(name, {"image": tmp_path / f"{name}.png"}, tmp_path))
    drawn = _windows(held_out(parts, Extent(24)), "image")
    assert Counter(part.id for part, _ in drawn) == {"large": 12, "small": 2}
    assert [part.id for part, _ in drawn[:4]] == ["large", "small", "large", "small"]


def test_more_time_has_more_windows():
    assert Extent.of_budget(Budget.parse("8m"), 1) == (96, 48)
    assert Extent.of_budget(Budget.parse("8m"), 4) == (24, 12)
    assert Extent.of_budget(Budget.parse("8h"), 1).windows == 200
    assert (
        Extent.of_budget(Budget.parse("10s"), 1).windows
        == Extent.of_budget(Budget.parse("5000steps"), 1).windows
        == WINDOWS
    )


def test_windows_beyond_the_first_ones_end_with_their_time(monkeypatch, tmp_path):
    def calibrate(extent: Extent) -> str:
        parts = [Part("p", {}, tmp_path)]
        monkeypatch.setattr(provisional, "_windows", lambda *_: [(parts[0], (0, 0, 32, 32))] * 30)
        monkeypatch.setattr(provisional, "_peaks", lambda *_: (1.0, 0.1))
        return provisional_calibration(held_out(parts, extent), [TrainedNetwork("image", None, None)])[0].origin

    assert "in 12 windows" in calibrate(Extent(30, 0.0))
    assert "in 30 windows" in calibrate(Extent(30, 60.0))


@pytest.mark.parametrize(("peaks", "limit"), [([1.0, 9.0], 9.0), ([1.0, 1.2, 3.9], 3.9), ([1.0, 1.0, 1.1, 4.4], 1.1)])
def test_of_few_parts_one_is_left_out_only_if_it_lies_very_far_above(monkeypatch, tmp_path, peaks, limit):
    found, warnings = calibrated(monkeypatch, tmp_path, peaks)
    assert found.limits["image"].pixel == pytest.approx(limit * MARGIN)
    assert len(warnings) == (limit < max(peaks))


def test_several_parts_that_lie_above_together_are_found_where_one_alone_is_not():
    usual = np.exp(0.55 * norm.ppf((np.arange(100) + 0.5) / 100))
    high = np.exp(0.55 * 2.45)
    alone = outliers([*usual, high])
    together = outliers([*usual, high, high, high, 6.0, 7.0])
    assert not alone.far.any()
    named = set(together.far.nonzero()[0].tolist())
    assert {100, 101, 102, 103, 104} <= named
    assert len(named) <= 6, "a quarter of them may be good ones"
    assert outliers([*usual[::4], 6.0, 7.0, high, high, high]).far.sum() <= 2, "of few parts less is known"


def test_parts_that_vary_have_no_outlier_and_equal_ones_none_either():
    assert not outliers(np.geomspace(1, 8, 20)).far.any()
    assert not outliers([1.0] * 10).far.any()
    assert not outliers([0.0] * 10).far.any()
    assert not outliers([1.0] * 9 + [1.9]).far.any(), "not twice as high"


def test_windows_end_with_the_time_and_sooner_where_a_network_is_slow():
    extent = Extent(20, 6.0)
    assert not extent.is_used_up(5.0, 12, 3)
    assert not extent.is_used_up(7.0, 11, 3)
    assert extent.is_used_up(7.0, 12, 3)
    assert not extent.is_used_up(7.0, 12, 13), "each part sets the limit"
    assert extent.is_used_up(12.5, 2, 13)
    assert not Extent().is_used_up(1e9, 11, 3), "without a budget in time"


class _Grey:
    """Scores every pixel by its own value."""

    name, device_name, precision, batch, size_step_px = "grey", "cpu", "f32", 8, 1

    def score(self, tiles):
        return tiles[:, 0].copy()

    def start(self, tiles):
        scores = self.score(tiles)
        return lambda: scores

    def rows_on_device(self, *_):
        return None


def test_a_window_is_judged_by_its_own_place(tmp_path):
    """ROI and what is usual there are those of the window, not of the image's upper left corner."""
    pixels = np.full((128, 160), 50, np.uint8)
    pixels[100, 140], pixels[70, 90] = 250, 150  # the first outside the ROI
    cv2.imwrite(str(tmp_path / "p.png"), pixels)
    roi = np.ones((128, 160), bool)
    roi[90:, 130:] = False
    part = Part("p", {"image": tmp_path / "p.png"}, tmp_path)
    cells = np.ones((32, 40), np.float32)
    cells[16:, 20:] = 3.0  # the lower right quarter usually scores high
    usual = UsualMap(cells, 4, 128, 160)
    held = held_out([part], rois={"p": roi}, tiling=replace(tiling_of(RECIPE), smooth_sigma_px=0.0))
    entry = SimpleNamespace(preprocess=Preprocess(ValueRange(0, 255), (0.2,), "uint8"))
    network = TrainedNetwork("image", entry, _Grey())
    lower_right = (64, 80, 64, 80)
    assert provisional._peaks(held, network, part, lower_right, None)[0] == pytest.approx(150 / 255, rel=1e-3)
    assert provisional._peaks(held, network, part, lower_right, usual)[0] == pytest.approx(50 / 255, rel=1e-2)
