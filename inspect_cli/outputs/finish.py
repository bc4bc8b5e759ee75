"""A batch from start to exit code: lock, score, tables, run record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from inspect_cli.errors import EXIT_DEFECTS, EXIT_DONE, InputError, NoInputError, UsageError
from inspect_cli.images import Part
from inspect_cli.outputs.record import PartKey, read_record
from inspect_cli.outputs.run import (
    Outcome,
    RunSummary,
    has_maps,
    outputs_of,
    part_folder,
    rejudge,
    score_parts,
    write_run_record,
)
from inspect_cli.outputs.space import check_space
from inspect_cli.outputs.tables import finished_parts, run_record, write_tables
from inspect_cli.scoring.model import ScoringModel
from inspect_cli.stopping import graceful_stop
from inspect_cli.store.layout import ALL_OUTPUTS, EVALUATION, RUN_RECORD
from inspect_cli.store.lock import lock_folder
from inspect_cli.store.timestamps import utc_now


def lock_run(run: Path, wait_s: float = 0.0) -> AbstractContextManager[object]:
    """Take the lock of a run folder; see :func:`lock_folder`."""
    return lock_folder(run, f"{run}: another run is writing here; wait for it or choose another --out", wait_s)


def score_batch(
    run: Path,
    folder: Path,
    parts: Sequence[Part],
    model: ScoringModel,
    on_part: Callable[[Outcome], None],
    on_rows: Callable[[str, float], None] = lambda _part, _share: None,
    force: bool = False,
    fail_on_defect: bool = False,
    settle_s: float = 0.0,
    wait_s: float = 0.0,
    outputs: frozenset[str] = ALL_OUTPUTS,
) -> tuple[RunSummary, int]:
    """Score parts into ``run``, write its tables and record; return the summary and the exit code.

    ``settle_s`` and ``outputs``: see :func:`score_parts`. ``wait_s``: how long to wait for another run that holds the
    folder.
    """
    model.calibration()
    _check_place(run, folder, model)
    check_space(run, parts, model, force, outputs)
    started_utc = utc_now()
    with lock_run(run, wait_s), graceful_stop() as stopper:
        summary = RunSummary(run, [part.id for part in parts])
        write_run_record(summary, model, folder, started_utc, None)  # marks the folder as a run from the start
        exit_code: int | None = None
        try:
            score_parts(summary, parts, model, on_part, on_rows, stopper.wanted, force, settle_s, outputs)
            exit_code = stopper.exit_code if summary.interrupted else _exit_code(summary, fail_on_defect)
        finally:  # whatever ended the run, what is done is listed
            write_tables(run, summary.outcomes)
            write_run_record(summary, model, folder, started_utc, exit_code)
            if not all(outcome.unchanged for outcome in summary.outcomes):
                (run / EVALUATION).unlink(missing_ok=True)  # it measured other results
    return summary, exit_code


def _check_place(run: Path, folder: Path, model: ScoringModel) -> None:
    """Raise UsageError if results of this batch have no place in ``run``."""
    if run.resolve() == folder.resolve():
        raise UsageError(f"--out {run}: is the batch folder itself; choose a folder of its own")
    if (run / RUN_RECORD).is_file():
        named = run_record(run)["material"]
        if named != model.material.name:
            raise UsageError(f"--out {run}: holds a run of material {named!r}; choose another folder")


def _exit_code(summary: RunSummary, fail_on_defect: bool) -> int:
    counts = summary.counts()
    if counts["failed"]:
        alone = counts["failed"] == len(summary.outcomes)
        return NoInputError.exit_code if alone else InputError.exit_code
    return EXIT_DEFECTS if fail_on_defect and counts["fail"] else EXIT_DONE


def apply_limits(run: Path, model: ScoringModel, on_part: Callable[[Outcome], None]) -> RunSummary:
    """Judge the stored maps of a run again with the limits in force; the network does not run.

    Parts that failed or are pending stay so, and the run keeps its exit code.

    Raises
    ------
    InputError
        If the maps of some part were made by another model or other settings; nothing is changed then.
    """
    limits = model.limits_digest(model.calibration())
    with lock_run(run), graceful_stop() as stopper:
        before = run_record(run)
        records = {part: _same_model(run, part, model) for part in finished_parts(run)}
        started = time.monotonic()
        others = [Outcome(entry["part"], error=entry["error"]) for entry in before["failed"]]
        others += [Outcome(entry["part"], error=entry["error"], pending=True) for entry in before["pending"]]
        planned = [*before["parts"], *(outcome.part for outcome in others)]
        summary = RunSummary(run, planned, interrupted=bool(before["interrupted"]))
        for part, record in records.items():
            key = PartKey(record["key"]["inputs"], record["key"]["scoring"], limits)
            stale = record["key"] != key.as_dict() and not stopper.wanted()
            new = record
            if stale:
                new = rejudge(part_folder(run, part), record, model, key, outputs_of(record))
            summary.outcomes.append(Outcome(part, new, unchanged=not stale))
            on_part(summary.outcomes[-1])
        summary.outcomes += others
        summary.seconds = round(time.monotonic() - started, 3)
        summary.interrupted |= stopper.wanted()
        write_tables(run, summary.outcomes)
        write_run_record(summary, model, Path(before["input"]), before["started_utc"], before["exit_code"])
        (run / EVALUATION).unlink(missing_ok=True)
    return summary


def _same_model(run: Path, part: str, model: ScoringModel) -> dict[str, Any]:
    record = read_record(part_folder(run, part))
    if record is None or record["key"]["scoring"] != model.scoring_digest():
        raise InputError(f"{run}: part {part} was scored by another model, stride or recipe; run `inspect score`")
    if not has_maps(part_folder(run, part), model, outputs_of(record)):
        raise InputError(f"{run}: the maps of part {part} were not kept or are gone; run `inspect score`")
    return record
