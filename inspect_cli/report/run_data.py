"""What a run folder says, read leniently: a missing detail is a gap in the page, not an end of it."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Final

from inspect_cli.errors import InputError, NoInputError
from inspect_cli.material.manifest import DOUBT
from inspect_cli.store.cells import plain_cell
from inspect_cli.store.layout import EVALUATION, PART_RECORD, PARTS_FOLDER, PARTS_TABLE, RUN_RECORD

#: Verdicts from the first to look at to the last; an unknown one comes first.
VERDICT_ORDER: Final = ("error", "fail", "undecided", "pending", "pass")


@dataclass(frozen=True)
class PartRow:
    """One line of ``parts.csv``; None where a number is absent or not finite."""

    part: str
    verdict: str
    score: float | None
    map: str
    reasons: str
    region_count: float | None
    defect_area_px: float | None
    defect_area_mm2: float | None
    seconds: float | None
    error: str


@dataclass(frozen=True)
class ShownPart:
    """The folder of one part and its ``part.json``, None if that cannot be read."""

    folder: Path
    content: dict[str, Any] | None


class RunData:
    """The content of one run folder.

    Raises
    ------
    NoInputError
        If there is no ``run.json``.
    InputError
        If ``run.json`` or ``parts.csv`` cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = _required_json(folder / RUN_RECORD)
        self.parts = sorted(_read_parts(folder / PARTS_TABLE), key=_worst_first)
        self.evaluation_file = folder / EVALUATION

    @cached_property
    def evaluation(self) -> dict[str, Any] | None:
        """Content of ``evaluation.json``; None if it is absent or broken."""
        return read_json(self.evaluation_file)

    def record(self, part: str) -> ShownPart | None:
        """Return the folder and record of a part, None if the run folder has none."""
        path = PurePosixPath(part)
        if not part or path.is_absolute() or ".." in path.parts:
            return None
        folder = self.folder / PARTS_FOLDER / path
        return ShownPart(folder, read_json(folder / PART_RECORD)) if (folder / PART_RECORD).is_file() else None


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if the file is absent, broken or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def mapping(value: Any) -> dict[str, Any]:
    """Return the value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def number(value: Any) -> float | None:
    """Return a finite number from JSON or CSV, else None."""
    if value is None or isinstance(value, bool):
        return None
    try:
        converted = float(value)
    except (TypeError, ValueError):
        return None
    return converted if math.isfinite(converted) else None


def _required_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NoInputError(f"{path}: not there, so this is no finished run; run `inspect score` first")
    content = read_json(path)
    if content is None:
        raise InputError(f"{path}: damaged or not a JSON object; run `inspect score` again")
    return content


def _read_parts(path: Path) -> list[PartRow]:
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            rows = csv.DictReader(lines, restval="")
            return [_part_row({key: plain_cell(cell) for key, cell in row.items()}) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); run `inspect score` again") from error


def _part_row(line: dict[str, str]) -> PartRow:
    return PartRow(
        part=line.get("part", ""),
        verdict=line.get("verdict") or "undecided",
        score=number(line.get("score")),
        map=line.get("map", ""),
        reasons=line.get("reasons", ""),
        region_count=number(line.get("region_count")),
        defect_area_px=number(line.get("defect_area_px")),
        defect_area_mm2=number(line.get("defect_area_mm2")),
        seconds=number(line.get("seconds")),
        error=line.get("error", ""),
    )


def _worst_first(row: PartRow) -> tuple[int, float, str]:
    rank = VERDICT_ORDER.index(row.verdict) if row.verdict in VERDICT_ORDER else -1
    if row.reasons == DOUBT:  # of the model, not of this part: after those with findings
        rank = VERDICT_ORDER.index("pending")
    return rank, -math.inf if row.score is None else -row.score, row.part
