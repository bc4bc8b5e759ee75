"""What a corruption is."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Patches = NDArray[np.float32]


class Corrupted(NamedTuple):
    """Damaged patches, and how much of each pixel was replaced.

    ``patches`` is (n, channels, height, width) in the range of what was given; ``changed`` is
    (n, 1, height, width), 0 where a pixel is as it was and 1 where it was replaced, in between on soft edges.
    """

    patches: Patches
    changed: Patches


class Corruption(Protocol):
    """Damages patches; the same generator state gives the same damage."""

    def __call__(self, patches: Patches, rng: np.random.Generator) -> Corrupted:
        """Return damaged copies of ``patches`` (n, channels, height, width), float32, material's range at 0 to 1.

        The argument is left as it is.
        """
        ...
