"""The speed measurement: all ways make the same map, ratios by hand, one process each."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from inspect_cli.benchmark import contenders, speed
from inspect_cli.benchmark.contenders import Job, stitched, timed
from inspect_cli.benchmark.isolated import Ended
from inspect_cli.benchmark.machine import matrix_rate, operations_per_tile
from inspect_cli.benchmark.speed import SpeedResult, one_map, ratios, write_map, write_results
from inspect_cli.cli import run
from inspect_cli.engines import Hardware
from inspect_cli.errors import UsageError
from inspect_cli.images.reader import open_map
from inspect_cli.material.bundle import read_bundle
from inspect_cli.material.materials import find_material
from inspect_cli.methods import build_detector
from inspect_cli.scoring.mapstream import MapStream


@pytest.fixture
def job(tmp_path, models) -> Job:
    material = find_material("foil", models)
    bundle = one_map(read_bundle(material.folder / "cae"), "albedo")
    file = tmp_path / "part.tif"
    write_map(file, 90, 70, bundle.manifest.maps["albedo"])
    return Job(material, bundle, "albedo", file, 16, Hardware("cpu", 0, "torch"))


def test_plain_loop_makes_the_map_that_the_program_stitches(job):
    model = job.model()
    tiles = replace(model.tiles, smooth_sigma_px=0.0)
    with open_map(job.file) as reader:
        preprocess = job.bundle.manifest.maps["albedo"].preprocess
        stream = MapStream(reader, preprocess, model.engine, tiles, None)
        rows = np.concatenate(list(stream.rows()))
    np.testing.assert_allclose(stitched("plain-loop", job), rows, rtol=2e-3, atol=1e-6)  # 11 bits are kept


@pytest.mark.parametrize("name", ["monai", "anomalib"])
def test_peers_make_the_same_map_where_their_grid_is_the_same(name, job):
    if contenders.missing(name) is not None:
        pytest.skip(f"{name} is not installed")
    write_map(job.file, 96, 64, job.bundle.manifest.maps["albedo"])  # the tiles end at the edge
    np.testing.assert_allclose(stitched(name, job), stitched("plain-loop", job), rtol=1e-3, atol=1e-5)


def test_each_run_is_timed(job):
    for name in ("score", "network", "plain-loop"):
        spent = timed(name, job, 2)
        assert len(spent) == 2
        assert min(spent) > 0


def test_written_map_has_the_trained_type_brightness_and_channels(tmp_path, models):
    manifest = read_bundle(find_material("foil", models).folder / "cae").manifest
    for name, shape in (("albedo", (600, 50)), ("normal", (600, 50, 3))):
        trained = manifest.maps[name]
        write_map(tmp_path / f"{name}.tif", 50, 600, trained)
        pixels = tifffile.imread(tmp_path / f"{name}.tif")
        assert pixels.shape == shape
        assert pixels.dtype == np.dtype(trained.dtype)
        unit = (pixels.mean() - trained.low) / (trained.high - trained.low)
        ends = [(a.mean_low, a.mean_high) for a in trained.acquisition]
        assert min(ends)[0] - 0.05 < unit < max(ends)[1] + 0.05


def test_ratios_by_hand():
    seconds = {"score": 12.0, "network": 10.0, "plain-loop": 48.0, "monai": 60.0}
    assert ratios(seconds, 8.0) == {
        "end to end over network": 1.2,
        "share of the machine's f32 limit": 0.8,
        "plain-loop over end to end": 4.0,
        "monai over end to end": 5.0,
    }
    assert ratios({"plain-loop": 3.0}, None) == {}


def test_operations_are_those_counted_by_hand():
    detector = build_detector("ni-cae", 1, 64, {"width": 4, "latent": 8})
    side, before, total = 64, 1, 0
    for _ in range(5):  # 3x3 convolutions to 4 filters, each before its pooling
        total += 2 * side * side * 9 * before * 4
        side, before = side // 2, 4
    total += 2 * (16 * 8 + 8 * 16)
    for _ in range(5):  # 3x3 convolutions on doubled maps
        side *= 2
        total += 2 * side * side * 9 * 4 * 4
    total += 2 * 64 * 64 * 4
    assert operations_per_tile(detector) == total


def test_operations_are_those_that_the_network_needs_not_those_of_blocks_of_pixels():
    detector = build_detector("cae", 1, 32, {"architecture": "cifar10", "hidden": 32, "latent": 8})
    down = 32**2 * 1 * 8 + 16**2 * 8 * 16 + 8**2 * 16 * 32 + 4**2 * 32 * 16
    up = 4**2 * 16 * 32 + 8**2 * 32 * 16 + 16**2 * 16 * 8 + 32**2 * 8 * 1
    assert operations_per_tile(detector) == 2 * (9 * (down + up) + 2 * (16 * 4**2 * 32 + 32 * 8))


def test_matrix_rate_is_a_plausible_number_of_operations():
    assert 1e9 < matrix_rate(1) < 1e15


def test_command_prints_rows_and_ratios_and_writes_table_and_picture(models, tmp_path, capsys, monkeypatch):
    """The first measurement in a process of its own, the others, to be quick, in this one."""
    ways = iter([speed.run_isolated])

    def here(function, *arguments):
        return Ended(function(*arguments), 1.0)

    monkeypatch.setattr(speed, "run_isolated", lambda *words: next(ways, here)(*words))
    common = ["bench", "speed", "--material", "foil", "--models", str(models), "--stride", "16"]
    code = run([*common, "--size", "64x48,64x96", "--contenders", "score,network", "--repeats", "1", "--json",
                "--out", str(tmp_path / "out")])  # fmt: skip
    assert code == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["contender"], row["height_px"]) for row in found["rows"]] == [
        ("score", 48), ("network", 48), ("score", 96),
    ]  # fmt: skip
    assert set(found["ratios"]) == {"end to end over network", "share of the machine's f32 limit"}
    rows = list(csv.DictReader((tmp_path / "out" / "speed.csv").read_text().splitlines()))
    assert [float(row["seconds"]) for row in rows] == [row["seconds"] for row in found["rows"]]
    assert (tmp_path / "out" / "speed.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--size", "64"], "WIDTHxHEIGHT"),
        (["--stride", "0"], "whole numbers from 1"),
        (["--contenders", "monay"], "monai"),
        (["--map", "albado", "--stride", "16"], "albedo"),
        (["--size", "64x48,64x31", "--stride", "16"], "--size 64x31: each side must have 32 px or more"),
        (["--contenders", ","], "--contenders ',': name at least one"),
    ],
)
def test_mistakes_are_named(arguments, reason, models, capsys):
    assert run(["bench", "speed", "-m", "foil", "--models", str(models), *arguments]) == UsageError.exit_code
    assert reason in capsys.readouterr().err


def test_nothing_measured_is_an_empty_table(tmp_path):
    write_results(tmp_path, SpeedResult([], {}), "nothing")
    assert (tmp_path / "speed.csv").read_text().count("\n") == 1
