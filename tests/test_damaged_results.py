"""Results that are damaged, incomplete or of other settings: made again, or told; never an internal fault."""

import json
import os
import shutil
import signal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile

from inspect_cli.batch import run as batch_run
from inspect_cli.cli import run
from inspect_cli.errors import EXIT_SIGINT, EXIT_SIGTERM, InputError


def score(batch, models, *more: str) -> int:
    return run(["score", str(batch / "test"), "--material", "foil", "--models", str(models), *more])


def apply(models, folder, *more: str) -> int:
    limits = ["--value", "albedo=1", "--value", "normal=1"]
    return run(["threshold", "--material", "foil", "--models", str(models), *limits, "--apply", str(folder), *more])


def record(folder) -> dict:
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more"])
def test_a_damaged_patch_table_is_made_again(results, batch, models, content):
    table = results / "parts/good/g003/patches.parquet"
    before = table.read_bytes()
    table.write_bytes(content)
    assert score(batch, models) == 0
    assert table.read_bytes()[:4] == before[:4] == b"PAR1"
    assert len(table.read_bytes()) > 100
    assert record(results)["counts"]["pending"] == 0


def test_a_damaged_stored_map_is_made_again_from_the_input(results, batch, models):
    stored = results / "parts/good/g003/maps/albedo.tif"
    whole = stored.read_bytes()
    stored.write_bytes(whole[: len(whole) // 2])
    assert apply(models, results) == InputError.exit_code
    told = record(results)
    assert [entry["part"] for entry in told["pending"]] == ["good/g003"]
    assert "`inspect score` makes it again" in told["pending"][0]["error"]
    assert told["exit_code"] == InputError.exit_code
    assert score(batch, models) == 0
    assert stored.read_bytes() == whole
    assert record(results)["pending"] == []


def test_limits_whose_applying_was_stopped_are_in_force_for_no_part_that_was_not_reached(
    results, batch, models, monkeypatch, capsys
):
    judge = batch_run.rejudge

    def stopped(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return judge(*arguments)

    monkeypatch.setattr(batch_run, "rejudge", stopped)
    assert apply(models, results) == EXIT_SIGTERM
    told = record(results)
    assert (len(told["parts"]), len(told["pending"]), told["exit_code"]) == (1, 3, EXIT_SIGTERM)
    assert told["interrupted"]
    assert "interrupted" in capsys.readouterr().err
    monkeypatch.setattr(batch_run, "rejudge", judge)
    assert apply(models, results) == 0
    told = record(results)
    assert (len(told["parts"]), told["pending"], told["exit_code"], told["interrupted"]) == (4, [], 0, False)
    assert score(batch, models) == 0
    assert len(record(results)["parts"]) == 4


def test_pages_of_a_patch_table_that_are_damaged_are_made_again(results, batch, models):
    table = results / "parts/good/g003/patches.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[:4] + b"\xff" * (len(whole) // 3) + whole[4 + len(whole) // 3 :])
    assert run(["evaluate", str(results), "--truth", str(batch / "ground_truth")]) == 0
    assert score(batch, models) == 0
    assert table.read_bytes()[4:20] == whole[4:20]


def test_parts_that_a_killed_run_never_began_are_counted_and_pending(results, batch, models, capsys):
    shutil.rmtree(results / "parts/good")
    (results / "run.json").write_text(json.dumps(record(results) | {"exit_code": None, "interrupted": True}))
    capsys.readouterr()
    assert run(["evaluate", str(results), "--truth", str(batch / "ground_truth"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["parts"], found["unfinished"]) == (3, 1)
    apply(models, results)
    assert [entry["part"] for entry in record(results)["pending"]] == ["good/g003"]


def test_outputs_of_maps_that_hold_no_more_are_not_made_again(results, batch, models):
    part = results / "parts/good/g003"
    assert (part / "heatmap.tif").exists()
    assert score(batch, models, "--outputs", "none") == 0
    assert (part / "heatmap.tif").exists(), "what holds is kept"
    assert score(batch, models, "--outputs", "none", "--stride", "32") == 0
    assert not (part / "heatmap.tif").exists()
    assert not (part / "maps/albedo.tif").exists()


def test_maps_of_the_recipe_that_the_model_lacks_are_told_in_the_run_and_its_report(batch, models, capsys):
    recipe = models / "foil/recipe.yaml"
    more = '  height: {files: "{part}_height.tif", channels: 1}\ntiles:'
    recipe.write_text(recipe.read_text().replace("tiles:", more, 1))
    assert score(batch, models) == 0
    results = batch / "test/inspection/foil"
    assert any("map(s) height of the recipe are not in the model" in told for told in record(results)["warnings"])
    assert run(["report", str(results)]) == 0
    assert "map(s) height of the recipe are not in the model" in (results / "report.html").read_text()


@pytest.mark.parametrize(
    "key",
    [
        "timing_s",
        "score",
        "regions",
        "peak.map",
        "verdict",
        "part",
        "key.inputs",
        "maps.albedo",
        "size_px",
        "outlines",
    ],
)
def test_a_record_of_a_part_that_lacks_something_is_made_again(results, batch, models, key):
    path = results / "parts/stain/b001/part.json"
    whole = json.loads(path.read_text())
    damaged = json.loads(path.read_text())
    *above, last = key.split(".")
    inner = damaged
    for name in above:
        inner = inner[name]
    del inner[last]
    path.write_text(json.dumps(damaged))
    assert run(["evaluate", str(results), "--truth", str(batch / "ground_truth")]) == InputError.exit_code
    assert apply(models, results) == InputError.exit_code
    assert score(batch, models) == 0
    again = json.loads(path.read_text())
    assert again["maps"]["albedo"] == whole["maps"]["albedo"]
    assert record(results)["pending"] == []


def test_a_patch_table_with_other_columns_is_made_again(results, batch, models):
    table = results / "parts/good/g003/patches.parquet"
    columns = pq.read_table(table).column_names
    pq.write_table(pa.table({"residual": [1.0]}), table)
    assert apply(models, results) == InputError.exit_code
    assert score(batch, models) == 0
    assert pq.read_table(table).column_names == columns
    assert record(results)["pending"] == []


def test_a_stored_map_of_another_size_is_made_again(results, batch, models):
    stored = results / "parts/good/g003/maps/albedo.tif"
    whole = stored.read_bytes()
    tifffile.imwrite(stored, np.zeros((7, 9), np.float32))
    assert apply(models, results) == InputError.exit_code
    assert "was stored here" in record(results)["pending"][0]["error"]
    assert score(batch, models) == 0
    assert stored.read_bytes() == whole


@pytest.mark.parametrize("outright", [False, True])
def test_limits_whose_applying_is_killed_leave_a_run_that_says_so(results, batch, models, monkeypatch, outright):
    judge, seen = batch_run.rejudge, []

    def killed(*arguments):
        if seen:
            raise KeyboardInterrupt
        seen.append(1)
        return judge(*arguments)

    monkeypatch.setattr(batch_run, "rejudge", killed)
    if outright:  # nothing is written on the way out
        monkeypatch.setattr(batch_run, "write_tables", killed)
    assert apply(models, results) == EXIT_SIGINT
    told = record(results)
    assert (told["interrupted"], told["exit_code"]) == (True, None)
    assert told["calibration"]["limits"] == {"albedo": 1, "normal": 1}
    if outright:
        assert not (results / "parts.csv").exists()
    else:
        assert (len(told["parts"]), len(told["pending"])) == (1, 3)
    monkeypatch.undo()
    assert apply(models, results) == 0
    told = record(results)
    assert (len(told["parts"]), told["pending"], told["exit_code"], told["interrupted"]) == (4, [], 0, False)
