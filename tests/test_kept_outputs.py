"""`score --outputs`: what is kept of a part, what that costs the commands after it, and how it comes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from inspect_cli.cli import run
from inspect_cli.store.layout import OUTPUTS

#: That of the limits: new ones are set on no other. The tests score with a wider one where they can.
STRIDE = ("--stride", "16")


@pytest.fixture
def scored(batch: Path, models: Path, tmp_path: Path):
    """Return a function that scores the batch with some options, and the run folder."""
    folder = tmp_path / "run"

    def score(*options: str) -> int:
        words = ["score", str(batch / "test"), "--material", "foil", "--models", str(models), "--out", str(folder)]
        return run([*words, "--stride", "32", *options])

    return score, folder


def kept(folder: Path) -> dict[str, set[str]]:
    """Return the outputs that each part has, all or none of their files."""
    found = {}
    for record in sorted(folder.rglob("part.json")):
        files = {name: [list(record.parent.glob(p)) for p in patterns] for name, patterns in OUTPUTS.items()}
        assert all(all(each) or not any(each) for each in files.values())
        found[record.parent.name] = {name for name, each in files.items() if all(each)}
        assert set(json.loads(record.read_text())["outputs"]) == found[record.parent.name]
        assert (record.parent / "mask.png").is_file()
        assert (record.parent / "patches.parquet").is_file()
    return found


def verdicts(folder: Path) -> dict[str, tuple[str, float]]:
    records = [json.loads(path.read_text()) for path in sorted(folder.rglob("part.json"))]
    return {record["part"]: (record["verdict"], record["score"]) for record in records}


def apply_new_limit(models: Path, folder: Path) -> int:
    words = ["threshold", "--material", "foil", "--models", str(models), "--value", "albedo=0.01"]
    return run([*words, "--apply", str(folder)])


@pytest.mark.parametrize(
    ("option", "names"),
    [("all", set(OUTPUTS)), ("none", set()), ("heatmap", {"heatmap"}), ("maps,pictures", {"maps", "pictures"})],
)
def test_what_is_asked_for_is_there_and_nothing_else(scored, option: str, names: set[str]) -> None:
    score, folder = scored
    assert score("--outputs", option) == 0
    found = kept(folder)
    assert len(found) == 4
    assert all(each == names for each in found.values())


def test_verdicts_do_not_hang_on_what_is_kept(scored, capsys: pytest.CaptureFixture[str]) -> None:
    score, folder = scored
    assert score() == 0
    expected = verdicts(folder)
    assert score("--outputs", "none", "--force") == 0
    assert verdicts(folder) == expected
    assert all(not each for each in kept(folder).values())
    capsys.readouterr()
    assert score("--outputs", "none") == 0
    assert capsys.readouterr().out.count("(done before)") == 4


def test_a_rerun_that_asks_for_less_changes_nothing_and_one_for_more_makes_it(scored, capsys) -> None:
    score, folder = scored
    assert score("--outputs", "maps,pictures") == 0
    capsys.readouterr()
    assert score("--outputs", "maps") == 0
    assert capsys.readouterr().out.count("(done before)") == 4
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("maps/*.tif")}
    assert score() == 0
    assert "(done before)" not in capsys.readouterr().out
    assert all(each == set(OUTPUTS) for each in kept(folder).values())
    assert {path: path.stat().st_mtime_ns for path in before} == before, "judged again from the stored maps"


def test_what_a_part_has_is_kept_when_more_is_asked_for(scored, batch: Path) -> None:
    score, folder = scored
    assert score("--outputs", "pictures") == 0
    assert score("--outputs", "heatmap") == 0
    assert all(each == {"pictures", "heatmap"} for each in kept(folder).values())
    assert score("--outputs", "heatmap", "--force") == 0
    assert all(each == {"heatmap"} for each in kept(folder).values())


def test_disk_is_asked_for_what_is_still_to_be_written(scored, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    score, _ = scored
    assert score("--outputs", "none") == 0
    monkeypatch.setattr("inspect_cli.batch.space.shutil.disk_usage", lambda _: Disk())
    assert score("--outputs", "none") == 0
    assert score("--outputs", "heatmap") == 6
    assert "4 part(s) need about" in capsys.readouterr().err


class Disk:
    """A disk that is full."""

    free = 0


def test_commands_that_miss_something_say_what_to_do(scored, batch: Path, models: Path, capsys) -> None:
    score, folder = scored
    assert score("--outputs", "pictures", *STRIDE) == 0
    truth = ["evaluate", str(folder), "--truth", str(batch / "ground_truth")]
    assert run(truth) == 3
    assert "with --outputs heatmap or all" in capsys.readouterr().err
    assert apply_new_limit(models, folder) == 3
    assert "were not kept" in capsys.readouterr().err
    assert score("--outputs", "heatmap", *STRIDE) == 0
    assert run([*truth, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["pixel_auroc"] > 0.5
    assert found["by_map"] == {}
    assert run(["report", str(folder)]) == 0, "a page with gaps"


def test_new_limits_keep_what_was_kept(scored, models: Path) -> None:
    score, folder = scored
    assert score("--outputs", "maps", *STRIDE) == 0
    assert apply_new_limit(models, folder) == 0
    assert all(each == {"maps"} for each in kept(folder).values())


@pytest.mark.parametrize(("option", "told"), [("map", "did you mean 'maps'"), ("", "give heatmap, maps, pictures")])
def test_unknown_output_is_refused(scored, capsys, option: str, told: str) -> None:
    score, folder = scored
    assert score("--outputs", option) == 1
    assert told in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize(
    ("section", "key", "value", "again"),
    [
        ("roi", "rule", "dark", "scored"),
        ("tiles", "blend", "hann", "refused"),  # the limits are of the other one
        ("scoring", "min_area_px", 30, "judged"),
        ("scoring", "halo_share", 0.5, "judged"),
        ("scoring", "halo_px", 5, "judged"),
        (None, "pixel_pitch_um", 7.5, "judged"),
        ("training", "patience", 7, "unchanged"),
    ],
)
def test_what_a_result_depends_on_is_made_again_and_nothing_else(scored, models, capsys, section, key, value, again):
    """A recipe that changed: what decides raw scores, what decides verdicts, and what decides neither."""
    score, folder = scored
    assert score("--outputs", "maps") == 0
    record = folder / "parts/dent/b000/part.json"
    before = json.loads(record.read_text())
    path = models / "foil/recipe.yaml"
    content = yaml.safe_load(path.read_text())
    (content if section is None else content.setdefault(section, {}))[key] = value
    path.write_text(yaml.safe_dump(content))
    capsys.readouterr()
    assert score("--outputs", "maps", "--json") == (5 if again == "refused" else 0)
    if again == "refused":
        return
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["unchanged"] for line in lines} == {again == "unchanged"}
    after = json.loads(record.read_text())
    assert (after["key"]["scoring"] != before["key"]["scoring"]) == (again == "scored")
    assert (after["key"]["limits"] != before["key"]["limits"]) == (again == "judged")
