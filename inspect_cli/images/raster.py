"""PNG, JPEG and BMP: the header is parsed and the file's wholeness checked before OpenCV decodes it.

Pictures are turned upright as their EXIF tag says. An alpha channel is left out: it is no measurement.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inspect_cli.errors import IncompleteError, InputError
from inspect_cli.images.reader import ImageHeader, MapReader, register_format

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8\xff"
_BMP_MAGIC = b"BM"
#: PNG colour type -> channels without alpha (PNG specification, table 11.1); 3 is a palette of RGB.
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}
#: BMP: bits a pixel that have a palette; compressions without any (plain, bit fields).
_BMP_PALETTE_BITS, _BMP_PLAIN = (1, 4, 8), (0, 3)
#: JPEG markers that start a frame (ITU T.81, table B.1): SOF0 to SOF15 without DHT, JPG and DAC.
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_JPEG_SCAN, _JPEG_END, _JPEG_APP1 = 0xDA, 0xD9, 0xE1
_EXIF = b"Exif\0\0"
_ORIENTATION_TAG = 0x0112
#: Orientations that exchange width and height (EXIF 2.3, tag Orientation).
_LYING = (5, 6, 7, 8)
#: The marker behind coded pixels; in those, 0xFF comes with 0 or as a restart (ITU T.81, section B.1.1.5).
_JPEG_AFTER_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")


class RasterReader(MapReader):
    """A file that cannot be read in windows: decoded whole at the first read.

    ``orientation`` is the EXIF tag's; the header given is of the pixels as they are stored.
    """

    def __init__(self, header: ImageHeader, content: bytes, orientation: int = 1) -> None:
        lying = orientation in _LYING
        self.header = replace(header, width=header.height, height=header.width) if lying else header
        self._content = content
        self._orientation = orientation
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
            pixels = pixels[..., 0] if self.header.channels == 1 else pixels[..., 2::-1]
        pixels = _upright(pixels, self._orientation)
        if pixels.shape != self.header.shape or pixels.dtype != self.header.dtype:
            raise InputError(f"{self.header.path}: decoded as {pixels.shape} {pixels.dtype}, not {self.header}")
        return np.ascontiguousarray(pixels)


def _upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return pixels as they are to be looked at, by the EXIF tag Orientation."""
    if orientation in _LYING:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _orientation(exif: bytes) -> int:
    """Return the tag Orientation of an EXIF block (a TIFF header and its first directory); 1 if it has none."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        if order is None:
            return 1
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(count):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, at + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG:
                return int(value)
    except struct.error:
        pass  # cut off: the picture itself may be whole
    return 1


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
    exif = next((bytes(data) for kind, data in chunks if kind == b"eXIf"), b"")
    dtype = np.dtype(np.uint16 if bits == 16 else np.uint8)
    header = ImageHeader(path, "PNG", width, height, _PNG_CHANNELS[colour], dtype)
    return RasterReader(header, content, _orientation(exif))


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
    exif = b""
    for marker, at in _jpeg_markers(content):
        if marker == _JPEG_END and header is not None:
            return RasterReader(header, content, _orientation(exif))
        if marker == _JPEG_APP1 and content.startswith(_EXIF, at + 4):
            exif = content[at + 4 + len(_EXIF) : at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")]
        if marker in _JPEG_FRAMES and header is None and at + 10 <= len(content):
            bits, height, width, channels = struct.unpack(">BHHB", content[at + 4 : at + 10])
            if channels == 4:
                raise InputError(f"{path}: a CMYK picture, for print; save it as gray or RGB")
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


@register_format(_BMP_MAGIC)
def open_bmp(path: Path) -> RasterReader:
    """Open an uncompressed BMP file, gray, with a palette, or of colours; all its rows must be there."""
    content = _content_of(path)
    try:
        at, size, width, height, _, bits, compression = struct.unpack_from("<10xIIiiHHI", content)
        (used,) = struct.unpack_from("<I", content, 46)
    except struct.error as error:
        raise IncompleteError(f"{path}: truncated BMP; copy the file again") from error
    if size < 40 or width <= 0 or not height or compression not in _BMP_PLAIN or bits not in (1, 4, 8, 24, 32):
        raise InputError(f"{path}: damaged or unsupported BMP header; save it as PNG")
    row_bytes = (width * bits + 31) // 32 * 4
    if len(content) < at + row_bytes * abs(height):
        raise IncompleteError(f"{path}: truncated BMP: rows are missing; copy the file again")
    channels = 3
    if bits in _BMP_PALETTE_BITS:
        first = 14 + size
        colours = used or 2**bits
        if colours > 2**bits or first + 4 * colours > len(content):
            raise InputError(f"{path}: damaged BMP palette; save it again")
        palette = np.frombuffer(content, np.uint8, 4 * colours, first).reshape(-1, 4)
        channels = 1 if (palette[:, :1] == palette[:, 1:3]).all() else 3
    return RasterReader(ImageHeader(path, "BMP", width, abs(height), channels, np.dtype(np.uint8)), content)
