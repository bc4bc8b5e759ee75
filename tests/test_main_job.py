"""The whole job on a small batch: train, score, threshold, evaluate, report, and again."""

import csv
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from helpers import COARSE, TRAINED

from inspect_cli.cli import run
from inspect_cli.errors import EXIT_DOUBT, InputError, ModelError
from inspect_cli.export import tiles
from inspect_cli.training import auto

PART_FILES = {
    "part.json", "heatmap.tif", "heatmap.png", "overlay.png", "mask.png", "histogram.png", "image.png",
    "patches.parquet", "maps/albedo.tif", "maps/normal.tif", "maps/albedo.png", "maps/normal.png",
}  # fmt: skip
RUN_FILES = {
    "run.json", "parts.csv", "regions.csv", "regions.geojson", "patches.parquet", "patches.csv.gz", ".lock",
}  # fmt: skip


def score(batch: Path, models: Path, *more: str) -> int:
    return run(["score", str(batch / "test"), "--material", "foil", "--models", str(models), *more])


def threshold(models: Path, *more: str) -> int:
    return run(["threshold", "-m", "foil", "--models", str(models), *more])


def _files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def _records(run_folder: Path) -> dict[str, dict]:
    return {r["part"]: r for r in (json.loads(p.read_text()) for p in run_folder.rglob("part.json"))}


def test_training_writes_the_bundle(shared_models):
    folder = shared_models / "foil" / "cae"
    names = _files(folder)
    assert {"manifest.json", "model_card.md", "loss_albedo.png", "reconstructions_normal.png"} <= names
    assert sum(name.endswith(".safetensors") for name in names) == 2
    assert not any("checkpoint" in name for name in names)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {f["use"] for f in manifest["training_set"]} == {"train", "validation"}
    assert manifest["calibration"]["provisional"] is True
    card = (folder / "model_card.md").read_text()
    assert manifest["training_set"][0]["sha256"][:16] in card


def test_run_folder_has_every_file(results):
    parts = ["dent/b000", "good/g003", "scratch/b002", "stain/b001"]
    expected = RUN_FILES | {f"parts/{part}/{name}" for part in parts for name in PART_FILES}
    assert _files(results) == expected
    assert sorted(_records(results)) == parts


def test_maps_scores_mask_and_record_agree(results):
    for part, record in _records(results).items():
        folder = results / "parts" / part
        heatmap = tifffile.imread(folder / "heatmap.tif")
        assert heatmap.shape == (150, 200)
        assert heatmap.dtype == np.float32
        raw = {n: tifffile.imread(folder / "maps" / f"{n}.tif") for n in ("albedo", "normal")}
        fused = np.maximum(*(raw[n] / np.float32(record["maps"][n]["limit"]) for n in raw))
        np.testing.assert_allclose(heatmap, fused, rtol=2**-11)
        assert heatmap.max() == pytest.approx(record["score"], rel=2**-11)
        mask = cv2.imread(str(folder / "mask.png"), cv2.IMREAD_UNCHANGED)
        assert not mask[heatmap <= 1].any()
        halo = 0.3 * cv2.dilate(heatmap, np.ones((65, 65), np.uint8))  # the recipe's halo_share and halo_px
        assert (heatmap[mask > 0] >= halo[mask > 0] * (1 - 2**-10)).all()
        assert (heatmap < halo * (1 + 2**-10))[(mask == 0) & (heatmap > 1)].all()
        assert record["roi_px"] == 150 * 200
        assert record["verdict"] == ("fail" if record["regions"] else "pass")
        peak = record["peak"]
        assert heatmap[peak["y_px"], peak["x_px"]] == heatmap.max()
        for name in raw:
            assert raw[name].max() == np.float32(record["maps"][name]["raw_max"])


def test_tables_hold_every_part_patch_and_region(results):
    records = _records(results)
    rows = _rows(results / "parts.csv")
    assert [r["part"] for r in rows] == sorted(records)
    patches = pq.read_table(results / "patches.parquet")
    tiles = 9 * 12  # ceil((150 - 32) / 16) + 1 rows, ceil((200 - 32) / 16) + 1 columns
    assert patches.num_rows == 4 * 2 * tiles
    with gzip.open(results / "patches.csv.gz", "rt") as file:
        assert sum(1 for _ in csv.DictReader(file)) == patches.num_rows
    regions = _rows(results / "regions.csv")
    assert len(regions) == sum(r["region_count"] for r in records.values())
    features = json.loads((results / "regions.geojson").read_text())["features"]
    assert len(features) == len(regions)
    for row, feature in zip(regions, features, strict=True):
        ring = np.array(feature["geometry"]["coordinates"][0])
        assert (ring[0] == ring[-1]).all()
        assert ring[:, 0].min() >= int(row["x_px"])
        assert ring[:, 1].max() <= int(row["y_px"]) + int(row["height_px"])
        assert float(row["width_mm"]) == pytest.approx(int(row["width_px"]) * 0.005)


def test_patch_scores_are_the_mean_residual_over_the_limit(results, models):
    manifest = json.loads((models / "foil" / "cae" / "manifest.json").read_text())
    limit = manifest["calibration"]["limits"]["albedo"]["patch"]
    table = pq.read_table(results / "parts/good/g003/patches.parquet").to_pylist()
    albedo = [row for row in table if row["map"] == "albedo"]
    assert all(row["score"] == pytest.approx(row["residual_mean"] / limit, rel=1e-5) for row in albedo)
    assert {(row["x_px"], row["y_px"]) for row in albedo} >= {(0, 0), (168, 118)}


def _stamps(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in _files(folder) if name.startswith("parts/")}


def test_second_run_does_nothing_and_touching_a_file_changes_no_result(results, batch, models):
    assert score(batch, models) == 0  # notes how the copied files look
    before = _stamps(results)
    assert score(batch, models) == 0
    assert _stamps(results) == before
    os.utime(batch / "test/good/g003_albedo.tif", (1, 1))
    assert score(batch, models) == 0
    assert {name for name, stamp in _stamps(results).items() if before[name] != stamp} == {
        "parts/good/g003/part.json"
    }


def test_only_the_changed_part_is_scored_again(results, batch, models):
    assert score(batch, models) == 0  # notes how the copied files look
    before = _stamps(results)
    path = batch / "test/good/g003_albedo.tif"
    pixels = tifffile.imread(path)
    pixels[5, 5] += 16
    path.unlink()
    tifffile.imwrite(path, pixels)
    assert score(batch, models) == 0
    changed = {name for name, stamp in _stamps(results).items() if before[name] != stamp}
    assert changed
    assert all(name.startswith("parts/good/g003/") for name in changed)


def test_force_scores_again_and_gives_the_same_maps(results, batch, models):
    before = (results / "parts/dent/b000/heatmap.tif").read_bytes()
    stamps = _stamps(results)
    assert score(batch, models, "--force") == 0
    assert not set(stamps.values()) & set(_stamps(results).values())
    assert (results / "parts/dent/b000/heatmap.tif").read_bytes() == before


def test_new_limits_are_applied_to_stored_maps_without_the_network(results, batch, models, monkeypatch):
    from inspect_cli.engines import TorchEngine

    def no_network(*_args):
        raise AssertionError("the network ran")

    monkeypatch.setattr(TorchEngine, "score", no_network)
    raw_before = (results / "parts/dent/b000/maps/albedo.tif").stat().st_mtime_ns
    arguments = ["threshold", "--material", "foil", "--models", str(models), "--value", "albedo=1e-9"]
    (results / "evaluation.json").write_text("{}")
    assert run([*arguments, "--apply", str(results)]) == 0
    assert not (results / "evaluation.json").exists(), "it measured other limits"
    records = _records(results)
    assert {r["verdict"] for r in records.values()} == {"fail"}
    assert {r["maps"]["albedo"]["limit"] for r in records.values()} == {1e-9}
    heatmap = tifffile.imread(results / "parts/dent/b000/heatmap.tif")
    assert heatmap.max() == pytest.approx(records["dent/b000"]["score"], rel=2**-11)
    assert (results / "parts/dent/b000/maps/albedo.tif").stat().st_mtime_ns == raw_before
    assert json.loads((results / "run.json").read_text())["calibration"]["rule"] == "manual"
    assert score(batch, models) == 0, "a second score sees that nothing has changed"


def test_score_applies_limits_that_changed_since(results, batch, models, monkeypatch):
    from inspect_cli.engines import TorchEngine

    assert run(["threshold", "--material", "foil", "--models", str(models), "--value", "albedo=1000"]) == 0
    assert run(["threshold", "--material", "foil", "--models", str(models), "--value", "normal=1000"]) == 0
    monkeypatch.setattr(TorchEngine, "score", lambda *_a: pytest.fail("the network ran"))
    assert score(batch, models) == 0
    assert {r["verdict"] for r in _records(results).values()} == {"pass"}


def test_limits_from_good_parts(batch, models, capsys):
    arguments = ["threshold", "--material", "foil", "--models", str(models), "--good", str(batch / "train")]
    assert run([*arguments, "--rule", "max", "--margin", "1.0", "--json"]) == 0
    captured = capsys.readouterr()
    calibration = json.loads(captured.out)
    records = _records(batch / "train" / "inspection" / "foil")
    for name, limit in calibration["limits"].items():
        assert limit["pixel"] == pytest.approx(max(r["maps"][name]["raw_max"] for r in records.values()))
    assert calibration["provisional"] is False
    assert calibration["false_alarm_rate"] is None, "parts that were trained on promise nothing"
    assert "were trained on" in captured.err
    assert (models / "foil" / "cae" / "threshold.png").is_file()
    assert run([*arguments, "--rule", "quantile", "--quantile", "0.9"]) == 1, "three parts cannot promise that"
    assert "at least 19 good parts, 3 given" in capsys.readouterr().err


def test_a_model_that_learnt_nothing_passes_no_part(batch, models, capsys):
    common = ["--material", "foil", "--models", str(models)]
    shutil.rmtree(models / "foil" / "cae")
    train = ["train", *common, "--data", str(batch / "train"), "--maps", "albedo", "--budget", "1steps"]
    assert run(train) == EXIT_DOUBT
    assert score(batch, models, *COARSE) == 0
    records = _records(batch / "test" / "inspection" / "foil").values()
    assert {r["verdict"] for r in records} <= {"undecided", "fail"}
    assert all("hardly tells defects" in r["reasons"][0] for r in records)
    assert "hardly tells defects" in (models / "foil" / "cae" / "model_card.md").read_text()
    told = json.loads((batch / "test" / "inspection" / "foil" / "run.json").read_text())["warnings"]
    assert any("hardly tells defects" in warning for warning in told)
    assert score(batch, models, "--outputs", "pictures", "--stride", "32") == 0
    folder = batch / "test/inspection/foil/parts/good/g003"
    heights = [cv2.imread(str(folder / f"{name}.png")).shape[0] for name in ("image", "overlay")]
    assert heights[0] < heights[1], "the picture of the scores says that they are not to be trusted"
    capsys.readouterr()


def test_limits_from_labelled_parts_reach_the_best_iou(batch, models, capsys):
    common = ["--material", "foil", "--models", str(models)]
    truth = ["--truth", str(batch / "ground_truth")]
    assert run(["threshold", *common, "--labelled", str(batch / "test"), *truth, "--rule", "iou", "--json"]) == 0
    origin = json.loads(capsys.readouterr().out)["origin"]
    assert score(batch, models, "--outputs", "heatmap") == 0
    capsys.readouterr()
    assert run(["evaluate", str(batch / "test"), *truth, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    best = float(re.search(r"best IOU ([\d.]+)", origin)[1])
    assert found["iou"] == pytest.approx(best, abs=2e-3), "written masks; a score has 11 bits"


def test_evaluation_keys_kinds_and_maps(results, batch, capsys):
    assert run(["evaluate", str(results), "--truth", str(batch / "ground_truth"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    keys = {"pixel_auroc", "pixel_ap", "au_pro", "image_auroc", "f1_max", "iou", "recall"}
    assert keys <= set(found)
    assert set(found["by_map"]) == {"albedo", "normal"}
    assert set(found["by_kind"]) == {"dent", "stain", "scratch"}
    kinds = found["by_kind_and_map"]
    assert kinds["dent"]["normal"]["pixel_auroc"] > 0.8 > kinds["dent"]["albedo"]["pixel_auroc"]
    assert kinds["stain"]["albedo"]["pixel_auroc"] > 0.8 > kinds["stain"]["normal"]["pixel_auroc"]


def test_report_of_a_real_run(results):
    assert run(["report", str(results)]) == 0
    page = (results / "report.html").read_text()
    assert "stain/b001" in page
    assert "provisional" in page


def test_json_lines_one_a_part(batch, models, capsys):
    assert score(batch, models, "--json", *COARSE) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["part"] for line in lines] == ["dent/b000", "good/g003", "scratch/b002", "stain/b001"]
    assert all(set(line["maps"]) == {"albedo", "normal"} for line in lines)


def test_fail_on_defect(batch, models):
    assert run(["threshold", "--material", "foil", "--models", str(models), "--value", "albedo=1e-9"]) == 0
    assert score(batch, models, "--fail-on-defect", *COARSE) == 8
    assert score(batch, models, *COARSE) == 0


def test_images_of_formats_that_are_not_read_are_told(batch, models, capsys):
    """On the terminal, in the log and the metrics, in the record of the run, also for and after new limits."""
    (batch / "test" / "good" / "g009_albedo.webp").write_bytes(b"RIFF")
    log, metrics = batch / "log", batch / "inspect.prom"
    assert score(batch, models, *COARSE, "--log-file", str(log), "--metrics-file", str(metrics)) == 0
    text = "1 image(s) of formats that are not read get no verdict: g009_albedo.webp"
    assert text in capsys.readouterr().err
    assert text in log.read_text()
    assert re.search(r"^inspect_last_run_warnings\{.*\} 1\.0$", metrics.read_text(), re.MULTILINE)
    results = batch / "test/inspection/foil"
    assert json.loads((results / "run.json").read_text())["batch_warnings"] == [text]
    capsys.readouterr()
    assert threshold(models, "--good", str(batch / "test"), "--rule", "max", "--stride", "32") == 0
    assert text in capsys.readouterr().err
    assert json.loads((results / "run.json").read_text())["batch_warnings"] == [text]
    assert score(batch, models, "--outputs", "maps", "--stride", "32") == 0
    assert threshold(models, "--value", "albedo=1", "--stride", "32", "--apply", str(results)) == 0
    assert json.loads((results / "run.json").read_text())["batch_warnings"] == [text]


def test_a_folder_may_be_named_like_an_address(batch, models, monkeypatch):
    monkeypatch.chdir(batch)
    assert score(batch, models, *COARSE, "--out", "charge:1") == 0
    assert (batch / "charge:1" / "patches.parquet").stat().st_size > 0
    words = ["tile", str(batch / "test"), "-m", "foil", "--models", str(models), "--size", "32"]
    assert run([*words, "--random", "2", "--out", "cut:1"]) == 0
    assert (batch / "cut:1" / "index.parquet").stat().st_size > 0


def test_stride_and_batch_are_taken(batch, models):
    out = batch / "other"
    assert score(batch, models, "--stride", "32", "--batch", "3", "--outputs", "none", "--out", str(out)) == 0
    table = pq.read_table(out / "parts/good/g003/patches.parquet")
    assert table.num_rows == 2 * 5 * 7
    assert json.loads((out / "run.json").read_text())["stride_px"] == 32


def test_dark_image_is_undecided_not_passed(batch, models):
    path = batch / "test/good/g003_albedo.tif"
    shape = tifffile.imread(path).shape
    path.unlink()
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 50, shape).astype(np.uint16))
    assert score(batch, models, *COARSE) == 0
    record = _records(batch / "test/inspection/foil")["good/g003"]
    assert record["verdict"] == "undecided"
    assert "map albedo: mean brightness" in record["reasons"][0]


@pytest.mark.parametrize(("planes", "channel"), [((2, 1, 0), "channel 1: mean"), ((1, 0, 2), "channel 1: contrast")])
def test_normals_with_channels_exchanged_are_undecided_not_passed(batch, models, planes, channel):
    path = next((batch / "test" / "good").glob("*_normal.tif"))
    pixels = np.ascontiguousarray(tifffile.imread(path)[..., planes])
    path.unlink()
    tifffile.imwrite(path, pixels, photometric="rgb")
    score(batch, models, *COARSE)
    record = _records(batch / "test" / "inspection" / "foil")[f"good/{path.name.removesuffix('_normal.tif')}"]
    assert record["verdict"] == "undecided"
    assert record["reasons"][0].startswith(f"map normal: {channel}")


def test_network_that_gives_nan_is_undecided_not_passed(batch, models, monkeypatch):
    from inspect_cli.engines import TorchEngine

    honest = TorchEngine.score

    def broken(self, tiles):
        scores = honest(self, tiles)
        scores[0, 3, 3] = np.nan
        return scores

    monkeypatch.setattr(TorchEngine, "score", broken)
    assert score(batch, models, *COARSE) == 0
    for record in _records(batch / "test/inspection/foil").values():
        assert record["verdict"] in ("undecided", "fail")
        assert record["uncovered_px"] > 0
        assert any("no finite score" in reason for reason in record["reasons"])


def test_roi_holds_in_training_scores_patches_and_tables(batch, models):
    """Saturated strips beside the material: outside in every step, found by the rule."""
    recipe = models / "foil" / "recipe.yaml"
    text = recipe.read_text().replace('  normal: {files: "{part}_normal.tif", channels: 3}\n', "")
    recipe.write_text(text + "roi: {rule: saturated, margin_px: 2}\n")
    for path in sorted(batch.rglob("*_albedo.tif")):
        pixels = tifffile.imread(path)
        pixels[:, 160:] = 65535
        path.unlink()
        tifffile.imwrite(path, pixels)
    common = ["--material", "foil", "--models", str(models)]
    assert run(["train", *common, "--data", str(batch / "train"), "--budget", "20steps"]) in TRAINED
    manifest = json.loads((models / "foil/cae/manifest.json").read_text())
    assert manifest["maps"]["albedo"]["fill"][0] < 0.8, "the white strip took part in the training"
    assert score(batch, models, "--outputs", "heatmap,maps") == 0
    folder = batch / "test/inspection/foil/parts/good/g003"
    heatmap = tifffile.imread(folder / "heatmap.tif")
    assert np.isnan(heatmap[:, 158:]).all()
    assert np.isfinite(heatmap[:, :158]).all()
    record = json.loads((folder / "part.json").read_text())
    assert record["roi_px"] == 150 * 158
    assert record["uncovered_px"] == 0
    table = pq.read_table(folder / "patches.parquet").to_pylist()
    assert max(row["x_px"] for row in table) < 158
    assert run(["threshold", *common, "--value", "albedo=1e-9", "--apply", str(batch / "test")]) == 0
    again = json.loads((folder / "part.json").read_text())
    assert (again["roi_px"], again["uncovered_px"], again["verdict"]) == (150 * 158, 0, "fail")
    assert not any("the ROI covers" in reason for reason in again["reasons"])
    recipe.write_text(text)
    assert score(batch, models, *COARSE) == 0
    for record in _records(batch / "test/inspection/foil").values():
        assert record["verdict"] != "pass"
        assert any("the ROI covers 100.0% of the image, in training 7" in reason for reason in record["reasons"])


@pytest.mark.parametrize(
    ("name", "method"), [("cloth", "auto"), ("steel", "cae")]
)  # another steel's recipe is shipped
def test_new_material_gets_a_recipe_from_plain_png_files(tmp_path, capsys, monkeypatch, name, method):
    """In a store that is not there yet; the choice is between two methods that are soon trained."""
    monkeypatch.setattr(auto, "CANDIDATES", {key: auto.CANDIDATES[key] for key in ("cae", "direct")})
    rng = np.random.default_rng(0)
    rows = np.sin(np.arange(96) * 0.5)[:, None]
    for number in range(3):
        picture = np.clip(128 + 60 * rows + rng.normal(0, 4, (96, 128)), 0, 255).astype(np.uint8)
        path = tmp_path / "set" / "train" / "good" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture)
    store = tmp_path / "models"
    arguments = ["train", "--material", name, "--data", str(tmp_path / "set"), "--models", str(store)]
    assert run([*arguments, "--method", method, "--budget", "4steps"]) in TRAINED
    captured = capsys.readouterr()
    assert "image ({part}.*, 1 channels)" in captured.err
    assert ("steel/recipe.yaml does not fit" in captured.err) == (name == "steel")
    assert run(["recipe", "check", str(store / name / "recipe.yaml")]) == 0
    score = ["score", str(tmp_path / "set" / "train"), "--material", name, "--models", str(store)]
    assert run([*score, "--outputs", "none"]) == 0


@pytest.mark.parametrize("trained", [False, True])
def test_a_recipe_that_is_left_of_other_images_is_told(batch, models, capsys, trained):
    """Such as of the wrong folder in the first try: one map of photographs, and now the maps of a rig."""
    recipe = models / "left" / "recipe.yaml"
    recipe.parent.mkdir()
    recipe.write_text("material: left\nmaps: {image: {files: '{part}.*'}}\n")
    if trained:
        (recipe.parent / "cae").mkdir()
        (recipe.parent / "cae" / "manifest.json").write_text("{}")
    run(["train", "-m", "left", "--models", str(models), "--data", str(batch / "train"), "--preview-roi"])
    told = capsys.readouterr().err
    assert ("which was there before, takes {part}.*; a new one" in told) == (not trained)
    assert ("would take {part}_albedo.tif, {part}_normal.tif: delete it" in told) == (not trained)
    run(["train", "-m", "foil", "--models", str(models), "--data", str(batch / "train"), "--preview-roi"])
    assert "which was there before" not in capsys.readouterr().err


@pytest.mark.parametrize("resume", [False, True])
def test_a_training_that_begins_anew_forgets_the_checkpoints_of_others(batch, models, monkeypatch, resume):
    old = models / "foil" / "cae" / ".checkpoint" / "normal"
    old.mkdir(parents=True)

    def fail(*_arguments):
        raise ModelError("failed")

    monkeypatch.setattr("inspect_cli.training.train.train_map", fail)
    common = ["train", "--material", "foil", "--models", str(models), "--data", str(batch / "train")]
    assert run([*common, "--budget", "1steps", *(["--resume"] if resume else [])]) == ModelError.exit_code
    assert old.exists() == resume


def test_an_interrupted_training_is_taken_up(batch, models):
    """SIGINT while training: exit 130, a checkpoint, and --resume finishes the job."""
    import signal
    import time

    shutil.rmtree(models / "foil" / "cae")
    command = [sys.executable, "-m", "inspect_cli", "train", "--material", "foil", "--models", str(models)]
    command += ["--data", str(batch / "train"), "--maps", "albedo", "--budget", "100000steps"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("training"):
            break
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    state = json.loads((models / "foil/cae/.checkpoint/albedo/state.json").read_text())
    more = state["step"] + 5
    resumed = ["train", "--material", "foil", "--models", str(models), "--data", str(batch / "train")]
    assert run([*resumed, "--maps", "albedo", "--budget", f"{more}steps", "--resume"]) in TRAINED
    assert run([*resumed, "--maps", "albedo", "--budget", "5steps", "--resume"]) == 1, "there is no checkpoint now"
    manifest = json.loads((models / "foil/cae/manifest.json").read_text())
    assert manifest["maps"]["albedo"]["steps"] == more


def test_tile_of_one_map_leaves_the_files_of_the_others(tmp_path, models):
    recipe = models / "foil" / "recipe.yaml"
    recipe.write_text("material: foil\nmaps: {grey: {files: '{part}.png'}, height: {files: '{part}_height.png'}}\n")
    folder = tmp_path / "parts"
    folder.mkdir()
    for name in ("P1.png", "P1_height.png"):
        cv2.imwrite(str(folder / name), np.zeros((64, 64), np.uint8))
    arguments = ["tile", str(folder), "--out", str(tmp_path / "out"), "--size", "64", "--stride", "64"]
    assert run([*arguments, "--material", "foil", "--models", str(models), "--maps", "grey"]) == 0
    assert [row["part"] for row in _rows(tmp_path / "out" / "index.csv")] == ["P1"]


def test_random_places_are_found_in_a_narrow_roi(tmp_path):
    """A blind draw would find one in hundreds."""
    material = tmp_path / "models" / "strip"
    material.mkdir(parents=True)
    (material / "recipe.yaml").write_text(
        "material: strip\nmaps: {image: {files: '{part}.png'}}\n"
        "roi: {rule: file, file: '{part}_roi.png', margin_px: 0}\n"
    )
    roi = np.zeros((900, 1200), np.uint8)
    roi[300:334, 100:1100] = 255
    (tmp_path / "parts").mkdir()
    cv2.imwrite(str(tmp_path / "parts/a.png"), np.full_like(roi, 9))
    cv2.imwrite(str(tmp_path / "parts/a_roi.png"), roi)
    words = ["tile", str(tmp_path / "parts"), "-m", "strip", "--models", str(tmp_path / "models"), "--size", "32"]
    out = tmp_path / "cut"
    assert run([*words, "--random", "40", "--min-roi-share", "1", "--out", str(out)]) == 0
    rows = _rows(out / "index.csv")
    assert len(rows) == 40
    assert len({(row["x_px"], row["y_px"]) for row in rows}) == 40
    assert all(300 <= int(row["y_px"]) <= 302 and 100 <= int(row["x_px"]) <= 1068 for row in rows)


def test_tile_writes_patches_of_the_maps_own_type(batch, tmp_path, capsys):
    out = tmp_path / "patches"
    arguments = ["tile", str(batch / "test" / "good"), "--out", str(out), "--size", "64", "--stride", "64"]
    assert run([*arguments, "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert not out.exists()
    assert run([*arguments, "--preview"]) == 0
    rows = _rows(out / "index.csv")
    assert len(rows) == plan["tiles"] == 2 * 3 * 4
    assert pq.read_table(out / "index.parquet").num_rows == len(rows)
    written = 0
    for row in rows:
        tile = tifffile.imread(out / row["file"])
        source = tifffile.imread(batch / "test" / "good" / f"{row['part']}_{row['map']}.tif")
        y, x = int(row["y_px"]), int(row["x_px"])
        assert tile.dtype == source.dtype
        assert np.array_equal(tile, source[y : y + 64, x : x + 64])
        written += tile.nbytes
    assert written == plan["bytes"]
    assert (out / "g003_grid.png").is_file()
    assert run(arguments) == 1, "a folder with patches is not overwritten"
    assert run([*arguments[:-2], "--force", "--random", "5", "--seed", "2"]) == 0
    assert len(_rows(out / "index.csv")) == 2 * 5


def test_tile_counts_and_leaves_what_was_cut(batch, tmp_path, capsys):
    out, good = tmp_path / "patches", batch / "test" / "good"
    arguments = ["tile", str(batch / "test"), "--out", str(out), "--size", "64", "--stride", "64", "--json"]
    assert run(arguments) == 0
    whole = json.loads(capsys.readouterr().out)
    assert (whole["parts"], whole["tiles"]) == (4, 4 * 2 * 3 * 4)
    path = good / "g003_normal.tif"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])
    assert run([*arguments, "--force", "--stride", "50"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert (told["parts"], told["failed"]) == (3, 1)
    files = {row["file"] for row in _rows(out / "index.csv")}
    assert told["tiles"] == len(files)
    assert {p.relative_to(out).as_posix() for p in out.rglob("y*.tif")} == files
    assert run([*arguments, "--seed", "-1"]) == 1
    assert run(["tile", str(out), "--out", str(out), "--size", "16", "--force"]) == 1
    assert "holds the part" in capsys.readouterr().err
    assert {p.relative_to(out).as_posix() for p in out.rglob("y*.tif")} == files


def test_tile_with_force_clears_up_after_a_cut_that_was_interrupted(batch, tmp_path, monkeypatch):
    out = tmp_path / "patches"
    arguments = ["tile", str(batch / "test"), "--out", str(out), "--size", "64", "--stride", "64", "--preview"]
    assert run(arguments) == 0

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("inspect_cli.export.tiles.write_grid_picture", killed)
        assert run([*arguments, "--force", "--stride", "40"]) == 130
    assert len(list(out.rglob("y*.tif"))) > 0
    own = out / "my_grid.png"
    own.touch()
    (tmp_path / "other").mkdir()
    (out / "good/g003/linked").symlink_to(tmp_path / "other")
    (tmp_path / "other/y00000_x00000.tif").touch()
    other_parts = ["tile", str(batch / "test/dent"), *arguments[2:-1]]
    assert run([*other_parts, "--force"]) == 0
    assert own.is_file()
    assert (tmp_path / "other/y00000_x00000.tif").is_file()
    own.unlink()
    (out / "good/g003/linked").unlink()
    assert {p.relative_to(out).as_posix() for p in out.rglob("y*.tif")} == {
        row["file"] for row in _rows(out / "index.csv")
    }
    assert not list(out.rglob("*_grid.png"))
    assert not (out / ".cut.json").exists()


def test_shipped_model_scores_the_shipped_sample(tmp_path):
    """What a user does first after the install."""
    from inspect_cli.material.materials import shipped

    shutil.copytree(shipped("sample_data") / "riblet" / "test", tmp_path / "test")
    assert run(["score", str(tmp_path / "test"), "--material", "riblet", "--outputs", "none"]) == 0
    records = _records(tmp_path / "test" / "inspection" / "riblet")
    assert records["good/g003"]["verdict"] == "pass"
    assert sum(r["verdict"] == "fail" for r in records.values()) >= 4


def test_applying_limits_keeps_failed_parts_and_the_exit_code(batch, models):
    (batch / "test/dent/b000_albedo.tif").unlink()
    assert score(batch, models, "--outputs", "maps") == 3
    folder = batch / "test/inspection/foil"
    assert threshold(models, "--value", "albedo=1e-9", "--apply", str(folder)) == 0
    record = json.loads((folder / "run.json").read_text())
    counts = {"pass": 0, "fail": 3, "undecided": 0, "error": 1, "pending": 0}
    assert (record["exit_code"], record["counts"]) == (3, counts)
    assert {row["part"]: row["verdict"] for row in _rows(folder / "parts.csv")}["dent/b000"] == "error"


def test_limits_are_applied_to_all_parts_of_a_run_or_to_none(results, models):
    record = results / "parts/stain/b001/part.json"
    content = json.loads(record.read_text())
    content["key"]["scoring"] = "another model"
    record.write_text(json.dumps(content))
    before = _stamps(results)
    assert threshold(models, "--value", "albedo=1e-9", "--apply", str(results)) == 3
    assert _stamps(results) == before


def test_part_that_left_the_batch_leaves_the_results(results, batch, models, capsys):
    for path in (batch / "test/stain").iterdir():
        path.unlink()
    assert score(batch, models) == 0
    capsys.readouterr()
    assert run(["evaluate", str(results), "--truth", str(batch / "ground_truth"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["parts"], set(found["by_kind"])) == (3, {"dent", "scratch"})
    assert threshold(models, "--value", "albedo=1", "--apply", str(results)) == 0


def test_unreadable_part_is_counted_by_the_evaluation(batch, models, capsys):
    (batch / "test/dent/b000_albedo.tif").unlink()
    assert score(batch, models, "--outputs", "heatmap") == 3
    capsys.readouterr()
    assert run(["evaluate", str(batch / "test"), "--truth", str(batch / "ground_truth"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unfinished"] == 1


def test_good_part_with_a_dark_lamp_does_not_set_the_limit(batch, models, capsys):
    path = batch / "train/good/g000_albedo.tif"
    shape = tifffile.imread(path).shape
    path.unlink()
    tifffile.imwrite(path, np.zeros(shape, np.uint16))
    arguments = ["threshold", "-m", "foil", "--models", str(models), "--good", str(batch / "train"), "--json"]
    assert run(arguments) == 0
    captured = capsys.readouterr()
    assert "left out: good/g000: map albedo" in captured.err
    assert json.loads(captured.out)["parts"] == 2


def test_limits_from_a_folder_that_cannot_be_written(batch, models, tmp_path, capsys):
    arguments = ["threshold", "-m", "foil", "--models", str(models), "--good", str(batch / "train")]
    assert run([*arguments, "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "parts.csv").is_file()
    assert not (batch / "train" / "inspection").exists()
    assert run(["threshold", "-m", "foil", "--models", str(models), "--value", "albedo=1", "--out", "x"]) == 1
    assert "--out belongs to --good or --labelled" in capsys.readouterr().err


def _paint_square(path):
    """Paint a bright square into an image, in a new file: the old one may be linked."""
    pixels = tifffile.imread(path)
    pixels[40:60, 40:60] = 65535
    path.unlink()
    tifffile.imwrite(path, pixels)


def test_a_good_part_that_stands_out_is_named_and_nothing_is_promised(batch, models, capsys):
    """A bright square in one of the parts to set limits from."""
    _paint_square(batch / "train/good/g000_albedo.tif")
    arguments = ["threshold", "-m", "foil", "--models", str(models), "--good", str(batch / "train"), "--json"]
    assert run(arguments) == 0
    captured = capsys.readouterr()
    assert "map albedo: highest peak: good/g000" in captured.err
    assert "map albedo: the peak of good/g000 is" in captured.err
    assert "if it is defective, take it out" in captured.err
    told = json.loads(captured.out)
    assert "of which good/g000 stand(s) out" in told["origin"]
    assert told["false_alarm_rate"] is None


def test_defective_parts_among_those_that_set_the_limits_are_named_however_many(batch, models, capsys):
    for number in range(3):  # none stands out among the others
        _paint_square(batch / f"train/good/g{number:03d}_albedo.tif")
    arguments = ["threshold", "-m", "foil", "--models", str(models), "--good", str(batch / "train"), "--json"]
    assert run(arguments) == 0
    captured = capsys.readouterr()
    assert "3 of 3 parts peak above 2 times the limit from good parts that were held back: good/g000" in captured.err
    told = json.loads(captured.out)
    assert "3 of them far above the good parts that were held back" in told["origin"]
    assert told["false_alarm_rate"] is None


def test_limits_can_be_set_again_after_the_smoothing_changed(batch, models, capsys):
    recipe = models / "foil" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("smooth_sigma_px: 1.5", "smooth_sigma_px: 2.5"))
    assert score(batch, models) == 5
    common = ["threshold", "-m", "foil", "--models", str(models)]
    assert run([*common, "--value", "albedo=0.01"]) == 1
    assert "give a value for normal too" in capsys.readouterr().err
    assert run([*common, "--good", str(batch / "train")]) == 0
    assert score(batch, models, *COARSE) == 0


def test_one_map_trained_again_keeps_the_other(batch, models):
    manifest = models / "foil/cae/manifest.json"
    before = json.loads(manifest.read_text())
    arguments = ["train", "-m", "foil", "--models", str(models), "--data", str(batch / "train"), "--maps", "normal"]
    assert run([*arguments, "--budget", "5steps"]) == 0
    assert before["checks"].keys() == {"albedo", "normal"}
    after = json.loads(manifest.read_text())
    assert after["maps"]["albedo"] == before["maps"]["albedo"]
    assert after["maps"]["normal"] != before["maps"]["normal"]
    assert set(after["calibration"]["limits"]) == {"albedo", "normal"}
    assert f"; albedo as before ({before['calibration']['origin']})" in after["calibration"]["origin"]
    assert after["checks"]["albedo"] == before["checks"]["albedo"]
    assert after["checks"]["normal"] != before["checks"]["normal"]
    assert len(list((models / "foil/cae").glob("*.safetensors"))) == 2
    assert score(batch, models, *COARSE) == 0


def test_limits_of_a_kept_map_must_fit_the_smoothing_of_today(batch, models, capsys):
    recipe = models / "foil" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("smooth_sigma_px: ", "smooth_sigma_px: 1"))
    arguments = ["train", "-m", "foil", "--models", str(models), "--data", str(batch / "train"), "--maps", "normal"]
    assert run([*arguments, "--budget", "1steps"]) == 5
    told = capsys.readouterr().err
    assert "another smoothing" in told
    assert "training cae" not in told, "refused before any time is spent"


def test_a_map_the_model_does_not_know_is_told(batch, models, capsys):
    recipe = models / "foil" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("maps:\n", 'maps:\n  gradient: {files: "{part}_gradient.tif"}\n'))
    assert score(batch, models, *COARSE) == 0
    assert "gradient of the recipe are not in the model" in capsys.readouterr().err


def test_limits_are_not_set_while_the_model_is_trained(models):
    from inspect_cli.store.lock import lock_folder

    with lock_folder(models / "foil" / "cae", "busy"):
        assert threshold(models, "--value", "albedo=1") == 75
    assert len(list((models / "foil/cae").glob("*.safetensors"))) == 2


def test_stored_maps_that_were_deleted_are_made_again(results, batch, models):
    (results / "parts/dent/b000/maps/albedo.tif").unlink()
    assert threshold(models, "--value", "albedo=1", "--apply", str(results)) == 3
    assert score(batch, models) == 0
    assert (results / "parts/dent/b000/maps/albedo.tif").is_file()


@pytest.mark.parametrize("change", ["channels: 1", "range"])
def test_recipe_that_describes_a_map_otherwise_than_it_was_trained_is_refused(batch, models, change):
    recipe = models / "foil" / "recipe.yaml"
    new = "channels: 2" if change == "channels: 1" else "channels: 1, range: [0, 4095]"
    recipe.write_text(recipe.read_text().replace("channels: 1", new))
    assert score(batch, models) == 5


@pytest.mark.parametrize(
    "numbers",
    [["--margin", "-1"], ["--margin", "0.5"], ["--quantile", "1.0"], ["--quantile", "-1"], ["--sigma", "0"],
     ["--margin", "2", "--sigma", "3"], ["--margin", "2", "--rule", "sigma"]],
)  # fmt: skip
def test_numbers_out_of_range_or_out_of_place_are_refused_before_scoring(batch, models, numbers):
    arguments = ["threshold", "-m", "foil", "--models", str(models), "--good", str(batch / "train")]
    assert run([*arguments, *numbers]) == 1
    assert not (batch / "train" / "inspection").exists()


def test_results_inside_the_batch_are_never_parts(batch, models, tmp_path, capsys):
    assert score(batch, models, "--out", str(batch / "test")) == 1
    assert run(["tile", str(batch / "test"), "--out", str(batch / "test" / "cut"), "--size", "64"]) == 0
    assert score(batch, models, *COARSE, "--out", str(batch / "test" / "results")) == 0
    capsys.readouterr()
    assert score(batch, models, *COARSE, "--out", str(batch / "test" / "results")) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_a_changed_roi_mask_is_seen(batch, models):
    """The mask is read again, whether it lies beside the part or is that of a map that is not results."""
    part = next((batch / "test/good").glob("*_albedo.tif"))
    mask = part.with_name(part.name.replace("_albedo.tif", "_roi.png"))
    recipe = models / "foil/recipe.yaml"
    recipe.write_text(recipe.read_text() + '\nroi: {rule: file, file: "{part}_roi.png", margin_px: 0}\n')
    for path in (batch / "test").rglob("*_albedo.tif"):
        whole = path.with_name(path.name.replace("_albedo.tif", "_roi.png"))
        cv2.imwrite(str(whole), np.full((150, 200), 255, np.uint8))
    assert score(batch, models, "--outputs", "maps") == 0
    folder = batch / "test/inspection/foil"
    before = _records(folder)
    small = np.zeros((150, 200), np.uint8)
    small[40:120, 50:150] = 255
    cv2.imwrite(str(mask), small)
    assert score(batch, models, "--outputs", "maps") == 0
    after = _records(folder)
    changed = [name for name in before if before[name] != after[name]]
    assert changed == [f"good/{mask.name.removesuffix('_roi.png')}"]
    assert (before[changed[0]]["roi_px"], after[changed[0]]["roi_px"]) == (150 * 200, 80 * 100)
    (folder / "parts" / changed[0] / "roi.png").unlink()
    assert score(batch, models, "--outputs", "maps") == 0
    assert (folder / "parts" / changed[0] / "roi.png").is_file(), "without it the part could not be judged again"


def test_results_have_no_place_where_they_hide_parts_or_other_results(batch, models, tmp_path, capsys):
    assert score(batch, models, "--out", str(batch / "test/good")) == 1
    assert "holds the part" in capsys.readouterr().err
    assert score(batch, models, "--out", str(batch)) == 1
    assert "holds the batch" in capsys.readouterr().err
    out = tmp_path / "out"
    assert score(batch, models, *COARSE, "--out", str(out)) == 0
    other = shutil.copytree(batch, tmp_path / "Y")
    assert score(other, models, "--out", str(out)) == 1
    assert f"holds results of {(batch / 'test').resolve()}" in capsys.readouterr().err
    moved = batch.rename(tmp_path / "moved")
    assert score(moved, models, *COARSE, "--out", str(out)) == 0
    assert "(done before)" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["heatmap.tif", "mask.png", "overlay.png", "patches.parquet", "maps/albedo.png"])
def test_a_file_of_a_finished_part_that_is_gone_is_made_again(results, batch, models, name, capsys):
    lost = next((results / "parts").rglob("part.json")).parent / name
    before = lost.read_bytes()
    lost.unlink()
    capsys.readouterr()
    assert score(batch, models) == 0
    assert capsys.readouterr().out.count("(done before)") == 3
    if name != "patches.parquet":
        assert lost.read_bytes() == before
    assert lost.is_file()


def test_a_size_in_the_recipe_holds_for_parts_that_are_done(results, batch, models, capsys):
    recipe = models / "foil/recipe.yaml"
    text = recipe.read_text()
    recipe.write_text(text + "\nsize_px: [200, 150]\n")
    assert score(batch, models) == 0
    assert capsys.readouterr().out.count("(done before)") == 4
    recipe.write_text(text + "\nsize_px: [150, 200]\n")
    assert score(batch, models) == 4
    assert "200x150" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("width", "height", "verdict"),
    [
        (100, 150, "undecided"),
        (140, 150, "undecided"),
        (200, 40, "undecided"),
        (200, 110, "undecided"),
        (190, 150, "pass"),
    ],
)
def test_a_part_of_a_picture_does_not_pass(batch, models, width, height, verdict):
    for path in (batch / "test/good").glob("*.tif"):
        pixels = tifffile.imread(path)
        path.unlink()
        kind = "rgb" if pixels.ndim == 3 else "minisblack"
        tifffile.imwrite(path, np.ascontiguousarray(pixels[:height, :width]), photometric=kind)
    assert score(batch, models, *COARSE) == 0
    record = json.loads((batch / "test/inspection/foil/parts/good/g003/part.json").read_text())
    assert record["verdict"] == verdict
    told = f"is of {width}x{height} px, the training images of 200x150 px or more: is it all of the part?"
    assert (told in record["reasons"]) == (verdict == "undecided")


def test_the_evaluation_of_parts_that_left_does_not_stand(results, batch, models):
    assert score(batch, models) == 0  # notes how the copied files look
    assert run(["evaluate", str(results), "--truth", str(batch / "ground_truth")]) == 0
    assert score(batch, models) == 0
    assert (results / "evaluation.json").is_file()
    for path in (batch / "test/good").glob("*.tif"):
        path.unlink()
    assert score(batch, models) == 0
    assert not (results / "evaluation.json").exists()


def test_a_run_that_cannot_take_limits_is_told_before_good_parts_are_scored(batch, models, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert threshold(models, "--good", str(batch / "train"), "--rule", "max", "--apply", str(tmp_path / "empty")) == 4
    assert "scoring" not in capsys.readouterr().err


def test_limits_by_hand_are_not_stored_if_a_run_cannot_take_them(batch, models):
    assert score(batch, models, "--outputs", "none") == 0
    stored = {path: path.read_bytes() for path in models.rglob("manifest.json")}
    assert threshold(models, "--value", "albedo=0.01", "--apply", str(batch / "test/inspection/foil")) == 3
    assert {path: path.read_bytes() for path in models.rglob("manifest.json")} == stored


def test_limits_from_good_parts_are_applied_to_the_run_that_gave_them(batch, models):
    good = batch / "train"
    arguments = ("--good", str(good), "--rule", "max", "--apply", str(good / "inspection/foil"))
    assert threshold(models, *arguments) == 0
    records = _records(good / "inspection/foil")
    assert {record["verdict"] for record in records.values()} == {"pass"}
    assert max(record["score"] for record in records.values()) == pytest.approx(1 / 1.1, rel=1e-3)


def test_an_evaluation_does_not_outlive_a_run_that_died(results, batch, models, monkeypatch):
    assert run(["evaluate", str(results), "--truth", str(batch / "ground_truth")]) == 0
    assert threshold(models, "--value", "albedo=0.01") == 0

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("inspect_cli.batch.run.write_tables", full)
        assert score(batch, models) == 6
    assert score(batch, models) == 0
    assert not (results / "evaluation.json").exists()


def test_limits_from_good_parts_say_with_the_exit_code_that_one_was_left_out(batch, models, capsys):
    next((batch / "train/good").glob("*_albedo.tif")).unlink()
    assert threshold(models, "--good", str(batch / "train"), "--rule", "max") == 3
    told = capsys.readouterr()
    assert "origin: max" in told.out
    assert "1 part(s) could not be used" in told.err


def test_parts_that_are_no_good_ones_or_copies_promise_nothing(batch, models, capsys):
    rule = ["--rule", "quantile", "--quantile", "0.5", "--json"]
    assert threshold(models, "--good", str(batch / "test"), *rule) == 0
    told = capsys.readouterr()
    assert "dent, scratch, stain do not seem to hold good parts" in told.err
    assert json.loads(told.out)["false_alarm_rate"] is None
    (batch / "lot").mkdir()
    for number in range(4):
        for name in ("albedo", "normal"):
            shutil.copy(batch / f"test/good/g003_{name}.tif", batch / f"lot/c{number}_{name}.tif")
    assert threshold(models, "--good", str(batch / "lot"), *rule) == 0
    told = capsys.readouterr()
    assert "3 of 4 parts are copies of others" in told.err
    assert json.loads(told.out)["false_alarm_rate"] is None


def test_parts_that_were_given_as_extra_promise_nothing(batch, models, capsys):
    """They are learnt from like the others."""
    manifest = models / "foil" / "cae" / "manifest.json"
    content = json.loads(manifest.read_text())
    for entry in content["training_set"]:
        entry["use"] = "extra"
    manifest.write_text(json.dumps(content))
    assert threshold(models, "--good", str(batch / "train"), "--rule", "sigma") == 0
    assert "good parts were trained on" in capsys.readouterr().err


def test_limits_remember_the_stride_they_were_measured_at(batch, models, capsys):
    assert threshold(models, "--good", str(batch / "train"), "--stride", "32", "--json") == 0
    assert json.loads(capsys.readouterr().out)["stride_px"] == 32
    manifest = models / "foil" / "cae" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["calibration"]["false_alarm_rate"] = 0.05
    manifest.write_text(json.dumps(content))
    record = batch / "test/inspection/foil/run.json"
    assert score(batch, models, "--outputs", "none", "--stride", "32") == 0
    assert json.loads(record.read_text())["calibration"]["false_alarm_rate"] == 0.05
    capsys.readouterr()
    assert score(batch, models, "--outputs", "none") == 0
    told = json.loads(record.read_text())
    assert told["calibration"]["false_alarm_rate"] is None
    assert any("no rate of false alarms is promised" in warning for warning in told["warnings"])
    assert (
        "the limits were set at stride 32 px, precision f32, not stride 16 px, precision f32"
        in capsys.readouterr().err
    )


def test_a_part_whose_picture_cannot_be_drawn_is_named_and_the_rest_is_cut(batch, models, tmp_path, monkeypatch):
    """Damaged where no tile was drawn: the picture is of the whole map."""
    draw = tiles.write_grid_picture

    def damaged(path, part, *arguments):
        if part.id.endswith("g001"):
            raise InputError("torn")
        draw(path, part, *arguments)

    monkeypatch.setattr(tiles, "write_grid_picture", damaged)
    words = ["tile", str(batch / "train"), "-m", "foil", "--models", str(models), "--out", str(tmp_path / "cut")]
    assert run([*words, "--size", "32", "--random", "2", "--preview"]) == InputError.exit_code
    listed = csv.DictReader((tmp_path / "cut/index.csv").read_text().splitlines())
    assert {row["part"] for row in listed} == {"good/g000", "good/g002"}
    assert not list((tmp_path / "cut/good/g001").rglob("*.tif"))
    assert not (tmp_path / "cut/.cut.json").exists()
