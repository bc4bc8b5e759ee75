"""What an engine is."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from inspect_cli.engines.resident import ResidentRows
from inspect_cli.images.values import Preprocess
from inspect_cli.tiles.grid import Grid


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

    def rows_on_device(self, grid: Grid, preprocess: Preprocess, blend: str) -> ResidentRows | None:
        """Return what scores an image without its tiles leaving the device, None if the host is to cut them."""
        ...
