"""Gaussian smoothing of rows as they arrive, or of a picture of cells, without leaking across the ROI's border.

Pixels outside the ROI (and outside the image) weigh nothing: ``blur(residual * roi) / blur(roi)``. The
smoothed value near a border is the weighted mean of what is inside.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from inspect_cli.arrays import Rows

#: The kernel ends where the Gaussian falls below 0.04 % of its peak.
TRUNCATE_SIGMAS = 4.0


def smoothed(cells: NDArray[np.floating], sigma_cells: float) -> NDArray[np.float32]:
    """Return cells (rows, columns[, channels]) smoothed by their known neighbours; unknown ones (NaN) stay so."""
    from scipy.ndimage import gaussian_filter  # noqa: PLC0415 - slow, needed only here

    sigma = (sigma_cells, sigma_cells, 0)[: cells.ndim]
    known = np.isfinite(cells)
    weight = gaussian_filter(known.astype(np.float64), sigma, mode="constant")
    total = gaussian_filter(np.where(known, cells, 0.0).astype(np.float64), sigma, mode="constant")
    return np.where(known, total / np.maximum(weight, 1e-9), np.nan).astype(np.float32)


def gaussian_kernel(sigma_px: float) -> NDArray[np.float64]:
    """Return the normalised kernel, 2 * ceil(4 sigma) + 1 values."""
    radius = math.ceil(TRUNCATE_SIGMAS * sigma_px)
    x = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (x / sigma_px) ** 2)
    return np.asarray(kernel / kernel.sum())


class _RowBlur:
    """Separable convolution of a stream of rows, zeros outside the image."""

    def __init__(self, width: int, kernel: NDArray[np.float64]) -> None:
        self._kernel = kernel.astype(np.float32)
        self._radius = len(kernel) // 2
        self._waiting: Rows = np.zeros((self._radius, width), np.float32)

    def push(self, rows: Rows) -> Rows:
        """Take rows (n, width) in, return the blurred rows (m, width) that have all their neighbours."""
        one = np.ones(1, np.float32)
        across = cv2.sepFilter2D(rows, cv2.CV_32F, self._kernel, one, borderType=cv2.BORDER_CONSTANT)
        waiting = np.concatenate([self._waiting, across])
        ready = len(waiting) - 2 * self._radius
        if ready <= 0:
            self._waiting = waiting
            return np.empty((0, rows.shape[1]), np.float32)
        down = cv2.sepFilter2D(waiting, cv2.CV_32F, one, self._kernel, borderType=cv2.BORDER_CONSTANT)
        self._waiting = waiting[ready:]
        return np.asarray(down[self._radius : self._radius + ready])

    def finish(self) -> Rows:
        """Return the rows (n, width) that were still waiting."""
        return self.push(np.zeros((self._radius, self._waiting.shape[1]), np.float32))


class RowSmoother:
    """Smooths a map inside its ROI, row block by row block.

    ``sigma_px`` 0 passes values through. Pixels outside the ROI come out as NaN.
    """

    def __init__(self, height: int, width: int, sigma_px: float, roi: NDArray[np.bool_] | None) -> None:
        self._roi = roi
        self._sigma_px, self._width = sigma_px, width
        self._in = 0
        self._out = 0
        if sigma_px == 0:
            return
        kernel = gaussian_kernel(sigma_px)
        self._values = _RowBlur(width, kernel)
        self._weights = _RowBlur(width, kernel) if roi is not None else None
        self._weight_y = np.convolve(np.ones(height), kernel, "full")[len(kernel) // 2 :][:height]
        self._weight_x = np.convolve(np.ones(width), kernel, "full")[len(kernel) // 2 :][:width]

    def push(self, rows: Rows) -> Rows:
        """Take raw rows (n, width) in, return the smoothed rows (m, width) that are complete."""
        if self._sigma_px == 0:
            return self._masked(rows.copy())
        if self._roi is None:
            return self._normalised(self._values.push(rows), None)
        inside = self._roi[self._in : self._in + len(rows)].astype(np.float32)
        self._in += len(rows)
        weights = self._weights.push(inside) if self._weights is not None else None
        return self._normalised(self._values.push(np.where(inside > 0, rows, np.float32(0))), weights)

    def finish(self) -> Rows:
        """Return the rows (n, width) that were still waiting for neighbours."""
        if self._sigma_px == 0:
            return np.empty((0, self._width), np.float32)
        weights = self._weights.finish() if self._weights is not None else None
        return self._normalised(self._values.finish(), weights)

    def _normalised(self, sums: Rows, weights: Rows | None) -> Rows:
        if weights is None:
            rows = slice(self._out, self._out + len(sums))
            weights = self._weight_y[rows, None].astype(np.float32) * self._weight_x[None].astype(np.float32)
        smoothed = np.divide(sums, np.maximum(weights, np.float32(1e-12)), dtype=np.float32)
        return self._masked(smoothed)

    def _masked(self, smoothed: Rows) -> Rows:
        if self._roi is not None:
            smoothed[~self._roi[self._out : self._out + len(smoothed)]] = np.nan
        self._out += len(smoothed)
        return smoothed
