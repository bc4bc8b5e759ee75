"""PNG and JPEG: the header is parsed and the file's wholeness checked before OpenCV decodes it."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inspect_cli.errors import IncompleteError, InputError
from inspect_cli.images.reader import ImageHeader, MapReader, register_format

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8\xff"
#: PNG colour type -> channels after decoding (PNG specification, table 11.1); 3 is a palette of RGB.
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 4, 6: 4}
#: JPEG markers that start a frame (ITU T.81, table B.1): SOF0 to SOF15 without DHT, JPG and DAC.
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
#: The marker behind coded pixels; in those, 0xFF comes with 0 or as a restart (ITU T.81, section B.1.1.5).
_JPEG_AFTER_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")


class RasterReader(MapReader):
    """A PNG or JPEG file: decoded whole at the first read, since neither can be read in windows."""

    def __init__(self, header: ImageHeader, content: bytes) -> None:
        self.header = header
        self._content = content
        self._pixels: NDArray[Any] | None = None

    def read_rows(self, y0: int, y1: int) -> NDArray[Any]:
        """Return rows ``y0`` to ``y1``; see :class:`MapReader`."""
        if not 0 <= y0 < y1 <= self.header.height:
            raise ValueError(f"rows {y0}:{y1} are outside 0:{self.header.height}")
        if self._pixels is None:
            self._pixels = self._decode()
            self._content = b""
        return self._pixels[y0:y1].copy()

    def _decode(self) -> NDArray[Any]:
        flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            pixels = cv2.imdecode(np.frombuffer(self._content, np.uint8), flags)
        except cv2.error as error:
            raise InputError(f"{self.header.path}: pixels cannot be decoded ({error.err})") from error
        if pixels is None:
            raise InputError(f"{self.header.path}: damaged {self.header.format}: pixels cannot be decoded")
        if pixels.ndim == 3:
            order = cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
            pixels = cv2.cvtColor(pixels, order)
        if pixels.shape != self.header.shape or pixels.dtype != self.header.dtype:
            raise InputError(f"{self.header.path}: decoded as {pixels.shape} {pixels.dtype}, not {self.header}")
        return np.asarray(pixels)


def _content_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


@register_format(_PNG_MAGIC)
def open_png(path: Path) -> RasterReader:
    """Open a PNG file; every chunk's checksum is verified first."""
    content = _content_of(path)
    chunks = list(_png_chunks(path, content))
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise InputError(f"{path}: damaged PNG: no header")
    width, height, bits, colour = struct.unpack(">IIBB", chunks[0][1][:10])
    if not width or not height or colour not in _PNG_CHANNELS or bits not in (1, 2, 4, 8, 16):
        raise InputError(f"{path}: damaged PNG header")
    if chunks[-1][0] != b"IEND":
        raise IncompleteError(f"{path}: truncated PNG: its end is missing; copy the file again")
    transparent = any(kind == b"tRNS" for kind, _ in chunks)
    channels = 4 if transparent and colour in (2, 3) else _PNG_CHANNELS[colour]
    dtype = np.dtype(np.uint16 if bits == 16 else np.uint8)
    return RasterReader(ImageHeader(path, "PNG", width, height, channels, dtype), content)


def _png_chunks(path: Path, content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view, at = memoryview(content), len(_PNG_MAGIC)
    while at < len(content):
        if at + 12 > len(content):
            raise IncompleteError(f"{path}: truncated PNG; copy the file again")
        length = int.from_bytes(view[at : at + 4], "big")
        end = at + 12 + length
        if end > len(content):
            raise IncompleteError(f"{path}: truncated PNG; copy the file again")
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise InputError(f"{path}: damaged PNG: a checksum is wrong; copy the file again")
        kind = bytes(view[at + 4 : at + 8])
        yield kind, view[at + 8 : end - 4]
        if kind == b"IEND":
            return  # what some cameras append behind the image is none of its business
        at = end


@register_format(_JPEG_MAGIC)
def open_jpeg(path: Path) -> RasterReader:
    """Open a JPEG file; its frame header and its end marker must be there."""
    content = _content_of(path)
    header: ImageHeader | None = None
    for marker, at in _jpeg_markers(content):
        if marker == _JPEG_END and header is not None:
            return RasterReader(header, content)
        if marker in _JPEG_FRAMES and header is None and at + 10 <= len(content):
            bits, height, width, channels = struct.unpack(">BHHB", content[at + 4 : at + 10])
            if bits != 8 or not width or not height or channels not in (1, 3):
                break
            header = ImageHeader(path, "JPEG", width, height, channels, np.dtype(np.uint8))
    else:
        if header is not None or b"\xff\xd9" not in content:
            raise IncompleteError(f"{path}: truncated JPEG: its end is missing; copy the file again")
    raise InputError(f"{path}: damaged or unsupported JPEG header")


def _jpeg_markers(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield each marker with its place, up to the image's end: what some cameras append is none of its business."""
    at = 2
    while at + 2 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        yield marker, at
        if marker == _JPEG_END:
            return
        at += 2 if marker in _JPEG_STANDALONE else 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == _JPEG_SCAN:  # coded pixels follow, in which no marker but restarts can be
            found = _JPEG_AFTER_SCAN.search(content, at)
            at = len(content) if found is None else found.start()
