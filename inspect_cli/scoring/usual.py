"""What good parts score at each place of the image: the measure of a score where parts always lie alike.

Edges, holes and letters of a part that lies in the same place in every picture score high on good parts too. Where
that holds, a residual is divided by how high good parts go at its place (the per-pixel noise model).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class UsualMap:
    """How high good parts score at each place, over how high they score in the middle of all places.

    Attributes
    ----------
    cells
        (rows, columns), above 0: an image at a lower resolution.
    cell_px
        Side of a cell in pixels of the image; the last ones along an axis may stand for fewer.
    height_px, width_px
        Size of the image or the window.
    top_px, left_px
        Where the window lies in the image of the cells; 0 for the image itself.
    """

    cells: Rows
    cell_px: int
    height_px: int
    width_px: int
    top_px: int = 0
    left_px: int = 0

    def window(self, top_px: int, left_px: int, height_px: int, width_px: int) -> UsualMap:
        """Return what holds in a window of the image."""
        return UsualMap(self.cells, self.cell_px, height_px, width_px, self.top_px + top_px, self.left_px + left_px)

    def rows(self, first: int, end: int) -> Rows:
        """Return the values of some rows, (end - first, width), linear between the middles of cells."""
        above, below, lower = self._between(self.top_px + first, self.top_px + end, axis=0)
        before, after, later = self._between(self.left_px, self.left_px + self.width_px, axis=1)
        down = self.cells[above] * (1 - lower)[:, None] + self.cells[below] * lower[:, None]
        return np.asarray(down[:, before] * (1 - later) + down[:, after] * later)

    def _between(self, first: int, end: int, axis: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Rows]:
        """Return, for each pixel along an axis, the cells on both sides and how near the second one is."""
        last = self.cells.shape[axis] - 1
        at = np.clip((np.arange(first, end) + 0.5) / self.cell_px - 0.5, 0, last)
        before = np.floor(at).astype(np.intp)
        return before, np.minimum(before + 1, last), (at - before).astype(np.float32)
