"""A batch from start to exit code: lock, score, tables, run record."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from inspect_cli.batch.parts import changed_parts, note_not_reached, score_parts
from inspect_cli.batch.space import check_space
from inspect_cli.batch.summary import NOT_REACHED, Outcome, RunSummary, write_run_record
from inspect_cli.batch.tables import finished_parts, remove_tables, write_tables
from inspect_cli.console import Teller
from inspect_cli.errors import (
    EXIT_DEFECTS,
    EXIT_DONE,
    EXIT_UNDECIDED,
    InputError,
    InspectError,
    NoInputError,
    OutputError,
    UsageError,
    is_full,
)
from inspect_cli.images import Part
from inspect_cli.images.parts import file_within
from inspect_cli.images.settle import fingerprint
from inspect_cli.outputs.record import record_of, set_aside
from inspect_cli.outputs.stored import has_maps, part_folder, rejudge
from inspect_cli.scoring.model import ScoringModel
from inspect_cli.stopping import Stopped, graceful_stop
from inspect_cli.store.atomic import output_error
from inspect_cli.store.layout import (
    ALL_OUTPUTS,
    EVALUATION,
    EVALUATION_PICTURE,
    PARTS_FOLDER,
    REPORT,
    RUN_FOLDER,
    RUN_RECORD,
)
from inspect_cli.store.lock import lock_folder
from inspect_cli.store.part_record import PartKey, PartRecord
from inspect_cli.store.paths import check_is_text, without_links
from inspect_cli.store.run_record import LeftPart, RunRecord, read_run_record
from inspect_cli.store.timestamps import utc_now

#: What is made of a run's results, and what it is called while it is unknown whether these hold.
_MADE_OF_IT: Final = {name: f".{name}.aside" for name in (EVALUATION, EVALUATION_PICTURE, REPORT)}


def lock_run(run: Path, wait_s: float = 0.0) -> AbstractContextManager[object]:
    """Take the lock of a run folder; see :func:`lock_folder`."""
    return lock_folder(run, f"{run}: another run is writing here; wait for it or choose another --out", wait_s)


def run_of(folder: Path, material: str, out: Path | None) -> Path:
    """Return the run folder that the parts of a folder are scored into: ``out``, or the one below the folder."""
    return out or folder / RUN_FOLDER / material


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
    warnings: Sequence[str] = (),
) -> tuple[RunSummary, int]:
    """Score parts into ``run``, write its tables and record; return the summary and the exit code.

    ``settle_s`` and ``outputs``: see :func:`score_parts`. ``wait_s``: how long to wait for another run that holds the
    folder. ``warnings`` of the batch are kept in the run's record.
    """
    model.calibration()
    started_utc = utc_now()
    with _told_as_output(run):
        _check_place(run, folder, parts, model)
        try:
            check_space(run, parts, model, force, outputs)
        except OutputError:
            if run.is_dir():
                with lock_run(run, wait_s):
                    _withdraw_changed(run, parts, model)
            raise
        with lock_run(run, wait_s), graceful_stop() as stopper:
            measured = _made_of(run)
            summary = RunSummary(run, [part.id for part in parts], warnings=warnings)
            _withdraw_changed(run, parts, model)
            write_run_record(summary, model, folder, started_utc, None)  # marks the folder as a run from the start
            exit_code: int | None = None
            try:
                score_parts(summary, parts, model, on_part, on_rows, stopper.wanted, force, settle_s, outputs)
                exit_code = stopper.exit_code if summary.interrupted else _exit_code(summary, fail_on_defect)
            finally:  # whatever ended the run, what is done is listed
                note_not_reached(summary, parts, model)
                write_tables(run, summary.outcomes)
                write_run_record(summary, model, folder, started_utc, exit_code)
                same = all(outcome.unchanged or outcome.record is None for outcome in summary.outcomes)
                if same and _made_of(run) == measured:
                    _bring_back_what_was_made_of_it(run)  # the files were touched, and hold what they held
                else:
                    _forget_what_was_made_of_it(run)  # of other results
    return summary, exit_code


def score_all(run: Path, folder: Path, parts: Sequence[Part], model: ScoringModel, teller: Teller) -> None:
    """Score parts into ``run`` as a step of something longer: progress is shown, parts that are left out are told.

    Raises
    ------
    Stopped
        If a signal ended the scoring.
    """
    with teller.progress(f"{'scoring':>10}") as update:
        done = 0

        def tell(outcome: Outcome) -> None:
            nonlocal done
            done += 1
            update(done / len(parts), outcome.part)
            if outcome.error is not None:
                teller.warn(f"left out: {outcome.error}")

        summary, exit_code = score_batch(run, folder, parts, model, tell)
    if summary.interrupted:
        raise Stopped(exit_code)


def _withdraw_changed(run: Path, parts: Sequence[Part], model: ScoringModel) -> None:
    """Let no verdict stand of files, limits or a model that are not those of today, however the run ends."""
    folders, others = changed_parts(run, parts, model)
    if folders or others:
        _withdraw(run, folders)


def _withdraw(run: Path, folders: Iterable[Path]) -> None:
    """Set the records of parts aside; what was made of them goes first, for a kill must not leave it alone."""
    remove_tables(run)
    _set_aside_what_was_made_of_it(run)
    for folder in folders:
        set_aside(folder)


def withdraw_replaced(folder: Path, material: str | None, out: Path | None) -> None:
    """Let no verdict stand of files that were replaced since, where a run of ``folder`` cannot even begin.

    Files are known from the records of the parts; what cannot be done is left to the next run.
    """
    named = out if material is None or out is not None else folder / RUN_FOLDER / material
    for run in sorted((folder / RUN_FOLDER).glob("*")) if named is None else [named]:
        with contextlib.suppress(InspectError, OSError):
            batch = read_run_record(run).input
            done = [part_folder(run, part) for part in finished_parts(run)]
            if replaced := [place for place in done if _is_replaced(place, batch)]:
                with lock_run(run):
                    _withdraw(run, replaced)


def _is_replaced(folder: Path, batch: Path) -> bool:
    """Whether a map that a part's results are of is there and looks otherwise than when it was scored."""
    record = record_of(folder)
    if record is None:
        return False
    for entry in record.maps.values():
        with contextlib.suppress(OSError):  # not there: that is no other file
            if fingerprint([batch / entry.file])[0] not in record.seen:
                return True
    return False


def _set_aside_what_was_made_of_it(run: Path) -> None:
    """Hide what `inspect evaluate` and `inspect report` made of a run until it is known whether it still holds."""
    for name, aside in _MADE_OF_IT.items():
        with contextlib.suppress(FileNotFoundError):
            (run / name).replace(run / aside)


def _bring_back_what_was_made_of_it(run: Path) -> None:
    for name, aside in _MADE_OF_IT.items():
        with contextlib.suppress(FileNotFoundError):
            (run / aside).replace(run / name)


def _forget_what_was_made_of_it(run: Path) -> None:
    for name in (*_MADE_OF_IT, *_MADE_OF_IT.values()):
        (run / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _told_as_output(run: Path) -> Iterator[None]:
    """Turn an OSError of a file in the run folder, and a full disk anywhere, into an OutputError."""
    try:
        yield
    except BrokenPipeError:  # who read what is printed has left
        raise
    except OSError as error:
        path = run if error.filename is None else Path(os.fsdecode(error.filename))
        if path.absolute().is_relative_to(run.absolute()) or is_full(error):
            raise output_error(path, error) from error
        raise


def _made_of(run: Path) -> tuple[list[str], list[LeftPart], list[LeftPart], list[str]] | None:
    """Return what a page says of a run beside the results of its parts; None if it never came to its end."""
    try:
        record = read_run_record(run)
    except NoInputError:
        return None
    return None if record.exit_code is None else (record.parts, record.errors, record.pending, record.batch_warnings)


def _check_place(run: Path, folder: Path, parts: Sequence[Part], model: ScoringModel) -> None:
    """Raise UsageError if results of this batch have no place in ``run``."""
    place, batch = without_links(run), without_links(folder)
    check_is_text(run, batch)
    if place == batch:
        raise UsageError(f"--out {run}: is the batch folder itself; choose a folder of its own")
    inside = file_within(parts, run)
    held = "the batch" if batch.is_relative_to(place) else None if inside is None else f"the part {inside.name}"
    if held is not None:
        raise UsageError(f"--out {run}: holds {held}, which would be taken for results; choose a folder of its own")
    record = _record_before(run)
    if record is not None:
        if record.material != model.material.name:
            raise UsageError(f"--out {run}: holds a run of material {record.material!r}; choose another folder")
        before = record.input
        # A batch that was moved, or copied with the results in it, keeps them.
        if before != batch and before.is_dir() and not place.is_relative_to(batch):
            raise UsageError(f"--out {run}: holds results of {before}; choose another folder")


def _record_before(run: Path) -> RunRecord | None:
    """Return the record of the folder's last run; None if there was none, or its record is damaged.

    Raises
    ------
    NoInputError
        If ``run.json`` is no run's and there are no results beside it.
    """
    if not (run / RUN_RECORD).is_file():
        return None
    try:
        return read_run_record(run)
    except NoInputError:
        if (run / PARTS_FOLDER).is_dir():
            return None
        raise


def _exit_code(summary: RunSummary, fail_on_defect: bool) -> int:
    counts = summary.counts()
    if counts["error"]:
        alone = counts["error"] == len(summary.outcomes)
        return NoInputError.exit_code if alone else InputError.exit_code
    if not fail_on_defect:
        return EXIT_DONE
    return EXIT_DEFECTS if counts["fail"] else EXIT_UNDECIDED if counts["undecided"] else EXIT_DONE


def check_applicable(run: Path, model: ScoringModel) -> None:
    """Raise InputError if limits of ``model`` cannot be applied to some part of a run; see :func:`apply_limits`.

    Raise UsageError if the folder's name is no valid UTF-8.
    """
    check_is_text(run)
    for part in finished_parts(run):
        _same_model(run, part, model)


def apply_limits(run: Path, model: ScoringModel, on_part: Callable[[Outcome], None]) -> tuple[RunSummary, int]:
    """Judge the stored maps of a run again with the limits in force; return the summary and the exit code.

    The network does not run. Parts that could not be read or are pending stay so, and the run keeps its exit code.
    Parts whose stored maps turn out to be damaged, those that a signal left, and those that a killed run never began
    are pending: the next ``inspect score`` takes them.

    Raises
    ------
    InputError
        If the maps of some part were made by another model or other settings; nothing is changed then.
    """
    model.calibration()  # without limits nothing is changed
    with _told_as_output(run), lock_run(run), graceful_stop() as stopper:
        before = read_run_record(run)
        records = {part: _same_model(run, part, model) for part in finished_parts(run)}
        records |= _not_reached(run, before, model)
        started = time.monotonic()
        others = _without_result(before, records)
        planned = [*records, *(outcome.part for outcome in others)]
        summary = RunSummary(run, planned, warnings=before.batch_warnings)
        remove_tables(run)  # they were made by other limits, like what was made of them
        _forget_what_was_made_of_it(run)
        begun = RunSummary(run, planned, [*others], before.batch_warnings)
        write_run_record(begun, model, before.input, before.started_utc, None)
        over = False
        try:
            _judge_all(summary, records, model, stopper.wanted, on_part)
            over = True
        finally:  # whatever ended it, what is done is listed
            damaged = any(outcome.pending for outcome in summary.outcomes)
            summary.outcomes += others
            summary.seconds = round(time.monotonic() - started, 3)
            not_reached = any(outcome.error == NOT_REACHED for outcome in summary.outcomes)
            summary.interrupted = not_reached
            write_tables(run, summary.outcomes)
            left = InputError.exit_code if damaged or not_reached else EXIT_DONE
            ended = stopper.exit_code if stopper.wanted() and not_reached else left
            kept = ended or (_exit_code(summary, False) if before.interrupted else before.exit_code)
            write_run_record(summary, model, before.input, before.started_utc, kept if over else None)
    return summary, ended


def _without_result(before: RunRecord, records: Collection[str]) -> list[Outcome]:
    """Return the parts of a run that are errors, pending, or were never begun, but for those with ``records``."""
    unread = [Outcome(left.part, error=left.error) for left in before.errors]
    waiting = [
        Outcome(left.part, error=left.error, pending=True) for left in before.pending if left.part not in records
    ]
    never = [Outcome(part, error=NOT_REACHED, pending=True) for part in before.parts if part not in records]
    return unread + waiting + never


def _not_reached(run: Path, before: RunRecord, model: ScoringModel) -> dict[str, PartRecord]:
    """Return the records of parts that a signal kept from being judged again, and that still can be."""
    found = {}
    for left in before.pending:
        if left.error == NOT_REACHED:
            with contextlib.suppress(InputError):
                found[left.part] = _same_model(run, left.part, model)
    return found


def _judge_all(
    summary: RunSummary,
    records: Mapping[str, PartRecord],
    model: ScoringModel,
    stop: Callable[[], bool],
    on_part: Callable[[Outcome], None],
) -> None:
    """Judge parts again by the limits in force and note how they ended: pending if it does not come to them."""
    limits, left = model.limits_digest(model.calibration()), dict.fromkeys(records)
    try:
        for part, record in records.items():
            key = record.key.model_copy(update={"limits": limits})
            if record.key == key:
                outcome = Outcome(part, record, unchanged=True)
            elif stop():
                outcome = Outcome(part, error=NOT_REACHED, pending=True)
            else:
                outcome = _judged(summary.run, part, record, model, key)
            summary.add(outcome)
            del left[part]
            on_part(outcome)
    finally:
        summary.outcomes += [Outcome(part, error=NOT_REACHED, pending=True) for part in left]


def _judged(run: Path, part: str, record: PartRecord, model: ScoringModel, key: PartKey) -> Outcome:
    try:
        return Outcome(part, rejudge(part_folder(run, part), record, model, key, record.written))
    except InputError as error:
        return Outcome(part, error=f"{error}; `inspect score` makes it again", pending=True)


def _same_model(run: Path, part: str, model: ScoringModel) -> PartRecord:
    record = record_of(part_folder(run, part))
    if record is None or record.key.scoring != model.scoring_digest():
        raise InputError(f"{run}: part {part} was scored by another model, stride or recipe; run `inspect score`")
    if not has_maps(part_folder(run, part), model, record.written):
        raise InputError(f"{run}: the maps of part {part} were not kept or are gone; run `inspect score`")
    return record.brief()
