"""Files that may still be written: a part is taken once its files have been left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from inspect_cli.images.parts import Part, expected_file

#: A file that ends in zeros may have been given its size before its pixels: it must rest so many times longer.
ZEROS_FACTOR: Final = 15.0
_TAIL_BYTES: Final = 4096
#: A file that ends early may be the work of a slow writer if it changed within this time.
SLOW_WRITER_S: Final = 600.0


class _Look(NamedTuple):
    """What a part's files looked like, and when (monotonic seconds)."""

    files: tuple[tuple[int, int, int], ...]
    at_s: float


def fingerprint(files: Iterable[Path]) -> tuple[tuple[int, int, int], ...]:
    """Return size, modification time (ns) and inode of each file; raises OSError if one is gone."""
    found = [path.stat() for path in files]
    return tuple((status.st_size, status.st_mtime_ns, status.st_ino) for status in found)


@dataclass
class Settling:
    """Tells whether parts have settled: no file changed for ``settle_s`` seconds, and the marker is there, if any.

    By the files' modification times, or, where another machine's clock wrote them, by what was seen here: files that
    looked the same ``settle_s`` ago. ``settle_s`` 0 takes files as they are.

    Parameters
    ----------
    settle_s
        Seconds that files must have been left alone.
    marker
        Pattern of a file that the writer puts beside a finished part, such as ``{part}.done``, or None.
    also
        Returns files of a part that are none of its maps.
    """

    settle_s: float
    marker: str | None = None
    also: Callable[[Part], list[Path]] = lambda _part: []
    now: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
    _looks: dict[str, _Look] = field(init=False, default_factory=dict)
    _needed_s: dict[str, float] = field(init=False, default_factory=dict)

    def why_not(self, part: Part) -> str | None:
        """Look at a part's files; return what is missing until it can be taken, None if nothing is.

        A part that cannot be used whatever comes, and a file that cannot be looked at, are left to the reader, which
        names them.
        """
        if part.fault is not None:
            return None
        marker = None if self.marker is None else expected_file(self.marker, part.id)
        if marker is not None and not _is_there(part.folder / marker):
            return f"waits for its marker {marker}"
        return None if self._is_quiet(part) else "a file is still being written"

    def _is_quiet(self, part: Part) -> bool:
        files = self._files(part)
        age = self._age_s(files)
        if self.settle_s <= 0 or age is None or age >= ZEROS_FACTOR * self.settle_s:
            return True
        needed_s = self.settle_s * (ZEROS_FACTOR if any(map(_ends_in_zeros, files)) else 1)
        if age >= needed_s:
            return True
        try:
            looks = fingerprint(files)
        except OSError:  # gone since
            return True
        self._needed_s[part.id] = needed_s
        before = self._looks.get(part.id)
        if before is None or before.files != looks:
            self._looks[part.id] = _Look(looks, self.clock())
            return False
        return self.clock() - before.at_s >= needed_s

    def remaining_s(self, part: Part) -> float:
        """Return how long to wait until a part that is still being written can be done; 0 for any other."""
        look = self._looks.get(part.id)
        return 0.0 if look is None else max(0.0, look.at_s + self._needed_s[part.id] - self.clock())

    def may_grow(self, part: Part) -> bool:
        """Whether a part that is not whole may become so: one of its files changed a short while ago."""
        age = self._age_s(self._files(part))
        return self.settle_s > 0 and age is not None and abs(age) < SLOW_WRITER_S  # clocks of cameras go ahead, too

    def _files(self, part: Part) -> list[Path]:
        return [*part.files.values(), *self.also(part)]

    def _age_s(self, files: Iterable[Path]) -> float | None:
        """Return the seconds since the last change of any file, None if one cannot be looked at."""
        try:
            return self.now() - max((path.stat().st_mtime for path in files), default=0.0)
        except OSError:
            return None


def _is_there(path: Path) -> bool:
    """Whether a file can be seen; one in a folder that may not be looked into cannot."""
    try:
        return path.exists()
    except OSError:
        return False


def _ends_in_zeros(path: Path) -> bool:
    """Whether the last bytes of a file are all zero; a file that cannot be read is left to the reader."""
    try:
        if not path.is_file():  # opening a pipe would wait for its writer
            return False
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            tail = file.read(_TAIL_BYTES)
    except OSError:
        return False
    return bool(tail) and not any(tail)
