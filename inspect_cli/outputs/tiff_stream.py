"""A float map written as tiled, compressed TIFF while its rows arrive; compression runs in a thread."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import tifffile
from isal import isal_zlib
from numpy.typing import NDArray

from inspect_cli.store.atomic import whole_file

#: Height and width of the file's tiles; a row of them is held in memory.
TILE: Final = (64, 512)
#: Above so many bytes of pixels the file is a BigTIFF: offsets of a plain one end at 4 GB.
CLASSIC_BYTES: Final = 2**32 - 2**27
#: Deflate of Intel's ISA-L, the most it can do: smaller files than zlib's fastest level in a quarter of its time.
_LEVEL: Final = 3
_END: Final = None


class TiffRowWriter:
    """Takes rows (n, width) float32 top to bottom; the file appears whole when the writer is closed.

    Use as a context manager. If the block raises, no file appears.
    """

    def __init__(self, path: Path, height: int, width: int, pixel_pitch_um: float | None = None) -> None:
        self._path, self._shape = path, (height, width)
        self._pitch = pixel_pitch_um
        self._rows: queue.Queue[NDArray[np.float32] | None] = queue.Queue(maxsize=1)
        self._pool = ThreadPoolExecutor(1)
        self._aborted = False
        self._left: NDArray[np.float32] = np.empty((0, width), np.float32)
        self._done = self._pool.submit(self._write)

    def push(self, rows: NDArray[np.float32]) -> None:
        """Hand over the next rows.

        Raises
        ------
        OutputError
            If the file cannot be written (disk full, no permission).
        """
        self._put(rows)

    def _put(self, item: NDArray[np.float32] | None) -> None:
        while not self._done.done():
            try:
                self._rows.put(item, timeout=0.2)
            except queue.Full:
                continue
            return
        self._done.result()

    def close(self) -> None:
        """Finish the file."""
        try:
            self._put(_END)
            self._done.result()
        finally:
            self._pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        self._aborted = True
        if not self._done.done():
            self._rows.queue.clear()
            self._rows.put(_END)
        self._pool.shutdown()

    def _write(self) -> None:
        options: dict[str, Any] = {"tile": TILE, "compression": "zlib"}
        options["bigtiff"] = 4 * self._shape[0] * self._shape[1] > CLASSIC_BYTES
        if self._pitch:
            per_cm = 10_000 / self._pitch
            options |= {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
        try:
            with whole_file(self._path) as temporary:
                tifffile.imwrite(
                    temporary,
                    self._tiles(),
                    shape=self._shape,
                    dtype=np.float32,
                    photometric="minisblack",
                    maxworkers=1,
                    metadata=None,
                    software=False,
                    **options,
                )
                self._wait_for_end()
        except _Aborted:
            return

    def _tiles(self) -> Iterator[bytes]:
        """Yield the file's tiles, compressed."""
        height, width = self._shape
        (tile_height, tile_width), padded = TILE, np.zeros((TILE[0], -(-width // TILE[1]) * TILE[1]), np.float32)
        for top in range(0, height, tile_height):
            padded[height - top :] = 0
            self._fill(padded[: height - top, :width])
            for left in range(0, width, tile_width):
                tile = np.ascontiguousarray(padded[:, left : left + tile_width])
                yield isal_zlib.compress(tile, _LEVEL)

    def _wait_for_end(self) -> None:
        """Let the file appear only when the block has ended well, and with as many rows as were promised."""
        if len(self._left) == 0 and self._rows.get() is _END and not self._aborted:
            return
        raise _Aborted if self._aborted else ValueError(f"{self._path}: more rows than its height {self._shape[0]}")

    def _fill(self, rows: NDArray[np.float32]) -> None:
        """Put the next rows into ``rows``."""
        at = 0
        while at < len(rows):
            if not len(self._left):
                block = self._rows.get()
                if block is _END or self._aborted:
                    raise _Aborted if self._aborted else ValueError(f"{self._path}: rows are missing")
                self._left = block
            taken = self._left[: len(rows) - at]
            rows[at : at + len(taken)] = taken
            self._left = self._left[len(taken) :]
            at += len(taken)


class _Aborted(Exception):  # noqa: N818
    """The rows ended early: drop the file."""
