"""``docs/files.md`` names every column, key and metric that a run writes, and nothing that it does not."""

import json
import re
from pathlib import Path

import pytest

from inspect_cli.batch.tables import PART_COLUMNS, REGION_COLUMNS
from inspect_cli.cli import run
from inspect_cli.store.part_record import PartRecord
from inspect_cli.store.patches import PATCH_COLUMNS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "files.md"


def described() -> dict[str, set[str]]:
    """Return the names at the beginning of the rows of each table, by its heading."""
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    found = {}
    for section in sections:
        heads = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        found[section.splitlines()[0]] = set(re.findall(r"`(\w+)`", " ".join(heads)))
    return found


def section(start: str) -> set[str]:
    return next(names for heading, names in described().items() if heading.startswith(start))


@pytest.mark.parametrize(
    ("start", "names"),
    [
        ("`parts.csv`", PART_COLUMNS),
        ("`regions.csv`", REGION_COLUMNS),
        ("`patches.parquet`", PATCH_COLUMNS),
        ("`parts/", PartRecord.model_fields),
    ],
)
def test_tables_and_records_are_described(start, names):
    assert section(start) == set(names)


def test_what_a_run_writes_is_described(results, batch, models, tmp_path):
    told = json.loads((results / "run.json").read_text())
    assert section("`run.json`") == set(told)
    calibration = next(line for line in PAGE.read_text().splitlines() if line.startswith("| `calibration`"))
    assert set(re.findall(r"`(\w+)`", calibration)) == {"calibration", *told["calibration"]}
    assert run(["evaluate", str(results), "--truth", str(batch / "ground_truth")]) == 0
    assert section("`evaluation.json`") == set(json.loads((results / "evaluation.json").read_text()))


def test_what_a_run_tells_is_described(results, batch, models, tmp_path, capsys):
    files = {"--log-file": tmp_path / "log", "--metrics-file": tmp_path / "prom"}
    words = [str(word) for pair in files.items() for word in pair]
    command = ["score", str(batch / "test"), "-m", "foil", "--models", str(models), "--engine", "torch"]
    assert run([*command, "--json", *words]) == 0
    text = PAGE.read_text()
    part = json.loads(capsys.readouterr().out.splitlines()[0])
    assert set(part) <= set(re.findall(r"`(\w+)`", text.partition("## Standard output")[2]))
    log = files["--log-file"].read_text()
    for key in set(re.findall(r" (\w+)=", log)) - {"run", "input", "exit_code", *told_verdicts(log)}:
        assert f"`{key}`" in text.partition("A line of the log")[2], key
    metrics = set(re.findall(r"^(\w+)\{", files["--metrics-file"].read_text(), re.MULTILINE))
    assert section("Standard output") == metrics


def told_verdicts(log: str) -> set[str]:
    return set(re.findall(r" (pass|fail|undecided|error|pending)=", log))
