"""One writer a folder."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from inspect_cli.errors import LockedError
from inspect_cli.store.atomic import output_error, sweep_leftovers
from inspect_cli.store.layout import LOCK
from inspect_cli.store.timestamps import utc_now

#: Who holds the lock, for the message to others.
HOLDER = ".lock-holder"


@contextlib.contextmanager
def lock_folder(folder: Path, message: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder, which is made if need be, while the context is open.

    Another process that holds it is waited for up to ``wait_s`` seconds. What a killed one left half-written is
    removed.

    Raises
    ------
    LockedError
        With ``message`` and who it is, if another process holds it. The lock of a process that died is free.
    OutputError
        If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # a group that may write here may lock
        held = FileLock(folder / LOCK, mode=0o666 & ~_umask()).acquire(timeout=max(wait_s, 0.0), poll_interval=0.2)
    except Timeout as error:
        raise LockedError(f"{message}{_holder(folder)}") from error
    except OSError as error:
        raise output_error(folder, error) from error
    with held:
        note = folder / HOLDER
        with contextlib.suppress(OSError):  # a help for people; the lock is what counts
            note.write_text(f"process {os.getpid()} on {platform.node()} since {utc_now()}\n", encoding="utf-8")
        try:
            sweep_leftovers(folder)
            yield
        finally:
            with contextlib.suppress(OSError):
                note.unlink()


def _umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def _holder(folder: Path) -> str:
    try:
        return f" (held by {(folder / HOLDER).read_text(encoding='utf-8').strip()})"
    except (OSError, UnicodeDecodeError):
        return ""
