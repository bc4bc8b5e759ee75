"""The first SIGINT or SIGTERM lets the part in hand finish; a second one, or one outside a run, stops at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from inspect_cli.errors import EXIT_SIGINT, EXIT_SIGTERM

_Handler = Callable[[int, FrameType | None], None]


class SignalStop(BaseException):
    """A signal ends the program; what is on the way cleans up after itself."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("stopped by a signal")
        self.exit_code = exit_code


class Stopped(Exception):  # noqa: N818
    """Scoring was asked to stop, and did after the part in hand; ``exit_code`` is how the process ends."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Interrupted(Exception):  # noqa: N818
    """Training was asked to stop, and did; its state is in the folder ``checkpoint``, if it keeps one."""

    def __init__(self, checkpoint: Path | None = None) -> None:
        super().__init__(checkpoint)
        self.checkpoint = checkpoint


def _code_of(number: int) -> int:
    return EXIT_SIGTERM if number == signal.SIGTERM else EXIT_SIGINT


def _stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise SignalStop(_code_of(number))


class Stopper:
    """Remembers the first signal."""

    def __init__(self) -> None:
        self._signal: int | None = None

    def wanted(self) -> bool:
        """Whether a signal has come."""
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """Exit code of the signal that came."""
        return _code_of(self._signal or signal.SIGINT)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal, stop at once on the second."""
        if self._signal is not None:
            _stop(number, frame)
        self._signal = number


@contextlib.contextmanager
def graceful_stop() -> Iterator[Stopper]:
    """Catch SIGINT and SIGTERM while the context is open (in the main thread, and not what was ignored before)."""
    stopper = Stopper()
    with _handled_by(stopper.handle):
        yield stopper


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into :class:`SignalStop` while the context is open (in the main thread)."""
    with _handled_by(_stop):
        yield


@contextlib.contextmanager
def _handled_by(handler: _Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
