"""One writer a folder."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

from inspect_cli.errors import LockedError
from inspect_cli.store.atomic import output_error

LOCK = ".lock"


def lock_folder(folder: Path, message: str) -> AbstractContextManager[object]:
    """Take the lock of a folder, which is made if need be; the context it returns lets go of it.

    Raises
    ------
    LockedError
        With ``message``, if another process holds it. The lock of a process that died is free.
    OutputError
        If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / LOCK).acquire(timeout=0)
    except Timeout as error:
        raise LockedError(message) from error
    except OSError as error:
        raise output_error(folder, error) from error
