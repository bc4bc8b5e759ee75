"""Folders of results: is every file whole, and do two of them hold the same, times apart."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import tifffile
from safetensors import safe_open

#: Keys and columns that tell the time.
TIMES = {"timing_s", "scored_utc", "seen", "started_utc", "finished_utc", "created_utc", "seconds", "spent_s"}
#: Files of a bundle that show times.
TIMED_FILES = {"model_card.md"}
LOCKS = {".lock", ".lock-holder"}


def visible_files(folder: Path) -> list[Path]:
    """Return the files below ``folder`` but those whose names begin with a dot, sorted."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))


def broken_files(folder: Path) -> list[str]:
    """Return the visible files that cannot be read to their end, with the reason."""
    found = []
    for path in visible_files(folder):
        try:
            _read_through(path)
        except Exception as error:
            found.append(f"{path.relative_to(folder)}: {error!r}")
    return found


def _read_through(path: Path) -> None:
    kind = path.suffix
    if kind == ".json" or kind == ".geojson":
        json.loads(path.read_text())
    elif kind == ".png":
        if cv2.imread(str(path), cv2.IMREAD_UNCHANGED) is None:
            raise ValueError("does not decode")
    elif kind == ".tif":
        tifffile.imread(path)
    elif kind == ".parquet":
        pq.read_table(path)
    elif kind == ".gz":
        gzip.decompress(path.read_bytes())
    elif kind == ".safetensors":
        with safe_open(path, "np") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (no mapping)
                np.asarray(tensors.get_tensor(name))
    elif not path.read_text().endswith("\n"):
        raise ValueError("does not end with a line")


def content_of(folder: Path) -> dict[str, Any]:
    """Return every file's content by its path below ``folder``, times and locks left out, leftovers included."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name not in LOCKS | TIMED_FILES]
    return {path.relative_to(folder).as_posix(): _timeless(path) for path in sorted(files)}


def _timeless(path: Path) -> Any:
    if path.suffix == ".json":
        return _without_times(json.loads(path.read_text()))
    if path.name == "parts.csv":
        return [_without_times(row) for row in csv.DictReader(io.StringIO(path.read_text()))]
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    return path.read_bytes()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(each) for key, each in value.items() if key not in TIMES}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Return what is missing, too many or different, by path."""
    words = [f"{path}: missing" for path in expected.keys() - found.keys()]
    words += [f"{path}: too many" for path in found.keys() - expected.keys()]
    words += [f"{path}: different" for path in expected.keys() & found.keys() if found[path] != expected[path]]
    return sorted(words)
