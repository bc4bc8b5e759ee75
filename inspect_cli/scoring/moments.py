"""Mean and spread of an image's pixels, channel by channel, while its rows stream by."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from inspect_cli.arrays import Mask


@dataclass
class PixelMoments:
    """Running sums of the finite pixels inside the ROI, one entry a channel; ``missing`` counts the other values.

    The rows that are added hold differences from ``origin``: squares of values far from 0 would drown their spread.
    """

    counts: list[int] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)
    missing: int = 0
    origin: float = 0.0

    def add(self, unit: NDArray[np.float32], inside: Mask | None) -> None:
        """Add rows (n, width[, channels])."""
        channels = unit.shape[2] if unit.ndim == 3 else 1
        if not self.counts:
            self.counts, self.totals, self.squares = [0] * channels, [0.0] * channels, [0.0] * channels
        pixels = unit.shape[0] * unit.shape[1] if inside is None else int(np.count_nonzero(inside))
        if not pixels:
            return
        means, spreads = cv2.meanStdDev(unit, mask=None if inside is None else inside.view(np.uint8))
        if np.isfinite(means).all() and np.isfinite(spreads).all():
            for channel, (mean, spread) in enumerate(zip(means[:, 0], spreads[:, 0], strict=True)):
                self._note(channel, pixels, float(mean), float(spread))
            return
        for channel in range(channels):
            plane = unit if unit.ndim == 2 else unit[..., channel]
            finite = np.isfinite(plane) if inside is None else np.isfinite(plane) & inside
            count = int(np.count_nonzero(finite))
            self.missing += pixels - count
            if count:
                values = plane[finite].astype(np.float64)
                self._note(channel, count, float(values.mean()), float(values.std()))

    def _note(self, channel: int, count: int, mean: float, spread: float) -> None:
        self.counts[channel] += count
        self.totals[channel] += count * mean
        self.squares[channel] += count * (spread**2 + mean**2)

    @property
    def count(self) -> int:
        """Number of values seen, of all channels."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Mean of the values of all channels."""
        return self.origin + sum(self.totals) / max(self.count, 1)

    @property
    def spread(self) -> float:
        """Standard deviation of the values of all channels."""
        return _spread(self.count, sum(self.totals), sum(self.squares))

    @property
    def channel_means(self) -> list[float]:
        """Mean of each channel."""
        return [self.origin + total / max(n, 1) for n, total in zip(self.counts, self.totals, strict=True)]

    @property
    def channel_spreads(self) -> list[float]:
        """Standard deviation of each channel."""
        return [_spread(*sums) for sums in zip(self.counts, self.totals, self.squares, strict=True)]


def _spread(count: int, total: float, squares: float) -> float:
    count = max(count, 1)
    return float(max(squares / count - (total / count) ** 2, 0.0) ** 0.5)
