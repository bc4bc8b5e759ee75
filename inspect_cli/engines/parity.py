"""An engine must give what the trained network gives: checked on the first tiles it is handed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from inspect_cli.engines.base import Engine, Wait
from inspect_cli.engines.resident import ResidentRows
from inspect_cli.errors import ModelError
from inspect_cli.images.values import Preprocess
from inspect_cli.methods.base import Detector
from inspect_cli.tiles.grid import Grid

#: Largest difference that is accepted, as a share of the largest score of the tiles, or of the map's limit.
TOLERANCE: Final = {"f32": 1e-4, "tf32": 2e-2, "f16": 2e-2, "bf16": 1e-1}
CHECKED_TILES: Final = 4


def relative_difference(scores: NDArray[np.float32], expected: NDArray[np.float32], limit: float = 0.0) -> float:
    """Return the largest difference of two score arrays of one shape, as a share of the largest expected score.

    A share of ``limit`` if that is larger: on an even background, which is copied nearly perfectly, rounding is a
    large share of next to nothing.
    """
    scale = max(float(np.abs(expected).max()), limit, 1e-12)
    return float(np.abs(scores - expected).max()) / scale


class CheckedEngine:
    """Hands tiles to an engine, after comparing its scores of the first ones with float32 torch on the CPU.

    ``difference`` is what was found, None before the first tiles. Tiles of which the trained network makes no finite
    scores, as of a damaged image, are skipped; the next ones are compared. An engine that differs by more than the
    tolerance gives way to what ``instead`` makes of the trained network; without that it is refused. ``limit`` is
    the score that a verdict depends on, 0 if there is none.
    """

    def __init__(
        self,
        engine: Engine,
        detector: Detector,
        instead: Callable[[Detector], Engine] | None = None,
        limit: float = 0.0,
    ) -> None:
        self._engine, self._instead, self._limit = engine, instead, limit
        self._reference: Detector | None = detector.eval()
        self.difference: float | None = None
        self.name, self.device_name, self.precision = engine.name, engine.device_name, engine.precision
        self.size_step_px = engine.size_step_px

    @property
    def batch(self) -> int:
        """Tiles a batch."""
        return self._engine.batch

    def score(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the engine's scores.

        Raises
        ------
        ModelError
            If they differ from the trained network's by more than the precision's tolerance.
        """
        return self.start(tiles)()

    def start(self, tiles: NDArray[np.float32]) -> Wait:
        """Start the engine; what is returned waits for its scores and raises as :meth:`score` does."""
        engine = self._engine
        wait = engine.start(tiles)
        if self._reference is None:
            return wait

        def checked() -> NDArray[np.float32]:
            scores = wait()
            self._check(tiles, scores)
            return scores if self._engine is engine else self._engine.score(tiles)

        return checked

    def rows_on_device(self, grid: Grid, preprocess: Preprocess, blend: str) -> ResidentRows | None:
        """Return the engine's own, its first tiles checked too."""
        rows = self._engine.rows_on_device(grid, preprocess, blend)
        if rows is not None and self._reference is not None:
            rows.on_scored = lambda tiles, scores: self._check(tiles.cpu().numpy(), scores.cpu().numpy())
        return rows

    @torch.inference_mode()
    def _check(self, tiles: NDArray[np.float32], scores: NDArray[np.float32]) -> bool:
        """Compare the first tiles with the reference, once; return whether that is done."""
        if self._reference is None:
            return True
        if not len(tiles):
            return False
        reference = self._reference
        tiles, scores = tiles[:CHECKED_TILES], scores[:CHECKED_TILES]
        expected = reference.score(torch.from_numpy(np.ascontiguousarray(tiles))).float().numpy()
        sound = np.isfinite(expected).all(axis=(1, 2))
        if not sound.any():
            return False
        self._reference = None
        self.difference = relative_difference(scores[sound], expected[sound], self._limit)
        if self.difference <= TOLERANCE[self.precision]:
            return True
        if self._instead is None:
            differs = f"differs from the trained network by {self.difference:.2g} of its largest score or limit"
            raise ModelError(
                f"engine {self.name} ({self.precision}) on {self.device_name} {differs}, more than "
                f"{TOLERANCE[self.precision]:g}; {self._advice()}"
            )
        self._engine = self._instead(reference)
        self.name, self.device_name = self._engine.name, self._engine.device_name
        return True

    def _advice(self) -> str:
        if self.precision != "f32":
            return "use --precision f32"
        return "use --device cpu" if self.name == "torch" else "use --engine torch"
