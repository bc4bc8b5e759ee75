"""Stored pixel values -> the network's range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ValueRange:
    """Stored values that become 0 and 1 at the network's input; nothing is clipped."""

    low: float
    high: float

    @classmethod
    def of_type(cls, dtype: np.dtype[Any]) -> ValueRange:
        """Return the limits of ``dtype``: symmetric around zero for signed integers, 0 to 1 for floats.

        With the symmetric range a surface normal's component 0 lies at .5, and -x mirrors +x.
        """
        if dtype.kind == "f":
            return cls(0.0, 1.0)
        limit = float(np.iinfo(dtype).max)
        return cls(-limit if dtype.kind == "i" else 0.0, limit)

    def to_unit(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Return ``pixels`` as float32, ``low`` at 0 and ``high`` at 1; the shape stays."""
        scale = np.float32(1.0 / (self.high - self.low))
        unit = pixels.astype(np.float32)
        unit -= np.float32(self.low)
        unit *= scale
        return unit


@dataclass(frozen=True)
class Preprocess:
    """How a map's pixels become the network's input; part of the trained model.

    ``fill`` (one value a channel, unit range) replaces pixels outside the ROI, so that background beside
    the part neither trains the network nor disturbs the score next to it.
    """

    range: ValueRange
    fill: tuple[float, ...]
    dtype: str

    def to_network(self, patches: NDArray[Any], masks: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Return patches (n, h, w[, channels]) as float32 (n, channels, h, w) in the unit range.

        ``masks`` (n, h, w) is True inside the ROI.
        """
        unit = self.range.to_unit(patches)
        if unit.ndim == 3:
            unit = unit[..., None]
        if masks is not None:
            np.copyto(unit, np.asarray(self.fill, np.float32), where=~masks[..., None])
        return np.ascontiguousarray(np.moveaxis(unit, 3, 1))
