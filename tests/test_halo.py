"""Masks and regions without the halo of strong defects: in blocks as at once, and never another verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, maximum_filter

from inspect_cli.evaluation.evaluate import without_halo
from inspect_cli.outputs.outlines import outlines
from inspect_cli.outputs.png_stream import MaskWriter
from inspect_cli.scoring.halo import HaloTrimmer
from inspect_cli.scoring.judge import Judge, Judgement

QUICK = settings(derandomize=True, deadline=None, max_examples=50)
Rows = NDArray[np.float32]
Mask = NDArray[np.bool_]


def heavy(height: int, width: int, seed: int) -> Rows:
    """Scores with peaks of hundreds and holes."""
    rng = np.random.default_rng(seed)
    scores = np.exp(3 * rng.standard_normal((height, width))).astype(np.float32)
    scores[rng.random(scores.shape) < 0.05] = np.nan
    return scores


def trimmed(scores: Rows, share: float, radius_px: int, seed: int) -> tuple[Mask, Rows]:
    """Return the mask and the scores that come out when rows go in by uneven blocks."""
    rng = np.random.default_rng(seed)
    trimmer = HaloTrimmer(share, radius_px)
    found, y = [], 0
    while y < len(scores):
        step = int(rng.integers(1, 7))
        found += trimmer.push(scores[y : y + step], [scores[y : y + step]])
        y += step
    found += trimmer.finish()
    for rows in found:
        np.testing.assert_array_equal(rows.fused, rows.scores[0])
    return np.concatenate([rows.kept for rows in found]), np.concatenate([rows.fused for rows in found])


@QUICK
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.floats(0.01, 0.99), st.integers(0, 9999))
def test_in_blocks_as_at_once(height: int, width: int, radius_px: int, share: float, seed: int) -> None:
    scores = heavy(height, width, seed)
    mask, out = trimmed(scores, share, radius_px, seed)
    np.testing.assert_array_equal(out, scores)
    filled = np.nan_to_num(scores, nan=0.0)
    largest = maximum_filter(filled, 2 * radius_px + 1, mode="constant", cval=0.0)
    np.testing.assert_array_equal(mask, (filled > 1) & (filled >= largest * np.float32(share)))


@QUICK
@given(st.floats(0.01, 0.99), st.floats(0.05, 50), st.integers(0, 9999))
def test_scores_without_halo_give_the_mask_of_any_limit(share: float, limit: float, seed: int) -> None:
    scores = heavy(30, 20, seed)
    bands = ((y, scores[y : y + 7]) for y in range(0, 30, 7))
    left = np.concatenate(list(without_halo(bands, HaloTrimmer(share, 6))))
    np.testing.assert_array_equal(np.isnan(left), np.isnan(scores))
    largest = maximum_filter(np.nan_to_num(scores), 13, mode="constant", cval=0.0)
    np.testing.assert_array_equal(left > limit, (scores > limit) & (scores >= largest * np.float32(share)))


def test_share_zero_trims_nothing_and_nothing_waits() -> None:
    scores = heavy(9, 11, 0)
    (rows,) = HaloTrimmer(0.0, 32).push(scores, [scores])
    np.testing.assert_array_equal(rows.kept, scores > 1)


def judged(raw: Rows, share: float, area: int = 9, near_px: int = 32) -> tuple[Judgement, Mask]:
    judge = Judge({"a": 1.0}, raw.shape[1], None, area, halo_share=share, halo_px=near_px)
    masks = [judge.push({"a": raw[y : y + 16]})[1] for y in range(0, len(raw), 16)]
    masks.append(judge.finish())
    return judge.decide([]), np.concatenate(masks)


def blob(at: tuple[int, int], peak: float, sigma: float = 8.0) -> Rows:
    spot = np.zeros((160, 160), np.float32)
    spot[at[0] - 4 : at[0] + 5, at[1] - 4 : at[1] + 5] = 1
    spot = gaussian_filter(spot, sigma)
    return spot / spot.max() * np.float32(peak)


def test_strong_defect_loses_its_halo_and_a_weak_one_nothing() -> None:
    strong, weak = blob((50, 50), 300.0), blob((120, 120), 1.5)
    whole, all_above = judged(np.maximum(strong, weak), 0.0)
    found, mask = judged(np.maximum(strong, weak), 0.2)
    assert [r.score_max for r in found.regions] == [r.score_max for r in whole.regions]
    assert found.regions[0].area_px == mask[:100, :100].sum() < 0.5 * all_above[:100, :100].sum()
    assert mask[46:55, 46:55].all()
    np.testing.assert_array_equal(mask[100:, 100:], all_above[100:, 100:])
    box = found.regions[0]
    rows, columns = np.flatnonzero(mask[:100].any(axis=1)), np.flatnonzero(mask[:100].any(axis=0))
    assert (box.y_px, box.height_px) == (rows[0], len(rows))
    assert (box.x_px, box.width_px) == (columns[0], len(columns))


def test_weak_region_in_a_strong_ones_halo_has_no_area_but_is_told() -> None:
    raw = np.maximum(blob((50, 50), 300.0, 2.0), blob((50, 75), 2.0, 2.0))
    assert len(judged(raw, 0.0)[0].regions) == 2
    strong, weak = judged(raw, 0.2)[0].regions
    assert strong.area_px > 9
    assert (weak.area_px, weak.score_max) == (0, pytest.approx(2.0, rel=0.01))


def test_pixel_just_below_the_share_of_a_peak_just_strong_enough_is_halo() -> None:
    raw = np.zeros((9, 9), np.float32)
    raw[4, 3:7] = [1.1, 6.0, 1.3, 1.1]
    np.testing.assert_array_equal(judged(raw, 0.2, 1)[1][4, 3:7], [False, True, True, False])


@pytest.mark.parametrize("area", [1, 4, 40])
@pytest.mark.parametrize("scale", [30, 300, 3000])
@pytest.mark.parametrize("seed", range(4))
def test_verdict_is_that_of_all_above_the_limit(area: int, scale: int, seed: int) -> None:
    raw = gaussian_filter(np.nan_to_num(heavy(70, 60, seed), nan=0.0), 0.6).astype(np.float32) / np.float32(scale)
    whole, found = judged(raw, 0.0, area)[0], judged(raw, 0.9, area)[0]
    assert (found.verdict, found.score) == (whole.verdict, whole.score)
    assert [r.score_max for r in found.regions] == [r.score_max for r in whole.regions]


def test_the_outline_of_a_region_is_of_its_own_pixels(tmp_path: Path) -> None:
    """A weak region whose peak lies in the halo of a strong one, and whose box overlaps that."""
    raw = np.zeros((60, 60), np.float32)
    raw[5:16, 5:16] = 100.0
    raw[20, 3:41] = raw[5:21, 40] = 2.0
    raw[20, 12] = 3.0
    found, mask = judged(raw, 0.2, near_px=8)
    strong, weak = found.regions
    assert (weak.peak_x_px, weak.peak_y_px) == (12, 20)
    assert not mask[20, 12]
    with MaskWriter(tmp_path / "mask.png", 60, 60) as writer:
        writer.push(mask)
    assert (strong.x_px, strong.y_px) == (5, 5)
    assert min(x for x, _ in outlines(writer, found.regions)[1]) == 24  # the halo reaches 8 px


def test_large_weak_region_beside_a_strong_speck_still_fails_the_part(tmp_path: Path) -> None:
    raw = np.zeros((60, 60), np.float32)
    raw[20:30, 20:30] = 2.0
    raw[22, 34] = 100.0
    found, mask = judged(raw, 0.2)
    assert found.verdict == "fail"
    (region,) = found.regions
    assert region.area_px == 0
    assert (region.score_max, region.peak_x_px, region.peak_y_px) == (2.0, 20, 20)
    with MaskWriter(tmp_path / "mask.png", 60, 60) as writer:
        writer.push(mask)
    assert outlines(writer, found.regions) == [[[20, 20], [20, 21], [21, 21], [21, 20], [20, 20]]]
