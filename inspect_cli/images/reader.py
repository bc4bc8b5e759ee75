"""One interface to image files of every format: header first, then windows of rows.

A format is one class with one registration: how its files begin, and how to open them.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from inspect_cli.errors import IncompleteError, InputError

#: File name endings that are looked at when a folder is searched for images.
SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp")
#: Endings of images that are not read.
UNREAD = (
    ".webp", ".gif", ".jp2", ".j2k", ".heic", ".avif", ".tga", ".ppm", ".pgm", ".pnm", ".pbm", ".exr", ".dng", ".btf",
    ".tf8", ".raw",
)  # fmt: skip

#: Images above this are refused from their header, before any memory is taken.
MAX_MEGAPIXELS = 4096
_MAGIC_BYTES = 8


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of itself before any pixel is read."""

    path: Path
    format: str
    width: int
    height: int
    channels: int
    dtype: np.dtype[Any]
    pages: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Array shape of the whole image: (height, width) or (height, width, channels)."""
        plane = (self.height, self.width)
        return plane if self.channels == 1 else (*plane, self.channels)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.channels} channel(s), {self.dtype}"


class MapReader(abc.ABC):
    """An open image file. Use as a context manager."""

    header: ImageHeader

    @abc.abstractmethod
    def read_rows(self, y0: int, y1: int) -> NDArray[Any]:
        """Return rows ``y0`` to ``y1`` (exclusive) in the file's own type, native byte order.

        Shape (y1 - y0, width) for one channel, else (y1 - y0, width, channels).

        Raises
        ------
        InputError
            If the pixels cannot be decoded.
        """

    def read(self) -> NDArray[Any]:
        """Return the whole image."""
        return self.read_rows(0, self.header.height)

    def bands(self, rows: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield the image top to bottom in bands of at most ``rows`` rows, each with its first row."""
        for y0 in range(0, self.header.height, rows):
            yield y0, self.read_rows(y0, min(y0 + rows, self.header.height))

    def close(self) -> None:  # noqa: B027  (a reader that holds no file has nothing to let go of)
        """Let go of the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class WindowReader(MapReader):
    """A rectangle of an open image, read as if it were an image of its own."""

    def __init__(self, reader: MapReader, y: int, x: int, height: int, width: int) -> None:
        outer = reader.header
        self._reader, self._y, self._x = reader, y, x
        self.header = ImageHeader(outer.path, outer.format, width, height, outer.channels, outer.dtype)

    def read_rows(self, y0: int, y1: int) -> NDArray[Any]:
        """Return rows of the window; see :class:`MapReader`."""
        rows = self._reader.read_rows(self._y + y0, self._y + y1)
        return rows[:, self._x : self._x + self.header.width]


Opener = Callable[[Path], MapReader]


#: How to open a file, by its first bytes.
_OPENERS: Final[dict[bytes, Opener]] = {}


def register_format(*magics: bytes) -> Callable[[Opener], Opener]:
    """Register an opener for files that begin with one of ``magics``."""

    def register(opener: Opener) -> Opener:
        for magic in magics:
            _OPENERS[magic] = opener
        return opener

    return register


def open_map(path: Path, max_mpixels: float | None = None) -> MapReader:
    """Open an image file by its content, whatever its name ends with.

    An image above ``max_mpixels`` megapixels (None: MAX_MEGAPIXELS) is refused from its header.

    Raises
    ------
    InputError
        If the file is missing, empty, no known image, damaged, or too large.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file" if not path.exists() else f"{path}: not a regular file")
        with path.open("rb") as file:
            start = file.read(_MAGIC_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    opener = next((o for magic, o in _OPENERS.items() if start.startswith(magic)), None)
    if opener is None:
        if len(start) < _MAGIC_BYTES:
            raise IncompleteError(
                f"{path}: {'an empty file' if not start else 'cut off in its first bytes'}; copy it again"
            )
        raise InputError(f"{path}: no TIFF, PNG, JPEG or BMP image; check what wrote it")
    reader = opener(path)
    header = reader.header
    limit = MAX_MEGAPIXELS if max_mpixels is None else max_mpixels
    if header.width * header.height > limit * 1_000_000:
        reader.close()
        raise InputError(f"{path}: {header.width}x{header.height} is above {limit:g} megapixels")
    return reader


def usual_value(reader: MapReader) -> float:
    """Return the median of the finite values of an image's middle row; 0 if it has none."""
    middle = reader.header.height // 2
    row = reader.read_rows(middle, middle + 1).astype(np.float64)
    finite = row[np.isfinite(row)]
    return float(np.median(finite)) if finite.size else 0.0


def read_mask(path: Path, height: int, width: int) -> NDArray[np.bool_]:
    """Return the mask image at ``path`` as a bool array (height, width): nonzero is True.

    Raises
    ------
    InputError
        If it cannot be used (:func:`read_any_mask`) or has another size.
    """
    mask = read_any_mask(path)
    if mask.shape != (height, width):
        raise InputError(
            f"{path}: mask is {mask.shape[1]}x{mask.shape[0]}, its image is {width}x{height}; they must match"
        )
    return mask


def read_any_mask(path: Path) -> NDArray[np.bool_]:
    """Return the mask image at ``path`` as a bool array (height, width), whatever its size: nonzero is True.

    Raises
    ------
    InputError
        If it cannot be read, is a JPEG, has several pages, or holds values that are no finite numbers.
    """
    with open_map(path) as reader:
        if reader.header.format == "JPEG":
            raise InputError(f"{path}: JPEG blurs the edges of a mask; save it as PNG")
        if reader.header.pages != 1:
            raise InputError(f"{path}: a mask has one page, not {reader.header.pages}; save it as PNG")
        pixels = reader.read()
        if not np.isfinite(pixels).all():
            raise InputError(f"{path}: the mask holds values that are no numbers; save it as PNG, 0 outside")
        return _marked(pixels)


def _marked(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which pixels (height, width[, channels]) of a mask are not 0 in some colour; opacity does not count."""
    if pixels.ndim == 2:
        return np.asarray(pixels != 0)
    colours = pixels.shape[2] - (pixels.shape[2] in (2, 4))
    return np.asarray((pixels[..., :colours] != 0).any(axis=2))


from inspect_cli.images import raster, tiff  # noqa: E402, F401  (they register themselves)
