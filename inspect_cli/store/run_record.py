"""``run.json``, as far as later steps rely on it: the parts that count, and what became of those without a result."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from inspect_cli import TOOL
from inspect_cli.errors import NoInputError, first_fault
from inspect_cli.store.layout import RUN_RECORD


class LeftPart(BaseModel):
    """A part without a result, and why."""

    part: str
    error: str


class RunRecord(BaseModel):
    """What a run says of itself; ``exit_code`` is None until it came to its end.

    ``scoring_sha256`` and ``limits_sha256`` are what the keys of its parts hold once they are done.
    """

    material: str
    input: Path
    parts: list[str]
    errors: list[LeftPart]
    pending: list[LeftPart]
    interrupted: bool
    exit_code: int | None
    started_utc: str
    tile_px: int = Field(ge=1)
    scoring_sha256: str
    limits_sha256: str
    batch_warnings: list[str] = []


def is_run(folder: Path) -> bool:
    """Whether a folder's record, sound or not, is one of this program."""
    try:
        tool = json.loads((folder / RUN_RECORD).read_bytes())["tool"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return isinstance(tool, str) and tool.partition(" ")[0] == TOOL.partition(" ")[0]


def read_run_record(run: Path) -> RunRecord:
    """Read the record of a run folder.

    Raises
    ------
    NoInputError
        If the folder is no run, or its record is damaged; the message names the first fault.
    """
    path = run / RUN_RECORD
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise NoInputError(f"{run}: no run of this program ({RUN_RECORD}: {error.strerror})") from error
    except ValidationError as error:
        key, fault = first_fault(error)
        if is_run(run):
            raise NoInputError(
                f"{run}: results of another version, or damaged ({RUN_RECORD}: {key or 'file'}: {fault}); run "
                "`inspect score` again"
            ) from error
        raise NoInputError(f"{run}: no run of this program ({RUN_RECORD}: {key or 'file'}: {fault})") from error
