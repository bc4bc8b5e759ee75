"""How high good tiles score at each of their places: along borders, and at edges of parts that always lie alike."""

from __future__ import annotations

from typing import Final

from torch import Tensor
from torch.nn import functional

#: What is high for a place of a tile: the quantile of good patches' scores there.
_HIGH: Final = 0.9
#: What scores there are divided by at most: a defect must still be seen, also where most of a tile is plain.
_MOST: Final = 3.0
#: Scores of most places below this are none.
_LEAST: Final = 1e-3


def usual_places(scores: Tensor) -> Tensor:
    """Return how high scores of good tiles (n, 1, h, w) go at each place over how high they go in all, 1 to 3."""
    high = scores.quantile(_HIGH, dim=0, keepdim=True)
    around = functional.avg_pool2d(functional.pad(high, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return (around / around.median().clamp(min=_LEAST)).clamp(1, _MOST)


def at_place(scores: Tensor, place: Tensor) -> Tensor:
    """Return scores (n, 1, h, w) over what is usual at their place of a tile (1, 1, h, w).

    Those of a whole image of another size are returned as they are.
    """
    return scores / place if scores.shape[2:] == place.shape[2:] else scores
