"""Paths as text that every library takes, and as places without links."""

from __future__ import annotations

import os
from pathlib import Path

from inspect_cli.errors import NoInputError, UsageError


def as_text(name: str) -> str:
    """Return a name with escapes for its bytes that are no valid UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def check_is_text(*paths: Path) -> None:
    """Raise UsageError if a path is no valid UTF-8, which tables, records and pages cannot hold."""
    for path in paths:
        text = as_text(str(path))
        if text != str(path):
            raise UsageError(f"{text}: the name is no valid UTF-8; rename it")


def check_is_folder(path: Path, wanted: str = "the folder that it is in") -> None:
    """Raise UsageError if a path is a file, telling to give what is ``wanted``, NoInputError if there is nothing."""
    if path.is_file():
        raise UsageError(f"{path}: is a file; give {wanted}")
    if not path.is_dir():
        raise NoInputError(f"{path}: no such folder")


def without_links(path: Path) -> Path:
    """Return the place that a path leads to; unlike :meth:`Path.resolve`, links in a circle are no fault."""
    return Path(os.path.realpath(path))


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a path leads to a place in ``folder``, or to the folder itself, wherever links lead."""
    return without_links(path).is_relative_to(without_links(folder))
