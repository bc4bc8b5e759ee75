"""Previews, outlines and tables against brute force."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from inspect_cli.batch import calibrate
from inspect_cli.batch.summary import Outcome
from inspect_cli.batch.tables import finished_parts, write_tables
from inspect_cli.cli import run as main
from inspect_cli.errors import NoInputError, UsageError
from inspect_cli.evaluation.truth import Truth
from inspect_cli.export.tiles import check_out
from inspect_cli.images import Part
from inspect_cli.images.reduced import PREVIEW_PX, BlockReducer, preview_scale
from inspect_cli.material.manifest import Calibration, MapLimit
from inspect_cli.outputs.outlines import MAX_OUTLINES, TOLERANCE_PX, outlines
from inspect_cli.outputs.part_folder import patch_table
from inspect_cli.outputs.png_stream import MaskWriter
from inspect_cli.scoring.mapstream import PatchScores
from inspect_cli.scoring.regions import Region, RegionFinder
from inspect_cli.store.part_record import PartRecord
from tests.helpers import part_record

QUICK = settings(derandomize=True, deadline=None, max_examples=40)
Rows = NDArray[np.float32]
Mask = NDArray[np.bool_]


def chunks(rows: NDArray[Any], seed: int, most: int = 5) -> list[NDArray[Any]]:
    """Return ``rows`` cut at random places, in order."""
    rng = np.random.default_rng(seed)
    cuts = np.unique(rng.integers(1, len(rows) + 1, size=rng.integers(0, most)))
    return [part for part in np.split(rows, cuts) if len(part)]


# ---------------------------------------------------------------- previews


@QUICK
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 7), st.integers(0, 999))
def test_largest_score_of_a_block_survives(height: int, width: int, factor: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random((height, width)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.4] = np.nan
    reducer = BlockReducer(factor, "max")
    for rows in chunks(scores, seed):
        reducer.push(rows)
    found = reducer.result()
    assert found.shape == (-(-height // factor), -(-width // factor))
    for (y, x), value in np.ndenumerate(found):
        block = scores[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
        finite = block[np.isfinite(block)]
        assert value == finite.max() if finite.size else np.isnan(value)


def mean_picture(shape: tuple[int, ...], factor: int, seed: int) -> tuple[Rows, Rows]:
    """Return the reduced picture and the mean of each block's own pixels."""
    picture = np.random.default_rng(seed).random(shape).astype(np.float32)
    reducer = BlockReducer(factor, "mean")
    for rows in chunks(picture, seed):
        reducer.push(rows)
    down, across = -(-shape[0] // factor), -(-shape[1] // factor)
    means = [
        [
            picture[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor].mean(axis=(0, 1))
            for x in range(across)
        ]
        for y in range(down)
    ]
    return reducer.result(), np.array(means)


@QUICK
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 7), st.booleans(), st.integers(0, 999))
def test_picture_is_the_mean_of_whole_blocks(down: int, across: int, factor: int, colour: bool, seed: int) -> None:
    shape = (down * factor, across * factor, 3) if colour else (down * factor, across * factor)
    found, expected = mean_picture(shape, factor, seed)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(10, 8), (8, 10), (11, 10, 3)])
def test_picture_is_the_mean_of_the_pixels_that_a_last_block_has(shape: tuple[int, ...]) -> None:
    found, expected = mean_picture(shape, 4, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1600, 1600), (1601, 10), (3672, 5496), (4000, 2336), (10, 16001)]
)
def test_preview_is_at_most_the_stated_size(height: int, width: int) -> None:
    scale = preview_scale(height, width)
    assert -(-max(height, width) // scale) <= PREVIEW_PX
    assert scale == 1 or max(height, width) / (scale - 1) > PREVIEW_PX


def test_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match="valid: max, mean"):
        BlockReducer(2, "median")


# ---------------------------------------------------------------- outlines


def regions_of(mask: Mask, folder: Path) -> tuple[MaskWriter, list[Region]]:
    fused = np.where(mask, 2, 0).astype(np.float32)
    finder = RegionFinder(mask.shape[1], ["a"])
    finder.push(fused, [fused], fused > 1)
    with MaskWriter(folder / "mask.png", *mask.shape) as writer:
        writer.push(mask)
    return writer, finder.regions(1)


def compact(seed: int) -> Mask:
    """Return a mask of discs, some of them nested in each other's boxes."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((60, 70), np.uint8)
    for _ in range(6):
        y, x = (int(v) for v in rng.integers(5, 55, 2))
        cv2.circle(canvas, (x, y), int(rng.integers(3, 9)), 1, int(rng.choice([-1, 1])))
    return canvas.astype(bool)


def signed_distances(ring: list[list[int]], mask: Mask) -> NDArray[np.float64]:
    """Return how far the centre of each pixel of ``mask`` lies inside the ring, in pixels."""
    contour = np.array(ring, np.float32)
    y, x = np.nonzero(mask)
    return np.array([cv2.pointPolygonTest(contour, (a + 0.5, b + 0.5), True) for a, b in zip(x, y, strict=True)])


@settings(QUICK, max_examples=12)
@given(st.integers(0, 999))
def test_outline_runs_along_the_pixels_borders_within_its_tolerance(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    mask = compact(seed)
    writer, regions = regions_of(mask, tmp_path_factory.mktemp("outline"))
    rings = outlines(writer, regions)
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    assert len(rings) == len(regions)
    for ring, region in zip(rings, regions, strict=True):
        assert ring[0] == ring[-1]
        xs, ys = [x for x, _ in ring], [y for _, y in ring]
        assert region.x_px <= min(xs) <= max(xs) <= region.x_px + region.width_px
        assert region.y_px <= min(ys) <= max(ys) <= region.y_px + region.height_px
        filled = ndimage.binary_fill_holes(labels == labels[region.peak_y_px, region.peak_x_px])
        assert signed_distances(ring, filled).min() > -TOLERANCE_PX
        assert signed_distances(ring, ~filled).max() < TOLERANCE_PX


@pytest.mark.parametrize("box", [(3, 4, 5, 6), (3, 4, 2, 20), (3, 30, 5, 6)], ids=["pixel", "row", "column"])
def test_thin_region_has_a_polygon(tmp_path: Path, box: tuple[int, int, int, int]) -> None:
    mask = np.zeros((60, 70), bool)
    mask[box[0] : box[1], box[2] : box[3]] = True
    ((ring),) = outlines(*regions_of(mask, tmp_path))
    assert len(ring) >= 4  # RFC 7946, section 3.1.6
    assert ring[0] == ring[-1]


def test_outline_is_its_own_region_s_where_another_lies_in_the_box(tmp_path: Path) -> None:
    mask = np.eye(60, 70, dtype=bool)
    other = np.zeros((60, 70), bool)
    other[4:28:2, 35:58] = other[4:28, 35] = True  # a comb: its outline is longer than the diagonal's
    writer, regions = regions_of(mask | other, tmp_path)
    ring = next(r for r, region in zip(outlines(writer, regions), regions, strict=True) if region.y_px == 0)
    covered = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(covered, [np.array(ring)], 1)
    assert not covered[other].any()


def test_large_region_has_an_outline_a_few_pixels_outside_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.zeros((60, 70), bool)
    cv2.circle(painted := mask.view(np.uint8), (33, 30), 27, 1, -1)
    writer, regions = regions_of(mask, tmp_path)
    monkeypatch.setattr("inspect_cli.outputs.outlines.EXACT_PX", 55 * 55 // 9)
    ((ring),) = outlines(writer, regions)
    covered = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(covered, [np.array(ring)], 1)
    assert not (mask & ~covered.astype(bool)).any()
    assert not (covered.astype(bool) & ~cv2.dilate(painted, np.ones((9, 9), np.uint8)).astype(bool)).any()


@pytest.mark.parametrize("step", [1, 2, 7, 100])
def test_window_of_a_mask_reduced(tmp_path: Path, step: int) -> None:
    mask = np.random.default_rng(0).random((60, 70)) < 0.05
    with MaskWriter(tmp_path / "mask.png", 60, 70) as writer:
        for top in range(0, 60, 7):
            writer.push(mask[top : top + 7])
    part = mask[5:52, 13:66]
    expected = [[part[y : y + step, x : x + step].max() for x in range(0, 53, step)] for y in range(0, 47, step)]
    np.testing.assert_array_equal(writer.window(5, 13, 47, 53, step), expected)


def test_first_regions_only_get_an_outline(tmp_path: Path) -> None:
    mask = np.zeros((60, 70), bool)
    mask[::2, ::2] = True
    writer, regions = regions_of(mask, tmp_path)
    assert len(regions) > MAX_OUTLINES
    assert len(outlines(writer, regions)) == MAX_OUTLINES


# ---------------------------------------------------------------- tables

HOSTILE = ["=1+1", "+P", "-P", "@P", 'P, "quoted"', "a/=P"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run folder with the tables of parts that have hostile names."""
    limits = {"albedo": MapLimit(pixel=2, patch=0.5)}
    calibration = Calibration(
        limits=limits,
        rule="max",
        provisional=False,
        origin="",
        parts=1,
        smooth_sigma_px=0,
        blend="average",
        stride_px=64,
        created_utc="",
    )
    for number, part in enumerate(HOSTILE):
        folder = tmp_path / "parts" / part
        folder.mkdir(parents=True)
        places = np.array([0, 64], np.int32)
        mean = np.array([number, 0.25], np.float32)
        table = patch_table(part, {"albedo": PatchScores(places, places, mean, mean * 0 + 1)}, calibration)
        pq.write_table(table, folder / "patches.parquet")
        (folder / "part.json").write_text(json.dumps(part_record(part)))
    outcomes = [Outcome(part, PartRecord.model_validate(part_record(part))) for part in HOSTILE]
    write_tables(tmp_path, [*outcomes, Outcome("broken", error="=P.tif: truncated")])
    return tmp_path


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_tables_hold_every_part_and_region(run: Path) -> None:
    parts = rows_of((run / "parts.csv").read_text())
    assert [row["verdict"] for row in parts] == ["fail"] * len(HOSTILE) + ["error"]
    assert [row["part"].removeprefix("'") for row in parts] == [*HOSTILE, "broken"]
    assert (parts[0]["score"], parts[0]["seconds"], parts[0]["defect_area_mm2"]) == ("1.5", "1.25", "")
    regions = rows_of((run / "regions.csv").read_text())
    assert [row["part"].removeprefix("'") for row in regions] == HOSTILE
    assert (regions[0]["x_mm"], regions[0]["area_px"]) == ("-0.5", "9")
    features = json.loads((run / "regions.geojson").read_text())["features"]
    assert [feature["properties"]["part"] for feature in features] == HOSTILE
    assert features[0]["geometry"] == {"type": "Polygon", "coordinates": part_record("x")["outlines"]}


def test_finished_parts_are_those_that_the_run_lists(run: Path) -> None:
    content = {"material": "foil", "input": "batch", "interrupted": False, "exit_code": None, "started_utc": "2026"}
    content |= {
        "parts": [HOSTILE[0], "gone"],
        "errors": [],
        "pending": [],
        "tile_px": 128,
        "scoring_sha256": "",
        "limits_sha256": "",
    }
    (run / "run.json").write_text(json.dumps(content))
    assert finished_parts(run) == [HOSTILE[0]], "left from before, or not there"
    for damaged, key in (
        ({}, "material"),
        (content | {"parts": 3}, "parts"),
        (content | {"exit_code": []}, "exit_code"),
    ):
        (run / "run.json").write_text(json.dumps(damaged))
        with pytest.raises(NoInputError, match=f"no run of this program .*{key}"):
            finished_parts(run)


def test_patches_of_all_parts_are_joined(run: Path) -> None:
    table = pq.read_table(run / "patches.parquet").to_pydict()
    assert table["part"] == [part for part in HOSTILE for _ in range(2)]
    assert table["x_px"] == [0, 64] * len(HOSTILE)
    assert table["score"] == [value for n in range(len(HOSTILE)) for value in (2 * n, 0.5)]
    text = gzip.decompress((run / "patches.csv.gz").read_bytes()).decode()
    assert [float(row["score"]) for row in rows_of(text)] == table["score"]


@pytest.mark.parametrize(
    "table",
    [
        "parts.csv",
        "regions.csv",
        "patches.csv.gz",
    ],
)
def test_no_cell_is_a_formula(run: Path, table: str) -> None:
    content = (run / table).read_bytes()
    text = (gzip.decompress(content) if table.endswith(".gz") else content).decode()
    for row in rows_of(text):
        for key, value in row.items():
            if key in ("part", "reasons", "error", "map"):
                assert not value.startswith(("=", "+", "-", "@"))


# ---------------------------------------------------------------- links in a circle


def test_a_link_to_itself_stops_neither_the_cutting_nor_the_looking_for_masks(tmp_path: Path) -> None:
    link = tmp_path / "P.png"
    link.symlink_to("P.png")
    check_out(tmp_path / "out", [Part("P", {"image": link}, tmp_path)], force=False)
    assert not Truth.open(tmp_path).of_parts({"P1": [link]}).files


# ---------------------------------------------------------------- limits from a folder


def threshold(models: Path, *words: object) -> int:
    return main(["threshold", "--material", "foil", "--models", str(models), *map(str, words)])


def test_folder_that_limits_come_from_is_judged_by_those_in_force(batch: Path, models: Path) -> None:
    assert threshold(models, "--good", batch / "train", "--margin", 1.3) == 0
    in_force = json.loads((models / "foil/cae/manifest.json").read_text())["calibration"]
    assert threshold(models, "--good", batch / "train", "--margin", 1.2) == 0
    told = json.loads((batch / "train/inspection/foil/run.json").read_text())["calibration"]
    assert (told["provisional"], told["origin"]) == (False, in_force["origin"])


def test_rule_that_needs_more_parts_is_refused_before_any_is_scored(batch: Path, models: Path) -> None:
    assert threshold(models, "--good", batch / "train", "--quantile", 0.9) == UsageError.exit_code
    assert not (batch / "train/inspection").exists()


def test_part_with_a_black_mask_is_drawn_as_good(
    results: Path, batch: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(calibrate, "save_limit_histogram", lambda *given: drawn.append(given))
    (batch / "ground_truth/good").mkdir()
    cv2.imwrite(str(batch / "ground_truth/good/g003_mask.png"), np.zeros((150, 200), np.uint8))
    assert threshold(models, "--labelled", batch / "test", "--truth", batch / "ground_truth") == 0
    ((_, good, _, defective),) = drawn
    assert (len(good["albedo"]), len(defective["albedo"])) == (1, 3)
