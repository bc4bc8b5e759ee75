"""The currency of the generator: what identifies a part, and what it consists of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inspect_cli.arrays import Mask

FloatMap = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.int16]


@dataclass(frozen=True)
class PartKey:
    """Everything that the content of a part depends on.

    ``name`` is ``good/g000`` or ``<kind>/b000``; ``shape_yx`` is (rows, columns) in px.
    """

    seed: int
    material: str
    name: str
    shape_yx: tuple[int, int]

    def rng(self, stream: str) -> np.random.Generator:
        """Return the random numbers of one named ``stream`` of this part.

        Streams are independent of each other and of the order in which they are asked for: a defect
        does not change the sensor noise, and a map does not change when another map is left out.
        """
        rows, columns = self.shape_yx
        text = f"{self.material}/{self.name}/{columns}x{rows}/{stream}"
        words = np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype="<u4")
        return np.random.default_rng(np.random.SeedSequence([self.seed, *words.tolist()]))


@dataclass(frozen=True)
class Box:
    """Smallest axis-parallel rectangle around one defect, in px from the top left corner."""

    kind: str
    x_px: int
    y_px: int
    width_px: int
    height_px: int


@dataclass(frozen=True)
class PartData:
    """One finished part.

    ``images`` maps a map's name to its pixels, (rows, columns) or (rows, columns, channels); ``mask``
    is True on defective pixels and all False on a good part; ``boxes`` has one entry an instance.
    """

    images: dict[str, Image]
    mask: Mask
    boxes: list[Box] = field(default_factory=list)


def bounding_box(kind: str, mask: Mask, y_px: int = 0, x_px: int = 0) -> Box:
    """Return the box around the True pixels of ``mask``, whose corner lies at (``y_px``, ``x_px``).

    Raises
    ------
    ValueError
        If no pixel of the mask is True.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        raise ValueError("an empty mask has no bounding box")
    return Box(
        kind=kind,
        x_px=x_px + int(columns[0]),
        y_px=y_px + int(rows[0]),
        width_px=int(columns[-1] - columns[0]) + 1,
        height_px=int(rows[-1] - rows[0]) + 1,
    )
