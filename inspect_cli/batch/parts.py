"""The parts of a batch, one after the other: what is done is skipped, what fails is named, the rest goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from inspect_cli.batch.part import Finish, files_of_roi, is_of, score_part
from inspect_cli.batch.summary import NOT_REACHED, Outcome, RunSummary
from inspect_cli.errors import ChangedError, IncompleteError, InputError
from inspect_cli.images import Part
from inspect_cli.images.settle import Settling
from inspect_cli.outputs.record import record_of, set_aside
from inspect_cli.outputs.stored import is_whole, part_folder
from inspect_cli.scoring.model import ScoringModel
from inspect_cli.store.layout import ALL_OUTPUTS, PART_RECORD_ASIDE

#: How often a wait looks for a signal to stop.
_NAP_S: Final = 0.2


def score_parts(
    summary: RunSummary,
    parts: Iterable[Part],
    model: ScoringModel,
    on_part: Callable[[Outcome], None],
    on_rows: Callable[[str, float], None] = lambda _part, _share: None,
    stop: Callable[[], bool] = lambda: False,
    force: bool = False,
    settle_s: float = 0.0,
    outputs: frozenset[str] = ALL_OUTPUTS,
) -> None:
    """Score ``parts`` and note their outcomes in ``summary``; one that cannot be read fails and the rest goes on.

    A part with a file that changed within ``settle_s`` seconds comes last. If it has not settled by then, if its
    marker is missing, or if it ends early and changed a short while ago, it is pending: neither scored nor an error,
    and left to the next run.

    While the pictures of a part are drawn and written, the network works on the next one.

    ``outputs`` are those of :data:`OUTPUTS` that are written, beside what a part has already; a part that is done is
    made again if it lacks one.

    ``on_part`` is told of each part that is done, ``on_rows`` how far the part in hand is (0 to 1).
    ``stop`` is asked before each part; when it says yes the run ends there. The summary stays marked as interrupted
    until every part has its outcome.
    """
    started = time.monotonic()
    stopped = False
    settling = Settling(settle_s, model.recipe.done_marker, lambda part: files_of_roi(part, model))

    def note(outcome: Outcome) -> None:
        summary.add(outcome)
        summary.seconds = round(time.monotonic() - started, 3)
        on_part(outcome)

    with ThreadPoolExecutor(1) as finishing:
        last: Future[Outcome] | None = None
        try:
            for part, obstacle in _settled_first(summary.run, parts, model, settling, stop):
                stopped = stop()
                if stopped:
                    break
                if obstacle is None:
                    finish = _score_or_fail(summary.run, part, model, settling, on_rows, force, outputs)
                else:
                    finish = _pending(part, obstacle)
                last, previous = finishing.submit(finish), last
                if previous is not None:
                    note(previous.result())
        finally:
            if last is not None:
                note(last.result())
    summary.interrupted = stopped


def changed_parts(run: Path, parts: Iterable[Part], model: ScoringModel) -> tuple[list[Path], bool]:
    """Return the folders of results of files that look changed, and whether others are of other limits or a model.

    Results that were set aside before count too: whatever stopped that may have left what was made of them.
    """
    changed, others, today = [], False, _today(model)
    for part in parts:
        folder = part_folder(run, part.id)
        record = record_of(folder)
        if (folder / PART_RECORD_ASIDE).exists() or (record is not None and not is_of(record, part, model)):
            changed.append(folder)
        others = others or (record is not None and (record.key.scoring, record.key.limits) != today)
    return changed, others


def _today(model: ScoringModel) -> tuple[str, str]:
    """Return what a result depends on beside the part's files, as in :class:`PartKey`."""
    return model.scoring_digest(), model.limits_digest(model.calibration())


def note_not_reached(summary: RunSummary, parts: Iterable[Part], model: ScoringModel) -> None:
    """Note the parts that a run ended before: pending, but for results of the same files, the model and limits."""
    reached = {outcome.part for outcome in summary.outcomes}
    today = _today(model)
    for part in parts:
        if part.id in reached:
            continue
        folder = part_folder(summary.run, part.id)
        record = record_of(folder)
        holds = (
            record is not None
            and (record.key.scoring, record.key.limits) == today
            and is_of(record, part, model)
            and is_whole(folder, model, record.written)
        )
        outcome = Outcome(part.id, error=NOT_REACHED, pending=True)
        summary.add(Outcome(part.id, record, unchanged=True) if holds else outcome)


def _settled_first(
    run: Path, parts: Iterable[Part], model: ScoringModel, settling: Settling, stop: Callable[[], bool]
) -> Iterator[tuple[Part, str | None]]:
    """Yield parts and why they cannot be taken yet: those that can first, then, after a wait, the others.

    A part that was taken before and has not changed since waits for nothing.
    """
    later = []
    for part in parts:
        record = record_of(part_folder(run, part.id))
        if (record is not None and is_of(record, part, model)) or settling.why_not(part) is None:
            yield part, None
        else:
            later.append(part)
    for part in later:
        while (left_s := settling.remaining_s(part)) > 0 and not stop():
            time.sleep(min(left_s, _NAP_S))
        yield part, settling.why_not(part)


def _pending(part: Part, reason: str) -> Finish:
    outcome = Outcome(part.id, error=f"{reason}; the next run takes it", pending=True)
    return lambda: outcome


def _score_or_fail(
    run: Path,
    part: Part,
    model: ScoringModel,
    settling: Settling,
    on_rows: Callable[[str, float], None],
    force: bool,
    outputs: frozenset[str],
) -> Finish:
    folder = part_folder(run, part.id)
    try:
        return score_part(folder, part, model, on_rows, force, outputs)
    except InputError as error:
        set_aside(folder)  # an old result must not stand for what cannot be read now
        may_grow = isinstance(error, IncompleteError) and settling.may_grow(part)
        if may_grow or isinstance(error, ChangedError):
            return _pending(part, str(error))
        failed = Outcome(part.id, error=str(error))
        return lambda: failed
