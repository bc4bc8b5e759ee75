"""What machines that watch a run are told: a log with a line a part, and a metrics file at its end."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import re
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import typer

from inspect_cli import console
from inspect_cli.batch.summary import VERDICTS, Outcome, RunSummary
from inspect_cli.errors import EXIT_DEFECTS, EXIT_DONE, OutputError, exit_code_of
from inspect_cli.store.atomic import output_error, write_bytes
from inspect_cli.store.paths import as_text

#: A log file is rotated at this size; so many older ones are kept.
LOG_BYTES: Final = 5_000_000
LOGS_KEPT: Final = 5
_LAST_SUCCESS: Final = "inspect_last_success_timestamp_seconds"
_PLAIN: Final = re.compile(r"[\w.:/+-]+", re.ASCII)


class Monitor:
    """Tells a log file and a metrics file about a run of ``inspect score``; a context around the whole of it.

    How the run ended is taken from what leaves the context: nothing, a ``typer.Exit``, or an error with its exit
    code. A run is a success with exit codes 0 and 8; the time of the last one is carried on from file to file.

    Parameters
    ----------
    metrics
        File in Prometheus' text format, written by rename (for node_exporter's textfile collector), or None.
    log
        Log file, rotated at 5 MB, or None.
    folder
        Batch folder: the label and the word that say which run it is.

    Raises
    ------
    OutputError
        If the log cannot be opened, or the metrics not be written at the end of a run that ended with code 0.
    """

    def __init__(self, metrics: Path | None, log: Path | None, folder: Path) -> None:
        self._metrics = metrics
        self._folder = as_text(os.path.abspath(folder))  # noqa: PTH100  (links stay as named)
        self._started_s = time.monotonic()
        self._verdicts: Counter[str] = Counter()
        self._warnings = 0
        self._log: _Log | None = None
        self._log_file = log

    def __enter__(self) -> Self:
        if self._log_file is not None:
            try:
                self._log = _Log(self._log_file, time.strftime("%Y%m%dT%H%M%S", time.gmtime()))
            except OutputError as error:
                self.__exit__(OutputError, error, None)  # the metrics tell of a run that could not start
                raise
        self._say(logging.INFO, event="start", input=self._folder)
        return self

    def warn(self, text: str) -> None:
        """Note what concerns the batch as a whole."""
        self._warnings += 1
        self._say(logging.WARNING, event="warning", reason=text)

    def part(self, outcome: Outcome) -> None:
        """Note how a part ended."""
        self._verdicts[outcome.verdict] += 1
        record = outcome.record
        if record is None:
            level = logging.INFO if outcome.pending else logging.ERROR
            self._say(level, part=outcome.part, verdict=outcome.verdict, reason=outcome.error)
            return
        self._say(
            logging.INFO if outcome.verdict == "pass" else logging.WARNING,
            part=outcome.part,
            verdict=outcome.verdict,
            score=record.score,
            map=record.peak_map,
            region_count=record.region_count,
            seconds=record.seconds,
            unchanged=outcome.unchanged,
        )

    def count(self, summary: RunSummary) -> None:
        """Take the verdicts of a run that ended, with the parts that it did not reach."""
        self._verdicts = Counter(summary.counts())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = EXIT_DONE if error is None else exit_code_of(error)
        level = logging.INFO if code in (EXIT_DONE, EXIT_DEFECTS) else logging.ERROR
        counts = {verdict: self._verdicts[verdict] for verdict in VERDICTS if self._verdicts[verdict]}
        seconds = round(time.monotonic() - self._started_s, 1)
        reason = "" if error is None or isinstance(error, typer.Exit) else str(error)
        self._say(level, event="end", exit_code=code, seconds=seconds, **counts, reason=reason or None)
        if self._log is not None:
            self._log.close()
        if self._metrics is not None:
            try:
                write_bytes(self._metrics, self._exposition(code, seconds))
            except OutputError as fault:
                if code == EXIT_DONE:
                    raise
                console.warn(str(fault))  # how the run ended matters more

    def _say(self, level: int, **words: Any) -> None:
        if self._log is not None:
            self._log.line(level, words)

    def _exposition(self, code: int, seconds: float) -> bytes:
        from prometheus_client import CollectorRegistry, Gauge, generate_latest  # noqa: PLC0415  (only where used)

        registry = CollectorRegistry()

        def gauge(name: str, about: str, value: float, **labels: str) -> None:
            labels = {"input": self._folder, **labels}
            Gauge(name, about, labels, registry=registry).labels(**labels).set(value)

        now = time.time()
        success = now if code in (EXIT_DONE, EXIT_DEFECTS) else _last_success(self._metrics, self._folder)
        gauge("inspect_last_run_timestamp_seconds", "When the last run ended.", now)
        if success is not None:
            gauge(_LAST_SUCCESS, "When the last run ended with code 0 or 8.", success)
        gauge("inspect_last_run_duration_seconds", "How long the last run took.", seconds)
        gauge("inspect_last_run_exit_code", "How the last run ended; 0 and 8 are good.", code)
        gauge("inspect_last_run_warnings", "Warnings of the last run about its batch.", self._warnings)
        parts = Gauge("inspect_last_run_parts", "Parts of the last run.", ["input", "verdict"], registry=registry)
        for verdict in VERDICTS:
            parts.labels(input=self._folder, verdict=verdict).set(self._verdicts[verdict])
        return generate_latest(registry)


class _Log:
    """A file of lines ``time LEVEL run=ID key=value ...``; a line that cannot be written is told once."""

    def __init__(self, path: Path, run: str) -> None:
        self._run = f"{run}-{os.getpid()}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handler = _Rotating(path)
        except OSError as error:
            raise output_error(path, error) from error

    def line(self, level: int, words: dict[str, Any]) -> None:
        text = " ".join(f"{key}={_word(value)}" for key, value in words.items() if value is not None)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        message = f"{now} {logging.getLevelName(level)} run={self._run} {text}"
        self._handler.handle(logging.LogRecord("inspect", level, "", 0, message, None, None))

    def close(self) -> None:
        self._handler.close()


class _Rotating(logging.handlers.RotatingFileHandler):
    """Turned over at a size; a fault is told on stderr once and stops no run."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=LOG_BYTES, backupCount=LOGS_KEPT, encoding="utf-8")
        self._told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802  (named by logging)
        if not self._told:
            console.warn(f"{self.baseFilename}: the log cannot be written; the run goes on")
        self._told = True


def _word(value: Any) -> str:
    """Return a value as one word: as it is, or quoted with escapes where it has spaces or other marks."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _last_success(path: Path | None, folder: str) -> float | None:
    """Return the time of the last success that a metrics file tells of, None without one."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415  (only where used)

    try:
        families = list(text_string_to_metric_families(Path(path or "").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    samples = [sample for family in families for sample in family.samples]
    found = [s.value for s in samples if s.name == _LAST_SUCCESS and s.labels.get("input") == folder]
    return found[0] if found else None
