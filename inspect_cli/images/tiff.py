"""TIFF: strips, tiles, planes, BigTIFF; only the segments that a window needs are decoded."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from inspect_cli.errors import IncompleteError, InputError
from inspect_cli.images.reader import ImageHeader, MapReader, register_format

# Damaged files are reported as InputError; tifffile's own log lines would repeat it on stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
logging.getLogger("tifffile").propagate = False

_SUPPORTED_PHOTOMETRIC = {"MINISBLACK", "RGB", "MINISWHITE", "YCBCR"}
_PLANAR_SEPARATE = 2


@register_format(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
class TiffReader(MapReader):
    """One single-page TIFF file.

    The last decoded row of strips or tiles is kept, so that overlapping windows read from top to bottom
    decode each segment once; memory stays at one row of segments.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = tifffile.TiffFile(path)
        except Exception as error:  # tifffile raises many types on damaged files
            raise InputError(f"{path}: damaged TIFF header ({error})") from error
        try:
            self._page = self._file.pages[0]
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

    def _read_header(self) -> ImageHeader:
        page = self._page
        if page.dtype is None or page.imagedepth != 1:
            raise InputError(f"{self._path}: unsupported TIFF ({page.bitspersample} bits a sample)")
        if page.photometric.name not in _SUPPORTED_PHOTOMETRIC:
            raise InputError(f"{self._path}: TIFF colour kind {page.photometric.name} is not supported")
        if page.photometric.name == "MINISWHITE" and page.bitspersample == 1:
            raise InputError(
                f"{self._path}: 1-bit TIFF in which zero is white: programs disagree on its meaning; "
                "save it as PNG or as 8-bit TIFF"
            )
        return ImageHeader(
            path=self._path,
            format="TIFF",
            width=int(page.imagewidth),
            height=int(page.imagelength),
            channels=int(page.samplesperpixel),
            dtype=np.dtype(page.dtype).newbyteorder("="),
            pages=len(self._file.pages),
        )

    def _check_segments(self) -> None:
        """Refuse a file whose strips or tiles are missing or lie beyond its end: it was cut off."""
        page = self._page
        self._rows = int(page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength))
        down = -(-self.header.height // self._rows)
        across = -(-self.header.width // int(page.tilewidth)) if page.is_tiled else 1
        self._planes = self.header.channels if page.planarconfig == _PLANAR_SEPARATE else 1
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
        if page.compression == 1:
            self._check_uncompressed(sum(counts))

    def _check_uncompressed(self, declared: int) -> None:
        pixels = self.header.width * self.header.height * self.header.channels
        needed = pixels * self._page.bitspersample // 8
        if not self._page.is_tiled and declared < needed:
            raise IncompleteError(f"{self._path}: truncated TIFF: {declared} of {needed} pixel bytes; copy it again")

    def read_rows(self, y0: int, y1: int) -> NDArray[Any]:
        """Return rows ``y0`` to ``y1``; see :class:`MapReader`."""
        if not 0 <= y0 < y1 <= self.header.height:
            raise ValueError(f"rows {y0}:{y1} are outside 0:{self.header.height}")
        bands = []
        for row in range(y0 // self._rows, -(-y1 // self._rows)):
            top = row * self._rows
            band = self._segment_row(row)
            bands.append(band[max(y0 - top, 0) : y1 - top])
        rows = bands[0] if len(bands) == 1 else np.concatenate(bands)
        rows = rows[..., 0] if self.header.channels == 1 else rows
        return np.array(rows, dtype=self.header.dtype)  # a copy: the caller may keep it

    def _segment_row(self, row: int) -> NDArray[Any]:
        """Decode one row of strips or tiles: (rows, width, channels)."""
        if row == self._cached_row:
            return self._cache
        top = row * self._rows
        height = min(self._rows, self.header.height - top)
        band = np.empty((height, self.header.width, self.header.channels), self.header.dtype)
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
        if page.photometric.name == "MINISWHITE" and segment.dtype.kind == "u":
            segment = np.invert(segment)  # zero is white: turn the scale so that more is brighter
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
