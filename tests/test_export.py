"""Exported files give the network's scores, and a file that does not is refused."""

import json

import cv2
import numpy as np
import pytest
import tifffile
import torch

from inspect_cli.cli import run
from inspect_cli.engines import graph
from inspect_cli.errors import InputError, ModelError, RecipeError, UsageError
from inspect_cli.export import networks
from inspect_cli.material.bundle import read_bundle
from inspect_cli.material.materials import find_material

pytest.importorskip("openvino")


def exported(models, out, *more: str) -> int:
    return run(["export", "-m", "foil", "--models", str(models), "--out", str(out), *more])


def test_files_score_any_number_of_tiles_as_the_network_does(models, shared_batch, tmp_path, capsys):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    data = ["--data", str(shared_batch / "train"), "--json"]
    assert exported(models, tmp_path / "out", *data) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "out" / "export.json").read_text())
    bundle = read_bundle(find_material("foil", models).folder / "cae")
    for name, entry in report["maps"].items():
        assert entry["limit"] == bundle.manifest.calibration.limits[name].model_dump()
        tiles = np.random.default_rng(0).random((5, *entry["input"]["shape"][1:]), np.float32)
        expected = bundle.detector(name).score(torch.from_numpy(tiles)).detach().numpy()
        for suffix in ("onnx", "xml"):
            path = tmp_path / "out" / f"{name}.{suffix}"
            exactly = {"INFERENCE_PRECISION_HINT": "f32"}  # by itself it takes bfloat16 where the processor has it
            found = graph.openvino_core().compile_model(path, "CPU", exactly)(tiles)[0]
            np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())
    names = {file for entry in report["maps"].values() for kind in entry["files"].values() for file in kind["sha256"]}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {"export.json"}


def test_report_says_how_scores_come_together(models, tmp_path):
    assert exported(models, tmp_path / "out", "--format", "openvino") == 0
    report = json.loads((tmp_path / "out" / "export.json").read_text())
    assert report["tiles"] == {"size_px": 32, "stride_px": 16, "even": False, "blend": "average", "whole": False}
    assert (report["smooth_sigma_px"], report["min_area_px"], report["provisional"]) == (1.5, 4, True)
    assert report["warnings"] == read_bundle(find_material("foil", models).folder / "cae").manifest.cautions


def test_files_are_checked_inside_the_roi(tmp_path):
    from inspect_cli.images import Part
    from inspect_cli.material.manifest import TrainedMap
    from inspect_cli.material.materials import Material
    from inspect_cli.recipe import parse_recipe

    pixels = np.random.default_rng(0).random((40, 60), np.float32)
    pixels[:, 30:] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    text = "material: m\nmaps: {h: {files: '{part}.tif'}}\nroi: {rule: dark, margin_px: 0}"
    material = Material(parse_recipe(text, "r"), tmp_path)
    trained = TrainedMap.model_construct(low=0.0, high=1.0, fill=(0.5,), dtype="float32", channels=1)
    tiles = networks._tiles("h", trained, 32, [Part("a", {"h": tmp_path / "a.tif"}, tmp_path)], material)
    assert np.isfinite(tiles).all()


def test_a_file_that_scores_otherwise_is_not_written(models, tmp_path, capsys, monkeypatch):
    class Other(graph._Scoring):
        def forward(self, tiles):
            return super().forward(tiles) * 1.01

    monkeypatch.setattr(graph, "_Scoring", Other)
    assert exported(models, tmp_path / "out", "--format", "openvino") == ModelError.exit_code
    assert "differ from the network's by 0.01" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_parts_that_the_network_does_not_take_are_refused(models, tmp_path, capsys):
    for name in ("albedo", "normal"):
        cv2.imwrite(str(tmp_path / f"P1_{name}.tif"), np.zeros((64, 64), np.uint16))
    data = ("--format", "openvino", "--data", str(tmp_path))
    assert exported(models, tmp_path / "out", *data) == InputError.exit_code
    assert "P1_normal.tif" in capsys.readouterr().err
    recipe = models / "foil/recipe.yaml"
    recipe.write_text("material: foil\nmaps: {albedo: {files: '{part}_albedo.tif'}}\ntiles: {size_px: 32}\n")
    assert (
        exported(models, tmp_path / "out", "--format", "openvino", "--data", str(tmp_path)) == RecipeError.exit_code
    )
    assert "the model needs map 'normal'" in capsys.readouterr().err


def test_packages_that_are_missing_are_named(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name.startswith("onnx") else object())
    assert exported(models, tmp_path / "out") == UsageError.exit_code
    assert "needs onnx, onnxscript; pip install 'inspect-cli[export]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["onx", ","])
def test_format_must_be_known(text, models, tmp_path, capsys):
    assert exported(models, tmp_path / "out", "--format", text) == UsageError.exit_code
    assert "onnx" in capsys.readouterr().err


def test_report_names_every_format():
    assert set(networks.FORMATS) == set(networks._SUFFIX)


@pytest.mark.parametrize(
    ("changed", "told"),
    [("smooth_sigma_px: 6", "set with smoothing 1.5 px"), ("tiles: {size_px: 64", "trained on tiles of 32 px")],
)
def test_limits_that_score_would_refuse_are_not_exported(models, tmp_path, capsys, changed, told):
    recipe = models / "foil" / "recipe.yaml"
    old = {"smooth_sigma_px: 6": "smooth_sigma_px: 1.5", "tiles: {size_px: 64": "tiles: {size_px: 32"}[changed]
    recipe.write_text(recipe.read_text().replace(old, changed))
    assert exported(models, tmp_path) == ModelError.exit_code
    assert told in capsys.readouterr().err


def test_limits_of_another_stride_are_told(models, tmp_path):
    recipe = models / "foil" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("stride_px: 16", "stride_px: 32"))
    assert exported(models, tmp_path) == 0
    warnings = json.loads((tmp_path / "export.json").read_text())["warnings"]
    assert any("the limits were set at stride 16 px" in warning for warning in warnings)


def test_what_a_killed_export_left_is_swept(models, tmp_path):
    (tmp_path / "out" / ".export-left").mkdir(parents=True)
    assert exported(models, tmp_path / "out") == 0
    assert not list((tmp_path / "out").glob(".export-*"))
