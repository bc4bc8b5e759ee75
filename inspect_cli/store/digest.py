"""Hashes by which files and settings are known again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from inspect_cli.errors import InputError


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes; raises InputError if it cannot be read or is no regular file."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a regular file")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def json_sha256(content: Any) -> str:
    """Return the sha256 of what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
