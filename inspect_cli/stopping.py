"""The first SIGINT or SIGTERM lets the part in hand finish; the second stops at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from inspect_cli.errors import EXIT_SIGINT, EXIT_SIGTERM


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
        return EXIT_SIGTERM if self._signal == signal.SIGTERM else EXIT_SIGINT

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Note the first signal, stop at once on the second."""
        if self._signal is not None:
            raise KeyboardInterrupt
        self._signal = number


@contextlib.contextmanager
def graceful_stop() -> Iterator[Stopper]:
    """Catch SIGINT and SIGTERM while the context is open (in the main thread; elsewhere it does nothing)."""
    stopper = Stopper()
    if threading.current_thread() is not threading.main_thread():
        yield stopper
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stopper.handle) for number in numbers}
    try:
        yield stopper
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
