"""What an engine is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from inspect_cli.engines.resident import ResidentRows
from inspect_cli.images.values import Preprocess
from inspect_cli.tiles.grid import Grid

#: Waits for scores (n, height, width) that are in work; called once.
Wait = Callable[[], NDArray[np.float32]]


class Engine(Protocol):
    """Turns prepared tiles into score tiles.

    Attributes
    ----------
    name, device_name, precision
        Such as ``torch``, ``cpu``, ``f32``.
    batch
        Tiles that the network takes at once.
    size_step_px
        What a side must be divisible by where the network takes other sizes than its tile's.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def device_name(self) -> str: ...  # noqa: D102
    @property
    def precision(self) -> str: ...  # noqa: D102
    @property
    def batch(self) -> int: ...  # noqa: D102
    @property
    def size_step_px(self) -> int: ...  # noqa: D102

    def score(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores (n, height, width) of tiles (n, channels, height, width), unit range."""
        ...

    def start(self, tiles: NDArray[np.float32]) -> Wait:
        """Start scoring such tiles; what is returned waits for their scores.

        An engine may let the processors go on with the last tiles meanwhile.
        """
        ...

    def rows_on_device(self, grid: Grid, preprocess: Preprocess, blend: str) -> ResidentRows | None:
        """Return what scores an image without its tiles leaving the device, None if the host is to cut them."""
        ...


class Blocking:
    """For an engine that has its scores when it returns: ``start`` in terms of ``score``."""

    def score(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores; see :class:`Engine`."""
        raise NotImplementedError

    def start(self, tiles: NDArray[np.float32]) -> Wait:
        """Score tiles; nothing is left to wait for."""
        scores = self.score(tiles)
        return lambda: scores
