"""The OpenVINO engine: the same network compiled for the CPU, residual included.

The graph is traced from the detector's ``score`` at one fixed batch size, so that only the score map leaves it. Two
requests a stream are in flight: while one runs, the next one waits with its tiles.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any, Final

import numpy as np
import openvino
from numpy.typing import NDArray

from inspect_cli.engines.base import Wait
from inspect_cli.engines.graph import openvino_core, to_openvino
from inspect_cli.errors import UsageError
from inspect_cli.images.values import Preprocess
from inspect_cli.methods.base import Detector
from inspect_cli.tiles.grid import Grid
from inspect_cli.tiles.tiling import count_of_area

PRECISIONS: Final = ("f32", "bf16", "f16")
#: Small batches stay in the processor's cache: 3.6 s for a full-size map against 4.3 s with 16 (two cores).
DEFAULT_BATCH: Final = 8
#: With one, a stream waits until the next tiles are copied in: 4.1 s for that map against 3.6 s.
_REQUESTS_A_STREAM: Final = 2
#: Shapes of batches whose compiled networks are kept: images that are scored whole may all differ in size.
_MOST_SHAPES: Final = 4
#: How often a wait that takes long looks for a request that failed.
_LOOK_S: Final = 1.0


class OpenVinoEngine:
    """Runs a detector through OpenVINO on the CPU.

    ``batch`` 0 picks the default; every call is cut into such batches, the last one filled up with zeros.
    """

    name = "openvino"
    device_name = "cpu"

    def __init__(self, detector: Detector, batch: int = 0, precision: str = "f32") -> None:
        if precision not in PRECISIONS:
            raise UsageError(f"--precision {precision}: valid with openvino: {', '.join(PRECISIONS)}")
        self.batch = batch or count_of_area(DEFAULT_BATCH, detector.tile_px)
        self._asked, self._even = batch, self.batch
        self.precision = precision
        self.size_step_px = detector.size_step_px
        self._detector = detector.eval()
        self._requests: dict[tuple[int, ...], Any] = {}
        # A request that ends while Python does would abort the process.
        weakref.finalize(self, _wait_for_all, self._requests)

    def score(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores (n, height, width) of tiles (n, channels, height, width)."""
        return self.start(tiles)()

    def start(self, tiles: NDArray[np.float32]) -> Wait:
        """Start scoring such tiles: returns when the last of them are in flight, with what waits for the scores."""
        scores = np.empty((len(tiles), *tiles.shape[2:]), np.float32)
        batch = min(self.batch, len(tiles)) if tiles.shape[2:] != (self._detector.tile_px,) * 2 else self._even
        starts = range(0, len(tiles), batch) if len(tiles) else ()
        queue: Any = self._queue((batch, *tiles.shape[1:])) if starts else None
        done = threading.Semaphore(0)
        for start in starts:
            end = min(start + batch, len(tiles))
            given = _filled(tiles[start:end], batch)  # not copied: it is kept until the request has ended
            queue.start_async({0: given}, (scores[start:end], done, given), share_inputs=True)

        def wait() -> NDArray[np.float32]:
            for _ in starts:
                while not done.acquire(timeout=_LOOK_S):
                    if queue.is_ready():
                        queue.wait_all()  # raises what went wrong in a request
            return scores

        return wait

    def rows_on_device(self, grid: Grid, preprocess: Preprocess, blend: str) -> None:  # noqa: ARG002
        """Return None: host and device share their memory. Batches will come out even in pieces of a row."""
        if not self._asked:
            self._even = even_batch(grid.pieces[0].stop, self.batch)

    def _queue(self, shape: tuple[int, ...]) -> Any:
        """Return the requests for tiles of ``shape``; compiled when first asked for, the last ones are kept."""
        if shape not in self._requests:
            while len(self._requests) >= _MOST_SHAPES:
                self._requests.pop(next(iter(self._requests))).wait_all()
            self._requests[shape] = self._compiled(shape)
        self._requests[shape] = found = self._requests.pop(shape)  # now the last one
        return found

    def _compiled(self, shape: tuple[int, ...]) -> Any:
        """Return requests for tiles of ``shape``."""
        options = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": self.precision,
            "ENABLE_CPU_PINNING": False,
        }
        n, channels, height, width = shape
        model = to_openvino(self._detector, (n, channels, height, width))
        compiled = openvino_core().compile_model(model, "CPU", options)
        streams = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        queue = openvino.AsyncInferQueue(compiled, _REQUESTS_A_STREAM * streams)
        queue.set_callback(_store)
        return queue


def _wait_for_all(requests: dict[tuple[int, ...], Any]) -> None:
    for queue in requests.values():
        queue.wait_all()


def _store(request: Any, target: tuple[NDArray[np.float32], threading.Semaphore, NDArray[np.float32]]) -> None:
    """Keep the scores of a request that has ended, and tell whoever waits for them; its tiles may go then."""
    scores, done, _ = target
    scores[...] = request.get_output_tensor().data[: len(scores)]
    done.release()


def even_batch(count: int, batch: int) -> int:
    """Return a batch near ``batch`` that ``count`` tiles fill best, since an incomplete batch costs a whole one.

    Of a few tiles it is the next power of two: images of any width make few batches that networks are compiled for.

    >>> even_batch(85, 16), even_batch(5, 16), even_batch(96, 16), even_batch(1, 16)
    (17, 8, 16, 1)
    """
    if count <= batch:
        return min(batch, 1 << (count - 1).bit_length())
    near = range(max(1, 3 * batch // 4), 5 * batch // 4 + 1)
    return min(near, key=lambda size: (-count % size, abs(size - batch)))


def _filled(tiles: NDArray[np.float32], batch: int) -> NDArray[np.float32]:
    if len(tiles) == batch:
        return np.ascontiguousarray(tiles)
    full = np.zeros((batch, *tiles.shape[1:]), np.float32)
    full[: len(tiles)] = tiles
    return full
