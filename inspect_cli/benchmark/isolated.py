"""Run a function in a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from inspect_cli.errors import InspectError, WorkerError


class Ended(NamedTuple):
    """What a function returned, and the largest memory its process held, in MB; None where it is not told."""

    result: Any
    peak_mb: float | None


def run_isolated(function: Callable[..., Any], *arguments: Any) -> Ended:
    """Return what ``function`` returns in a fresh process.

    Raises
    ------
    InspectError
        The function's own.
    WorkerError
        If the function raised anything else, which it tells, or the process ended without an answer, as it does
        when the system's memory runs out.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(there, function, arguments), daemon=True)
    child.start()
    there.close()
    try:
        answer = here.recv()
    except EOFError:
        child.join()
        raise WorkerError(f"a measurement ended with exit status {child.exitcode}; is memory short?") from None
    finally:
        here.close()
    child.join()
    if isinstance(answer, Exception):
        raise answer
    return Ended(*answer)


def _answer(channel: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer: Any = (function(*arguments), peak_mb())
    except InspectError as error:
        answer = error
    except Exception as error:
        answer = WorkerError(f"a measurement failed: {type(error).__name__}: {' '.join(str(error).split())}")
    channel.send(answer)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def peak_mb() -> float | None:
    """Return the largest resident memory of this process so far, in MB.

    From /proc, which starts anew with each program; the usage that ``getrusage`` tells is inherited.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return None if found is None else int(found[1]) * 1024 / 1e6
