"""A binary mask written as 1-bit PNG while its rows arrive (PNG specification, sections 5 and 11)."""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_left, bisect_right
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from inspect_cli.store.atomic import output_error, whole_file


class MaskWriter:
    """Takes rows (n, width) bool top to bottom; white is True. Context manager.

    The rows are kept for outlines, block by block, eight pixels a byte and compressed.
    """

    def __init__(self, path: Path, height: int, width: int) -> None:
        self._blocks: list[bytes] = []
        self._starts = [0]
        self._path, self._height, self._width = path, height, width
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._file = self._stack.enter_context(self._stack.enter_context(whole_file(self._path)).open("wb"))
        except OSError as error:
            raise output_error(self._path, error) from error
        self._packer = zlib.compressobj(6)
        header = struct.pack(">IIBBBBB", self._width, self._height, 1, 0, 0, 0, 0)
        self._file.write(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header))
        return self

    def push(self, rows: NDArray[np.bool_]) -> None:
        """Add rows; each is written with the filter type 0 (none) in front."""
        packed = np.packbits(rows, axis=1)
        self._blocks.append(isal_zlib.compress(packed))
        self._starts.append(self._starts[-1] + len(packed))
        data = self._packer.compress(np.pad(packed, ((0, 0), (1, 0))).tobytes())
        if data:
            self._write(_chunk(b"IDAT", data))

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise output_error(self._path, error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:  # an error of the last write removes the temporary file, like any other
            if kind is None:
                if self._starts[-1] != self._height:
                    raise ValueError(f"{self._path}: {self._starts[-1]} rows given, its height is {self._height}")
                self._write(_chunk(b"IDAT", self._packer.flush()) + _chunk(b"IEND", b""))
            elif error is not None:
                raise error

    def window(self, y: int, x: int, height: int, width: int, step: int = 1) -> NDArray[np.uint8]:
        """Return the mask inside a window as 0 and 1, each value the largest of a square of ``step`` px.

        Shape (height / step, width / step), rounded up.
        """
        reduced = np.zeros((-(-height // step), -(-width // step)), np.uint8)
        first, end = bisect_right(self._starts, y) - 1, bisect_left(self._starts, y + height)
        for start, block in zip(self._starts[first:end], self._blocks[first:end], strict=True):
            rows = np.frombuffer(isal_zlib.decompress(block), np.uint8).reshape(-1, -(-self._width // 8))
            rows = rows[max(0, y - start) : y + height - start]
            bits = np.unpackbits(rows[:, x // 8 : -(-(x + width) // 8)], axis=1)[:, x % 8 :][:, :width]
            cells = np.maximum.reduceat(bits, np.arange(0, width, step), axis=1)
            top = max(start, y) - y
            np.maximum.at(reduced, np.arange(top, top + len(rows)) // step, cells)
        return reduced


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
