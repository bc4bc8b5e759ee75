"""Results of files that are there no more: they stand for nothing, whatever ends the run that would look."""

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import tifffile

from inspect_cli.batch import parts as batch_parts
from inspect_cli.batch import run as batch_run
from inspect_cli.cli import run
from inspect_cli.errors import EXIT_SIGTERM, InputError, ModelError, NoInputError, OutputError, UsageError
from inspect_cli.recipe import parse_recipe
from inspect_cli.store.layout import PART_RECORD_ASIDE

#: Comes after `dent/b000`, with which a run that is stopped ends.
PART = "good/g003"


def score(batch, models, *more: str) -> int:
    options = ["--outputs", "heatmap,maps", "--stride", "32", *more]
    return run(["score", str(batch / "test"), "--material", "foil", "--models", str(models), *options])


def overwritten(batch: Path) -> bytes:
    """Write another image of the part under its name, and return what was there."""
    path = batch / "test" / f"{PART}_albedo.tif"
    before, pixels = path.read_bytes(), tifffile.imread(path)
    path.unlink()
    tifffile.imwrite(path, np.ascontiguousarray(pixels[::-1]))
    return before


@pytest.fixture
def seen(batch, models):
    """Results of the very files of the batch: a copy of results would not know them."""
    assert score(batch, models) == 0
    return batch / "test" / "inspection" / "foil"


@pytest.fixture
def stopped(monkeypatch):
    """Return a function that scores and gets SIGTERM while it is at the first part."""
    work = batch_parts._score_or_fail

    def first(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return work(*arguments)

    def call(batch, models) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(batch_parts, "_score_or_fail", first)
            assert score(batch, models) == EXIT_SIGTERM

    return call


def told(results: Path) -> dict:
    record = json.loads((results / "run.json").read_text())
    rows = csv.DictReader((results / "parts.csv").read_text().splitlines())
    assert {row["part"] for row in rows if row["verdict"] == "pending"} == {e["part"] for e in record["pending"]}
    return record


def test_a_part_that_a_stopped_run_did_not_reach_has_no_verdict_of_other_files(seen, batch, models, stopped):
    overwritten(batch)
    stopped(batch, models)
    record = told(seen)
    assert [entry["part"] for entry in record["pending"]] == [PART]
    assert sorted(record["parts"]) == ["dent/b000", "scratch/b002", "stain/b001"]
    limits = ["--value", "albedo=1", "--value", "normal=1"]
    common = ["threshold", "--material", "foil", "--models", str(models)]
    assert run([*common, *limits, "--apply", str(seen)]) == InputError.exit_code
    assert [entry["part"] for entry in told(seen)["pending"]] == [PART]
    assert score(batch, models) == 0
    assert told(seen)["pending"] == []
    assert not list(seen.rglob(PART_RECORD_ASIDE))


def test_a_killed_run_leaves_no_verdict_of_other_files(seen, batch, models, monkeypatch):
    overwritten(batch)

    def killed(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(batch_parts, "_score_or_fail", killed)
    score(batch, models)
    assert not (seen / "parts" / PART / "part.json").exists()
    assert (seen / "parts/dent/b000/part.json").exists()


def test_a_run_that_is_killed_before_its_end_leaves_no_table_about_other_files(seen, batch, models, monkeypatch):
    def killed(*_arguments):
        raise KeyboardInterrupt

    overwritten(batch)
    with monkeypatch.context() as patch:  # before the first part, where nothing is written on the way out
        patch.setattr(batch_run, "write_run_record", killed)
        score(batch, models)
    assert not [name for name in ("parts.csv", "regions.geojson", "patches.parquet") if (seen / name).exists()]
    assert score(batch, models) == 0
    assert told(seen)["pending"] == []


def test_a_run_that_is_killed_before_its_end_leaves_no_table_of_other_limits(seen, batch, models, monkeypatch):
    def killed(*_arguments):
        raise KeyboardInterrupt

    made = [seen / name for name in ("parts.csv", "report.html", "evaluation.json")]
    for path in made[1:]:
        path.touch()
    limits = ["--material", "foil", "--models", str(models), "--value", "albedo=1", "--value", "normal=1"]
    assert run(["threshold", *limits]) == 0
    assert all(path.exists() for path in made)
    with monkeypatch.context() as patch:
        patch.setattr(batch_run, "write_run_record", killed)
        score(batch, models)
    assert not any(path.exists() for path in made)


def test_a_part_that_is_replaced_while_a_run_goes_on_has_to_settle_again(seen, batch, models):
    from inspect_cli.batch.parts import _settled_first
    from inspect_cli.images import discover_parts
    from inspect_cli.images.settle import Settling
    from inspect_cli.material.bundle import find_bundle
    from inspect_cli.material.materials import find_material
    from inspect_cli.scoring.model import load_model

    material = find_material("foil", models)
    model = load_model(material, find_bundle(material.folder))
    parts = discover_parts(batch / "test", model.maps)
    settling = Settling(0, "{part}.done")
    taken = {part.id: obstacle for part, obstacle in _settled_first(seen, parts, model, settling, lambda: True)}
    assert set(taken.values()) == {None}, "done before: no marker is asked for"
    overwritten(batch)
    taken = {part.id: obstacle for part, obstacle in _settled_first(seen, parts, model, settling, lambda: True)}
    assert [part for part, obstacle in taken.items() if obstacle is not None] == [PART]


def test_a_file_that_was_only_touched_is_not_scored_again(seen, batch, models, stopped):
    before = (seen / "parts" / PART / "heatmap.tif").stat().st_mtime_ns
    path = batch / "test" / f"{PART}_albedo.tif"
    content = overwritten(batch)
    path.write_bytes(content)
    stopped(batch, models)
    assert [entry["part"] for entry in told(seen)["pending"]] == [PART], "nobody has looked yet"
    assert score(batch, models) == 0
    assert told(seen)["pending"] == []
    assert (seen / "parts" / PART / "heatmap.tif").stat().st_mtime_ns == before
    assert not list(seen.rglob(PART_RECORD_ASIDE))
    stopped(batch, models)
    assert told(seen)["pending"] == [], "it was looked at"


def test_what_was_made_of_results_stays_where_files_were_only_touched(seen, batch, models):
    made = [seen / name for name in ("report.html", "evaluation.json")]
    for path in made:
        path.write_text("made")
    content = overwritten(batch)
    assert score(batch, models) == 0
    assert not any(path.exists() for path in made), "another image"
    for path in made:
        path.write_text("made")
    (batch / "test" / f"{PART}_albedo.tif").write_bytes(content)
    assert score(batch, models) == 0
    assert not any(path.exists() for path in made), "and back"
    for path in made:
        path.write_text("made")
    os.utime(batch / "test" / f"{PART}_albedo.tif", (1, 1))
    assert score(batch, models) == 0
    assert [path.read_text() for path in made] == ["made", "made"]
    assert not list(seen.glob(".*.aside"))


def test_a_full_disk_leaves_no_verdict_of_other_files(seen, batch, models, monkeypatch):
    def full(*_arguments):
        raise OutputError("no space")

    overwritten(batch)
    monkeypatch.setattr(batch_run, "check_space", full)
    assert score(batch, models) == OutputError.exit_code
    assert not (seen / "parts" / PART / "part.json").exists()
    assert (seen / "parts/dent/b000/part.json").exists()
    assert not (seen / "parts.csv").exists()


def test_results_of_other_limits_than_the_run_says_are_not_measured(seen, batch, models, monkeypatch, capsys):
    """Killed after the record of the run was written and before a part was judged by the new limits."""

    def killed(*_arguments):
        raise KeyboardInterrupt

    truth = ["--truth", str(batch / "ground_truth")]
    assert run(["evaluate", str(seen), *truth]) == 0
    limits = ["--material", "foil", "--models", str(models), "--value", "albedo=1", "--value", "normal=1"]
    assert run(["threshold", *limits]) == 0
    assert run(["evaluate", str(seen), *truth]) == 0, "the run is as it was"
    with monkeypatch.context() as patch:
        patch.setattr(batch_run, "score_parts", killed)
        patch.setattr(batch_run, "note_not_reached", killed)
        score(batch, models)
    assert run(["evaluate", str(seen), *truth]) == InputError.exit_code
    assert "not all parts were judged by the same model and limits" in capsys.readouterr().err
    assert score(batch, models) == 0
    assert run(["evaluate", str(seen), *truth]) == 0


def test_a_damaged_record_of_a_run_is_made_again(results, batch, models):
    (results / "run.json").write_text("{")
    assert score(batch, models) == 0
    assert len(told(results)["parts"]) == 4


def test_results_in_a_folder_whose_name_is_no_text_are_refused(results, batch, models):
    odd = results.rename(results.parent / os.fsdecode(b"bl\xf6ck"))
    limits = ["--material", "foil", "--models", str(models), "--value", "albedo=1"]
    assert run(["threshold", *limits, "--apply", str(odd)]) == UsageError.exit_code
    assert run(["evaluate", str(odd), "--truth", str(batch / "ground_truth")]) == UsageError.exit_code
    assert run(["tile", str(batch / "test"), "--out", str(odd / "tiles")]) == UsageError.exit_code


def test_a_record_of_another_program_is_left_alone(batch, models, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text("{")
    assert score(batch, models, "--out", str(tmp_path / "out")) == NoInputError.exit_code
    assert (tmp_path / "out" / "run.json").read_text() == "{"


def test_what_was_measured_while_results_changed_is_not_kept(seen, batch, monkeypatch, capsys):
    from inspect_cli.evaluation import evaluate

    work = evaluate.evaluate_run

    def measured(run_folder, *arguments, **options):
        found = work(run_folder, *arguments, **options)
        with (run_folder / "run.json").open("a") as file:
            file.write(" ")
        return found

    command = ["evaluate", str(seen), "--truth", str(batch / "ground_truth")]
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "evaluate_run", measured)
        assert run(command) == 0
    assert "changed while they were measured" in capsys.readouterr().err
    assert not (seen / "evaluation.json").exists()
    assert run(command) == 0
    assert (seen / "evaluation.json").exists()


def test_a_page_about_older_results_does_not_stay(seen, batch, models):
    page = seen / "report.html"
    page.touch()
    assert score(batch, models) == 0
    assert page.exists(), "nothing changed"
    overwritten(batch)
    assert score(batch, models) == 0
    assert not page.exists()


def test_the_roi_is_that_of_the_map_it_is_looked_for_in():
    text = (
        "material: foil\nroi: {rule: dark}\nmaps: {FIRST: {files: '{part}_FIRST.tif'}, OTHER: {files: '{part}.tif'}}"
    )
    one = parse_recipe(text.replace("FIRST", "albedo").replace("OTHER", "height"), "test")
    two = parse_recipe(text.replace("FIRST", "height").replace("OTHER", "albedo"), "test")
    assert one.roi == two.roi
    assert (one.resolved_roi().map, two.resolved_roi().map) == ("albedo", "height")


def test_a_run_that_cannot_begin_leaves_no_verdict_of_other_files(seen, batch, models):
    overwritten(batch)
    (batch / "test/dent/b000_albedo.tif").rename(batch / "away.tif")  # one that is gone is no other file
    weights = next((models / "foil/cae").glob("albedo-*.safetensors"))
    weights.rename(weights.with_suffix(".gone"))
    assert score(batch, models) == ModelError.exit_code
    assert not (seen / "parts" / PART / "part.json").exists()
    assert (seen / "parts/dent/b000/part.json").exists()
    assert not (seen / "parts.csv").exists()
    weights.with_suffix(".gone").rename(weights)
    (batch / "away.tif").rename(batch / "test/dent/b000_albedo.tif")
    assert score(batch, models) == 0
    assert told(seen)["pending"] == []


@pytest.mark.parametrize("material", ["/tmp/models/foil", "**x"])
def test_a_material_that_is_no_name_is_told_as_one(seen, batch, models, material, capsys):
    words = ["score", str(batch / "test"), "--material", material, "--models", str(models)]
    assert run(words) == UsageError.exit_code
    assert "is unknown" in capsys.readouterr().err


def test_a_run_that_cannot_begin_leaves_results_of_the_same_files(seen, batch, models):
    weights = next((models / "foil/cae").glob("albedo-*.safetensors"))
    weights.rename(weights.with_suffix(".gone"))
    before = (seen / "parts.csv").read_text()
    assert score(batch, models) == ModelError.exit_code
    assert (seen / "parts.csv").read_text() == before


def test_a_kill_while_records_are_set_aside_leaves_no_table_of_them(seen, batch, models, monkeypatch):
    """Nor does the next run that is killed: what lies aside is known to be of other files."""

    def killed(*_arguments):
        raise KeyboardInterrupt

    overwritten(batch)
    (seen / "report.html").touch()
    with monkeypatch.context() as patch:
        patch.setattr(batch_run, "set_aside", killed)
        score(batch, models)
    assert not (seen / "parts.csv").exists()
    assert not (seen / "report.html").exists()
    record = seen / "parts" / PART / "part.json"
    record.rename(record.with_name(PART_RECORD_ASIDE))
    (seen / "parts.csv").touch()
    with monkeypatch.context() as patch:
        patch.setattr(batch_run, "write_run_record", killed)
        score(batch, models)
    assert not (seen / "parts.csv").exists()


def test_parts_that_could_not_be_read_for_a_while_are_not_scored_again(seen, batch, models, capsys):
    gone = batch / "test" / f"{PART}_albedo.tif"
    gone.rename(gone.with_suffix(".away"))
    assert score(batch, models) == InputError.exit_code
    assert not (seen / "parts" / PART / "part.json").exists()
    gone.with_suffix(".away").rename(gone)
    capsys.readouterr()
    assert score(batch, models) == 0
    assert capsys.readouterr().out.count("(done before)") == 4


def test_a_page_about_a_part_that_is_gone_is_removed(seen, batch, models):
    """Results of all other parts are the same."""
    odd = batch / "test" / "good" / "x9_albedo.tif"
    odd.write_bytes(b"no image")
    assert score(batch, models) == InputError.exit_code
    page = seen / "report.html"
    page.write_text("names x9")
    assert score(batch, models) == InputError.exit_code
    assert page.exists(), "nothing changed"
    odd.unlink()
    assert score(batch, models) == 0
    assert not page.exists()


def test_limits_applied_to_all_parts_are_no_interrupted_run(seen, models, monkeypatch):
    judged = batch_run._judged

    def last(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return judged(*arguments)

    values = ["--value", "albedo=1", "--value", "normal=1"]
    only = json.loads((seen / "run.json").read_text())["parts"][-1]

    def signalled(folder, part, *more):
        return (last if part == only else judged)(folder, part, *more)

    monkeypatch.setattr(batch_run, "_judged", signalled)
    common = ["threshold", "--material", "foil", "--models", str(models), "--stride", "32"]
    assert run([*common, *values, "--apply", str(seen)]) == 0
    record = told(seen)
    assert (record["interrupted"], record["exit_code"], record["pending"]) == (False, 0, [])
