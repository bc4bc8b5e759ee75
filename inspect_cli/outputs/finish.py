"""A batch from start to exit code: lock, score, tables, run record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

from inspect_cli.errors import EXIT_DEFECTS, EXIT_DONE, InputError, LockedError, NoInputError
from inspect_cli.images import Part
from inspect_cli.outputs.record import PartKey, read_record
from inspect_cli.outputs.run import Outcome, RunSummary, part_folder, rejudge, score_parts, write_run_record
from inspect_cli.outputs.stopping import graceful_stop
from inspect_cli.outputs.tables import write_tables
from inspect_cli.scoring.model import ScoringModel
from inspect_cli.store.atomic import output_error
from inspect_cli.store.timestamps import utc_now

LOCK = ".lock"


def lock_run(run: Path) -> AbstractContextManager[object]:
    """Take the lock of a run folder; the context it returns lets go of it.

    Raises
    ------
    LockedError
        If another run holds it.
    OutputError
        If the folder cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        return FileLock(run / LOCK).acquire(timeout=0)
    except Timeout as error:
        raise LockedError(f"{run}: another run is writing here; wait for it or choose another --out") from error
    except OSError as error:
        raise output_error(run, error) from error


def score_batch(
    run: Path,
    folder: Path,
    parts: Sequence[Part],
    model: ScoringModel,
    on_part: Callable[[Outcome], None],
    on_rows: Callable[[str, float], None] = lambda _part, _share: None,
    force: bool = False,
    fail_on_defect: bool = False,
) -> tuple[RunSummary, int]:
    """Score parts into ``run``, write its tables and record; return the summary and the exit code."""
    model.calibration()
    started_utc = utc_now()
    with lock_run(run), graceful_stop() as stopper:
        summary = score_parts(run, parts, model, on_part, on_rows, stopper.wanted, force)
        exit_code = stopper.exit_code if summary.interrupted else _exit_code(summary, fail_on_defect)
        write_tables(run, summary.outcomes)
        write_run_record(summary, model, folder, started_utc, exit_code)
    return summary, exit_code


def _exit_code(summary: RunSummary, fail_on_defect: bool) -> int:
    counts = summary.counts()
    if counts["failed"]:
        alone = counts["failed"] == len(summary.outcomes)
        return NoInputError.exit_code if alone else InputError.exit_code
    return EXIT_DEFECTS if fail_on_defect and counts["fail"] else EXIT_DONE


def apply_limits(
    run: Path, folder: Path, part_ids: Sequence[str], model: ScoringModel, on_part: Callable[[Outcome], None]
) -> RunSummary:
    """Judge the stored maps of a run again with the limits in force; the network does not run.

    Raises
    ------
    InputError
        If the maps were made by another model or other settings.
    """
    started_utc = utc_now()
    limits = model.limits_digest(model.calibration())
    with lock_run(run):
        summary = RunSummary(run)
        for part_id in part_ids:
            record = read_record(part_folder(run, part_id))
            if record is None or record["key"]["scoring"] != model.scoring_digest():
                raise InputError(
                    f"{run}: part {part_id} was scored by another model, stride or recipe; run `inspect score` again"
                )
            key = PartKey(record["key"]["inputs"], record["key"]["scoring"], limits)
            if record["key"] != key.as_dict():
                record = rejudge(part_folder(run, part_id), record, model, key)
            outcome = Outcome(part_id, record, reused=True)
            summary.outcomes.append(outcome)
            on_part(outcome)
        write_tables(run, summary.outcomes)
        write_run_record(summary, model, folder, started_utc, EXIT_DONE)
    return summary
