"""Metrics equal scikit-learn and brute force; a run folder is measured part by part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import (
    auc,
    average_precision_score,
    f1_score,
    jaccard_score,
    precision_recall_curve,
    roc_auc_score,
)
from typer.testing import CliRunner

from inspect_cli.cli import run as main
from inspect_cli.commands.evaluate import evaluate
from inspect_cli.errors import InputError, NoInputError, OutputError, UsageError
from inspect_cli.evaluation import evaluate as room
from inspect_cli.evaluation.evaluate import Tally, evaluate_run, fused_histogram
from inspect_cli.evaluation.metrics import ScoreHistogram, label_regions, rank_auroc, region_weights
from inspect_cli.evaluation.patch_count import count_patches, inside_roi
from inspect_cli.evaluation.run_parts import Patches, find_parts
from inspect_cli.evaluation.truth import MIN_DEFECT_PX, Truth
from inspect_cli.scoring.precision import CODE_COUNT, code_value, round_scores, score_code
from inspect_cli.store.run_lookup import find_run
from tests.helpers import map_record, part_record

Scores = NDArray[np.float32]
Mask = NDArray[np.bool_]


def _random_map(seed: int, levels: int = 12) -> tuple[Scores, Mask]:
    """Return a small map with ties, zeros and NaN, and a mask of a few regions touching at corners."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(6, 18, size=2))
    scores = (rng.integers(0, levels, size=shape) / 5).astype(np.float32)
    mask = rng.random(shape) < 0.25
    scores[mask] += rng.integers(0, 4) / 5
    scores[rng.random(shape) < 0.1] = np.nan
    return round_scores(scores), mask


def _histogram(scores: Scores, mask: Mask) -> ScoreHistogram:
    histogram = ScoreHistogram()
    weight = np.zeros(scores.shape)
    weight[mask] = region_weights(scores[mask], label_regions(mask))
    histogram.add(scores, mask, weight)
    return histogram


def _brute_force_au_pro(pairs: list[tuple[Scores, Mask]], limit: float = 0.3) -> float:
    """Overlap of every region at every threshold, one threshold after the other."""
    thresholds = np.unique(np.concatenate([s[np.isfinite(s)] for s, _ in pairs]))[::-1]
    rates, overlaps = [0.0], [0.0]
    regions = [ndimage.label(mask, structure=np.ones((3, 3))) for _, mask in pairs]
    for threshold in thresholds:
        false = good = 0
        shares = []
        for (scores, mask), (labels, count) in zip(pairs, regions, strict=True):
            roi = np.isfinite(scores)
            flagged = roi & (np.nan_to_num(scores, nan=-1.0) >= threshold)
            false += int((flagged & ~mask).sum())
            good += int((roi & ~mask).sum())
            for number in range(1, count + 1):
                region = roi & (labels == number)
                if region.any():
                    shares.append((flagged & region).sum() / region.sum())
        rates.append(false / good)
        overlaps.append(float(np.mean(shares)))
    inside = [i for i, rate in enumerate(rates) if rate <= limit]
    x, y = [rates[i] for i in inside], [overlaps[i] for i in inside]
    after = len(inside)
    if after < len(rates):
        slope = (overlaps[after] - y[-1]) / (rates[after] - x[-1])
        y.append(y[-1] + slope * (limit - x[-1]))
    else:
        y.append(y[-1])
    return float(auc([*x, limit], y) / limit)


# --- precision -----------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=30))
def test_rounding_is_to_the_nearest_and_codes_keep_the_order(values: list[float]) -> None:
    exact = np.array(values, dtype=np.float32)
    rounded = round_scores(exact)
    assert not (rounded.view(np.uint32) & 0xFFF).any()
    np.testing.assert_array_equal(round_scores(rounded), rounded)
    np.testing.assert_array_equal(code_value(score_code(rounded)), rounded)
    below = code_value(exact.view(np.uint32) >> 12)
    above = code_value((exact.view(np.uint32) >> 12) + 1)
    distance = np.minimum(exact.astype(float) - below, above.astype(float) - exact)
    np.testing.assert_array_equal(np.abs(rounded.astype(float) - exact), distance)
    np.testing.assert_array_equal(np.sort(score_code(rounded)), score_code(np.sort(rounded)))


def test_rounding_ties_go_to_even_and_the_limit_is_exact() -> None:
    step = 2.0**-11
    ties = np.array([1 + step / 2, 1 + 1.5 * step, 1.0], dtype=np.float32)
    assert round_scores(ties).tolist() == [1.0, 1 + 2 * step, 1.0]


def test_rounding_keeps_nan_and_infinity() -> None:
    odd_nan = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], dtype=np.uint32).view(np.float32)
    assert np.isnan(round_scores(odd_nan)).all()
    assert round_scores(np.array([np.inf, 3.4028235e38], dtype=np.float32)).tolist() == [np.inf, np.inf]


def test_codes_fit_in_nineteen_bits_and_refuse_negative_scores() -> None:
    extremes = np.array([0.0, -0.0, np.inf, -np.nan, np.nan], dtype=np.float32)
    codes = score_code(extremes)
    assert codes[0] == codes[1] == 0
    assert codes.max() < CODE_COUNT
    with pytest.raises(ValueError, match="negative"):
        score_code(np.array([-0.5], dtype=np.float32))


# --- metrics -------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_areas_equal_scikit_learn(seed: int) -> None:
    scores, mask = _random_map(seed)
    roi = np.isfinite(scores)
    histogram = _histogram(scores, mask)
    assert histogram.auroc() == pytest.approx(roc_auc_score(mask[roi], scores[roi]), rel=1e-12)
    assert histogram.average_precision() == pytest.approx(average_precision_score(mask[roi], scores[roi]), rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.3, 1.0]))
def test_au_pro_equals_brute_force_over_two_parts(seed: int, limit: float) -> None:
    pairs = [_random_map(seed), _random_map(seed + 1)]
    histogram = ScoreHistogram()
    for scores, mask in pairs:
        histogram.merge(_histogram(scores, mask))
    assert histogram.au_pro(limit) == pytest.approx(_brute_force_au_pro(pairs, limit), rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_maxima_equal_brute_force_and_their_limits_reach_them(seed: int) -> None:
    scores, mask = _random_map(seed)
    roi = np.isfinite(scores)
    truth, values = mask[roi], scores[roi]
    histogram = _histogram(scores, mask)
    thresholds = np.unique(values)
    f1, iou = histogram.f1_max(), histogram.iou_max()
    assert f1 is not None
    assert iou is not None
    assert f1.value == pytest.approx(max(f1_score(truth, values >= t) for t in thresholds))
    assert iou.value == pytest.approx(max(jaccard_score(truth, values >= t) for t in thresholds))
    assert f1_score(truth, values > f1.limit) == pytest.approx(f1.value)
    assert histogram.iou_at(iou.limit) == iou.value


def test_metrics_at_a_limit_flag_only_scores_above_it() -> None:
    scores = np.array([0.5, 1.0, 1.0, 1.5, 2.0, np.nan], dtype=np.float32)
    mask = np.array([0, 1, 0, 1, 0, 1], dtype=bool)
    histogram = _histogram(scores[None], mask[None])
    assert histogram.recall_at(1.0) == 1 / 2
    assert histogram.precision_at(1.0) == 1 / 2
    assert histogram.iou_at(1.0) == 1 / 3
    assert histogram.precision_at(2.0) is None
    assert histogram.recall_at(2.0) == 0


@pytest.mark.parametrize("mask_value", [False, True])
def test_undefined_metrics_are_none(mask_value: bool) -> None:
    scores = np.linspace(0, 2, 12, dtype=np.float32).reshape(3, 4)
    histogram = _histogram(scores, np.full(scores.shape, mask_value))
    assert histogram.auroc() is None
    assert histogram.au_pro() is None
    if not mask_value:
        assert histogram.average_precision() is histogram.f1_max() is histogram.iou_max() is None
        assert histogram.iou_at(1.0) is histogram.recall_at(1.0) is histogram.precision_at(1.0) is None


def test_an_empty_histogram_is_undefined_too() -> None:
    outside = ScoreHistogram()
    outside.add(np.full((2, 2), np.nan, dtype=np.float32), np.ones((2, 2), dtype=bool))
    for histogram in (ScoreHistogram(), outside):
        assert histogram.auroc() is histogram.average_precision() is histogram.au_pro() is histogram.f1_max() is None


def test_the_best_limit_is_negative_when_zero_scores_must_be_flagged() -> None:
    histogram = _histogram(np.zeros((1, 4), dtype=np.float32), np.ones((1, 4), dtype=bool))
    best = histogram.iou_max()
    assert best is not None
    assert best.value == 1.0
    assert histogram.iou_at(best.limit) == 1.0


def test_largest_recall_at_an_iou_is_that_of_trying_every_limit() -> None:
    scores, mask = _random_map(5, levels=60)
    histogram = _histogram(scores, mask)
    limits = [-1.0, *np.unique(scores[np.isfinite(scores)]).tolist()]
    tried = [(histogram.iou_at(limit), histogram.recall_at(limit)) for limit in limits]
    best = max(iou for iou, _ in tried)
    for least in (0.0, 0.3 * best, 0.9 * best, best):
        assert histogram.recall_max(least) == max(recall for iou, recall in tried if iou >= least)
    assert histogram.recall_max(1.01) is None
    assert ScoreHistogram().recall_max(0.5) is None


def test_bands_and_merges_equal_one_pass() -> None:
    scores, mask = _random_map(3, levels=400)
    whole = _histogram(scores, mask)
    weight = np.zeros(scores.shape)
    weight[mask] = region_weights(scores[mask], label_regions(mask))
    bands, parts = ScoreHistogram(), ScoreHistogram()
    for y0 in range(len(scores)):
        rows = slice(y0, y0 + 1)
        bands.add(scores[rows], mask[rows], weight[rows])
        one = ScoreHistogram()
        one.add(scores[rows], mask[rows], weight[rows])
        parts.merge(one)
    for other in (bands, parts):
        np.testing.assert_array_equal(other.codes, whole.codes)
        np.testing.assert_array_equal(other.good, whole.good)
        np.testing.assert_array_equal(other.defect, whole.defect)
        np.testing.assert_allclose(other.weight, whole.weight, rtol=1e-12)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        ScoreHistogram().add(np.ones((2, 3)), np.ones((3, 2), dtype=bool))


def test_regions_touch_at_corners_and_areas_are_those_in_the_roi() -> None:
    mask = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1]], dtype=bool)
    regions = label_regions(mask)
    assert regions[0] == regions[1] != regions[2] == regions[3]
    scores = np.array([1, np.nan, 1, 1], dtype=np.float32)
    assert region_weights(scores, regions)[[0, 2, 3]].tolist() == [1.0, 0.5, 0.5]
    assert label_regions(np.zeros((2, 2), dtype=bool)).size == 0


@given(st.lists(st.integers(0, 4), max_size=8), st.lists(st.integers(0, 4), max_size=8))
def test_part_auroc_equals_scikit_learn(good: list[int], defect: list[int]) -> None:
    result = rank_auroc([float(v) for v in good], [float(v) for v in defect])
    if not good or not defect:
        assert result is None
    else:
        truth = [0] * len(good) + [1] * len(defect)
        assert result == pytest.approx(roc_auc_score(truth, good + defect))


# --- truth ---------------------------------------------------------------------------------------------


def _write_mask(path: Path, mask: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, mask)
    else:
        cv2.imwrite(str(path), mask)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_any_value_but_zero_is_defective(tmp_path: Path, suffix: str) -> None:
    mask = np.array([[0, 1, 0], [255, 0, 7]], dtype=np.uint8)
    _write_mask(tmp_path / f"hole/a_mask{suffix}", mask)
    found = Truth.open(tmp_path).mask("hole/a", 2, 3)
    assert found is not None
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, mask != 0)


def test_opacity_is_no_defect(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[0, 1, 2] = 9
    _write_mask(tmp_path / "a_mask.png", pixels)
    found = Truth.open(tmp_path).mask("a", 2, 3)
    assert found is not None
    assert np.argwhere(found).tolist() == [[0, 1]]


def test_opacity_of_a_grey_mask_is_no_defect(tmp_path: Path) -> None:
    pixels = np.zeros((20, 20, 2), dtype=np.uint8)
    pixels[..., 1] = 255
    pixels[3, 4, 0] = 1
    tifffile.imwrite(
        tmp_path / "a_mask.tif", pixels, photometric="minisblack", extrasamples=[1], planarconfig="contig"
    )
    found = Truth.open(tmp_path).mask("a", 20, 20)
    assert found is not None
    assert np.argwhere(found).tolist() == [[3, 4]]


@pytest.mark.parametrize("ending", ["_mask", ""])
def test_mask_comes_first_then_boxes(tmp_path: Path, ending: str) -> None:
    ones, zeros = np.ones((2, 2), np.uint8), np.zeros((2, 2), np.uint8)
    _write_mask(tmp_path / f"k/two{ending}.png", ones)
    _write_mask(tmp_path / f"k/two{ending}.bmp", zeros)
    _write_mask(tmp_path / f"k/one{ending}.png", ones)
    (tmp_path / "boxes.csv").write_text(
        "part,kind,x_px,y_px,width_px,height_px\nk/one,dot,0,0,1,1\nk/boxed,dot,0,0,1,1\n"
    )
    truth = Truth.open(tmp_path)
    sums = [int(m.sum()) for i in ("two", "one", "boxed") if (m := truth.mask(f"k/{i}", 2, 2)) is not None]
    assert sums == [4, 4, 1]
    assert truth.mask("k/none", 2, 2) is None
    assert not truth.has("k/none")
    assert truth.unmatched(["k/two", "k/none"]) == ["k/boxed", "k/one"]


def test_results_and_hidden_files_are_no_masks(tmp_path: Path) -> None:
    for name in ("P1", ".P1", ".kept/P1", "inspection/foil/parts/P1/heatmap"):
        _write_mask(tmp_path / f"{name}.png", np.ones((2, 2), np.uint8))
    (tmp_path / "inspection/foil/.lock").touch()
    assert list(Truth.open(tmp_path).files) == ["P1"]


def test_pictures_beside_masks_are_no_masks(tmp_path: Path) -> None:
    for name in ("P1.png", "P1_mask.png", "P2.png"):
        _write_mask(tmp_path / name, np.ones((2, 2), np.uint8))
    truth = Truth.open(tmp_path)
    assert truth.has("P1")
    assert not truth.has("P2")
    _write_mask(tmp_path / "hole/3.png", np.ones((2, 2), np.uint8))
    assert not Truth.open(tmp_path).has("hole/3")
    assert Truth.open(tmp_path).passed_over(["P1", "hole/3", "P4"]) == ["hole/3"]
    assert truth.unmatched([]) == ["P1"]
    (tmp_path / "P1_mask.png").unlink()
    assert Truth.open(tmp_path).passed_over(["P2"]) == []
    assert Truth.open(tmp_path).of_parts({"P1": [tmp_path / "P1.png"]}).files.keys() == {"P2", "hole/3"}


def test_masks_in_a_folder_named_like_a_part_count_together(tmp_path: Path) -> None:
    left, right = np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8)
    left[0, 0], right[1, 1] = 184, 255
    for name, mask in (("logical/004/000", left), ("logical/004/001", right), ("logical/005/000", left)):
        _write_mask(tmp_path / f"{name}.png", mask)
    truth = Truth.open(tmp_path).of_parts({"logical/004": [], "logical/005": [], "good/004": []})
    found = truth.mask("logical/004", 2, 2)
    np.testing.assert_array_equal(found, [[True, False], [False, True]])
    assert truth.unmatched(["logical/004", "logical/005", "good/004"]) == []
    assert not truth.has("good/004")
    assert truth.kind("logical/005") == "logical"
    # A part of that very name has its mask to itself, and so has one with a mask of its own.
    assert not Truth.open(tmp_path).of_parts({"logical/005": [], "logical/005/000": []}).has("logical/005")
    _write_mask(tmp_path / "logical/004_mask.png", left)
    assert len(Truth.open(tmp_path).of_parts({"logical/004": []}).files["logical/004"]) == 1


def test_a_box_names_the_kind_of_its_part_if_the_table_does(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("part,kind,x_px,y_px,width_px,height_px\na,dot,0,0,1,1\nb,,0,0,1,1\n")
    truth = Truth.open(tmp_path)
    assert [truth.kind(part) for part in "abc"] == ["dot", "defect", "good"]
    (tmp_path / "boxes.csv").write_text("part,x_px,y_px,width_px,height_px\na,0,0,1,1\n")
    assert Truth.open(tmp_path).kind("a") == "defect"


def test_boxes_are_filled_together_and_cut_at_the_border(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text(
        "part,kind,x_px,y_px,width_px,height_px\na,dot,1,2,3,2\na,dot,-2,-1,3,2\na,line,4.5,0,9,0.5\n"
    )
    expected = np.zeros((5, 6), dtype=bool)
    expected[2:4, 1:4] = True
    expected[0, 0] = True
    expected[0, 4:] = True
    np.testing.assert_array_equal(Truth.open(tmp_path).mask("a", 5, 6), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("part,x_px\na,1\n", "no column y_px, width_px"),
        ("part,kind,x_px,y_px,width_px,height_px\na,dot,1,2,wide,1\n", "line 2: not four numbers"),
        ("part,kind,x_px,y_px,width_px,height_px\na,dot,1,2\n", "line 2: not four numbers"),
        ("part,kind,x_px,y_px,width_px,height_px\na,dot,1,2,0,1\n", "line 2: width and height"),
    ],
)
def test_damaged_boxes_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        Truth.open(tmp_path)


def test_boxes_of_another_encoding_are_refused(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_bytes("part,x_px,y_px,width_px,height_px\nf\u00fcnf,0,0,1,1\n".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        Truth.open(tmp_path)


def test_a_box_outside_the_map_is_refused(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("part,kind,x_px,y_px,width_px,height_px\na,dot,90,0,5,5\n")
    with pytest.raises(InputError, match="outside its maps of 10x8"):
        Truth.open(tmp_path).mask("a", 8, 10)


def test_a_mask_of_another_size_names_both(tmp_path: Path) -> None:
    _write_mask(tmp_path / "a_mask.png", np.ones((4, 6), np.uint8))
    with pytest.raises(InputError, match=r"mask is 6x4, its image is 8x5"):
        Truth.open(tmp_path).mask("a", 5, 8)


def test_masks_that_cannot_be_trusted_are_refused(tmp_path: Path) -> None:
    _write_mask(tmp_path / "lossy_mask.jpg", np.ones((8, 8), np.uint8))
    (tmp_path / "torn_mask.bmp").write_bytes(b"BM")
    (tmp_path / "empty_mask.png").write_bytes(b"")
    truth = Truth.open(tmp_path)
    for part_id in ("lossy", "torn", "empty"):
        with pytest.raises(InputError, match=part_id):
            truth.mask(part_id, 8, 8)


def test_kinds(tmp_path: Path) -> None:
    _write_mask(tmp_path / "P1_mask.png", np.ones((2, 2), np.uint8))
    truth = Truth.open(tmp_path)
    kinds = [truth.kind(i) for i in ("scratch/b000", "steel/dent/7", "P1", "P2")]
    assert kinds == ["scratch", "steel", "defect", "good"]


def test_a_truth_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no such folder"):
        Truth.open(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        Truth.open(tmp_path / "file")


# --- the run folder ------------------------------------------------------------------------------------

THRESHOLDS = {"albedo": 0.25, "normal": 3.0}


def _best_f1(truth: Mask, scores: Scores) -> float:
    precision, recall, _ = precision_recall_curve(truth, scores)
    return float((2 * precision * recall / (precision + recall).clip(1e-12)).max())


class _Run:
    """A small run folder and its truth, kept as arrays too."""

    def __init__(self, folder: Path) -> None:
        self.run, self.truth = folder / "batch/inspection/riblet", folder / "truth"
        self.truth.mkdir(parents=True)
        self.run.mkdir(parents=True)
        (self.run / "run.json").write_text("{}")
        self.masks: dict[str, Mask] = {}
        self.scores: dict[str, dict[str, Scores]] = {}

    def add(self, part_id: str, seed: int, verdict: str = "pass", fused_only: bool = False) -> None:
        rng = np.random.default_rng(seed)
        mask = np.zeros((30, 22), dtype=bool)
        if not part_id.startswith("good"):
            mask[4:9, 3:15] = mask[20 + seed % 3 : 27, 16:18] = True
            _write_mask(self.truth / f"{part_id}_mask.png", mask.astype(np.uint8) * 255)
        folder = self.run / "parts" / part_id
        (folder / "maps").mkdir(parents=True)
        fused = np.zeros(mask.shape, dtype=np.float32)
        self.masks[part_id], self.scores[part_id] = mask, {}
        for name, threshold in THRESHOLDS.items():
            raw = round_scores(rng.gamma(2, 0.25, mask.shape) * threshold * (1 + mask))
            raw[: 2 if name == "albedo" else 6] = np.nan
            tifffile.imwrite(folder / f"maps/{name}.tif", raw)
            self.scores[part_id][name] = round_scores(raw / np.float32(threshold))
            fused = np.fmax(fused, self.scores[part_id][name])
        fused[:1] = np.nan
        tifffile.imwrite(folder / "heatmap.tif", fused, tile=(16, 16), compression="zlib")
        self.scores[part_id]["fused"] = fused
        _write_mask(folder / "mask.png", (fused > 1).astype(np.uint8) * 255)
        peak = {name: float(np.nanmax(s)) for name, s in self.scores[part_id].items()}
        self.record(
            part_id,
            verdict=verdict,
            score=peak["fused"],
            maps={n: map_record(limit=t, score=peak[n], unit="raw") for n, t in THRESHOLDS.items()},
        )

    def record(self, part_id: str, **changes: Any) -> None:
        path = self.run / "parts" / part_id / "part.json"
        old = json.loads(path.read_text()) if path.exists() else part_record(part_id)
        path.write_text(json.dumps({**old, **changes}))

    def expected(self, name: str, parts: list[str]) -> dict[str, float]:
        """Compute metrics from the arrays with scikit-learn."""
        pairs = [(self.scores[p][name], self.masks[p]) for p in parts]
        roi = [np.isfinite(s) for s, _ in pairs]
        scores = np.concatenate([s[r] for (s, _), r in zip(pairs, roi, strict=True)])
        truth = np.concatenate([m[r] for (_, m), r in zip(pairs, roi, strict=True)])
        flagged = scores > 1.0
        return {
            "pixel_auroc": roc_auc_score(truth, scores),
            "pixel_ap": average_precision_score(truth, scores),
            "au_pro": _brute_force_au_pro(pairs),
            "image_auroc": roc_auc_score([m.any() for _, m in pairs], [np.nanmax(s) for s, _ in pairs]),
            "f1_max": _best_f1(truth, scores),
            "iou": jaccard_score(truth, flagged),
            "recall": float(flagged[truth].mean()),
            "precision": float(truth[flagged].mean()),
        }


PARTS = ["good/g0", "good/g1", "dent/a", "dent/b", "scratch/a"]


@pytest.fixture
def small_run(tmp_path: Path) -> _Run:
    run = _Run(tmp_path)
    for seed, part_id in enumerate(PARTS):
        run.add(part_id, seed, verdict="undecided" if part_id == "dent/b" else "fail")
    (run.run / "parts/scratch/torn/maps").mkdir(parents=True)
    (run.run / "parts/scratch/torn/heatmap.tif").touch()
    (run.run / "parts/dent/begun").mkdir()
    return run


def _assert_metrics(found: dict[str, Any], expected: dict[str, float]) -> None:
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-9)


def test_a_run_is_measured_fused_by_map_and_by_kind(small_run: _Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BAND_ROWS", 7)
    result = evaluate_run(small_run.run, small_run.truth)
    _assert_metrics(result, small_run.expected("fused", PARTS))
    dents = ["good/g0", "good/g1", "dent/a", "dent/b"]
    _assert_metrics(result["by_kind"]["dent"], small_run.expected("fused", dents))
    for name in THRESHOLDS:
        _assert_metrics(result["by_map"][name], small_run.expected(name, PARTS))
        _assert_metrics(result["by_kind_and_map"]["dent"][name], small_run.expected(name, dents))
    counts = {key: result[key] for key in ("parts", "good", "defective", "undecided", "unfinished")}
    assert counts == {"parts": 5, "good": 2, "defective": 3, "undecided": 1, "unfinished": 2}
    assert sorted(result["by_kind"]) == ["dent", "scratch"]
    assert result["by_kind"]["scratch"]["parts"] == 3
    assert result["by_kind"]["scratch"]["undecided"] == 0


def test_the_height_of_a_band_changes_nothing(small_run: _Run, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for rows in (1, 8, 4096):
        monkeypatch.setattr(room, "BAND_ROWS", rows)
        results.append(evaluate_run(small_run.run, small_run.truth))
    assert results[0] == results[1] == results[2]


def test_every_map_file_is_opened_once(small_run: _Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def spy(path: Path) -> Any:
        opened.append(path)
        return original(path)

    original = room.open_map
    monkeypatch.setattr(room, "open_map", spy)
    evaluate_run(small_run.run, small_run.truth)
    assert len(opened) == len(set(opened)) == len(PARTS) * (1 + len(THRESHOLDS))


@pytest.mark.parametrize("name", ["heatmap.tif", "maps/albedo.tif"])
def test_a_map_that_is_gone_is_named_of_an_undecided_part_too(small_run: _Run, name: str) -> None:
    small_run.record("dent/b", score=None)
    (small_run.run / "parts/dent/b" / name).unlink()
    with pytest.raises(InputError, match=f"{name}: missing; score dent/b again"):
        evaluate_run(small_run.run, small_run.truth)


def test_parts_that_kept_no_maps_are_told_where_others_did(small_run: _Run) -> None:
    assert evaluate_run(small_run.run, small_run.truth)["doubts"] == []
    small_run.record("dent/b", outputs=["heatmap"])
    doubts = evaluate_run(small_run.run, small_run.truth)["doubts"]
    assert doubts == ["single maps are measured on 4 of 5 parts; the others were scored without --outputs maps"]


def test_a_run_without_heatmaps_says_so_of_undecided_parts_too(small_run: _Run) -> None:
    small_run.record("dent/b", outputs=["maps"])
    (small_run.run / "parts/dent/b/heatmap.tif").unlink()
    with pytest.raises(InputError, match=r"heatmap\.tif: missing; score dent/b again, with --outputs heatmap or all"):
        evaluate_run(small_run.run, small_run.truth)
    with pytest.raises(InputError, match=r"heatmap\.tif: missing"):
        fused_histogram(small_run.run, small_run.truth)


@pytest.mark.parametrize(("share", "px"), [(0.0, 0), (0.5, 2), (0.8, 4)])
def test_pixels_without_halo_have_the_best_overlap_of_masks_without_it(
    small_run: _Run, monkeypatch: pytest.MonkeyPatch, share: float, px: int
) -> None:
    monkeypatch.setattr(room, "BAND_ROWS", 7)
    found = fused_histogram(small_run.run, small_run.truth, share, px).iou_max()
    fused = [small_run.scores[part]["fused"] for part in PARTS]
    largest = [ndimage.maximum_filter(np.nan_to_num(s), 2 * px + 1, mode="constant") for s in fused]
    left = [
        np.where(s >= near * np.float32(share), s, 0)[np.isfinite(s)] for s, near in zip(fused, largest, strict=True)
    ]
    values = np.concatenate(left)
    truth = np.concatenate([small_run.masks[p][np.isfinite(s)] for p, s in zip(PARTS, fused, strict=True)])
    assert found is not None
    limits = [-1.0, *np.unique(values)[:-1]]
    overlap = max((truth & (values > limit)).sum() / (truth | (values > limit)).sum() for limit in limits)
    assert found.value == pytest.approx(overlap)
    assert jaccard_score(truth, values > found.limit) == pytest.approx(found.value)


@pytest.mark.parametrize(
    ("pages", "told"), [([0, 1], "a mask has one page, not 2"), ([np.nan], "holds values that are no numbers")]
)
def test_a_mask_that_cannot_be_told_is_refused(small_run: _Run, pages: list[float], told: str) -> None:
    (small_run.truth / "dent/a_mask.png").unlink()
    with tifffile.TiffWriter(small_run.truth / "dent/a_mask.tif") as writer:
        for value in pages:
            writer.write(np.full((30, 22), value, np.float32), contiguous=False)
    with pytest.raises(InputError, match=told):
        evaluate_run(small_run.run, small_run.truth)


def test_an_empty_mask_leaves_the_part_good(small_run: _Run) -> None:
    _write_mask(small_run.truth / "good/g0_mask.png", np.zeros((30, 22), np.uint8))
    assert evaluate_run(small_run.run, small_run.truth)["good"] == 2


def test_without_good_or_defective_parts_metrics_are_null(tmp_path: Path) -> None:
    run = _Run(tmp_path)
    run.add("dent/a", 1)
    result = evaluate_run(run.run, run.truth)
    assert result["image_auroc"] is None
    assert result["pixel_auroc"] is not None
    _write_mask(run.truth / "dent/a_mask.png", np.zeros((30, 22), np.uint8))
    result = evaluate_run(run.run, run.truth)
    undefined = {"pixel_auroc", "pixel_ap", "au_pro", "image_auroc", "f1_max", "iou", "recall"}
    undefined |= {"precision", "iou_max", "f1_max_score", "iou_max_score"}
    undefined |= {"patch_auroc", "image_f1", "image_recall"}
    assert {key for key, value in result.items() if value is None} == undefined
    assert result["by_kind"] == {}


def test_a_truth_of_other_parts_is_refused(small_run: _Run, tmp_path: Path) -> None:
    _write_mask(tmp_path / "other/hole/z_mask.png", np.ones((30, 22), np.uint8))
    with pytest.raises(NoInputError, match="no mask or box for any part"):
        evaluate_run(small_run.run, tmp_path / "other")


def test_damaged_parts_are_named(small_run: _Run) -> None:
    record = small_run.run / "parts/good/g1/part.json"
    whole = record.read_text()
    for text, message in (
        ("{", r"part\.json: file:"),
        (whole.replace('"fail"', '"fine"'), "verdict"),
        (whole.replace('"limit": 3.0', '"limit": 0.0'), r"maps\.normal\.limit"),
        (whole.replace('"limit": 3.0', '"limit": null'), r"maps\.normal\.limit"),
        (whole.replace("[22, 30]", "[22, 31]"), "map is 22x30 px, its part.json says 22x31"),
    ):
        record.write_text(text)
        with pytest.raises(InputError, match=message):
            evaluate_run(small_run.run, small_run.truth)
    record.write_text(whole)
    tifffile.imwrite(record.parent / "maps/albedo.tif", np.full((30, 22), -1, np.float32))
    with pytest.raises(InputError, match="negative score"):
        evaluate_run(small_run.run, small_run.truth)
    (record.parent / "maps/albedo.tif").unlink()
    with pytest.raises(InputError, match=r"albedo\.tif: missing"):
        evaluate_run(small_run.run, small_run.truth)
    (record.parent / "mask.png").unlink()
    with pytest.raises(InputError, match=r"mask\.png: missing"):
        evaluate_run(small_run.run, small_run.truth)


def test_overlap_at_the_limit_is_that_of_the_masks(small_run: _Run) -> None:
    before = evaluate_run(small_run.run, small_run.truth)
    hits = missed = wrong = 0
    for part in PARTS:
        flagged = np.zeros(small_run.masks[part].shape, bool)
        flagged[8:, 3:9] = True
        _write_mask(small_run.run / "parts" / part / "mask.png", flagged.astype(np.uint8) * 255)
        defective = small_run.masks[part] & np.isfinite(small_run.scores[part]["fused"])
        hits += int((flagged & defective).sum())
        missed += int((~flagged & defective).sum())
        wrong += int((flagged & ~small_run.masks[part]).sum())
    after = evaluate_run(small_run.run, small_run.truth)
    assert after["iou"] == pytest.approx(hits / (hits + missed + wrong))
    assert after["recall"] == pytest.approx(hits / (hits + missed))
    assert after["precision"] == pytest.approx(hits / (hits + wrong))
    assert after["by_map"] == before["by_map"]
    assert {k: after[k] for k in ("iou_max", "f1_max", "pixel_auroc")} == {
        k: before[k] for k in ("iou_max", "f1_max", "pixel_auroc")
    }


def test_a_run_without_parts_is_refused(tmp_path: Path) -> None:
    run = _Run(tmp_path)
    assert find_parts(run.run) == ([], frozenset(), None)
    with pytest.raises(NoInputError, match="no finished part"):
        evaluate_run(run.run, run.truth)


def test_parts_that_were_judged_by_other_limits_are_not_mixed(small_run: _Run) -> None:
    for number, part_id in enumerate(PARTS):
        small_run.record(part_id, key={"inputs": {}, "scoring": "m", "limits": "old" if number else "new"})
    with pytest.raises(InputError, match="not all parts were judged by the same model and limits"):
        evaluate_run(small_run.run, small_run.truth)


def test_a_failed_part_is_counted_once_and_truth_of_no_part_is_told(
    small_run: _Run, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = {"material": "foil", "input": "gone", "tile_px": 128, "started_utc": "2026"}
    listed |= {"scoring_sha256": "m", "limits_sha256": "l"}
    listed |= {"parts": PARTS, "errors": [{"part": "scratch/torn", "error": "cut off"}], "pending": []}
    listed |= {"interrupted": False, "exit_code": 4}
    (small_run.run / "run.json").write_text(json.dumps(listed))
    _write_mask(small_run.truth / "dent/A_mask.png", np.ones((30, 22), np.uint8))
    _write_mask(small_run.truth / "scratch/torn_mask.png", np.ones((30, 22), np.uint8))
    assert main(["evaluate", str(small_run.run), "--truth", str(small_run.truth), "--json"]) == 0
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert result["unfinished"] == 2, "torn, which failed, and begun"
    assert result["unmatched"] == ["dent/A"]
    assert "1 name(s) match no part (dent/A)" in told.err
    _write_mask(small_run.truth / "good/g0.png", np.ones((30, 22), np.uint8))
    assert main(["evaluate", str(small_run.run), "--truth", str(small_run.truth), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["good"] == 2
    assert "1 part(s) count as good: their files (good/g0) are not named <part>_mask" in told.err


def test_results_are_printed_where_they_cannot_be_kept(
    small_run: _Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(path: Path, content: object) -> None:
        raise OutputError(f"{path}: cannot be written")

    monkeypatch.setattr("inspect_cli.store.atomic.write_json", refused)
    assert main(["evaluate", str(small_run.run), "--truth", str(small_run.truth), "--json"]) == OutputError.exit_code
    assert json.loads(capsys.readouterr().out)["parts"] == len(PARTS)


def test_a_run_is_found_at_or_below_the_folder(small_run: _Run) -> None:
    batch = small_run.run.parents[1]
    for path in (small_run.run, small_run.run.parent, batch, batch.parent):
        assert find_run(path) == small_run.run
    second = small_run.run.parent / "steel"
    second.mkdir()
    (second / "run.json").touch()
    assert find_run(second) == second
    with pytest.raises(UsageError, match=r"2 runs.*riblet, .*steel"):
        find_run(batch)
    for path in (small_run.truth, batch / "nowhere"):
        with pytest.raises(NoInputError):
            find_run(path)


# --- the command ---------------------------------------------------------------------------------------


def _command(*arguments: object) -> Any:
    app = typer.Typer()
    app.command()(evaluate)
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_json_on_stdout_is_what_is_written(small_run: _Run, tmp_path: Path) -> None:
    batch = small_run.run.parents[1]
    done = _command(batch, "--truth", small_run.truth, "--json", "--out", tmp_path / "copy.json")
    result = json.loads(done.stdout)
    assert result == evaluate_run(small_run.run, small_run.truth)
    for path in (small_run.run / "evaluation.json", tmp_path / "copy.json"):
        assert json.loads(path.read_text()) == result
    assert done.stderr.count("\n") == len(PARTS)


def test_tables_are_plain_text_off_a_terminal(small_run: _Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = _command(small_run.run, "--truth", small_run.truth).stdout
    assert "\x1b" not in text
    result = json.loads((small_run.run / "evaluation.json").read_text())
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert rows["fused"][1] == f"{result['pixel_auroc']:.4f}"
    assert rows["normal"][7] == f"{result['by_map']['normal']['iou']:.4f}"
    assert rows["dent"][-1] == "2"
    assert "5 parts: 2 good, 3 defective; 1 undecided, 2 unfinished" in text


def test_brackets_and_colons_in_kinds_are_printed_as_they_are(small_run: _Run) -> None:
    kinds = ["a [/hole] b", "d[bold]", "no:warning:sign"]
    rows = [f"good{number},{kind},1,9,5,5" for number, kind in enumerate(kinds)]
    for number in range(len(kinds)):
        small_run.add(f"good{number}", number)
    table = "\n".join(["part,kind,x_px,y_px,width_px,height_px", *rows])
    (small_run.truth / "boxes.csv").write_text(table)
    lines = _command(small_run.run, "--truth", small_run.truth).stdout.splitlines()
    for kind in kinds:
        assert any(line.startswith(f"{kind} ") for line in lines)


def test_the_command_module_imports_nothing_heavy() -> None:
    code = (
        "import sys, inspect_cli.commands.evaluate\n"
        "print([m for m in ('numpy', 'cv2', 'tifffile', 'pydantic', 'scipy') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "[]", done.stderr


def test_verdicts_are_measured_by_hand():
    tally = Tally(good=4, defective=5)
    tally.verdicts.update({("good", "pass"): 2, ("good", "fail"): 1, ("good", "undecided"): 1})
    tally.verdicts.update({("defective", "fail"): 3, ("defective", "pass"): 1, ("defective", "undecided"): 1})
    found = tally.metrics_of_verdicts()
    assert found["verdicts"]["defective"] == {"pass": 1, "fail": 3, "undecided": 1}
    assert found["image_f1"] == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    assert (found["image_recall"], found["false_alarm_rate"]) == (3 / 5, 1 / 4)
    assert Tally().metrics_of_verdicts()["image_f1"] is None


def test_patches_are_defective_that_show_enough_of_a_defect(results, batch):
    """Counted once more here, patch by patch, from the tables and the masks of a run."""
    seen = {}
    found = evaluate_run(results, batch / "ground_truth", on_patches=seen.update)
    assert list(seen) == ["all maps together", "albedo", "normal"]
    truth = Truth.open(batch / "ground_truth")
    scores = {True: [], False: []}
    for folder in sorted((results / "parts").rglob("patches.parquet")):
        part = folder.parent.relative_to(results / "parts").as_posix()
        mask = truth.mask(part, 150, 200)
        for row in pq.read_table(folder).to_pylist():
            if row["map"] != "albedo":
                continue
            x, y = row["x_px"], row["y_px"]
            shown = 0 if mask is None else int(mask[y : y + 32, x : x + 32].sum())
            if shown == 0 or shown >= MIN_DEFECT_PX:
                scores[shown > 0].append(row["score"])
    assert (int(seen["albedo"].good.sum()), int(seen["albedo"].defect.sum())) == tuple(map(len, scores.values()))[
        ::-1
    ]
    rounded = {kind: round_scores(np.array(values)) for kind, values in scores.items()}
    area = np.mean([(good < rounded[True]) + 0.5 * (good == rounded[True]) for good in rounded[False]])
    assert found["by_map"]["albedo"]["patch_auroc"] == pytest.approx(area)
    both = [pq.read_table(f).to_pylist() for f in sorted((results / "parts").rglob("patches.parquet"))]
    largest = max(row["score"] for rows in both for row in rows)
    assert code_value(seen["all maps together"].codes[-1:])[0] == pytest.approx(largest, rel=1e-3)


def test_evaluation_draws_the_patches_and_a_rerun_forgets_them(results, batch, models):
    common = ["--material", "foil", "--models", str(models), "--outputs", "none"]
    assert main(["evaluate", str(results), "--truth", str(batch / "ground_truth")]) == 0
    assert cv2.imread(str(results / "evaluation.png")).shape[0] > 900, "three panels"
    assert main(["report", str(results)]) == 0
    assert "Scores of good and of defective patches" in (results / "report.html").read_text()
    assert main(["score", str(batch / "test"), *common, "--force"]) == 0
    assert not (results / "evaluation.png").exists()


def test_patches_know_nothing_of_defects_outside_the_roi(tmp_path):
    mask, roi = np.zeros((40, 40), bool), np.zeros((40, 40), np.uint8)
    mask[2:12, 2:12] = mask[30:33, 30:33] = True
    roi[20:, 20:] = 255
    _write_mask(tmp_path / "roi.png", roi)
    inside, least_px = inside_roi(tmp_path, mask, label_regions(mask))
    assert inside is not None
    assert (int(inside.sum()), least_px) == (9, 9)
    roi[:] = 0
    roi[0, 30] = 255
    _write_mask(tmp_path / "roi.png", roi)
    inside, least_px = inside_roi(tmp_path, mask, label_regions(mask))
    assert inside is not None
    assert (int(inside.sum()), least_px) == (0, MIN_DEFECT_PX)


def test_a_patch_that_one_map_could_not_score_counts_by_the_others(tmp_path, monkeypatch):
    scores = {"a": np.float32([5.0, 0.1]), "b": np.float32([np.nan, 0.2])}
    places = np.array([0, 32], np.int32)
    monkeypatch.setattr("inspect_cli.evaluation.patch_count.patches_of", lambda _: Patches(places, places, scores))
    found = {"": ScoreHistogram(), "a": ScoreHistogram()}
    mask = np.zeros((64, 64), bool)
    mask[:10, :10] = True
    count_patches(found, "", tmp_path, 32, mask, 16)
    assert [int(histogram.defect.sum()) for histogram in found.values()] == [1, 1]


def test_a_defect_smaller_than_a_patch_must_show_counts_where_all_of_it_is_seen(results, tmp_path):
    (tmp_path / "boxes.csv").write_text("part,x_px,y_px,width_px,height_px\ndent/b000,70,70,5,3\n")
    seen = {}
    found = evaluate_run(results, tmp_path, on_patches=seen.update)
    table = pq.read_table(results / "parts/dent/b000/patches.parquet").to_pylist()
    whole = [
        r for r in table if r["x_px"] <= 70 and r["x_px"] + 32 >= 75 and r["y_px"] <= 70 and r["y_px"] + 32 >= 73
    ]
    assert int(seen["albedo"].defect.sum()) == sum(row["map"] == "albedo" for row in whole) > 0
    assert found["patch_auroc"] is not None
