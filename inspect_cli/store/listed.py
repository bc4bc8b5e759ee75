"""Files that a record lists as its own, removed before others take their place."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from inspect_cli.store.atomic import output_error
from inspect_cli.store.paths import lies_in


def remove_listed(record: Path) -> None:
    """Remove the files that a record lists (``files``, relative to its folder), and folders that are empty then.

    Others are left alone, and so is everything if there is no readable record.

    Raises
    ------
    OutputError
        If a file cannot be removed.
    """
    out = record.parent
    own = [path for name in _listed(record) if lies_in(path := out / name, out)]
    for path in own:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise output_error(path, error) from error
    folders = {folder for path in own for folder in path.parents if out in folder.parents}
    for folder in sorted(folders, reverse=True):
        with contextlib.suppress(OSError):  # not empty: it holds files of others
            folder.rmdir()


def _listed(record: Path) -> list[str]:
    try:
        listed = json.loads(record.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
