"""Mistakes that are made with a new installation or a slow writer: told at once, in one line, and nothing lost."""

import csv
import json
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import tifffile

from inspect_cli.cli import run
from inspect_cli.errors import EXIT_SIGTERM, IncompleteError, InputError, UsageError, exit_code_of
from inspect_cli.images import open_map
from inspect_cli.material.materials import adopt, find_material
from inspect_cli.stopping import SignalStop, stopped_by_signals
from tests.helpers import COARSE, TRAINED, material_of


def score(batch, models, *more: str) -> int:
    return run(["score", str(batch / "test"), "--material", "foil", "--models", str(models), *COARSE, *more])


def grey(path, side=64, dtype=np.uint8, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 200, (side, side)).astype(dtype))


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("score", "IMAGE", "--material", "riblet"), "give the folder that it is in"),
        (("tile", "IMAGE", "--out", "tiles"), "give the folder that it is in"),
        (("train", "--material", "foil", "--data", "IMAGE"), "give the folder that it is in"),
        (("report", "IMAGE"), "give the folder that `inspect score` wrote"),
        (("evaluate", "IMAGE", "--truth", "."), "give the folder that `inspect score` wrote"),
    ],
)
def test_a_file_in_place_of_a_folder_is_told(command, told, tmp_path, monkeypatch, capsys):
    image = tmp_path / "P1_albedo.png"
    grey(image)
    monkeypatch.chdir(tmp_path)
    assert run([str(image) if word == "IMAGE" else word for word in command]) == 1
    assert f"{image}: is a file; {told}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [image]


def test_a_store_that_is_not_there_is_told_and_none_stands_in_for_it(batch, tmp_path, monkeypatch, capsys):
    assert run(["score", str(batch / "test"), "--material", "riblet", "--models", str(tmp_path / "share")]) == 1
    assert "share: no such folder; check the path and that it is mounted" in capsys.readouterr().err
    monkeypatch.setenv("INSPECT_MODELS", str(tmp_path / "other"))
    assert run(["score", str(batch / "test"), "--material", "riblet"]) == 1
    assert f"INSPECT_MODELS={tmp_path / 'other'}: no such folder" in capsys.readouterr().err
    for variable, words in (("", ["--models", str(tmp_path / "mount")]), (str(tmp_path / "mount"), [])):
        (tmp_path / "mount").mkdir(exist_ok=True)  # of a share that is not mounted the empty folder is there
        monkeypatch.setenv("INSPECT_MODELS", variable)
        for material, told in ((["--material", "riblet"], "material 'riblet'"), ([], "trained material")):
            assert run(["score", str(batch / "test"), *material, *words]) == 1
            assert f"mount: has no {told}; check the path and that it is mounted" in capsys.readouterr().err
    assert not (batch / "test/inspection").exists()


@pytest.mark.parametrize("wrong", [["--method", "nonsense"], ["--budget", "5x"]])
def test_a_wrong_command_line_leaves_no_recipe(wrong, tmp_path):
    grey(tmp_path / "data/a.png")
    command = ["train", "--material", "new", "--data", str(tmp_path / "data"), "--models", str(tmp_path / "store")]
    assert run([*command, *wrong]) == UsageError.exit_code
    assert not (tmp_path / "store").exists()


BEGINNINGS = {
    "empty": b"",
    "some bytes": b"II*\0\x08\0",
    "no directory yet": b"II*\0" + bytes(4) + bytes(3000),
    "directory beyond the end": b"MM\0*\0\xff\xff\xff" + bytes(300),
    "BigTIFF without its directory": b"II+\0\x08\0\0\0" + bytes(8) + bytes(300),
}


@pytest.mark.parametrize("start", list(BEGINNINGS))
def test_a_file_of_which_only_the_beginning_is_there_is_left_to_the_next_run(start, batch, models):
    path = batch / "test/good/g003_albedo.tif"
    path.unlink()
    path.write_bytes(BEGINNINGS[start])
    with pytest.raises(IncompleteError):
        open_map(path)
    assert score(batch, models, "--settle-s", "0.3") == 0
    told = json.loads((batch / "test/inspection/foil/run.json").read_text())
    assert [entry["part"] for entry in told["pending"]] == ["good/g003"]


def test_the_mask_of_a_part_may_come_after_its_maps(tmp_path, capsys):
    store, parts = tmp_path / "models", tmp_path / "parts"
    recipe = material_of(store, "plate") / "recipe.yaml"
    text = recipe.read_text().replace("{part}.*", "{part}_map.png")
    recipe.write_text(text + "roi: {rule: file, file: '{part}_roi.png'}\n")
    for name in ("a", "b"):
        grey(parts / f"{name}_map.png")
        cv2.imwrite(str(parts / f"{name}_roi.png"), np.full((64, 64), 255, np.uint8))
    common = ["--material", "plate", "--models", str(store)]
    assert run(["train", *common, "--data", str(parts), "--budget", "2steps"]) in TRAINED
    (parts / "b_roi.png").unlink()
    capsys.readouterr()
    assert run(["score", str(parts), *common, *COARSE, "--settle-s", "0.3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("pending") and "the ROI's mask is missing" in line for line in lines)


def test_the_type_of_most_images_counts_whatever_the_first_one_has(tmp_path, capsys):
    grey(tmp_path / "data/a0.png")
    for number in range(4):
        grey(tmp_path / f"data/b{number}.png", dtype=np.uint16, seed=number)
    command = ["train", "--material", "mix", "--data", str(tmp_path / "data"), "--models", str(tmp_path / "store")]
    assert run([*command, "--method", "cae", "--budget", "2steps"]) in TRAINED
    told = capsys.readouterr().err
    assert "a0.png: is uint8; uint16 is expected" in told
    manifest = json.loads((tmp_path / "store/mix/cae/manifest.json").read_text())
    assert {entry["part"] for entry in manifest["training_set"]} == {"b0", "b1", "b2", "b3"}


def test_random_patches_are_of_different_places_and_too_few_are_told(tmp_path, capsys):
    for name in ("a", "b"):
        grey(tmp_path / f"parts/{name}.png", side=34)
    out = tmp_path / "patches"
    command = ["tile", str(tmp_path / "parts"), "--out", str(out), "--size", "32", "--json"]
    assert run([*command, "--random", "50"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["tiles"] == 18
    assert "2 part(s) have fewer than 50 places" in told.err
    rows = list(csv.DictReader((out / "index.csv").read_text().splitlines()))
    assert len(rows) == len({row["file"] for row in rows}) == len(list(out.rglob("*.tif"))) == 18
    assert run([*command, "--random", "50", "--stride", "8"]) == UsageError.exit_code
    assert run([*command, "--plan", "--preview"]) == UsageError.exit_code


def test_parts_smaller_than_a_patch_are_told(tmp_path, capsys):
    grey(tmp_path / "parts/a.png", side=34)
    command = ["tile", str(tmp_path / "parts"), "--out", str(tmp_path / "patches"), "--plan"]
    assert run([*command, "--size", "34"]) == 0
    assert "smaller than a patch" not in capsys.readouterr().err
    assert run([*command, "--size", "40"]) == 0
    assert "1 part(s) are smaller than a patch of 40 px, which is filled up" in capsys.readouterr().err


def test_a_box_without_a_part_is_named_by_its_line(batch, models, tmp_path, capsys):
    assert score(batch, models, "--outputs", "heatmap") == 0
    table = tmp_path / "truth/boxes.csv"
    table.parent.mkdir()
    table.write_text("x_px,y_px,width_px,height_px,part\n1,1,5,5,dent/b000\n5,5,9,9\n")
    assert run(["evaluate", str(batch / "test"), "--truth", str(table.parent)]) == InputError.exit_code
    assert "boxes.csv: line 3: no part is named" in capsys.readouterr().err


@pytest.mark.parametrize("maps", ["bad.name", "../x"])
def test_a_map_that_cannot_be_one_is_wrong_usage(maps, tmp_path, capsys):
    assert run(["recipe", "new", "foo", "--maps", maps, "--models", str(tmp_path)]) == UsageError.exit_code
    assert f"error: --maps {maps}: map name {maps!r} may hold" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["roi", "Mask", "left_roi"])
def test_a_map_named_like_no_map_is_wrong_usage(name, tmp_path, capsys):
    command = ["recipe", "new", "foo", "--maps", f"albedo,{name}", "--models", str(tmp_path)]
    assert run(command) == UsageError.exit_code
    assert f"error: --maps albedo,{name}: map {name!r}: files named" in capsys.readouterr().err


@pytest.mark.parametrize("stride", ["0", "500"])
def test_a_stride_that_cannot_be_is_wrong_usage(stride, batch, models):
    assert score(batch, models, "--stride", stride) == UsageError.exit_code


def test_rule_without_what_it_is_for_says_so(models, capsys):
    command = ["threshold", "--material", "foil", "--models", str(models), "--value", "albedo=1", "--rule", "max"]
    assert run(command) == UsageError.exit_code
    assert "--rule belongs to --good or --labelled" in capsys.readouterr().err


def test_a_recipe_is_adopted_with_its_mask(tmp_path):
    folder = material_of(tmp_path / "a", "plate")
    (folder / "recipe.yaml").write_text((folder / "recipe.yaml").read_text() + "roi: {rule: file, file: roi.png}\n")
    grey(folder / "roi.png")
    taken = adopt(find_material("plate", tmp_path / "a"), tmp_path / "b")
    assert taken.folder == tmp_path / "b/plate"
    assert (taken.folder / "roi.png").read_bytes() == (folder / "roi.png").read_bytes()


def test_a_signal_while_a_folder_is_waited_for_is_in_the_metrics(batch, models, tmp_path):
    from filelock import FileLock

    folder = batch / "test/inspection/foil"
    folder.mkdir(parents=True)
    metrics = tmp_path / "inspect.prom"
    command = [sys.executable, "-m", "inspect_cli", "score", str(batch / "test"), "--material", "foil"]
    command += ["--models", str(models), "--wait-s", "60", "--metrics-file", str(metrics), "--engine", "torch"]
    with FileLock(folder / ".lock"):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if "results" in line:  # said just before the lock is waited for
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
    assert process.returncode == EXIT_SIGTERM
    assert "run again" in told
    assert f'inspect_last_run_exit_code{{input="{batch / "test"}"}} {EXIT_SIGTERM}' in metrics.read_text()


def test_ctrl_c_is_answered(tmp_path):
    for number in range(12):
        path = tmp_path / f"parts/{number}.tif"
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, np.zeros((1000, 1000), np.uint16))
    command = [sys.executable, "-m", "inspect_cli", "tile", str(tmp_path / "parts"), "--out", str(tmp_path / "out")]
    process = subprocess.Popen([*command, "--size", "32"], stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "out").glob("0/*/*.tif")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT
    assert "run again" in told
    assert "Traceback" not in told


def test_what_leaves_the_program_has_the_code_it_ends_with():
    assert exit_code_of(PermissionError(13, "no", "/x")) == 4
    assert exit_code_of(OSError(28, "full", "/x")) == 6
    assert exit_code_of(MemoryError()) == 7
    assert exit_code_of(KeyboardInterrupt()) == 130
    assert exit_code_of(ValueError("x")) == 70
    assert exit_code_of(BrokenPipeError(32, "left")) == 0
    assert exit_code_of(IncompleteError("x")) == 3


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopped_by_signals():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            with pytest.raises(SignalStop, match="stopped by a signal"):
                signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)
