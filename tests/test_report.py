"""The report room: colours, pictures, plots and the page, the page also in a real browser."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from typer.testing import CliRunner

from inspect_cli.commands.report import report
from inspect_cli.errors import InputError, InspectError, NoInputError, OutputError, UsageError
from inspect_cli.outputs.stored import part_folder
from inspect_cli.pictures import plots, previews
from inspect_cli.pictures.colour import NO_SCORE_RGB, inferno_table, score_colours
from inspect_cli.report import embed, numerals
from inspect_cli.report.html import write_report
from inspect_cli.store.part_record import PartRecord
from tests.helpers import map_record, part_record

HOSTILE = "<script>window.stolen=1</script>"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FIXED = {0.0: (0, 0, 4), 1.0: (188, 55, 84), 2.0: (252, 255, 164), 5.0: (252, 255, 164), -3.0: (0, 0, 4)}


def read_rgb(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture[:, :, ::-1]


def striped(height: int, width: int) -> np.ndarray:
    columns = np.arange(width)
    return np.tile(np.where(columns % 6 < 3, 90, 150).astype(np.uint8), (height, 1))


def blob(height: int, width: int, y: float, x: float, top: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (0.2 + top * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 60.0)).astype(np.float32)


# ---------------------------------------------------------------- colours


@pytest.mark.parametrize(("score", "colour"), [*FIXED.items(), (np.inf, FIXED[2.0]), (np.nan, NO_SCORE_RGB)])
def test_score_has_one_fixed_colour_whatever_stands_beside_it(score, colour):
    for neighbour in (0.0, 1.7, 400.0, np.nan):
        colours = score_colours(np.array([[score, neighbour]], np.float32))
        assert tuple(colours[0, 0]) == colour


@settings(derandomize=True)
@given(arrays(np.float32, (3, 4), elements=st.floats(-5, 9, width=32) | st.just(float("nan"))))
def test_colours_follow_the_formula_pixel_by_pixel(score):
    colours = score_colours(score)
    for (y, x), value in np.ndenumerate(score):
        position = 255.0 * min(max(float(value), 0.0), 2.0) / 2.0
        expected = NO_SCORE_RGB if np.isnan(value) else tuple(inferno_table()[round(position)])
        assert tuple(colours[y, x]) == expected


def test_table_is_inferno_and_cannot_be_changed():
    from matplotlib import colormaps

    reference = colormaps["inferno"](np.arange(256), bytes=True)[:, :3].astype(int)
    assert np.abs(inferno_table().astype(int) - reference).max() <= 1
    with pytest.raises(ValueError, match="read-only"):
        inferno_table()[0] = 0


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_png_gives_back_every_pixel(tmp_path, dtype, shape):
    array = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    previews.save_png(tmp_path / "a.png", array)
    back = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(back if len(shape) == 2 else back[:, :, ::-1], array)


def test_png_of_a_mask_is_black_and_white_and_odd_arrays_are_refused():
    mask = np.array([[True, False], [False, True]])
    decoded = cv2.imdecode(np.frombuffer(previews.encode_png(mask), np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded.tolist() == [[255, 0], [0, 255]]
    for odd in (np.zeros((2, 2)), np.zeros(4, np.uint8), np.zeros((2, 2, 5), np.uint8)):
        with pytest.raises(InspectError, match="no PNG"):
            previews.encode_png(odd)


def test_heatmap_shows_fixed_colours_and_its_scale(tmp_path):
    score = np.full((60, 400), 0.0, np.float32)
    score[:, 100:200], score[:, 200:300], score[:, 300:] = 1.0, 7.0, np.nan
    previews.save_heatmap(tmp_path / "h.png", score)
    shown = read_rgb(tmp_path / "h.png")
    assert shown.shape[1] == 400
    assert shown.shape[0] > 60
    np.testing.assert_array_equal(shown[:60], score_colours(score))
    strip = {tuple(colour) for colour in shown[60:].reshape(-1, 3)}
    assert {FIXED[0.0], NO_SCORE_RGB} <= strip
    assert any(tuple(inferno_table()[index]) in strip for index in range(120, 136))


def test_pictures_of_scores_say_below_why_they_are_not_to_be_trusted(tmp_path):
    image, score = striped(400, 900), blob(400, 900, 200, 300, 2.0)
    for caution in (None, "not to be trusted: the model hardly tells defects from good material"):
        previews.save_heatmap(tmp_path / f"h{caution is None}.png", score, caution)
        previews.save_overlay(tmp_path / f"o{caution is None}.png", image, score, [], 4, caution)
    for name in "ho":
        plain, said = read_rgb(tmp_path / f"{name}True.png"), read_rgb(tmp_path / f"{name}False.png")
        np.testing.assert_array_equal(said[:400], plain[:400])
        below = said[400 : 400 + len(said) - len(plain)]
        assert 0 < len(below) < 60
        assert (below > 200).any()


def test_small_heatmap_is_enlarged_by_a_whole_number(tmp_path):
    score = np.random.default_rng(1).random((20, 50)).astype(np.float32) * 2
    previews.save_heatmap(tmp_path / "h.png", score)
    shown = read_rgb(tmp_path / "h.png")
    np.testing.assert_array_equal(shown[:140:7, :350:7], score_colours(score))


def test_overlay_outlines_what_is_above_the_limit_and_leaves_the_rest_grey(tmp_path):
    image, score = striped(400, 900), blob(400, 900, 200, 300, 2.0)
    previews.save_overlay(tmp_path / "o.png", image, score, [], 4)
    shown = read_rgb(tmp_path / "o.png")
    outline = (shown == previews.CONTOUR_RGB).all(axis=2)
    above = score > 1
    inner = cv2.erode(above.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    np.testing.assert_array_equal(outline & inner, np.zeros_like(outline))
    assert outline.any()
    assert not (outline & ~above).any()
    untouched = score <= 0.5
    np.testing.assert_array_equal(shown[untouched], np.repeat(image[untouched][:, None], 3, axis=1))


def test_overlay_has_no_outline_at_the_limit_itself(tmp_path):
    previews.save_overlay(tmp_path / "o.png", striped(400, 900), np.ones((400, 900), np.float32), [], 1)
    assert not (read_rgb(tmp_path / "o.png") == previews.CONTOUR_RGB).all(axis=2).any()


def test_overlay_draws_boxes_around_regions_given_in_full_size_pixels(tmp_path):
    regions = [{"region": 7, "x_px": 400, "y_px": 800, "width_px": 120, "height_px": 80, "score_max": 2.0}]
    previews.save_overlay(tmp_path / "o.png", striped(400, 900), np.zeros((400, 900), np.float32), regions, 4)
    white = (read_rgb(tmp_path / "o.png") == previews.BOX_RGB).all(axis=2)
    ys, xs = np.nonzero(white[200:])
    assert (xs.min(), xs.max()) == (97, 132)  # 100 to 129, three pixels of margin
    assert ys.max() + 200 == 222
    assert white[197, 97:133].all()


def test_overlay_label_never_covers_its_region_at_the_upper_edge(tmp_path):
    image, score = striped(400, 900), np.zeros((400, 900), np.float32)
    score[0:10, 500:520] = 3.0
    regions = [{"region": 1, "x_px": 500, "y_px": 0, "width_px": 20, "height_px": 10, "score_max": 3.0}]
    previews.save_overlay(tmp_path / "o.png", image, score, regions, 1)
    bright = read_rgb(tmp_path / "o.png")[1:9, 501:519]
    assert (bright[:, :, 0] > 150).all()


def test_overlay_refuses_maps_of_another_size(tmp_path):
    with pytest.raises(InspectError, match="one size"):
        previews.save_overlay(tmp_path / "o.png", striped(40, 90), np.zeros((40, 91), np.float32), [], 1)


def test_tile_grid_marks_in_red_what_no_tile_covers(tmp_path):
    positions = [(y, x) for y in (0, 128, 272) for x in (0, 128, 256, 384, 472) if (y, x) != (0, 0)]
    previews.save_tile_grid(tmp_path / "g.png", np.full((400, 600), 128, np.uint8), positions, 128, 1)
    shown = read_rgb(tmp_path / "g.png")[:400].astype(int)
    red = shown[:, :, 0] > shown[:, :, 1] + 60
    expected = np.ones((400, 600), bool)
    for y, x in positions:
        expected[y : y + 128, x : x + 128] = False
    orange = (shown == previews.TILE_RGB).all(axis=2)
    np.testing.assert_array_equal(red[~orange], expected[~orange])
    assert orange.any()


def test_reconstruction_rows_share_one_residual_scale(tmp_path):
    tiles = np.full((2, 1, 64, 64), 0.5)
    residuals = np.stack([np.full((64, 64), 0.02), np.full((64, 64), 0.1)])
    previews.save_reconstructions(tmp_path / "r.png", tiles, tiles, residuals)
    shown = read_rgb(tmp_path / "r.png")
    upper, lower = shown[-400, -100], shown[-100, -100]
    assert tuple(lower) == FIXED[2.0]
    assert tuple(upper) == tuple(inferno_table()[51])


def test_reconstructions_of_three_channels_are_shown_in_colour(tmp_path):
    tiles = np.zeros((1, 3, 32, 32))
    tiles[:, 0] = 1.0
    previews.save_reconstructions(tmp_path / "r.png", tiles, tiles[:, ::-1], np.zeros((1, 32, 32)))
    shown = read_rgb(tmp_path / "r.png")
    assert tuple(shown[-100, 100]) == (255, 0, 0)
    assert tuple(shown[-100, 360]) == (0, 0, 255)


SMALL = [(shape, value) for shape in [(0, 0), (0, 5), (1, 1), (2, 700)] for value in (0.3, 9.0, np.nan)]


@pytest.mark.parametrize(("shape", "value"), [*SMALL, ((40, 30000), 9.0), ((30000, 40), 9.0), ((3000, 1), 0.3)])
def test_no_size_and_no_value_breaks_a_picture(tmp_path, shape, value):
    score, image = np.full(shape, value, np.float32), np.full((*shape, 3), 99, np.uint8)
    box = [{"region": 1, "x_px": 0, "y_px": 0, "width_px": 1, "height_px": 1, "score_max": value}]
    previews.save_heatmap(tmp_path / "h.png", score)
    previews.save_overlay(tmp_path / "o.png", image, score, box, 3.7)
    previews.save_tile_grid(tmp_path / "g.png", image, [(0, 0)] if image.size else [], 128, 4)
    for name in "hog":
        assert read_rgb(tmp_path / f"{name}.png").size


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (1, 1, 0, 0), (1, 2, 1, 1), (2, 4, 700, 3)])
def test_no_tile_breaks_the_reconstruction_sheet(tmp_path, shape):
    tiles, residuals = np.full(shape, np.nan), np.full((shape[0], *shape[2:]), np.nan)
    previews.save_reconstructions(tmp_path / "r.png", tiles, tiles, residuals)
    assert read_rgb(tmp_path / "r.png").size


# ---------------------------------------------------------------- plots


@pytest.fixture
def figures(monkeypatch):
    """Figures as they were just before they became files."""
    kept: list[Any] = []
    save = plots._save
    monkeypatch.setattr(plots, "_save", lambda path, figure: (kept.append(figure), save(path, figure)))
    return kept


def test_patch_histogram_counts_every_score_on_the_fixed_axis(tmp_path, figures):
    scores = np.array([0.1, 0.1, 0.99, 1.01, 2.0, 2.5, 1e9, np.inf, np.nan])
    plots.save_patch_histogram(tmp_path / "p.png", {"albedo": scores})
    axes = figures[0].axes[0]
    counts, edges, _ = axes.patches[0].get_data()
    assert (edges[0], edges[-1], counts.sum(), counts[-1]) == (0.0, 2.0, 8, 4)
    assert axes.get_legend().get_texts()[0].get_text() == "albedo: 5 of 8 above the limit, 1 without score"
    assert axes.get_yscale() == "log"
    assert list(axes.lines[0].get_xdata()) == [1, 1]


def test_loss_curve_leaves_out_what_is_no_number(tmp_path, figures):
    history = [
        {"step": 0, "train_loss": 1.0, "val_loss": None},
        {"step": 10, "train_loss": float("nan"), "val_loss": 0.5},
        {"step": 20, "train_loss": 0.25},
    ]
    plots.save_loss_curve(tmp_path / "l.png", history, "riblet $1")
    training, validation = figures[0].axes[0].lines
    assert training.get_xydata().tolist() == [[0, 1.0], [20, 0.25]]
    assert validation.get_xydata().tolist() == [[10, 0.5]]


def test_patch_histogram_has_room_for_any_number_of_maps(tmp_path, figures):
    for count in (0, 1, 4, 40):
        plots.save_patch_histogram(tmp_path / "p.png", {f"m{n}": [0.5] for n in range(count)})
        (axes,) = figures[-1].axes
        box = axes.get_window_extent()
        assert box.height > 150
        if count:
            assert figures[-1].bbox.containsy(axes.get_legend().get_window_extent().y1 - 1)


def test_limit_histogram_has_a_panel_a_map_with_its_limit(tmp_path, figures):
    good = {"albedo": [1e-4, 2e-4, np.nan], "normal": [0.5, 0.6]}
    plots.save_limit_histogram(tmp_path / "t.png", good, {"albedo": 3e-4, "normal": 0.7}, {"albedo": [0.02]})
    albedo, normal = figures[0].axes
    assert list(albedo.lines[0].get_xdata()) == [3e-4, 3e-4]
    assert [patch.get_data().values.sum() for patch in albedo.patches] == [2, 1]
    assert (albedo.get_xscale(), normal.get_xscale()) == ("log", "linear")
    assert [patch.get_data().values.sum() for patch in normal.patches] == [2]


def save_every_plot(folder: Path, values: list[float]) -> list[bytes]:
    paths = [folder / f"{number}.png" for number in range(3)]
    plots.save_patch_histogram(paths[0], {"$\\x_{": values})
    plots.save_loss_curve(paths[1], [{"step": 1, "train_loss": value} for value in values], "a")
    plots.save_limit_histogram(paths[2], {"m": values}, {}, None)
    return [path.read_bytes() for path in paths]


@pytest.mark.parametrize("values", [[], [np.nan], [0.0, 0.0], [-1.0, 2.0], [np.inf]])
def test_no_data_breaks_a_plot(tmp_path, values):
    assert all(save_every_plot(tmp_path, values))


def test_the_same_data_give_the_same_bytes(tmp_path):
    assert save_every_plot(tmp_path, [0.5]) == save_every_plot(tmp_path, [0.5])


def test_plots_without_any_series(tmp_path):
    plots.save_patch_histogram(tmp_path / "1.png", {})
    plots.save_limit_histogram(tmp_path / "2.png", {}, {}, None)
    assert read_rgb(tmp_path / "1.png").size
    assert read_rgb(tmp_path / "2.png").size


def test_plots_leave_pyplot_alone_and_import_matplotlib_late():
    code = (
        "import sys; from pathlib import Path; import inspect_cli.pictures.plots as p; "
        "early = 'matplotlib' in sys.modules; p.save_patch_histogram(Path(sys.argv[1]), {'a': [1.0]}); "
        "print(early, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, "/dev/null/x"], capture_output=True, text=True, check=False)
    assert "OutputError" in done.stderr  # the figure was drawn, only the place is impossible
    early = subprocess.run(
        [sys.executable, "-c", code.replace("p.save", "0 and p.save"), "x"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert early.stdout.split() == ["False", "False"]


# ---------------------------------------------------------------- embedding


@settings(max_examples=40, derandomize=True)
@given(st.data())
def test_reduced_mask_is_the_maximum_of_what_each_pixel_stands_for(data):
    height, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    new_height, new_width = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    mask = data.draw(arrays(np.uint8, (height, width), elements=st.sampled_from([0, 255])))
    reduced = embed.reduced_by_maximum(mask, new_width, new_height)
    for (y, x), value in np.ndenumerate(reduced):
        rows = slice(y * height // new_height, (y + 1) * height // new_height)
        columns = slice(x * width // new_width, (x + 1) * width // new_width)
        assert value == mask[rows, columns].max()
    assert reduced.any() == mask.any()


def test_one_pixel_of_a_full_size_mask_survives_in_the_page(tmp_path):
    mask = np.zeros((3672, 5496), np.uint8)
    mask[3001, 4003] = 255
    previews.save_png(tmp_path / "mask.png", mask)
    embedded = embed.mask(tmp_path / "mask.png")
    assert (embedded.width_px, embedded.height_px) == (900, 601)
    shown = decoded(embedded.address)
    assert np.argwhere(shown[:, :, 0]).tolist() == [[3001 * 601 // 3672, 4003 * 900 // 5496]]


def test_photos_stay_small_even_if_the_material_is_noise(tmp_path):
    noise = np.random.default_rng(2).integers(0, 256, (918, 1374, 3)).astype(np.uint8)
    previews.save_png(tmp_path / "image.png", noise)
    embedded = embed.photo(tmp_path / "image.png")
    assert len(embedded.address) < 25_000_000 / 50 / 3


def decoded(address: str) -> np.ndarray:
    import base64

    content = base64.b64decode(address.partition("base64,")[2])
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


# ---------------------------------------------------------------- numerals


@pytest.mark.parametrize("absent", [None, float("nan"), float("inf"), "", "nan", True, "x", [1]])
def test_what_is_no_number_is_a_dash(absent):
    for name in ("plain", "score", "rate", "tenths", "percent", "millimetres", "duration"):
        assert numerals.FILTERS[name](absent) == numerals.ABSENT


@settings(derandomize=True)
@given(st.floats(0.99, 1.01) | st.floats(0, 50))
def test_a_written_score_is_on_the_right_side_of_the_limit(score):
    written = float(numerals.score(score))
    assert written == pytest.approx(score, abs=0.006)
    if abs(score - 1) > 1e-6:
        assert (written > 1, written < 1) == (score > 1, score < 1)


def test_numerals_examples():
    import doctest

    assert doctest.testmod(numerals).failed == 0


# ---------------------------------------------------------------- the page

COLUMNS = [
    *("part", "verdict", "score", "map", "reasons", "region_count"),
    *("defect_area_px", "defect_area_mm2", "roi_px", "seconds", "error"),
]
PITCH_UM = 5.0
CALIBRATION = {
    "provisional": True,
    "origin": "max of 24 held-out patches x 1.25",
    "rule": "max",
    "false_alarm_rate": None,
    "limits": {"albedo": 0.0012, "normal": 0.0007},
}
PARTS = [  # part, verdict, score
    ("good/b010", "pass", 0.61),
    ("dent/b007", "fail", 1.52),
    ("good/b014", "error", None),
    ("scratch/b000", "fail", 3.217),
    ("good/b013", "undecided", 0.4),
    (HOSTILE, "pass", 0.72),
]
ORDER = ["good/b014", "scratch/b000", "dent/b007", "good/b013", HOSTILE, "good/b010"]


def make_part(folder: Path, part: str, verdict: str, score: float) -> None:
    folder.mkdir(parents=True)
    image, scores = striped(96, 144), blob(96, 144, 40, 70, score)
    scores[:, :8] = np.nan
    regions = []
    if verdict == "fail":
        box = {"x": 260, "y": 140, "width": 48, "height": 40}
        region = part_record(part)["regions"][0] | {"area_px": 1234, "score_max": score, "score_mean": 1.25}
        region |= {f"{side}_px": value for side, value in box.items()}
        region |= {f"{side}_mm": value * PITCH_UM / 1000 for side, value in box.items()}
        regions = [region | {"area_mm2": 0.03085}]
    record = part_record(
        part,
        verdict=verdict,
        reasons=["1 region above the limit"] if regions else [],
        size_px=[576, 384],
        score=score,
        peak={"x_px": 280, "y_px": 160, "map": "albedo"},
        maps={"albedo": map_record(file="b_albedo.tif", score=score, raw_max=0.00386, limit=0.0012)},
        region_count=len(regions),
        regions=regions,
        preview_scale=4,
        timing_s={"read": 0.25, "network": 4.5, "stitch": 0.125, "total": 5.0},
    )
    PartRecord.model_validate(record)
    previews.save_png(folder / "image.png", image)
    previews.save_heatmap(folder / "heatmap.png", scores)
    previews.save_overlay(folder / "overlay.png", image, scores, regions, 4)
    previews.save_png(folder / "mask.png", np.nan_to_num(scores).repeat(4, 0).repeat(4, 1) > 1)
    plots.save_patch_histogram(folder / "histogram.png", {"albedo": scores[::8, ::8]})
    (folder / "heatmap.tif").write_bytes(b"II*\0")
    (folder / "part.json").write_text(json.dumps(record))


def make_run(run: Path) -> Path:
    rows = []
    for part, verdict, score in PARTS:
        row = dict.fromkeys(COLUMNS, "") | {"part": part, "verdict": verdict, "seconds": "5.04"}
        if score is None:
            row |= {"error": "b014_normal.tif: truncated TIFF; copy it again"}
        else:
            make_part(part_folder(run, part), part, verdict, score)
            row |= {"score": str(score), "map": "albedo", "region_count": "1", "defect_area_px": "1234"}
            row |= {"reasons": "1 region above the limit" if verdict == "fail" else ""}
        rows.append(row)
    with (run / "parts.csv").open("w", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    record = {
        "format": 1,
        "tool": "inspect 0.1.0",
        "material": f"riblet {HOSTILE}",
        "method": "cae",
        "model_sha256": "0123456789abcdef" * 4,
        "calibration": CALIBRATION,
        "input": "/data/batch",
        "pixel_pitch_um": PITCH_UM,
        "stride_px": 64,
        "tile_px": 128,
        "started_utc": "2025-11-22T03:10:59Z",
        "seconds": 123.4,
        "counts": {"pass": 2, "fail": 2, "undecided": 1, "error": 1},
        "exit_code": 3,
    }
    (run / "run.json").write_text(json.dumps(record))
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without_pictures(page: str) -> str:
    return re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", "data:", page)


def table_order(page: str) -> list[str]:
    cells = re.findall(r'<td class="name">(.*?)</td>', page, re.DOTALL)
    return [unescape(re.sub(r"</?a[^>]*>", "", cell)).strip() for cell in cells]


def section(page: str, part: str) -> str:
    found = re.findall(r'<article class="card part".*?</article>', page, re.DOTALL)
    return next(text for text in found if f"<h3>{part}</h3>" in text)


def test_errors_come_first_then_what_failed_then_what_is_undecided_then_the_highest_scores(page):
    assert table_order(page) == ORDER
    sections = [unescape(name) for name in re.findall(r"<h3>(.*?)</h3>", page)]
    assert sections == ORDER[1:]  # an input that could not be read has no pictures


def test_page_stands_alone(page):
    text = without_pictures(page)
    assert "http://" not in text
    assert "https://" not in text
    assert "default-src 'none'" in text
    for address in re.findall(r'(?:src|href)="([^"]*)"', text):
        assert address.startswith(("data:", "#part", "parts/"))
    assert "@import" not in text
    assert "url(" not in text
    assert re.search(r"\bNaN\b|\bnan\b|None|undefined", text) is None


def test_hostile_names_are_text_not_markup(page):
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;window.stolen=1&lt;/script&gt;") >= 4  # title, heading, table, section
    assert page.count("<script>") == 2


def test_head_says_what_ran_and_whether_to_trust_it(page):
    for verdict, count in {"fail": 2, "undecided": 1, "error": 1, "pass": 2}.items():
        assert re.search(rf"<b>{count}</b><strong>{verdict}</strong>", page)
    assert "The limits are provisional." in page
    assert "max of 24 held-out patches x 1.25" in page
    assert "<dt>Limits</dt><dd>albedo 0.0012, normal 0.0007</dd" in page
    assert "exit code 3: an input could not be used; of a batch the rest is complete" in page
    assert "<b>good/b014</b>: b014_normal.tif: truncated TIFF; copy it again" in page
    assert "2025-11-22 03:10 UTC, 2 min 3 s" in page


def test_calibrated_finished_run_has_no_warning(copied):
    calibration = CALIBRATION | {"provisional": False, "false_alarm_rate": 0.25}
    rewrite(copied / "run.json", calibration=calibration, exit_code=0)
    (copied / "parts.csv").write_text(",".join(COLUMNS) + "\ngood/b010,pass,0.61\n")
    text = write_report(copied).read_text()
    assert 'class="notice' not in text
    assert "at most 25 % of good parts" in text


def test_run_without_calibration_or_exit_code_is_not_trusted(copied):
    rewrite(copied / "run.json", calibration=None, exit_code=None)
    text = write_report(copied).read_text()
    assert "The limits are provisional." in text
    assert "did not record how it ended" in text


def test_warnings_of_the_model_stand_at_the_top(copied):
    rewrite(copied / "run.json", exit_code=0, warnings=["albedo: explains 4 % of the variance"])
    head = write_report(copied).read_text().partition('id="parts"')[0]
    assert "Look here before you rely on this run." in head
    assert "albedo: explains 4 % of the variance" in head


def test_warnings_of_the_batch_stand_at_the_top(copied):
    rewrite(
        copied / "run.json", exit_code=0, warnings=[], batch_warnings=["2 image(s) of no part get no verdict: Q1"]
    )
    head = write_report(copied).read_text().partition('id="parts"')[0]
    assert "Look here before you rely on this run." in head
    assert "2 image(s) of no part get no verdict: Q1" in head


def test_part_whose_name_is_guarded_against_spreadsheets_is_found(copied):
    record = copied / "parts/=SUM(A1)"
    shutil.move(copied / "parts/dent/b007", record)
    (copied / "parts.csv").write_text(",".join(COLUMNS) + "\n'=SUM(A1),fail,1.52\n'b,pass,0.5\n")
    text = write_report(copied).read_text()
    assert table_order(text) == ["=SUM(A1)", "'b"]
    assert section(text, "=SUM(A1)").count("<img ") == 5


def test_count_of_regions_is_that_of_the_record(copied):
    record = copied / "parts/dent/b007/part.json"
    rewrite(record, region_count=4321, regions=json.loads(record.read_text())["regions"] * 30)
    assert "the 25 highest of 4,321, more" in section(write_report(copied).read_text(), "dent/b007")


def test_part_shows_numbers_of_its_record_in_mm(page):
    text = section(page, "scratch/b000")
    shown_px = ("3.22", "x 280, y 160 px", "0.00386", ">0.0012<")
    for shown in (*shown_px, "1.300", "0.700", "0.240", "0.200", "0.031", "x, mm"):
        assert shown in text
    assert re.search(r"read 0\.25 s.*network 4\.50 s.*stitch 0\.12 s", text, re.DOTALL)
    assert "Time: 5.00 s" in text
    assert 'href="parts/scratch/b000/heatmap.tif"' in text
    assert text.count("<img ") == 5


def test_without_a_pitch_everything_is_in_pixels(copied):
    rewrite(copied / "run.json", pixel_pitch_um=None)
    record = copied / "parts/dent/b007/part.json"
    (region,) = json.loads(record.read_text())["regions"]
    rewrite(record, regions=[{key: None if "mm" in key else value for key, value in region.items()}])
    page = write_report(copied).read_text()
    assert "Defect area, px" in page
    text = section(page, "dent/b007")
    assert "x, px" in text
    assert "1,234" in text
    assert "mm" not in without_pictures(text)


def test_pictures_in_the_page_are_those_of_the_part(run, page):
    addresses = re.findall(r'<img src="([^"]+)"', section(page, "scratch/b000"))
    overlay, heatmap, mask, image, _ = map(decoded, addresses)
    full = read_rgb(run / "parts/scratch/b000/mask.png")
    assert mask.shape == full.shape
    np.testing.assert_array_equal(mask, full)
    assert abs(heatmap[3, 3].astype(int) - NO_SCORE_RGB).max() <= 4
    assert np.abs(image.astype(int) - read_rgb(run / "parts/scratch/b000/image.png")).mean() < 4
    assert (np.abs(overlay.astype(int) - previews.CONTOUR_RGB).max(axis=2) < 60).any()


def test_links_lead_from_a_page_elsewhere_and_survive_odd_names(copied, tmp_path):
    shutil.move(copied / "parts/dent/b007", copied / "parts" / "a b#1" / "%41")
    (copied / "parts.csv").write_text(",".join(COLUMNS) + "\na b#1/%41,fail,1.52\n")
    text = write_report(copied, tmp_path / "elsewhere" / "page.html").read_text()
    assert 'href="../copy/parts/a%20b%231/%2541/mask.png"' in text


def test_files_of_a_part_below_another_are_its_own(copied):
    inner = copied / "parts" / "good" / "b010" / "x"
    shutil.copytree(copied / "parts/dent/b007", inner / "deeper")
    (inner / "notes.txt").write_text("seen by hand")
    part = section(write_report(copied).read_text(), "good/b010")
    assert "x/notes.txt" in part
    assert "x/deeper" not in part


def test_names_that_are_no_text_are_refused(run, tmp_path):
    odd = tmp_path / os.fsdecode(b"bl\xf6ck")
    shutil.copytree(run, odd)
    for place, page in ((odd, None), (run, odd / "page.html")):
        with pytest.raises(UsageError, match=r"bl\\xf6ck.*no valid UTF-8; rename it"):
            write_report(place, page)


def test_only_the_worst_parts_have_pictures_and_the_page_says_so(run, tmp_path):
    text = write_report(run, tmp_path / "a.html", top=2).read_text()
    assert re.findall(r"<h3>(.*?)</h3>", text) == ["scratch/b000", "dent/b007"]
    assert "Pictures follow for the 2 worst parts; 3 more are in the table only." in text
    assert table_order(text) == ORDER
    text = write_report(run, tmp_path / "b.html", top=0).read_text()
    assert "This page shows no pictures." in text
    assert "<img" not in text


def test_evaluation_is_shown_as_it_stands(copied):
    metrics = {"pixel_auroc": 0.9234, "au_pro": None, "recall": 0.5}
    groups = {
        "by_map": {"albedo": {"pixel_auroc": 0.8111}},
        "by_kind": {"scratch": {"recall": 0.7777}},
        "parts": 6,
    }
    (copied / "evaluation.json").write_text(json.dumps(metrics | groups))
    text = write_report(copied).read_text()
    for shown in ("pixel AUROC", "0.923", "0.811", "0.778", "6 parts", "AU-PRO"):
        assert shown in text
    (copied / "evaluation.json").write_text("{")
    assert "evaluation.json cannot be read." in write_report(copied).read_text()


def test_pictures_that_were_left_out_on_purpose_are_not_called_missing(copied):
    folder = copied / "parts/scratch/b000"
    rewrite(folder / "part.json", outputs=[])
    for name in ("overlay", "heatmap", "image", "histogram"):
        (folder / f"{name}.png").unlink()
    text = section(write_report(copied).read_text(), "scratch/b000")
    assert "No pictures were written" in text
    assert "missing" not in text
    assert "<button" not in text


def test_captions_name_the_map_that_is_shown(page):
    text = section(page, "dent/b007")
    assert "Overlay: map albedo, outline at the limit, halos included" in text
    assert "Image: map albedo, what was inspected" in text


def test_missing_and_broken_pictures_are_said_not_crashed_on(copied):
    folder = copied / "parts/scratch/b000"
    (folder / "overlay.png").unlink()
    (folder / "mask.png").write_bytes((folder / "mask.png").read_bytes()[:60])
    (folder / "heatmap.png").write_bytes(b"")
    (folder / "histogram.png").write_text("no picture")
    text = section(write_report(copied).read_text(), "scratch/b000")
    for name in ("overlay", "mask", "heatmap", "histogram"):
        assert f"{name}.png is missing or cannot be read." in text
    assert text.count("<img ") == 1


@pytest.mark.parametrize(
    "content", ["{", "[1]", '{"part": 3, "maps": [], "regions": [7], "timing_s": {"read": "x"}}']
)
def test_odd_part_records_leave_gaps(copied, content):
    (copied / "parts/dent/b007/part.json").write_text(content)
    assert "<h3>dent/b007</h3>" in write_report(copied).read_text()


def test_part_ids_never_lead_out_of_the_run_folder(copied):
    outside = copied.parent / "outside"
    shutil.copytree(copied / "parts/dent/b007", outside)
    line = "../../outside,fail,2.0,albedo" + "," * 7
    (copied / "parts.csv").write_text(",".join(COLUMNS) + f"\n{line}\n")
    text = write_report(copied).read_text()
    assert "part.json is missing" in text
    assert "<img" not in text


def test_empty_run_is_a_page(copied):
    (copied / "parts.csv").write_text(",".join(COLUMNS) + "\n")
    assert "No part in this run." in write_report(copied).read_text()


def test_what_is_no_run_folder_is_refused(tmp_path, copied):
    with pytest.raises(NoInputError, match=r"run\.json.*inspect score"):
        write_report(tmp_path)
    (copied / "parts.csv").unlink()
    with pytest.raises(InputError, match=r"parts\.csv"):
        write_report(copied)
    (copied / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json: damaged"):
        write_report(copied)


def test_page_that_cannot_be_written_is_an_output_error(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_report(run, tmp_path / "file" / "page.html")


def test_same_run_gives_the_same_page(run, page, tmp_path):
    assert write_report(run).read_text(encoding="utf-8") == page


# ---------------------------------------------------------------- the command


def test_command_prints_the_path_or_json(copied):
    app = typer.Typer()
    app.command()(report)
    plain = CliRunner().invoke(app, [str(copied), "--top", "1"])
    assert (plain.exit_code, plain.stdout) == (0, f"{copied / 'report.html'}\n")
    out = copied / "monday.html"
    answer = json.loads(CliRunner().invoke(app, [str(copied), "--out", str(out), "--json"]).stdout)
    assert answer == {"report": str(out), "run": str(copied), "bytes": out.stat().st_size}


def test_command_help_imports_no_heavy_library():
    code = "import sys, inspect_cli.commands.report; print({'numpy', 'cv2', 'jinja2'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---------------------------------------------------------------- in a browser

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--hide-scrollbars", "--window-size=1280,2700"),
]


def browse(page: Path, profile: Path, *options: str) -> str:
    command = [str(BROWSER), *QUIET, f"--user-data-dir={profile}", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    return done.stdout


@needs_browser
def test_script_sorts_filters_and_switches_pictures(page, tmp_path):
    clicks = """<script>
      const names = () => [...document.querySelectorAll("#table tbody tr")].filter(r => !r.hidden)
        .map(r => r.cells[1].textContent.trim());
      const seen = { start: names(), marks: document.querySelectorAll("th[aria-sort=ascending]").length };
      const head = index => document.querySelectorAll("#table th button")[index];
      head(3).click(); seen.score = names();
      head(3).click(); seen.scoreUp = names();
      head(1).click(); seen.part = names();
      head(0).click(); seen.back = names();
      document.querySelector("button[data-verdict=pass]").click(); seen.noPass = names();
      const find = document.getElementById("find");
      find.value = "TRUNCATED"; find.oninput(); seen.found = names();
      seen.text = document.getElementById("visible").textContent;
      const part = document.querySelector(".part");
      const shown = () => [...part.querySelectorAll(".pictures figure")]
        .filter(f => getComputedStyle(f).display !== "none").map(f => f.dataset.picture);
      seen.first = shown(); part.querySelector("button[data-show=Mask]").click(); seen.second = shown();
      seen.stolen = window.stolen === 1;
      document.body.dataset.seen = JSON.stringify(seen);
    </script></body>"""
    (tmp_path / "page.html").write_text(page.replace("</body>", clicks), encoding="utf-8")
    dom = browse(tmp_path / "page.html", tmp_path / "profile", "--dump-dom")
    assert '<html lang="en" data-script="ready">' in dom
    seen = json.loads(unescape(re.search(r'data-seen="([^"]*)"', dom).group(1)))
    by_score = ["scratch/b000", "dent/b007", HOSTILE, "good/b010", "good/b013", "good/b014"]
    assert (seen["start"], seen["marks"], seen["stolen"]) == (ORDER, 1, False)
    assert seen["score"] == by_score
    assert seen["scoreUp"] == [*by_score[4::-1], "good/b014"]  # what has no score stays at the end
    assert sorted(seen["part"]) == sorted(ORDER)
    assert seen["part"].index("dent/b007") < seen["part"].index("good/b010") < seen["part"].index("scratch/b000")
    assert seen["back"] == ORDER
    assert seen["noPass"] == ORDER[:4]
    assert (seen["found"], seen["text"]) == (["good/b014"], "1 of 6 parts shown")
    assert (seen["first"], seen["second"]) == (["Overlay"], ["Mask"])


@needs_browser
def test_page_is_drawn_with_its_pictures(run, page, tmp_path):
    browse(run / "report.html", tmp_path / "profile", f"--screenshot={tmp_path / 'shot.png'}")
    shot = read_rgb(tmp_path / "shot.png")
    assert shot.shape[1] == 1280
    assert (shot == (0xB3, 0x26, 0x1E)).all(axis=2).sum() > 500  # the big number of failed parts
    assert len({*map(bytes, shot[::7, ::7].reshape(-1, 3))}) > 100
    assert (np.abs(shot.astype(int) - previews.CONTOUR_RGB).max(axis=2) < 60).any()
