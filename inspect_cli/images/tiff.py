"""TIFF: strips, tiles, planes, BigTIFF; only the segments, or plain rows, that a window needs are read."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray

from inspect_cli.errors import IncompleteError, InputError
from inspect_cli.images.reader import ImageHeader, MapReader, register_format

# Damaged files are reported as InputError; tifffile's own log lines would repeat it on stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
logging.getLogger("tifffile").propagate = False

#: Tags without which pixels cannot be told (TIFF 6.0, section 4): width, height, compression, colour kind.
_NEEDED_TAGS: Final = (256, 257, 259, 262)
#: Tags that decide how bytes become pixels, whole numbers all: bits, bit order, offsets, samples, rows, planes, ...
_NUMBER_TAGS: Final = frozenset((*_NEEDED_TAGS, 258, 266, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 338, 339))
#: How compressed pixels are to be added up. Lost, it leaves a picture of differences that nothing else tells of; so a
#: maker's own tag that differs from it in its first byte alone is taken for it.
_PREDICTOR: Final = 317
#: How the image lies: 1 is upright.
_ORIENTATION: Final = 274
#: Values that the standard knows: bit order, orientation, planes, predictor.
_KNOWN_VALUES: Final = {
    266: (1, 2),
    _ORIENTATION: range(1, 9),
    284: (1, 2),
    _PREDICTOR: (1, 2, 3, 34892, 34893, 34894, 34895),
}
_BIG: Final = 43  # the number that marks a BigTIFF
_NUMBER_TYPES: Final = (3, 4, 16)  # SHORT, LONG, LONG8
_TEXT_TAGS: Final = frozenset((269, 270, 271, 272, 285, 305, 306, 315, 316))
_TEXT_TYPES: Final = (1, 2, 7)  # BYTE, ASCII, UNDEFINED
#: Tags from here on belong to those who registered them; below, an unknown one is a damaged one.
_PRIVATE_TAGS: Final = 32768
_SUPPORTED_PHOTOMETRIC = {"MINISBLACK", "RGB", "YCBCR"}
_PLANAR_SEPARATE = 2
#: ExtraSamples that are opacity, premultiplied or not (TIFF 6.0, section 18); another is a channel like any.
_ALPHA: Final = (1, 2)


@register_format(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
class TiffReader(MapReader):
    """One single-page TIFF file.

    The last decoded row of strips or tiles is kept, so that overlapping windows read from top to bottom
    decode each segment once; memory stays at one row of segments. Of strips that hold pixels as they are, which
    may be as long as the image, only the rows that are asked for are read. An alpha channel is left out: it is no
    measurement.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._check_directory_is_there()
        try:
            self._file = tifffile.TiffFile(path)
        except Exception as error:  # tifffile raises many types on damaged files
            raise InputError(f"{path}: damaged TIFF header ({error})") from error
        try:
            self._page = self._file.pages[0]
            self._check_directory()
            self.header = self._read_header()
            self._check_segments()
        except InputError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise InputError(f"{path}: damaged TIFF ({error})") from error
        self._cached_row = -1
        self._cache: NDArray[Any] = np.empty(0)
        self._stored = self._stored_dtype()

    def _check_directory_is_there(self) -> None:
        """Refuse a file that ends before its directory, which many writers write last and then point to."""
        try:
            with self._path.open("rb") as file:
                start = file.read(16)
                size = file.seek(0, os.SEEK_END)
        except OSError as error:
            raise InputError(f"{self._path}: cannot be read ({error.strerror})") from error
        order: Literal["little", "big"] = "little" if start[:2] == b"II" else "big"
        place = slice(8, 16) if _BIG in (start[2], start[3]) else slice(4, 8)
        directory = int.from_bytes(start[place], order)
        if len(start) < place.stop or directory == 0 or directory >= size:
            raise IncompleteError(f"{self._path}: truncated TIFF: it ends before its directory; copy the file again")

    def _read_header(self) -> ImageHeader:
        page = self._page
        if page.dtype is None or page.imagedepth != 1:
            raise InputError(f"{self._path}: unsupported TIFF ({page.bitspersample} bits a sample)")
        if page.photometric.name == "MINISWHITE":
            raise InputError(
                f"{self._path}: TIFF in which zero is white: programs disagree on its meaning; save it with zero as "
                "black"
            )
        if page.photometric.name not in _SUPPORTED_PHOTOMETRIC:
            raise InputError(f"{self._path}: TIFF colour kind {page.photometric.name} is not supported")
        orientation = page.tags.valueof(_ORIENTATION, default=1)
        if orientation != 1:
            raise InputError(
                f"{self._path}: its tag Orientation is {orientation}: the pixels are stored turned or mirrored; save "
                "it upright (Orientation 1)"
            )
        self._samples = int(page.samplesperpixel)
        has_alpha = self._samples in (2, 4) and any(kind in _ALPHA for kind in page.extrasamples[-1:])
        return ImageHeader(
            path=self._path,
            format="TIFF",
            width=int(page.imagewidth),
            height=int(page.imagelength),
            channels=self._samples - has_alpha,
            dtype=np.dtype(page.dtype).newbyteorder("="),
            pages=len(self._file.pages),
        )

    def _check_segments(self) -> None:
        """Refuse a file whose strips or tiles are missing or lie beyond its end: it was cut off."""
        page = self._page
        self._rows = int(page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength))
        down = -(-self.header.height // self._rows)
        across = -(-self.header.width // int(page.tilewidth)) if page.is_tiled else 1
        self._planes = self._samples if page.planarconfig == _PLANAR_SEPARATE else 1
        self._down, self._across = down, across
        wanted = down * across * self._planes
        offsets, counts = page.dataoffsets, page.databytecounts
        if len(offsets) != wanted or len(counts) != wanted:
            raise InputError(f"{self._path}: damaged TIFF: {len(offsets)} segments where {wanted} are needed")
        size = self._file.filehandle.size
        for number, (offset, count) in enumerate(zip(offsets, counts, strict=True)):
            if offset <= 0 or count <= 0 or offset + count > size:
                raise IncompleteError(
                    f"{self._path}: truncated TIFF: segment {number + 1} of {wanted} ends at byte "
                    f"{offset + count} of {size}; copy the file again"
                )
        self._check_apart(offsets, counts)
        if page.compression == 1:
            self._check_uncompressed(counts)

    def _check_apart(self, offsets: Sequence[int], counts: Sequence[int]) -> None:
        """Refuse a file in which pixels overlap each other, the header or the directory: an offset is wrong."""
        tiff, page = self._file.tiff, self._page
        directory = tiff.tagnosize + len(page.tags) * tiff.tagsize + tiff.offsetsize
        taken = [(0, 2 * tiff.offsetsize), (page.offset, directory), *zip(offsets, counts, strict=True)]
        taken += [(tag.valueoffset, tag.valuebytecount) for tag in page.tags if tag.valuebytecount > tiff.offsetsize]
        at = 0
        for offset, count in sorted(taken):
            if offset < at:
                raise InputError(f"{self._path}: damaged TIFF: its parts overlap at byte {offset}; copy it again")
            at = offset + count

    def _check_uncompressed(self, counts: Sequence[int]) -> None:
        """Refuse uncompressed pixels whose segments have another size than their rows need."""
        page = self._page
        samples = self._samples // self._planes
        across = int(page.tilewidth) if page.is_tiled else self.header.width
        row_bytes = -(-across * samples * page.bitspersample // 8)
        for index, count in enumerate(counts):
            top = index // self._across % self._down * self._rows
            rows = self._rows if page.is_tiled else min(self._rows, self.header.height - top)
            if count < rows * row_bytes:
                raise IncompleteError(
                    f"{self._path}: truncated TIFF: segment {index + 1} has {count} of {rows * row_bytes} pixel "
                    "bytes; copy it again"
                )
            if count > max(rows, self._rows) * row_bytes:
                raise InputError(f"{self._path}: damaged TIFF: segment {index + 1} is longer than its rows")

    def _check_directory(self) -> None:
        """Refuse a directory that no program writes so: entries lost, out of order, unknown, or of a wrong type."""
        tiff, tags = self._file.tiff, list(self._page.tags)
        handle = self._file.filehandle
        handle.seek(self._page.offset)
        (declared,) = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))
        handle.seek(declared * tiff.tagsize, os.SEEK_CUR)
        (following,) = struct.unpack(tiff.offsetformat, handle.read(tiff.offsetsize))
        codes = [tag.code for tag in sorted(tags, key=lambda tag: tag.offset)]
        lost = len(codes) != declared or (following != 0 and len(self._file.pages) == 1)
        if lost or any(after <= before for before, after in pairwise(codes)):
            raise InputError(f"{self._path}: damaged TIFF: its directory is not in order; copy the file again")
        missing = [code for code in _NEEDED_TAGS if code not in codes]
        unknown = [code for code in codes if code < _PRIVATE_TAGS and code not in tifffile.TIFF.TAGS]
        if missing or unknown:
            which = f"lacks tag {missing[0]}" if missing else f"has an unknown tag {unknown[0]}"
            raise InputError(f"{self._path}: damaged TIFF: its directory {which}; copy the file again")
        for tag in tags:
            if tag.code >= _PRIVATE_TAGS and tag.code & 0xFF == _PREDICTOR & 0xFF and _PREDICTOR not in codes:
                raise InputError(f"{self._path}: damaged TIFF: tag {tag.code} was its predictor; copy the file again")
            expected = _NUMBER_TYPES if tag.code in _NUMBER_TAGS else _TEXT_TYPES if tag.code in _TEXT_TAGS else None
            if expected is not None and tag.dtype not in expected:
                raise InputError(f"{self._path}: damaged TIFF: tag {tag.code} has a wrong type; copy the file again")
            if tag.code in _KNOWN_VALUES and tag.value not in _KNOWN_VALUES[tag.code]:
                raise InputError(f"{self._path}: damaged TIFF: tag {tag.code} is {tag.value}; copy the file again")

    def read_rows(self, y0: int, y1: int) -> NDArray[Any]:
        """Return rows ``y0`` to ``y1``; see :class:`MapReader`."""
        if not 0 <= y0 < y1 <= self.header.height:
            raise ValueError(f"rows {y0}:{y1} are outside 0:{self.header.height}")
        bands = []
        for row in range(y0 // self._rows, -(-y1 // self._rows)):
            top = row * self._rows
            first, end = max(y0 - top, 0), min(y1 - top, self._rows)
            bands.append(
                self._segment_row(row)[first:end]
                if self._stored is None
                else self._stored_rows(row, first, end, self._stored)
            )
        rows = bands[0] if len(bands) == 1 else np.concatenate(bands)
        rows = rows[..., 0] if self.header.channels == 1 else rows[..., : self.header.channels]
        return np.array(rows, dtype=self.header.dtype)  # a copy: the caller may keep it

    def _stored_dtype(self) -> np.dtype[Any] | None:
        """Return the type of pixels that lie in the file as they are, strip by strip; None of any other file."""
        page = self._page
        if page.is_tiled or page.compression != 1 or page.predictor != 1 or page.fillorder != 1:
            return None
        if page.photometric.name == "YCBCR" or page.bitspersample != 8 * self.header.dtype.itemsize:
            return None
        return self.header.dtype.newbyteorder(self._file.tiff.byteorder)

    def _stored_rows(self, row: int, first: int, end: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Read rows ``first`` to ``end`` of a row of strips: (rows, width, channels)."""
        handle, width = self._file.filehandle, self.header.width
        samples = self._samples // self._planes
        row_bytes = width * samples * dtype.itemsize
        planes = []
        for plane in range(self._planes):
            index = plane * self._down + row
            try:
                handle.seek(self._page.dataoffsets[index] + first * row_bytes)
                data = handle.read((end - first) * row_bytes)
            except OSError as error:
                raise InputError(f"{self._path}: cannot be read ({error.strerror})") from error
            if len(data) < (end - first) * row_bytes:
                raise IncompleteError(f"{self._path}: truncated TIFF: segment {index + 1} is short; copy it again")
            planes.append(np.frombuffer(data, dtype).reshape(end - first, width, samples))
        return planes[0] if self._planes == 1 else np.concatenate(planes, axis=2)

    def _segment_row(self, row: int) -> NDArray[Any]:
        """Decode one row of strips or tiles: (rows, width, channels)."""
        if row == self._cached_row:
            return self._cache
        self._cached_row, self._cache = -1, np.empty(0)  # let go of, before there is another
        top = row * self._rows
        height = min(self._rows, self.header.height - top)
        if not self._page.is_tiled and self._planes == 1:
            strip = self._decode(row)[0, :height]
            if strip.shape == (height, self.header.width, self._samples):
                self._cached_row, self._cache = row, strip
                return strip
        band = np.empty((height, self.header.width, self._samples), self.header.dtype)
        for plane in range(self._planes):
            for column in range(self._across):
                index = (plane * self._down + row) * self._across + column
                segment = self._decode(index)[0, :height]
                x0 = column * (int(self._page.tilewidth) if self._page.is_tiled else 0)
                x1 = min(x0 + segment.shape[1], self.header.width)
                channels = slice(plane, plane + 1) if self._planes > 1 else slice(None)
                band[:, x0:x1, channels] = segment[:, : x1 - x0]
        self._cached_row, self._cache = row, band
        return band

    def _decode(self, index: int) -> NDArray[Any]:
        page, handle = self._page, self._file.filehandle
        try:
            handle.seek(page.dataoffsets[index])
            data = handle.read(page.databytecounts[index])
            segment, _, shape = page.decode(data, index, jpegtables=page.jpegtables)
        except Exception as error:  # codecs raise many types on damaged data
            raise InputError(f"{self._path}: {self._reason(error)}") from error
        if segment is None or segment.shape[1] < min(shape[1], self._rows):
            raise InputError(f"{self._path}: damaged TIFF: segment {index + 1} is short")
        return np.asarray(segment)

    def _reason(self, error: Exception) -> str:
        text = str(error)
        if "imagecodecs" in text or isinstance(error, ImportError):
            page = self._page
            kind = f"{page.bitspersample} bits a sample"
            kind += "" if page.compression == 1 else f", compression {page.compression.name}"
            return f"this TIFF ({kind}) needs the codecs extra: pip install 'inspect-cli[codecs]'"
        return f"damaged TIFF: pixels cannot be decoded ({text})"

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
