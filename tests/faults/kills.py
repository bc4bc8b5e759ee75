"""SIGKILL, or a full disk, at each named step of a command, then the same command again.

A step is a file's name and how far its writing was: ``half`` (half of it in the temporary file), ``written``
(before it is flushed), ``flushed`` (before the rename), ``renamed`` (before the folder is flushed), ``done``.
Each attempt is a forked process, so the program is imported once.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers import TRAINED

from faults.tree import broken_files, content_of, differences

#: Steps at which bytes are written.
WRITING = ("half", "written")
DISK_FULL = 6

Command = Callable[[Path], Sequence[str]]
Hook = Callable[[str, Path], None]


@dataclass(frozen=True)
class Job:
    """A command under test.

    ``prepare`` makes the folder that it works in, ``command`` gives its arguments, ``again`` those after a kill, and
    ``results`` is the folder below that is compared.
    """

    name: str
    prepare: Callable[[Path], None]
    command: Command
    again: Command
    results: str


@dataclass
class Tally:
    """How a campaign went: attempts by step, and every fault found."""

    attempts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def start_forked(arguments: Sequence[str], hook: Hook | None = None, folder: Path | None = None) -> int:
    """Start the program in a forked child, in ``folder``, its writer reporting to ``hook``; return its number."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            if folder is not None:
                os.chdir(folder)
            if hook is not None:
                _report_steps(hook)
            from inspect_cli.cli import run

            code = run(list(arguments))
        except BaseException:
            traceback.print_exc()
            code = 99
        os._exit(code)
    return child


def run_forked(arguments: Sequence[str], hook: Hook | None = None, folder: Path | None = None) -> int:
    """Run the program in a forked child, its writer reporting steps to ``hook``; return how the child ended."""
    _, status = os.waitpid(start_forked(arguments, hook, folder), 0)
    return os.waitstatus_to_exitcode(status)


def _report_steps(hook: Hook) -> None:
    """Put the hook around what the one writer does; a folder is flushed for the file that its thread renamed last."""
    from inspect_cli.store import atomic

    sync, replace = atomic._sync, Path.replace
    latest = threading.local()

    def syncing(path: Path) -> None:
        if path.is_dir():
            hook("renamed", latest.renamed)
            sync(path)
            hook("done", latest.renamed)
            return
        hook("half", path)
        hook("written", path)
        sync(path)
        hook("flushed", path)

    def replacing(self: Path, target: Path) -> Path:
        latest.renamed = Path(target)
        return replace(self, target)

    atomic._sync, Path.replace = syncing, replacing


def step_name(stage: str, path: Path) -> str:
    """Return a step's name, such as ``heatmap.tif:half``; a temporary file is named after its target."""
    name = path.name
    if name.startswith(".") and name.endswith(".tmp"):
        name = name[1:].rsplit(".", 2)[0]
    return f"{name}:{stage}"


def steps_of(job: Job, folder: Path) -> list[str]:
    """Run a job undisturbed in ``folder`` and return its steps in order."""
    shutil.rmtree(folder, ignore_errors=True)
    job.prepare(folder)
    note = folder.parent / "steps.txt"
    note.unlink(missing_ok=True)

    def remember(stage: str, path: Path) -> None:
        with note.open("a") as lines:
            lines.write(step_name(stage, path) + "\n")

    code = run_forked(job.command(folder), remember)
    if code not in TRAINED:
        raise RuntimeError(f"{job.name}: ended with {code} undisturbed")
    return note.read_text().split("\n")[:-1]


def killer(step: str, occurrence: int) -> Hook:
    """Return a hook that kills the process when ``step`` comes for the ``occurrence``-th time (from 0)."""
    seen = Counter[str]()

    def kill(stage: str, path: Path) -> None:
        if step_name(stage, path) != step:
            return
        seen[step] += 1
        if seen[step] == occurrence + 1:
            if stage == "half":
                os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


def filler(step: str, occurrence: int) -> Hook:
    """Return a hook that lets the disk be full from the ``occurrence``-th time (from 0) that ``step`` comes."""
    seen = Counter[str]()

    def fill(stage: str, path: Path) -> None:
        seen[step_name(stage, path)] += 1
        if seen[step] > occurrence and stage in WRITING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return fill


@dataclass(frozen=True)
class Undisturbed:
    """A job that was let be: how often each step came, and what it left in ``folder``."""

    folder: Path
    occurring: Counter[str]
    expected: dict[str, Any]


def undisturbed(job: Job, scratch: Path) -> Undisturbed:
    """Run a job as it is disturbed later, in the same folder: results name their input."""
    folder = scratch / "attempt"
    occurring = Counter(steps_of(job, folder))
    return Undisturbed(folder, occurring, content_of(folder / job.results))


def campaign(
    job: Job, usual: Undisturbed, times: int, most_steps: int | None = None, seed: int = 0, full: bool = False
) -> Tally:
    """Kill a job ``times`` times at each of its steps (or at some of them) and tally what was lost.

    ``full``: instead of a kill the disk is full from that step on; the job must end with the code for that.
    """
    tally = Tally()
    folder, occurring, expected = usual.folder, usual.occurring, usual.expected
    chooser = random.Random(seed)
    steps = sorted(step for step in occurring if not full or step.rpartition(":")[2] in WRITING)
    if most_steps is not None:
        steps = sorted(chooser.sample(steps, min(most_steps, len(steps))))
    for step in steps:
        for attempt in range(times):
            occurrence = attempt % occurring[step] if times > 1 else chooser.randrange(occurring[step])
            shutil.rmtree(folder, ignore_errors=True)
            job.prepare(folder)
            place = f"{job.name} {step} #{occurrence}"
            hook = filler(step, occurrence) if full else killer(step, occurrence)
            code = run_forked(job.command(folder), hook)
            tally.attempts[step] += 1
            if code != (DISK_FULL if full else -signal.SIGKILL):
                tally.faults.append(f"{place}: ended with {code}")
                continue
            tally.faults += [f"{place}: not whole: {words}" for words in broken_files(folder / job.results)]
            code = run_forked(job.again(folder))
            if code not in TRAINED:
                tally.faults.append(f"{place}: ended with {code} when run again")
            found = content_of(folder / job.results)
            tally.faults += [f"{place}: {words}" for words in differences(found, expected)]
    return tally
