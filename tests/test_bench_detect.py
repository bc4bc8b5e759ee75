"""The yardstick: rows, means, going on, and folders that do not fit."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest

from inspect_cli import console
from inspect_cli.benchmark import detect
from inspect_cli.benchmark.detect import means
from inspect_cli.cli import run
from inspect_cli.errors import ModelError, NoInputError, UsageError
from inspect_cli.recipe import Budget


@pytest.fixture
def stripes(tmp_path):
    """A data set in the MVTec layout with a bright blot in each defective image."""
    rng = np.random.default_rng(0)
    x = np.arange(160)
    for name in ("train/good/a", "train/good/b", "train/good/c", "test/good/d", "test/blot/e", "test/blot/f"):
        grey = 120 + 40 * np.sin(x[None] * 0.6 + rng.uniform(0, 6)) + rng.normal(0, 4, (140, 160))
        path = tmp_path / "stripes" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if "blot" in name:
            mask = np.zeros(grey.shape, np.uint8)
            mask[50:80, 60:95] = 255
            grey[mask > 0] = 250
            truth = tmp_path / "stripes" / "ground_truth" / "blot" / f"{path.stem}_mask.png"
            truth.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(truth), mask)
        cv2.imwrite(str(path), grey.clip(0, 255).astype(np.uint8))
    return tmp_path / "stripes"


def test_rows_are_measured_kept_and_averaged(stripes, tmp_path, capsys, monkeypatch):
    command = ["bench", "detect", str(stripes), "--methods", "patchcore,cae", "--budget", "3steps", "--json"]
    command += ["--out", str(tmp_path / "out"), "--keep", str(tmp_path / "kept")]
    assert run(command) == 0
    told = capsys.readouterr()
    rows = [json.loads(line) for line in told.out.splitlines()]
    assert [(row["method"], row["chosen"], row["steps"]) for row in rows] == [
        ("patchcore", "patchcore", 0), ("cae", "cae", 3),
    ]  # fmt: skip
    assert rows[0]["pixel_auroc"] > 0.9
    assert rows[0]["image_auroc"] == 1.0
    assert "mean of 1: patchcore" in told.err
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        "stripes-none-cae-0-3steps",
        "stripes-none-patchcore-0-3steps",
    ]
    assert (tmp_path / "kept/stripes-none-cae-0-3steps/model/cae/manifest.json").is_file()
    assert (tmp_path / "kept/stripes-none-cae-0-3steps/run/parts.csv").is_file()
    table = list(csv.DictReader((tmp_path / "out" / "detect.csv").read_text().splitlines()))
    assert [float(row["pixel_auroc"]) for row in table] == [row["pixel_auroc"] for row in rows]

    monkeypatch.setattr(detect, "train_material", None)  # nothing is measured twice
    assert run(command) == 0
    again = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert again == rows, "numbers stay numbers"
    shutil.rmtree(tmp_path / "kept/stripes-none-cae-0-3steps")
    with pytest.raises(TypeError):  # measured, but not kept any more
        detect.measure_detection(
            detect.DetectOrder([stripes], ["cae"], [0], Budget(steps=3), "none", tmp_path / "out", tmp_path / "kept"),
            console,
            print,
        )
    with pytest.raises(TypeError):  # what was measured with another ROI is not taken for it
        detect.measure_detection(
            detect.DetectOrder([stripes], ["cae"], [0], Budget(steps=3), "dark", tmp_path / "out"), console, print
        )


def test_of_the_training_images_the_good_ones_alone_are_learnt_from(stripes, tmp_path, monkeypatch):
    bad = stripes / "train" / "bad"
    bad.mkdir()
    shutil.copy(next((stripes / "train" / "good").iterdir()), bad / "b.png")
    learnt = []

    def train(order, _teller):
        learnt.extend(part.id for part in order.parts)
        raise ModelError("enough")

    monkeypatch.setattr(detect, "train_material", train)
    with pytest.raises(ModelError, match="enough"):
        detect.measure_detection(
            detect.DetectOrder([stripes], ["cae"], [0], Budget(steps=1), "none", tmp_path), console, print
        )
    assert learnt
    assert not any(part.startswith("bad") or "/" in part for part in learnt)


def test_rows_that_two_runs_write_at_once_are_all_kept(stripes, tmp_path, monkeypatch):
    def order(seed):
        return detect.DetectOrder([stripes], ["cae"], [seed], Budget(steps=1), "none", tmp_path)

    def measure(work, folder, method, seed, *_):
        if seed == 0:  # the other run begins later and ends earlier
            detect.measure_detection(order(1), console, lambda row: None)
        return dict.fromkeys(detect.COLUMNS[6:], 0.5) | {"chosen": method, "steps": seed}

    monkeypatch.setattr(detect, "_measure", measure)
    detect.measure_detection(order(0), console, lambda row: None)
    table = csv.DictReader((tmp_path / "detect.csv").read_text().splitlines())
    assert [row["seed"] for row in table] == ["1", "0"]


def test_a_table_of_another_version_is_not_overwritten(stripes, tmp_path, capsys):
    table = tmp_path / "out" / "detect.csv"
    table.parent.mkdir()
    table.write_text("data,method,seed\nstripes,cae,0\n")
    arguments = [
        "bench",
        "detect",
        str(stripes),
        "--methods",
        "cae",
        "--budget",
        "1steps",
        "--out",
        str(table.parent),
    ]
    assert run(arguments) == UsageError.exit_code
    assert "no column roi" in capsys.readouterr().err
    assert "stripes,cae,0" in table.read_text()


def test_means_are_over_folders_and_seeds_and_leave_out_what_is_missing():
    rows = [
        {"method": "a", "image_auroc": "", "pixel_auroc": 0.5, "pixel_ap": 0.1, "au_pro": 0.2, "f1_max": None,
         "train_s": 1, "score_s_per_mpx": 2},
        {"method": "a", "image_auroc": 1.0, "pixel_auroc": 0.7, "pixel_ap": 0.3, "au_pro": 0.4, "f1_max": None,
         "train_s": 3, "score_s_per_mpx": 2},
        {"method": "b", "image_auroc": 0.9, "pixel_auroc": 0.8, "pixel_ap": 0.3, "au_pro": 0.4, "f1_max": 0.1,
         "train_s": 3, "score_s_per_mpx": 2},
    ]  # fmt: skip
    found = means(rows)
    assert [row["method"] for row in found] == ["b", "a"]
    assert (found[1]["pixel_auroc"], found[1]["image_auroc"], found[1]["f1_max"]) == (0.6, 1.0, None)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--methods", "patchcor"], UsageError.exit_code, "patchcore"),
        (["--methods", "cnn"], UsageError.exit_code, "Valid"),
        (["--methods", ","], UsageError.exit_code, "--methods ',': name at least one"),
        (["--roi", "round"], 1, "saturated"),
    ],
)
def test_mistakes_are_named(stripes, tmp_path, capsys, arguments, code, words):
    assert run(["bench", "detect", str(stripes), "--out", str(tmp_path / "out"), *arguments]) == code
    assert words in capsys.readouterr().err


def test_folders_must_be_in_the_layout_and_have_different_names(stripes, tmp_path, capsys):
    assert run(["bench", "detect", str(tmp_path)]) == NoInputError.exit_code
    assert "no folder train" in capsys.readouterr().err
    assert run(["bench", "detect", str(stripes), str(stripes)]) == UsageError.exit_code
