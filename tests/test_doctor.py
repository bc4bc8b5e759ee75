"""The doctor names what is slow and what would help, and stands broken materials."""

import json

import pytest

from inspect_cli.benchmark import doctor
from inspect_cli.benchmark.doctor import available_memory_gb, threads, usable_processors
from inspect_cli.cli import run
from inspect_cli.engines import Hardware
from inspect_cli.methods import build_detector


@pytest.mark.parametrize(
    ("used", "usable", "advice"),
    [(4, 4, ""), (8, 2, "set OMP_NUM_THREADS=2: threads wait"), (1, 2, "processors are idle")],
)
def test_threads_are_held_against_the_processors(used, usable, advice):
    finding = threads(used, usable)
    assert finding.advice.startswith(advice)
    assert bool(finding.advice) == bool(advice)


def test_a_container_may_grant_fewer_processors_than_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    limit = tmp_path / "cpu.max"
    assert usable_processors(limit) == 16
    for text, expected in (("max 100000", 16), ("400000 100000", 4), ("50000 100000", 1), ("6400000 100000", 16)):
        limit.write_text(text)
        assert usable_processors(limit) == expected


def test_memory_is_what_a_program_can_still_get(tmp_path):
    path = tmp_path / "meminfo"
    assert available_memory_gb(path) is None
    path.write_text("MemTotal: 8000000 kB\nMemFree: 1000 kB\nMemAvailable:    2000000 kB\n")
    assert available_memory_gb(path) == pytest.approx(2.048)


def test_gpu_that_torch_does_not_see_is_named(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("torch.version.cuda", None)
    assert "CUDA build" in doctor._gpu().advice
    monkeypatch.setattr("torch.version.cuda", "12.8")
    assert "CUDA 12.8" in doctor._gpu().advice


def test_every_finding_is_told_as_json_and_as_lines(models, tmp_path, capsys, monkeypatch):
    broken = models / "broken"
    (broken / "cae").mkdir(parents=True)
    (broken / "recipe.yaml").write_text("material: broken\n")
    (broken / "cae" / "manifest.json").write_text("{}")
    monkeypatch.setattr("inspect_cli.benchmark.doctor.openvino_installed", lambda: False)
    assert run(["doctor", "--models", str(models), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    materials = {entry["found"].split(":")[0]: entry["advice"] for entry in found if entry["name"] == "material"}
    assert "inspect threshold --material foil" in materials["foil"]  # its limits are provisional
    assert "maps" in materials["broken"]
    assert set(materials) == {"foil", "broken"}, "what comes with the program does not stand in for a store's"
    assert any("openvino" in entry["advice"] for entry in found if entry["name"] == "engine")
    assert any("a megapixel and map with --engine torch" in entry["found"] for entry in found)

    assert run(["doctor", "--models", str(models)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(found) + sum(entry["advice"] != "" for entry in found)


def test_speed_is_that_of_the_tiles_a_megapixel_has(monkeypatch):
    """The stand-in takes a second a tile."""
    now = [0.0]

    class Slow:
        def score(self, tiles):
            now[0] += len(tiles)

    monkeypatch.setattr(doctor.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(doctor, "make_engine", lambda *_: Slow())
    monkeypatch.setattr(doctor, "_ways", lambda: [Hardware("cpu", 0, "torch")])
    for tile_px, stride_px, seconds in ((128, 64, "244.14"), (512, 480, "4.34")):
        (found,) = doctor._timed("stuff", build_detector("cae", 1, tile_px, {}), stride_px)
        assert found.found.startswith(f"stuff: {seconds} s a megapixel")
