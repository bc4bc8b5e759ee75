"""A batch folder -> its parts, by the file patterns of a recipe."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from inspect_cli.errors import InputError, NoInputError
from inspect_cli.images.reader import SUFFIXES
from inspect_cli.recipe.schema import PART, MapSpec

#: Folder that runs write into, left out when a batch is read.
RUN_FOLDER = "inspection"
#: Files that lie beside the maps but are none.
_NOT_A_MAP = re.compile(r"_(mask|roi)\.[^.]+$", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """One inspected part: its id (path below the batch folder) and the file of each map."""

    id: str
    files: Mapping[str, Path]
    folder: Path
    missing: tuple[str, ...] = field(default=())

    def require_complete(self, maps: Mapping[str, MapSpec]) -> None:
        """Raise InputError if a map's file is not there, naming the file that was looked for."""
        if self.missing:
            name = self.missing[0]
            wanted = maps[name].files.replace(PART, self.id)
            raise InputError(f"{self.id}: map {name!r} is missing: no {wanted} in {self.folder}")


def discover_parts(folder: Path, maps: Mapping[str, MapSpec]) -> list[Part]:
    """Return the parts below ``folder``, sorted by id; a part with a missing map says which.

    Raises
    ------
    NoInputError
        If the folder does not exist or holds no file of any of the maps.
    """
    if not folder.is_dir():
        raise NoInputError(f"{folder}: no such folder")
    patterns = {name: _compile(spec.files) for name, spec in maps.items()}
    found: dict[str, dict[str, Path]] = {}
    for path in _walk(folder):
        relative = path.relative_to(folder).as_posix()
        for name, pattern in patterns.items():
            match = pattern.match(relative)
            if match is not None:
                part = match["folder"] + match["stem"]
                if name in found.setdefault(part, {}):
                    raise InputError(f"{path}: second file for map {name!r} of part {part!r}; keep one")
                found[part][name] = path
                break
    if not found:
        looked_for = ", ".join(spec.files for spec in maps.values())
        raise NoInputError(f"{folder}: no part found; looked for {looked_for}")
    return [
        Part(part, files, folder, tuple(name for name in maps if name not in files))
        for part, files in sorted(found.items())
    ]


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if f != RUN_FOLDER and not f.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and not _NOT_A_MAP.search(name):
                yield Path(root, name)


def _compile(pattern: str) -> re.Pattern[str]:
    """Turn ``sub/{part}_albedo.tif`` into a regular expression over paths below the folder."""
    head, _, tail = pattern.partition(PART)
    stem, _, ending = tail.rpartition(".")
    if ending == "*":
        endings = "|".join(re.escape(s[1:]) for s in SUFFIXES)
    else:
        endings = {"tif": "tiff?", "tiff": "tiff?", "jpg": "jpe?g", "jpeg": "jpe?g"}.get(
            ending.lower(), re.escape(ending)
        )
    return re.compile(
        rf"(?P<folder>(?:.*/)?){re.escape(head)}(?P<stem>[^/]+){re.escape(stem)}\.(?i:{endings})$", re.DOTALL
    )
