"""Talk on stderr: plain lines, and a progress bar where a person watches."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol, TextIO

import typer

from inspect_cli.errors import OutputError

#: Without a terminal, progress is told this often at most.
LINE_EVERY_S: Final = 30.0
_LINE_BREAKS: Final = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


#: Takes the share that is done, 0 to 1, and a text.
Update = Callable[[float, str], None]


class Teller(Protocol):
    """How long work talks; this module does so on stderr."""

    def say(self, text: str) -> None:
        """Tell a line."""

    def warn(self, text: str) -> None:
        """Tell a warning."""

    def progress(self, label: str) -> AbstractContextManager[Update]:
        """Show progress while the context is open."""
        ...


def say(text: str) -> None:
    """Print a line to stderr; if it cannot be written, as where its reader has left, go on without it."""
    try:
        typer.echo(text, err=True)
    except OSError:
        _leave(sys.stderr)


def out(text: str) -> None:
    """Print a line of data to stdout; if its reader has left, go on without it.

    Raises
    ------
    OutputError
        If it cannot be written, as where it goes into a file on a full disk.
    """
    try:
        typer.echo(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _leave(sys.stdout)
    except OSError as error:
        _leave(sys.stdout)  # or the end of the program would try again
        raise OutputError(f"standard output: cannot be written ({error.strerror})") from error


def _leave(stream: TextIO) -> None:
    """Let what is still to be written to a stream go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def replace_closed_streams() -> None:
    """Give a program that was started without stdin, stdout or stderr, as some daemons do it, streams to nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            setattr(sys, name, stream)


def escape_what_streams_cannot_write() -> None:
    """Let a name that the streams' encoding has no letters for be written with escapes, and end nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def one_line(name: str) -> str:
    """Return a name with its line breaks escaped, so that it stays in its line."""
    return "".join(repr(letter)[1:-1] if letter in _LINE_BREAKS else letter for letter in name)


def warn(text: str) -> None:
    """Print a warning to stderr."""
    say(f"warning: {text}")


def is_watched() -> bool:
    """Whether stderr is a terminal."""
    return sys.stderr.isatty()


@contextlib.contextmanager
def progress(label: str) -> Iterator[Callable[[float, str], None]]:
    """Yield ``update(share, text)``: a bar with time left on a terminal, else a line now and then."""
    if not is_watched():
        yield _line_updates(label)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    both = sys.stdout.isatty()  # lines on stdout go above the bar on a terminal, and untouched into a pipe
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=both) as bar:
        task = bar.add_task(label, total=1.0, text="")
        yield lambda share, text: bar.update(task, completed=share, text=text)


def _line_updates(label: str) -> Callable[[float, str], None]:
    last = time.monotonic()

    def update(share: float, text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            say(f"{label}: {share:.0%} {text}")

    return update
