"""The Noising Filter Bank of DIR, section IV-B."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from inspect_cli.corruptions.base import Corrupted, Patches
from inspect_cli.corruptions.filters import FAMILIES, FILTERS, Family

#: Name of the algorithm that leaves a patch as it is.
NONE: Final = "none"


@dataclass(frozen=True)
class NoisingFilterBank:
    """Damages each patch with one algorithm, each of them as likely as the next (DIR, section IV-B).

    ``changed`` is 1 on the pixels that the algorithm may change and 0 elsewhere. The changed pixels are clamped
    to the range 0 to 1, the others come back to the bit, also where they lie outside it.

    Parameters
    ----------
    families
        Whose algorithms are drawn from; those of the paper's ablation (DIR, section VI-B).
    keep_clean
        "None" is one of the algorithms, so that some patches stay as they are.

    Raises
    ------
    ValueError
        If there is no family, or one that the bank does not have.
    """

    families: Sequence[Family] = FAMILIES
    keep_clean: bool = True

    def __post_init__(self) -> None:
        unknown = [family for family in self.families if family not in FAMILIES]
        if unknown or not self.families:
            wrong = f"no noise family {unknown[0]!r}" if unknown else "no noise family given"
            raise ValueError(f"{wrong}; choose from {', '.join(FAMILIES)}")

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Names of the algorithms that are drawn from."""
        chosen = tuple(name for name, (family, _) in FILTERS.items() if family in self.families)
        return (*chosen, NONE) if self.keep_clean else chosen

    def __call__(self, patches: Patches, rng: np.random.Generator) -> Corrupted:
        """Return damaged copies of ``patches`` (n, channels, height, width), float32, material's range at 0 to 1."""
        noised = patches.copy()
        changed = np.zeros_like(patches, shape=(len(patches), 1, *patches.shape[2:]))
        algorithms = self.algorithms
        drawn = rng.integers(len(algorithms), size=len(patches)).tolist()
        for patch, mask, number in zip(noised, changed[:, 0], drawn, strict=True):
            if algorithms[number] == NONE:
                continue
            where, values = FILTERS[algorithms[number]][1](patch, rng)
            np.copyto(patch, np.clip(values, 0.0, 1.0), where=where)
            mask[where] = 1.0
        return Corrupted(noised, changed)
