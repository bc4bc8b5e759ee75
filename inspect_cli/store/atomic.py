"""The one writer: a file appears whole under its name, or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from inspect_cli.errors import OutputError
from inspect_cli.store.layout import LOCK

TEMPORARY_SUFFIX: Final = ".tmp"
#: A temporary file of this program, and of no other.
_TEMPORARY: Final = re.compile(r"\..+\.[0-9a-f]{8}" + re.escape(TEMPORARY_SUFFIX), re.DOTALL)


def output_error(path: Path, error: OSError) -> OutputError:
    """Turn an operating-system error while writing ``path`` into one clear line."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path}: disk full while writing; free space and run again")
    reason = error.strerror or str(error)
    return OutputError(
        f"{path}: cannot be written ({reason}); check the folder and its permissions, or choose another"
    )


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success it becomes ``path``.

    The content is flushed to the disk before the rename and the folder after it, so that a power cut
    leaves the old file or the new one. On any error the temporary file is removed.

    Raises
    ------
    OutputError
        If the folder or the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(path, error) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
        if temporary.stat().st_size != len(content):  # some network shares lose bytes in silence
            raise OSError(errno.EIO, f"{temporary.stat().st_size} of {len(content)} bytes arrived")


def write_text(path: Path, content: str) -> None:
    """Write ``content`` to ``path`` as UTF-8, whole or not at all."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON; NaN and infinity are refused, not written."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let a library's ``write(temporary_path)`` produce ``path``, whole or not at all."""
    with whole_file(path) as temporary:
        write(temporary)


def sweep_leftovers(folder: Path) -> int:
    """Remove temporary files that a killed run left below ``folder``; return how many.

    Folders below with a lock of their own are left to whoever holds that.
    """
    swept = 0
    for text, folders, names in os.walk(folder):
        place = Path(text)
        if place != folder and LOCK in names:
            folders.clear()
            continue
        for name in filter(_TEMPORARY.fullmatch, names):
            (place / name).unlink(missing_ok=True)
            swept += 1
    return swept


def sweep_leftovers_of(path: Path) -> None:
    """Remove temporary files that a killed run left of the one file ``path``."""
    for leftover in path.parent.glob(f".*{TEMPORARY_SUFFIX}"):
        if _TEMPORARY.fullmatch(leftover.name) and leftover.name.startswith(f".{path.name}."):
            leftover.unlink(missing_ok=True)
