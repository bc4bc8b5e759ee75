"""What is usual at each place of the image: the measure of a score where parts always lie alike.

Edges, holes and letters of a part that lies in the same place in every picture score high on good parts too. Where
that holds, a residual is divided by how high good parts go at its place (the per-pixel noise model), and how far the
part's brightness there lies from that of good parts is added to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inspect_cli.arrays import Mask, Rows
from inspect_cli.images.reader import MapReader
from inspect_cli.images.values import ValueRange
from inspect_cli.scoring.brightness import UsualBrightness, cell_means
from inspect_cli.scoring.registration import of_shape, onto_part


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
        Size of the image or the window; of the largest image that was learnt from before :meth:`of_part`.
    brightness
        What brightness is usual, None where that is not known.
    added
        What the brightness of the part in hand adds to the score, like ``cells``; None before :meth:`of_part`.
    slack_px
        By how much images that were learnt from differ in size. They are laid onto each other from the first pixel.
    top_px, left_px
        Where the window lies in the image of the cells; 0 for the image itself.
    """

    cells: Rows
    cell_px: int
    height_px: int
    width_px: int
    brightness: UsualBrightness | None = None
    added: Rows | None = None
    slack_px: int = 0
    top_px: int = 0
    left_px: int = 0

    def of_part(self, reader: MapReader, values: ValueRange, roi: Mask | None) -> UsualMap:
        """Return what holds for a part, of which the whole map is read once if its brightness is known.

        A part that was moved a little, or turned, is found, and measured by the places as they lie in it.
        """
        if self.brightness is None:
            return self
        own = cell_means(reader, values, roi, self.cell_px)
        laid, motion = self.brightness.found(of_shape(own, self.cells.shape, "nan"))
        added = self.brightness.weight * self.brightness.distance(laid)
        cells, added = (of_shape(onto_part(level, motion), own.shape[:2], "edge") for level in (self.cells, added))
        header = reader.header
        return replace(self, cells=cells, added=added, height_px=header.height, width_px=header.width)

    def fits(self, height_px: int, width_px: int) -> bool:
        """Whether an image has a size like those that were learnt from."""
        pairs = (height_px, self.height_px), (width_px, self.width_px)
        return all(most - 2 * self.slack_px <= length <= most + self.slack_px for length, most in pairs)

    def window(self, top_px: int, left_px: int, height_px: int, width_px: int) -> UsualMap:
        """Return what holds in a window of the image."""
        return replace(
            self,
            height_px=height_px,
            width_px=width_px,
            top_px=self.top_px + top_px,
            left_px=self.left_px + left_px,
        )

    def measured(self, scores: Rows, first: int) -> Rows:
        """Return rows of smoothed scores (n, width), the first of them ``first``, by the measure of their places."""
        end = first + len(scores)
        measured = scores / self.rows(first, end)
        return measured if self.added is None else measured + self._pixels(self.added, first, end)

    def rows(self, first: int, end: int) -> Rows:
        """Return what some rows of scores are divided by, (end - first, width)."""
        return self._pixels(self.cells, first, end)

    def _pixels(self, cells: Rows, first: int, end: int) -> Rows:
        """Return cells as pixels of some rows, linear between the middles of cells."""
        above, below, lower = self._between(self.top_px + first, self.top_px + end, axis=0)
        before, after, later = self._between(self.left_px, self.left_px + self.width_px, axis=1)
        down = cells[above] * (1 - lower)[:, None] + cells[below] * lower[:, None]
        return np.asarray(down[:, before] * (1 - later) + down[:, after] * later)

    def _between(self, first: int, end: int, axis: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Rows]:
        """Return, for each pixel along an axis, the cells on both sides and how near the second one is."""
        last = self.cells.shape[axis] - 1
        at = np.clip((np.arange(first, end) + 0.5) / self.cell_px - 0.5, 0, last)
        before = np.floor(at).astype(np.intp)
        return before, np.minimum(before + 1, last), (at - before).astype(np.float32)
